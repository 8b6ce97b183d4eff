"""Why nodes stay in FP32: overflow, underflow, angles, integers, integer regions, masks."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.backends.onnxruntime import OnnxRuntimeBackend
from sardonyx.measure import describe_machine
from sardonyx.passes.precision.convert import ConvertFloat
from tests import models_for_tests as build
from tests.passes.precision.precision_models import assert_close, convert, counts, reasons, types

node = helper.make_node
FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
WIDE = [4, 64]
LOWEST = float(np.finfo(np.float32).min)


def chain(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """MatMul, the given nodes from `h` to `t`, MatMul."""
    constants = {"w": build.weights(64, 64, scale=0.1)} | constants
    first, last = node("MatMul", ["x", "w"], ["h"], name="first"), node("MatMul", ["t", "w"], ["y"], name="last")
    return build.proto([first, *nodes, last], {"x": WIDE}, {"y": WIDE}, constants)


def wide(scale: float = 1.0, seed: int = 3) -> dict[str, np.ndarray]:
    return {"x": build.weights(*WIDE, seed=seed, scale=scale)}


CASES: Sequence[tuple[str, list[onnx.NodeProto], dict[str, np.ndarray], str]] = (
    ("exp", [node("Exp", ["h"], ["t"])], {}, "no samples show how large t gets: it exceeds 65504"),
    ("square", [node("Mul", ["h", "h"], ["t"])], {}, "no samples show how large t gets: squares grow"),
    ("power", [node("Pow", ["h", "k"], ["t"])], {"k": np.float32(2)}, "no samples show how large t gets: powers grow"),
    ("quotient", [node("Div", ["h", "h"], ["t"])], {}, "the divisor may underflow to 0"),
    ("sum", [node("CumSum", ["h", "k"], ["t"])], {"k": np.int64(1)}, "sums grow with the length"),
    ("epsilon", [node("Add", ["h", "k"], ["t"])], {"k": np.float32(1e-12)}, "the constant k loses 100% in FLOAT16"),
    ("divisor", [node("Div", ["h", "k"], ["t"])], {"k": build.weights(64) * 1e-6}, "k loses"),
    ("huge", [node("Mul", ["h", "k"], ["t"])], {"k": np.float32(1e6)}, "the constant k reaches 1e+06 and overflows"),
    ("angle", [node("Sin", ["h"], ["t"])], {}, "nothing shows that the angles h are small"),
    (
        "whole",
        [node("Cast", ["h"], ["i"], to=TensorProto.INT64, name="whole"), node("Cast", ["i"], ["t"], to=1)],
        {},
        "it converts FLOAT to INT64",
    ),
    ("random", [node("RandomNormalLike", ["h"], ["t"])], {}, "RandomNormalLike draws other numbers"),
)


@pytest.mark.parametrize(("name", "nodes", "constants", "reason"), CASES, ids=[case[0] for case in CASES])
def test_stays_in_fp32_without_samples(
    name: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], reason: str
) -> None:
    nodes[0].name = name
    model, result = convert(chain(*nodes, **constants))
    assert reason in reasons(result)[name]
    (stayed,) = (n for n in model.graph if n.name == name)
    assert {value.dtype for value in stayed.inputs if value is not None} & {FLOAT}
    assert types(model, "MatMul")[0] == FLOAT16


@pytest.mark.parametrize(
    ("name", "nodes", "constants"), [case[:3] for case in CASES[:5]], ids=[c[0] for c in CASES[:5]]
)
def test_is_converted_where_samples_show_that_values_fit(
    name: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]
) -> None:
    nodes[0].name = name
    source = chain(*nodes, **constants)
    model, result = convert(source, samples=[wide()])
    assert name not in reasons(result)
    assert counts(model)["Cast"] == 2


def test_measured_overflow_stays_with_what_touches_it() -> None:
    source = chain(
        node("Mul", ["h", "k"], ["m"], name="mul"),
        node("Mul", ["m", "i"], ["t"], name="back"),
        k=np.float32(3e4),
        i=np.float32(1 / 3e4),
    )
    model, result = convert(source, samples=[wide()])
    assert "FLOAT16 is trusted up to 3.275e+04" in reasons(result)["mul"]
    assert {"mul", "back"} <= set(reasons(result))
    assert_close(source, model, wide())


def test_the_margin_is_what_measured_values_may_reach() -> None:
    source = chain(node("Mul", ["h", "k"], ["t"], name="mul"), k=np.float32(100))
    assert "mul" not in reasons(convert(source, ConvertFloat(), samples=[wide()])[1])
    assert "trusted up to 65.5" in reasons(convert(source, ConvertFloat(margin=0.001), samples=[wide()])[1])["mul"]


def test_measured_underflow_stays() -> None:
    source = chain(
        node("Mul", ["h", "k"], ["m"], name="mul"), node("Div", ["m", "k"], ["t"], name="back"), k=np.float32(1e-4)
    )
    model, result = convert(source, samples=[wide(0.1)])
    assert "where FLOAT16 loses precision" in reasons(result)["mul"]
    assert_close(source, model, wide(0.1))


def test_statistics_inside_a_normalization_are_bounded_by_its_input() -> None:
    image = (1, 8, 16, 16)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("InstanceNormalization", ["c", "g", "b"], ["n"], name="norm"),
        node("Conv", ["n", "w"], ["y"]),
    ]
    constants = {"w": build.weights(8, 8, 1, 1), "g": build.weights(8), "b": build.weights(8)}
    source = build.proto(nodes, {"x": image}, {"y": None}, constants)
    _, unknown = convert(source)
    assert "squares its input, and nothing shows" in reasons(unknown)["norm"]
    _, fits = convert(source, samples=[{"x": build.weights(*image)}])
    assert "norm" not in reasons(fits)
    _, large = convert(source, samples=[{"x": build.weights(*image, scale=300.0)}])
    assert "InstanceNormalization squares c" in reasons(large)["norm"]


@pytest.mark.parametrize(
    ("variance", "epsilon", "stays"), [(1e-12, 1e-5, False), (1e-7, 1e-5, False), (1e-7, 1e-9, True)]
)
def test_a_variance_below_epsilon_does_not_count(variance: float, epsilon: float, *, stays: bool) -> None:
    image = (1, 8, 16, 16)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="norm", epsilon=epsilon),
        node("Relu", ["n"], ["r"]),
        node("Conv", ["r", "w"], ["y"]),
    ]
    spread = np.full(8, 0.5, np.float32)
    spread[3] = variance
    constants = {"w": build.weights(8, 8, 1, 1), **{name: build.weights(8, seed=i) for i, name in enumerate("gbm")}}
    source = build.proto(nodes, {"x": image}, {"y": None}, constants | {"v": spread})
    model, result = convert(source)
    assert ("norm" in reasons(result)) is stays
    if not stays:  # a dead channel, whose input hardly moves; the statistics of `c` are not those of `v`
        assert types(model, "BatchNormalization") == [FLOAT16]


def rotary() -> onnx.ModelProto:
    """Position arithmetic of rotary embeddings: integers, frequencies, sines, and the products with activations."""
    nodes = [
        node("Cast", ["positions"], ["p"], to=1, name="cast"),
        node("MatMul", ["p", "frequencies"], ["angles"], name="angles"),
        node("Cos", ["angles"], ["c"], name="cos"),
        node("MatMul", ["x", "w"], ["h"]),
        node("Mul", ["h", "c"], ["m"], name="rotate"),
        node("MatMul", ["m", "w"], ["n"]),
        node("MatMul", ["n", "w"], ["y"]),
    ]
    source = build.proto(
        nodes,
        {"x": [64, 64]},
        {"y": None},
        {
            "w": build.weights(64, 64, scale=0.1),
            "frequencies": (10000.0 ** -np.linspace(0, 1, 64, dtype=np.float32))[None],
        },
    )
    source.graph.input.append(helper.make_tensor_value_info("positions", TensorProto.INT64, [64, 1]))
    return source


def test_positions_stay_exact_and_their_cosines_are_cast_once() -> None:
    source = rotary()
    model, result = convert(source)
    assert {"cast", "angles", "cos"} <= set(reasons(result))
    assert "computed from integers" in reasons(result)["angles"]
    assert "rotate" not in reasons(result)
    feed = {"x": build.weights(64, 64, scale=1.0), "positions": np.arange(4096, 4160)[:, None]}
    assert_close(source, model, feed)


def test_an_image_of_bytes_is_bounded_by_its_type() -> None:
    nodes = [
        node("Cast", ["image"], ["f"], to=1, name="cast"),
        node("Sub", ["f", "mean"], ["s"], name="sub"),
        node("Div", ["s", "spread"], ["n"], name="div"),
        node("Conv", ["n", "w"], ["c"], name="conv"),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "w"], ["y"]),
    ]
    constants = {"w": build.weights(3, 3, 1, 1), "mean": np.float32(127), "spread": np.float32(58)}
    source = build.proto(nodes, {}, {"y": None}, constants)
    source.graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 16, 16]))
    model, result = convert(source)
    assert set(reasons(result)) == {"cast", "sub", "div"}
    feed = {"image": np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16)).astype(np.uint8)}
    assert_close(source, model, feed)


def masked(mask: Sequence[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """Attention scores, a mask made of the input `keep` (1 or 0), Softmax and the weighted sum."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Transpose", ["h"], ["k"], perm=[1, 0]),
        node("MatMul", ["h", "k"], ["scores"]),
        *mask,
        node("Softmax", ["masked"], ["p"], name="softmax"),
        node("MatMul", ["p", "h"], ["y"]),
    ]
    constants = {"w": build.weights(64, 64, scale=0.1), "one": np.float32(1), "lowest": np.float32(LOWEST)} | constants
    source = build.proto(nodes, {"x": [32, 64]}, {"y": None}, constants)
    source.graph.input.append(helper.make_tensor_value_info("keep", TensorProto.INT64, [32, 32]))
    return source


