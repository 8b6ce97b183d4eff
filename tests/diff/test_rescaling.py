"""Values that a pass rescaled by channel: told from a wrong scale by what reads them."""

import numpy as np
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.diff.channel_factors import ChannelSums
from sardonyx.diff.drift import drift
from sardonyx.diff.drift_schema import Drift
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.pipeline import PassManager, available_passes, parse_pipeline
from tests.diff.test_drift import between, by_name, first, place_of
from tests.models_for_tests import images, model, weights


def chain() -> ir.Model:
    """Conv, Relu, Conv, pooling: the first weights of channels that differ a hundredfold."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2"),
        helper.make_node("GlobalAveragePool", ["c2"], ["scores"], name="pool"),
    ]
    constants = {"w1": weights(8, 3, 3, 3, seed=1), "b1": weights(8, seed=2), "w2": weights(6, 8, 3, 3, seed=3)}
    uneven = np.geomspace(0.01, 1.0, 8).astype(np.float32)
    constants |= {"w1": constants["w1"] * uneven[:, None, None, None], "b1": constants["b1"] * uneven}
    return model(nodes, {"image": [1, 3, 16, 16]}, {"scores": [1, 6, 1, 1]}, constants)


FACTORS = np.geomspace(0.25, 4.0, 8)


def scaled(changed: ir.Model, name: str, axis: int, factors: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> None:
    """Multiplies a weight along an axis, by as many of some factors as there are indices."""
    tensor = changed.graph.initializers[name].const_value
    assert tensor is not None
    array = ir.read_array(tensor)
    along = [-1 if index == axis else 1 for index in range(array.ndim)]
    array = (array * factors[: array.shape[axis]].reshape(along)).astype(array.dtype)
    changed.graph.initializers[name].const_value = ir.tensor(array, name=name)


def moved(*, taken_up: bool) -> Drift:
    """Compares a model with one whose first convolution makes other scales, which the second takes up or not."""
    after = chain()
    scaled(after, "w1", 0, FACTORS)
    scaled(after, "b1", 0, FACTORS)
    if taken_up:
        scaled(after, "w2", 1, 1 / FACTORS)
    return between(chain(), after)


def test_what_readers_take_up_again_is_no_place_where_models_part() -> None:
    found = moved(taken_up=True)
    assert found.first is None
    rescaled = {place.before: place.rescaled for place in found.places if place.rescaled is not None}
    assert {"w1", "w2", "r1"} <= rescaled.keys()
    assert rescaled["r1"] is not None
    assert rescaled["r1"].axis == 1
    assert str(rescaled["r1"]).startswith("rescaled by channel along axis 1, by 0.25 to ")
    relative = place_of(found, "r1").total.relative
    assert relative is not None
    assert relative < 1e-5
    assert place_of(found, "scores").rescaled is None


def test_what_no_reader_takes_up_is_the_fault() -> None:
    found = moved(taken_up=False)
    assert first(found).before == "w1"
    assert all(place.rescaled is None for place in found.places)


@pytest.mark.parametrize("passes", ["equalize", "equalize, quantize-static"])
def test_equalizing_parts_nowhere(passes: str) -> None:
    target = backend("onnxruntime").capabilities(describe_machine())
    context = PassContext(target, load_samples(images(8)))
    after = PassManager(parse_pipeline(passes, available_passes()), context=context).run(chain()).model
    found = between(chain(), after)
    assert any(place.rescaled is not None for place in found.places)
    assert [place.before for place in found.parting] == []


def test_factors_of_channels() -> None:
    generator = np.random.default_rng(0)
    sums = ChannelSums()
    for length in (5, 7):
        value = generator.standard_normal((2, 3, length)).astype(np.float32)
        sums.update(value, value * np.array([0.5, 2, 4], np.float32)[:, None])
    found = sums.rescaling()
    assert found is not None
    assert found.axes == (1,)
    np.testing.assert_allclose(found.factors, [0.5, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(found.of(value), value * np.array([[0.5], [2], [4]]), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 300, 3, 200), (1, 3, 300, 200)])
def test_factors_of_channels_of_a_value_that_is_read_in_blocks(shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    factors = np.geomspace(0.25, 4.0, shape[1])
    sums = ChannelSums()
    sums.update(value, (value * factors[:, None, None]).astype(np.float32))
    found = sums.rescaling()
    assert found is not None
    assert found.axes == (1,)
    np.testing.assert_allclose(found.factors, factors, rtol=1e-6)


@pytest.mark.parametrize("change", ["equal", "negative", "noise", "one element a channel", "integers"])
def test_no_factors_where_they_explain_nothing(change: str) -> None:
    generator = np.random.default_rng(0)
    value = generator.standard_normal((2, 3, 5)).astype(np.float32)
    pair = {
        "equal": (value, value),
        "negative": (value, -value),
        "noise": (value, value + generator.standard_normal(value.shape).astype(np.float32)),
        "one element a channel": (value[:1, :, 0], 2 * value[:1, :, 0]),
        "integers": (np.ones((4, 3), np.int64), np.full((4, 3), 2, np.int64)),
    }[change]
    sums = ChannelSums()
    sums.update(*pair)
    assert sums.rescaling() is None


@pytest.mark.parametrize("axes", [(1, 3), (2, 3)])
def test_factors_of_channels_that_lie_along_two_axes(axes: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    shape = (2, 4, 3, 5) if axes == (2, 3) else (2, 3, 4, 5)
    factors = np.geomspace(0.25, 4.0, 15)
    spread = factors.reshape([size if axis in axes else 1 for axis, size in enumerate(shape)])
    sums = ChannelSums()
    for _ in range(2):
        value = generator.standard_normal(shape).astype(np.float32)
        sums.update(value, (value * spread).astype(np.float32))
    found = sums.rescaling()
    assert found is not None
    assert found.axes == axes
    np.testing.assert_allclose(found.factors, factors, rtol=1e-5)
    np.testing.assert_allclose(found.of(value), value * spread, rtol=1e-5)


def test_one_axis_is_preferred_where_it_explains_as_much() -> None:
    value = np.random.default_rng(0).standard_normal((4, 3, 6, 5)).astype(np.float32)
    sums = ChannelSums()
    noise = np.random.default_rng(1).normal(1, 1e-3, value.shape)
    sums.update(value, (value * np.array([0.5, 2, 4])[:, None, None] * noise).astype(np.float32))
    found = sums.rescaling()
    assert found is not None
    assert found.axes == (1,)


def heads() -> ir.Model:
    """Values of two heads of four channels, mixed by attention to positions, and the projection behind them."""
    nodes = [
        helper.make_node("MatMul", ["tokens", "wv"], ["v"], name="values"),
        helper.make_node("Reshape", ["v", "apart"], ["split"], name="split_heads"),
        helper.make_node("Transpose", ["split"], ["by_head"], perm=[0, 2, 1, 3], name="heads_first"),
        helper.make_node("Softmax", ["scores"], ["attention"], name="softmax"),
        helper.make_node("MatMul", ["attention", "by_head"], ["mixed"], name="mix"),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3], name="heads_last"),
        helper.make_node("Reshape", ["back", "joint"], ["context"], name="join_heads"),
        helper.make_node("MatMul", ["context", "wo"], ["y"], name="project"),
    ]
    constants = {
        "wv": weights(8, 8, seed=1),
        "wo": weights(8, 8, seed=2),
        "apart": np.array([0, 0, 2, 4]),
        "joint": np.array([0, 0, 8]),
    }
    return model(nodes, {"tokens": [1, 6, 8], "scores": [1, 2, 6, 6]}, {"y": [1, 6, 8]}, constants)


def test_factors_that_pass_through_attention_are_no_difference() -> None:
    after = heads()
    scaled(after, "wv", 1, FACTORS)
    scaled(after, "wo", 0, 1 / FACTORS)
    generator = np.random.default_rng(3)
    feeds = [
        {
            "tokens": generator.standard_normal((1, 6, 8)).astype(np.float32),
            "scores": generator.standard_normal((1, 2, 6, 6)).astype(np.float32),
        }
        for _ in range(3)
    ]
    found = drift(heads(), after, by_name(heads(), after), load_samples(feeds))
    assert found.first is None
    told = {place.before: str(place.rescaled) for place in found.places if place.rescaled is not None}
    assert told["by_head"] == "rescaled by channel along axes 1 and 3, by 0.25 to 4"
    assert told["split"] == "rescaled by channel along axes 2 and 3, by 0.25 to 4"
    assert told["context"] == "rescaled by channel along axis 2, by 0.25 to 4"
    assert "y" not in told
