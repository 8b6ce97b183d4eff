"""Conversion to FP16 and BF16: what becomes what, what stays and why."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.backends.onnxruntime import OnnxRuntimeBackend
from sardonyx.errors import SpecError
from sardonyx.measure import describe_machine
from sardonyx.passes.base import PassContext
from sardonyx.passes.precision.convert import ConvertFloat
from sardonyx.pipeline import PassManager, Status
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.precision.precision_models import assert_close, convert, counts, reasons, types

node = helper.make_node
FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
WIDE = [4, 64]
TABLE = OnnxRuntimeBackend().capabilities(describe_machine())


def chain(*nodes: onnx.NodeProto, size: int = 64, **constants: np.ndarray) -> onnx.ModelProto:
    """MatMul, the given nodes from `h` to `t`, MatMul: a region worth converting around them."""
    constants = {"w": build.weights(64, size, scale=0.1), "v": build.weights(size, 64, seed=1, scale=0.1)} | constants
    first, last = node("MatMul", ["x", "w"], ["h"], name="first"), node("MatMul", ["t", "v"], ["y"], name="last")
    return build.proto([first, *nodes, last], {"x": WIDE}, {"y": WIDE}, constants)


def wide(seed: int = 3) -> dict[str, np.ndarray]:
    return {"x": build.weights(*WIDE, seed=seed, scale=1.0)}


class TestConvertFloat(PassContract):
    instance = ConvertFloat()
    rtol = 1e-3
    atol = 0.02  # FP16 rounds by 2^-11 beside the largest score, which is about 40 here


def test_one_cast_on_either_side_and_16_bit_weights_between() -> None:
    source = chain(node("Relu", ["h"], ["t"], name="relu"))
    model, result = convert(source)
    assert build.operators(model) == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]
    assert {v.dtype for v in model.graph.initializers.values()} == {FLOAT16}
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)] == [FLOAT, FLOAT]
    assert result.stats == {"values": 3, "nodes": 3, "constants": 2, "casts": 2}
    assert_close(source, model, wide())


def test_inputs_and_outputs_are_converted_where_asked() -> None:
    source = chain(node("Relu", ["h"], ["t"]))
    model, _ = convert(source, ConvertFloat(keep_io=False))
    assert build.operators(model) == ["MatMul", "Relu", "MatMul"]
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)] == [FLOAT16, FLOAT16]
    half = build.run(model, {"x": wide()["x"].astype(np.float16)})[0]
    np.testing.assert_allclose(half.astype(np.float32), build.run(source, wide())[0], atol=4e-3)  # FP16


def test_an_input_that_overflows_keeps_its_type() -> None:
    source = chain(node("Relu", ["h"], ["t"]))
    model, result = convert(source, ConvertFloat(keep_io=False), samples=[{"x": np.full(WIDE, 1e5, np.float32)}])
    assert "x reaches 1e+05" in reasons(result)["x"]
    assert model.graph.inputs[0].dtype == FLOAT


def test_dynamic_dimensions_at_several_sizes() -> None:
    w = build.weights(64, 64, scale=0.1)
    source = build.proto(
        [node("MatMul", ["x", "w"], ["h"]), node("Gelu", ["h"], ["g"]), node("MatMul", ["g", "w"], ["y"])],
        {"x": ["batch", 64]},
        {"y": ["batch", 64]},
        {"w": w},
        opset=20,
    )
    model, _ = convert(source)
    assert types(model, "Gelu") == [FLOAT16]
    assert len(model.graph.initializers) == 1
    for size in (0, 1, 7):
        assert_close(source, model, {"x": build.weights(size, 64, scale=1.0)})


def test_a_value_is_cast_once_for_all_its_users() -> None:
    source = chain(
        node("Exp", ["h"], ["e"], name="exp"),
        node("Mul", ["e", "h"], ["m"], name="mul"),
        node("Add", ["m", "e"], ["a"], name="add"),
        node("Sub", ["a", "e"], ["t"], name="sub"),
    )
    model, result = convert(source)
    assert "exceeds 65504 beyond an argument of 11" in reasons(result)["exp"]
    assert counts(model)["Cast"] == 4  # in, out, before Exp and behind it
    assert_close(source, model, wide())


def test_a_weight_that_both_sides_read_is_kept_in_both_types() -> None:
    nodes = [node("MatMul", ["h", "w"], ["m"], name="middle"), node("Relu", ["m"], ["t"])]
    model, result = convert(chain(*nodes), ConvertFloat(block=("middle",)))
    kinds = sorted(str(v.dtype) for v in model.graph.initializers.values())
    assert kinds == ["FLOAT", "FLOAT16", "FLOAT16"]
    assert reasons(result)["middle"] == "it is blocked by 'middle'"


def test_tied_weights_share_one_converted_tensor() -> None:
    model = ir.load(chain(node("Relu", ["h"], ["t"]))).model
    w, v = (model.graph.initializers[name] for name in "wv")
    v.const_value = w.const_value
    ConvertFloat().apply(model, PassContext())
    first, second = model.graph.initializers.values()
    assert first.const_value is second.const_value


def test_large_weights_are_converted_when_they_are_read() -> None:
    source = chain(node("Relu", ["h"], ["t"]), size=8192)
    model, _ = convert(source)
    assert {type(v.const_value) for v in model.graph.initializers.values()} == {ir.LazyTensor}
    assert_close(source, model, wide())


def test_casts_and_constants_inside_a_region_follow() -> None:
    source = chain(
        node("Cast", ["h"], ["h16"], to=TensorProto.FLOAT16),
        node("Cast", ["h16"], ["h32"], to=TensorProto.FLOAT),
        node("Constant", [], ["two"], value_float=2.0),
        node("Mul", ["h32", "two"], ["t"]),
    )
    model, result = convert(source)
    assert build.operators(model) == ["Cast", "MatMul", "Mul", "MatMul", "Cast"]
    assert result.stats["idle-casts"] == 2
    assert_close(source, model, wide())


def test_shapes_are_read_without_a_cast() -> None:
    source = chain(node("Shape", ["h"], ["s"]), node("Reshape", ["h", "s"], ["t"]))
    model, _ = convert(source)
    assert counts(model)["Cast"] == 2
    assert_close(source, model, wide())


def test_scales_and_region_of_a_resize_stay_in_fp32() -> None:
    image = (1, 8, 16, 16)
    source = build.proto(
        [
            node("Conv", ["x", "w"], ["c"]),
            node(
                "Resize", ["c", "roi", "s"], ["r"], mode="linear", coordinate_transformation_mode="tf_crop_and_resize"
            ),
            node("Conv", ["r", "w"], ["y"]),
        ],
        {"x": image},
        {"y": None},
        {
            "w": build.weights(8, 8, 1, 1),
            "roi": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32),
            "s": np.array([1, 1, 2, 2], np.float32),
        },
    )
    model, _ = convert(source)
    resize = next(n for n in model.graph if n.op_type == "Resize")
    assert [v.dtype for v in resize.inputs if v is not None] == [FLOAT16, FLOAT, FLOAT]
    assert_close(source, model, {"x": build.weights(*image, scale=1.0)})


def test_a_filling_constant_and_its_attribute_follow() -> None:
    source = chain(
        node("Shape", ["h"], ["s"]),
        node("ConstantOfShape", ["s"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Add", ["h", "ones"], ["a"]),
        node("Add", ["a", "zeros"], ["t"]),
    )
    model, _ = convert(source)
    assert types(model, "ConstantOfShape") == [FLOAT16, FLOAT16]
    assert counts(model)["Cast"] == 2
    assert_close(source, model, wide())


def test_an_output_in_the_middle_keeps_its_name_and_type() -> None:
    source = chain(node("Relu", ["h"], ["t"]))
    source.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, WIDE))
    model, _ = convert(source)
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [("y", FLOAT), ("h", FLOAT)]
    assert_close(source, model, wide())


def test_the_same_model_gives_the_same_result_and_reasons() -> None:
    source = chain(
        *(node("Exp", [f"e{i - 1}" if i else "h"], [f"e{i}"]) for i in range(5)), node("Relu", ["e4"], ["t"])
    )
    first, second = convert(source), convert(source)
    assert ir.digest(first[0]) == ir.digest(second[0])
    assert first[1].refusals == second[1].refusals


def test_a_small_region_is_left_alone() -> None:
    source = build.proto([node("Relu", ["x"], ["y"], name="relu")], {"x": WIDE}, {"y": WIDE})
    model, result = convert(source)
    assert not result.modified
    assert build.operators(model) == ["Relu"]
    assert reasons(result) == {"relu": "the region saves 1024 bytes of memory traffic, its 2 Casts cost 3072"}


def test_a_region_that_only_moves_data_is_left_alone() -> None:
    perm = [node("Transpose", [f"t{i}"], [f"t{i + 1}"], perm=[1, 0]) for i in range(8)]
    source = build.proto([node("Identity", ["x"], ["t0"]), *perm], {"x": WIDE}, {"t8": WIDE})
    _, result = convert(source)
    assert set(reasons(result).values()) == {"nothing computes in this region"}


@pytest.mark.parametrize(("option", "word"), [({"dtype": "float8"}, "float8"), ({"kernels": "all"}, "all")])
def test_unknown_choices_are_refused(option: dict[str, str], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        ConvertFloat(**option)


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_a_margin_outside_its_range_is_refused(margin: float) -> None:
    with pytest.raises(SpecError, match="margin"):
        ConvertFloat(margin=margin)


def test_a_block_pattern_that_names_nothing_is_an_error() -> None:
    _, result = convert(chain(node("Relu", ["h"], ["t"], name="relu")), ConvertFloat(block=("Relu", "relu", "fir*")))
    assert set(reasons(result)) >= {"relu", "first"}
    with pytest.raises(SpecError, match="'Sofmax' names no operator"):
        convert(chain(node("Relu", ["h"], ["t"])), ConvertFloat(block=("Relu", "Sofmax")))


def test_the_target_says_what_it_runs_in_fp32_all_the_same() -> None:
    _, result = convert(chain(node("Relu", ["h"], ["t"])), capabilities=TABLE)
    assert [r.rule for r in result.refusals] == ["run-natively"]
    assert "no FLOAT16 kernels for MatMul, Relu" in result.refusals[0].reason


def test_native_kernels_only() -> None:
    _, result = convert(
        chain(node("Relu", ["h"], ["t"], name="relu")), ConvertFloat(kernels="native"), capabilities=TABLE
    )
    assert reasons(result)["relu"] == "the target has no FLOAT16 kernel for Relu"
    assert not result.modified


def test_bfloat16_is_refused_where_the_target_would_not_load_it() -> None:
    _, result = convert(chain(node("Relu", ["h"], ["t"])), ConvertFloat(dtype="bfloat16"), capabilities=TABLE)
    assert reasons(result)["first"] == "the target refuses MatMul in BFLOAT16"
    assert not result.modified


def test_bfloat16_for_another_runtime_by_the_reference_implementation() -> None:
    source = chain(node("Relu", ["h"], ["t"]))
    model, _ = convert(source, ConvertFloat(dtype="bfloat16", kernels="schema"), capabilities=TABLE)
    assert types(model, "MatMul") == [BFLOAT16, BFLOAT16]
    from onnx.reference import ReferenceEvaluator

    (actual,) = ReferenceEvaluator(onnx.load_model_from_string(ir.serialize(model))).run(None, wide())
    # BF16 keeps 8 significant bits: 2^-9 for each rounding, and the reference also sums in BF16.
    np.testing.assert_allclose(actual, build.run(source, wide())[0], atol=0.05)


def test_bfloat16_waits_for_the_opset_that_allows_it() -> None:
    image = (1, 8, 16, 16)
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("Relu", ["c"], ["y"])]
    source = build.proto(nodes, {"x": image}, {"y": None}, {"w": build.weights(8, 8, 1, 1)})
    _, result = convert(source, ConvertFloat(dtype="bfloat16", kernels="schema"))
    assert reasons(result)["conv"] == "Conv of opset 17 does not take BFLOAT16"


def test_functions_are_left_alone() -> None:
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    source = chain(node("Twice", ["h"], ["t"], name="twice", domain="local"))
    source.functions.append(function)
    source.opset_import.append(helper.make_opsetid("local", 1))
    model = ir.load(source).model
    result = ConvertFloat().apply(model, PassContext())
    assert ir.verify(model) == ()
    assert "t is not known" in reasons(result)["twice"] or "no operator of ONNX" in reasons(result)["twice"]
    assert_close(source, model, wide())


def test_converts_a_model_whose_weights_lie_in_a_file(tmp_path: Path) -> None:
    source = chain(node("Relu", ["h"], ["t"]), size=8192)
    saved = onnx.load_model_from_string(source.SerializeToString())  # onnx.save takes the data out of what it saves
    onnx.save(saved, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    result = PassManager([ConvertFloat()]).run(ir.load(tmp_path / "m.onnx").model)
    assert result.records[0].status is Status.APPLIED
    ir.save(result.model, tmp_path / "half.onnx")
    assert_close(source, ir.load(tmp_path / "half.onnx").model, wide())
