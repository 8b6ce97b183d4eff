"""The rules for linear operators: what becomes what, that the function stays at every size, why a match is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.measure import measure_peak, peak_rss
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.fusion.fuse import RULES, Fuse
from sardonyx.passes.rewriting.driver import near_misses
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.linear_cases import GOLDEN, REFUSED, bn, node, norm

SIZES = ({"N": 1, "H": 5, "L": 4}, {"N": 3, "H": 8, "L": 7}, {"N": 2, "H": 9, "L": 4})


def feeds(source: onnx.ModelProto, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """One feed for each of `SIZES`."""

    def shape(info: onnx.ValueInfoProto, sizes: dict[str, int]) -> list[int]:
        return [sizes[d.dim_param] if d.dim_param else d.dim_value for d in info.type.tensor_type.shape.dim]

    return [
        {v.name: build.weights(*shape(v, sizes), seed=seed + i, scale=1.0) for i, v in enumerate(source.graph.input)}
        for sizes in SIZES
    ]


def fuse(source: onnx.ModelProto) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    return model, Fuse().apply(model, PassContext())


def assert_same_function(source: onnx.ModelProto, model: ir.Model) -> None:
    """Outputs differ by the rounding of reassociated sums at most: 1e-5 of the largest value."""
    for feed in feeds(source):
        for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
            assert before.shape == after.shape
            largest = float(np.abs(before).max(initial=1.0))
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("case", GOLDEN)
def test_what_becomes_what(case: str) -> None:
    source = GOLDEN[case].proto()
    model, result = fuse(source)
    assert (build.operators(model), dict(result.stats)) == (list(GOLDEN[case].expected), dict(GOLDEN[case].rules))
    assert ir.verify(model) == ()
    assert_same_function(source, model)


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    source, reason = REFUSED[case]
    model, result = fuse(source.proto())
    assert not result.modified
    assert any(reason in refusal.reason for refusal in result.refusals), [r.reason for r in result.refusals]
    assert build.operators(model) == [n.op_type for n in source.nodes]


@pytest.mark.parametrize(
    ("op", "rule", "reason"),
    [
        ("Add", "matmul-add-to-gemm", "x has rank 3, not 2"),
        ("Div", "scale-matmul", "z is not a constant"),
        ("Mul", "merge-constants", "first is Add, last is Mul"),
        ("Gemm", "fold-gemm-factors", "alpha and beta are 1"),
    ],
)
def test_what_was_never_meant_is_no_refusal_but_explained(op: str, rule: str, reason: str) -> None:
    nodes = {
        "Add": [node("MatMul", ["x", "w"], ["c"], name="first"), node("Add", ["c", "b"], ["y"], name="last")],
        "Div": [node("MatMul", ["x", "z"], ["c"], name="first"), node("Div", ["c", "w"], ["y"], name="last")],
        "Mul": [node("Add", ["x", "w"], ["c"], name="first"), node("Mul", ["c", "w"], ["y"], name="last")],
        "Gemm": [node("ReduceMean", ["x"], ["c"], axes=[1], keepdims=0), node("Gemm", ["c", "w"], ["y"], name="last")],
    }[op]
    constants = {"w": build.weights(6, 6), "b": build.weights(6)}
    inputs = {"x": ["N", 4, 6], "z": ["N", 6, 6]} if op == "Div" else {"x": ["N", 4, 6]}
    model, result = fuse(build.proto(nodes, inputs, {"y": None}, constants))
    assert (result.modified, result.refusals) == (False, ())
    reasons = {near.name: missing for near, missing in near_misses(model, RULES, "last")}
    assert reasons[rule] == reason


SIDE = 2048  # a weight of 16 MiB
LAYERS = 9


def write_model_of_large_weights(path: Path) -> None:
    """A chain of Gemm and BatchNormalization, MatMul and Mul, Div and MatMul; the weights are one sparse file."""
    external = {f"w{i}": i * 4 * SIDE * SIDE for i in range(LAYERS)}
    nodes, last = [], "x"
    for i in range(0, LAYERS, 3):
        nodes += [
            *(node("Gemm", [last, f"w{i}"], [f"g{i}"]), bn(f"g{i}", f"n{i}"), node("Relu", [f"n{i}"], [f"r{i}"])),
            *(node("MatMul", [f"r{i}", f"w{i + 1}"], [f"m{i}"]), node("Mul", [f"m{i}", "k"], [f"s{i}"])),
            *(node("Sin", [f"s{i}"], [f"t{i}"]), node("Div", [f"t{i}", "k"], [f"d{i}"])),
            node("MatMul", [f"d{i}", f"w{i + 2}"], [f"y{i}"]),
        ]
        last = f"y{i}"
    proto = build.proto(nodes, {"x": ["N", SIDE]}, {last: None}, {**norm(SIDE), "k": build.weights(SIDE) + 3})
    for name, offset in external.items():
        tensor = proto.graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=[SIDE, SIDE])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": offset, "length": 4 * SIDE * SIDE}.items():
            tensor.external_data.add(key=key, value=str(value))
    onnx.save(proto, path)
    with (path.parent / "weights.bin").open("wb") as file:
        file.truncate(LAYERS * 4 * SIDE * SIDE)


def fuse_and_save(path: str, written: str) -> None:
    """Runs in a process of its own, whose peak before is what importing took."""
    before = peak_rss()
    model = ir.load(path).model
    result = Fuse().apply(model, PassContext())
    assert result.stats == {"fuse-batch-norm": 3, "scale-matmul": 3, "fold-input-map": 3}
    ir.save(model, written, external_data=True)
    held = (peak_rss() - before) / (4 * SIDE * SIDE)
    assert held < 4.5, f"{held:.1f} weights of {LAYERS}"  # one read, one made, one written, and the last one's bytes


def test_large_weights_are_scaled_one_at_a_time_while_saving(tmp_path: Path) -> None:
    source, written = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    write_model_of_large_weights(source)
    measure_peak(fuse_and_save, str(source), str(written))
    assert (tmp_path / "fused.onnx.data").stat().st_size > 4 * SIDE * SIDE * LAYERS


def test_lazy_weights_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w"], ["g"]), bn("g", "y")]
    source = build.proto(nodes, {"x": ["N", 600]}, {"y": None}, {"w": build.weights(600, 512), **norm(512)})
    model, _ = fuse(source)
    weight = next(v.const_value for v in model.graph.initializers.values() if v.name == "w_fused")
    assert isinstance(weight, ir.LazyTensor)
    assert weight.tobytes() == weight.tobytes() == fuse(source)[0].graph.initializers["w_fused"].const_value.tobytes()
    ir.save(model, tmp_path / "model.onnx")
    assert ir.digest(ir.load(tmp_path / "model.onnx").model) == ir.digest(model)
    feed = {"x": build.weights(2, 600)}
    np.testing.assert_allclose(build.run(model, feed)[0], build.run(source, feed)[0], rtol=1e-4, atol=1e-4)


def test_lazy_weights_survive_saving_over_their_source(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w"], ["g"]), bn("g", "y")]
    source = build.proto(nodes, {"x": ["N", 600]}, {"y": None}, {"w": build.weights(600, 512), **norm(512)})
    path = tmp_path / "model.onnx"
    ir.save(ir.load(source).model, path, external_data=True)
    model = ir.load(path).model
    Fuse().apply(model, PassContext())
    digest = ir.digest(model)
    ir.save(model, path, external_data=True)
    assert ir.digest(model) == ir.digest(ir.load(path).model) == digest


class TestFuseLinear(PassContract):
    instance = Fuse()

    def sources(self) -> list[onnx.ModelProto]:
        return [case.proto() for case in GOLDEN.values() if case.inputs == {"x": ["N", 4, "H", 9]}]

    def feed(self) -> dict[str, np.ndarray]:
        return {"x": build.weights(2, 4, 7, 9, scale=1.0)}