ADDED = (
    node("Cast", ["keep"], ["kf"], to=1),
    node("Sub", ["one", "kf"], ["drop"]),
    node("Mul", ["drop", "lowest"], ["bias"]),
    node("Add", ["scores", "bias"], ["masked"], name="add"),
)
CHOSEN = (
    node("Cast", ["keep"], ["kb"], to=TensorProto.BOOL),
    node("Where", ["kb", "scores", "lowest"], ["masked"], name="where"),
)


FILLED = (
    node("Shape", ["scores"], ["s"]),
    node("ConstantOfShape", ["s"], ["all"], value=numpy_helper.from_array(np.array([LOWEST], np.float32)), name="fill"),
    node("Trilu", ["all", "above"], ["causal"], upper=1, name="triangle"),
    node("Add", ["scores", "causal"], ["masked"], name="add"),
)


def test_a_filled_triangle_is_a_mask_too() -> None:
    source = masked(FILLED, above=np.int64(1))
    x = {"x": build.weights(32, 64, scale=1.0), "keep": np.ones((32, 32), np.int64)}
    for samples in (None, [x]):
        model, result = convert(source, samples=samples)
        assert {"fill", "triangle"} <= set(reasons(result))
        assert "add" not in reasons(result)
        assert result.stats["clamped"] == 1
        assert_close(source, model, x)


