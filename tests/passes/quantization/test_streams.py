"""Models that are run step by step: states and key-value caches among inputs and outputs, integer inputs."""

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.measure import Session
from tests import models_for_tests as build
from tests.passes.quantization import body_models as bodies
from tests.passes.quantization.test_bodies import quantized

node = bodies.node
WIDTH = 16


def test_a_state_that_is_fed_back_is_calibrated_from_the_samples() -> None:
    source = build.proto(
        [
            node("MatMul", ["state", "w"], ["h"], name="product"),
            node("Add", ["h", "x"], ["next_state"], name="add"),
            node("Gather", ["table", "token"], ["y"], name="lookup"),
        ],
        {"x": [1, 8], "state": [1, 8]},
        {"next_state": [1, 8], "y": None},
        {"w": build.weights(8, 8), "table": build.weights(4, 8)},
    )
    source.graph.input.append(bodies.value("token", bodies.INT64, [1]))
    feeds = []
    state = np.zeros((1, 8), np.float32)
    for step in range(8):
        feed = {"x": build.weights(1, 8, seed=step), "state": state, "token": np.array([step % 4])}
        feeds.append(feed)
        state = build.run(source, feed)[0]
    model, result = quantized(source, feeds, dynamic=False)
    assert result.details["plan"]["compute_nodes"] == ["product"]
    seen = {point["value"]: point for point in result.details["plan"]["points"]}
    assert seen["state"]["high"] == pytest.approx(max(f["state"].max() for f in feeds), rel=1e-5)
    with Session(ir.serialize(model)) as session:
        for feed in feeds:
            expected, actual = build.run(source, feed), session.run(feed)
            np.testing.assert_allclose(actual[0], expected[0], atol=0.05)  # a step of 1/127 of states up to 2
            np.testing.assert_array_equal(actual[1], expected[1])


def decoder() -> onnx.ModelProto:
    """One attention head with a cache of any length: keys and values of earlier steps come in, all go out."""
    nodes = [
        node("Gather", ["table", "token"], ["x"], name="lookup"),
        *(node("MatMul", ["x", f"w_{name}"], [name], name=name) for name in ("query", "key", "value")),
        node("Concat", ["past_keys", "key"], ["keys"], name="join_keys", axis=0),
        node("Concat", ["past_values", "value"], ["values"], name="join_values", axis=0),
        node("Transpose", ["keys"], ["keys_t"], name="turn", perm=[1, 0]),
        node("MatMul", ["query", "keys_t"], ["scores"], name="score"),
        node("Softmax", ["scores"], ["weights"], name="softmax"),
        node("MatMul", ["weights", "values"], ["mixed"], name="mix"),
        node("MatMul", ["mixed", "w_out"], ["logits"], name="out"),
    ]
    names = ("w_query", "w_key", "w_value", "w_out")
    constants = {name: build.weights(WIDTH, WIDTH, seed=seed) for seed, name in enumerate(names)}
    constants["table"] = build.weights(10, WIDTH, seed=9, scale=1.0)
    source = build.proto(
        nodes,
        {"past_keys": ["P", WIDTH], "past_values": ["P", WIDTH]},
        {"logits": [1, WIDTH], "keys": ["T", WIDTH], "values": ["T", WIDTH]},
        constants,
    )
    source.graph.input.append(bodies.value("token", bodies.INT64, [1]))
    return source


def steps(source: onnx.ModelProto, count: int) -> bodies.Feeds:
    """Feeds of consecutive steps, the cache empty at first."""
    feeds, cache = [], [np.zeros((0, WIDTH), np.float32)] * 2
    for step in range(count):
        feed = {"past_keys": cache[0], "past_values": cache[1], "token": np.array([step % 10])}
        feeds.append(feed)
        cache = build.run(source, feed)[1:]
    return feeds


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_cache_that_grows(dynamic: bool) -> None:
    source = decoder()
    feeds = steps(source, 12)
    model, result = quantized(source, feeds, dynamic=dynamic)
    computed = set(result.details["plan"]["compute_nodes"])
    assert computed >= {"query", "key", "value", "out"}
    assert ("score" in computed) is not dynamic, "a product of two activations needs ranges"
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [
        (name, ir.DataType.FLOAT) for name in ("logits", "keys", "values")
    ]
    with Session(ir.serialize(model)) as session:
        for feed in feeds:
            for expected, actual in zip(build.run(source, feed), session.run(feed), strict=True):
                assert actual.shape == expected.shape
                assert np.abs(expected - actual).max() < 0.06 * np.ptp(expected)  # INT8 noise of four products