@pytest.mark.parametrize("mask", [ADDED, CHOSEN], ids=["added", "chosen"])
@pytest.mark.parametrize("with_samples", [False, True])
def test_masks_are_clamped_and_never_make_a_nan(mask: Sequence[onnx.NodeProto], *, with_samples: bool) -> None:
    source = masked(mask)
    keep = np.tril(np.ones((32, 32), np.int64))
    x = {"x": build.weights(32, 64, scale=1.0)}
    model, result = convert(source, samples=[x | {"keep": keep}] if with_samples else None)
    assert not {"add", "where", "softmax"} & set(reasons(result))
    assert result.stats["clamped"] == 1
    assert_close(source, model, x | {"keep": keep})
    keep[5] = 0  # a row in which nothing counts
    assert np.isfinite(build.run(model, x | {"keep": keep})[0]).all()
    assert_close(source, model, x | {"keep": np.ones((32, 32), np.int64)})


def test_a_mask_that_samples_never_used_is_clamped_all_the_same() -> None:
    x, ones = {"x": build.weights(32, 64, scale=1.0)}, np.ones((32, 32), np.int64)
    _, result = convert(masked(ADDED), samples=[x | {"keep": ones}])
    assert result.stats["clamped"] == 1


def test_a_mask_for_something_else_than_softmax_stays_in_fp32() -> None:
    x, ones = {"x": build.weights(32, 64, scale=1.0)}, np.ones((32, 32), np.int64)
    source = masked(ADDED)
    next(n for n in source.graph.node if n.op_type == "Softmax").op_type = "LogSoftmax"
    model, result = convert(source, samples=[x | {"keep": ones}])
    assert reasons(result)["add"] == "nothing bounds bias, which is computed from integers"
    assert_close(source, model, x | {"keep": ones})


def test_a_large_constant_that_reaches_an_output_is_not_clamped() -> None:
    source = masked(CHOSEN)
    source.graph.output.append(helper.make_tensor_value_info("masked", TensorProto.FLOAT, None))
    _, result = convert(source)
    assert reasons(result)["where"] == "the constant lowest reaches 3.4e+38 and overflows FLOAT16"


def test_bounds_beyond_the_range_limit_nothing() -> None:
    source = chain(node("Clip", ["h", "low", "high"], ["t"], name="clip"), low=np.float32(0), high=np.float32(-LOWEST))
    model, result = convert(source)
    assert "clip" not in reasons(result)
    assert_close(source, model, wide())


def test_infinities_are_the_same_in_every_format() -> None:
    source = masked(CHOSEN, lowest=np.float32(-np.inf))
    x, keep = {"x": build.weights(32, 64, scale=1.0)}, np.tril(np.ones((32, 32), np.int64))
    model, result = convert(source, samples=[x | {"keep": keep}])
    assert "where" not in reasons(result)
    assert "clamped" not in result.stats
    assert_close(source, model, x | {"keep": keep})


def quantized(opset: int) -> onnx.ModelProto:
    """MatMul, a quantized MatMul between pairs, MatMul."""
    pair = [
        node("QuantizeLinear", ["h", "s", "z"], ["hq"], name="q1"),
        node("DequantizeLinear", ["hq", "s", "z"], ["hd"], name="d1"),
        node("DequantizeLinear", ["wq", "s", "wz"], ["wd"], name="dw"),
        node("MatMul", ["hd", "wd"], ["m"], name="integers"),
        node("QuantizeLinear", ["m", "s", "z"], ["mq"], name="q2"),
        node("DequantizeLinear", ["mq", "s", "z"], ["t"], name="d2"),
    ]
    constants = {
        "w": build.weights(64, 64, scale=0.1),
        "s": np.float32(0.03),
        "z": np.uint8(128),
        "wz": np.int8(0),
        "wq": np.random.default_rng(0).integers(-9, 9, (64, 64)).astype(np.int8),
    }
    nodes = [node("MatMul", ["x", "w"], ["h"]), *pair, node("MatMul", ["t", "w"], ["y"])]
    return build.proto(nodes, {"x": WIDE}, {"y": WIDE}, constants, opset=opset)


def test_scales_follow_where_the_opset_allows_it() -> None:
    source = quantized(21)
    model, result = convert(source)
    assert not {"q1", "d1", "dw", "q2", "d2"} & set(reasons(result))
    assert types(model, "DequantizeLinear") == [FLOAT16] * 3
    assert_close(source, model, wide(), rtol=0.05)  # rounding before QuantizeLinear moves values by one step of 0.03


def test_quantization_stays_in_fp32_in_older_opsets() -> None:
    source = quantized(17)
    model, result = convert(source)
    assert reasons(result)["q1"] == "QuantizeLinear of opset 17 does not take FLOAT16"
    assert_close(source, model, wide(), rtol=0.05)  # as above


def test_what_the_target_runs_as_integers_is_left_to_it() -> None:
    table = OnnxRuntimeBackend().capabilities(describe_machine())
    model, result = convert(quantized(21), capabilities=table)
    stayed = reasons(result)
    assert {stayed[name] for name in ("d1", "dw", "integers", "q2")} == {"the target runs MatMul integers as integers"}
    (integers,) = (n for n in model.graph if n.name == "integers")
    assert [value.producer().op_type for value in integers.inputs] == ["DequantizeLinear"] * 2  # type: ignore[union-attr]
