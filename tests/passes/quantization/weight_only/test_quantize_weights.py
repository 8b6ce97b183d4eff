"""The pass: what becomes what, that it computes what the integers say, and what is refused why."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.capabilities import BlockSupport
from sardonyx.driver.compile import CompileJob, run_compile
from sardonyx.errors import PassError, SpecError
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.weight_only.grid import BlockGrid
from sardonyx.passes.quantization.weight_only.quantize import QuantizeWeights
from sardonyx.passes.quantization.weight_only.rounding import round_to_nearest
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline
from sardonyx.pipeline.schemes import scheme_named
from tests import models_for_tests as build
from tests.passes.contract import PassContract

node = helper.make_node
TABLE = capabilities(describe_machine())
STANDARD = dataclasses.replace(
    TABLE,
    blocks={
        name: BlockSupport(name, ("", "DequantizeLinear"), negative_scales=False, min_opset=21)
        for name in ("MatMul", "Gemm", "Gather")
    },
)
RTN = QuantizeWeights(method="rtn", activations="float")
GPTQ = QuantizeWeights(activations="float")
W, V, ROWS = build.weights(64, 48, seed=1), build.weights(48, 40, seed=2), build.weights(50, 64, seed=3)


def mlp(opset: int = 17) -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("MatMul", ["b", "v"], ["y"], name="second"),
    ]
    return build.proto(nodes, {"x": ["N", "T", 64]}, {"y": ["N", "T", 40]}, {"w": W, "v": V}, opset=opset)


def language_model(opset: int = 17, *, tied: bool = True) -> onnx.ModelProto:
    """Embedding, one product, and the embedding's transpose as the head."""
    table = numpy_helper.from_array(ROWS, "table")
    constants = [table, numpy_helper.from_array(build.weights(64, 64, seed=4), "w")]
    if not tied:
        constants.append(numpy_helper.from_array(build.weights(50, 64, seed=5), "head"))
    nodes = [
        node("Gather", ["table", "ids"], ["e"], name="embed"),
        node("MatMul", ["e", "w"], ["h"], name="inner"),
        node("Transpose", ["table" if tied else "head"], ["t"], name="transpose", perm=[1, 0]),
        node("MatMul", ["h", "t"], ["logits"], name="head"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", 50])
    graph = helper.make_graph(nodes, "lm", [ids], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def ids(*shape: int) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(0).integers(0, 50, shape)}


def quantized(
    source: onnx.ModelProto, options: QuantizeWeights, table: Any = TABLE, feeds: Any = None
) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    samples = load_samples(feeds) if feeds is not None else None
    result = options.apply(model, PassContext(table, samples))
    assert ir.verify(model) == ()
    return model, result


def nearest(weight: np.ndarray, bits: int = 4, *, symmetric: bool = False, offsets: bool = False) -> np.ndarray:
    """What the weight (R, K) becomes."""
    return round_to_nearest(weight, BlockGrid(bits, 32, symmetric, offsets=offsets)).dequantize()


def refusal(result: PassResult, name: str) -> str:
    return next(r.reason for r in result.refusals if r.nodes == (name,))


class TestContract(PassContract):
    instance = dataclasses.replace(RTN, bits=8, block=16)
    context = PassContext(TABLE)
    rtol, atol = 0.02, 0.3  # 8 bits: noise of half a percent of outputs that are about 10 in size

    def sources(self) -> list[onnx.ModelProto]:
        return [mlp(), build.cnn()]

    def test_function_is_kept(self) -> None:
        model, _ = self.applied(mlp())
        feed = {"x": build.weights(2, 3, 64, scale=1.0)}
        expected, actual = build.run(mlp(), feed)[0], build.run(model, feed)[0]
        assert np.linalg.norm(actual - expected) < 0.01 * np.linalg.norm(expected)


class TestForms:
    @pytest.mark.parametrize("bits", [4, 8])
    @pytest.mark.parametrize(("symmetric", "offsets"), [(True, False), (False, False), (False, True)])
    def test_products_compute_with_the_dequantized_weight(self, bits: int, symmetric: bool, offsets: bool) -> None:
        options = dataclasses.replace(RTN, bits=bits, symmetric=symmetric, offsets=offsets)
        model, result = quantized(mlp(), options)
        products = [n for n in model.graph if n.op_type == "MatMulNBits"]
        assert len(products) == (4 if offsets else 2)
        assert result.stats == {f"matmul-{bits}-bit": 2}
        assert model.opset_imports["com.microsoft"] == 1
        first, second = (nearest(w.T, bits, symmetric=symmetric, offsets=o) for w, o in ((W, offsets), (V, offsets)))
        for shape in ((1, 1, 64), (2, 7, 64), (0, 3, 64)):
            x = build.weights(*shape, scale=1.0, seed=6)
            expected = np.maximum(x @ first.T, 0) @ second.T
            # offsets are rounded to 8 bits themselves: 1/127 of half a step
            tolerance = 5e-3 if offsets else 1e-5
            np.testing.assert_allclose(build.run(model, {"x": x})[0], expected, rtol=1e-4, atol=tolerance)

    def test_sums_over_blocks_are_shared_by_the_products_of_one_input(self) -> None:
        nodes = [node("MatMul", ["x", name], [f"y{name}"], name=f"n{name}") for name in ("p", "q")]
        weights = {"p": build.weights(64, 32), "q": build.weights(64, 32, seed=1)}
        source = build.proto(nodes, {"x": ["N", 64]}, {"yp": ["N", 32], "yq": ["N", 32]}, weights)
        model, _ = quantized(source, dataclasses.replace(RTN, offsets=True))
        assert build.operators(model).count("MatMul") == 1
        x = build.weights(3, 64, scale=1.0)
        for actual, weight in zip(build.run(model, {"x": x}), weights.values(), strict=True):
            # 8-bit offsets, as above
            np.testing.assert_allclose(actual, x @ nearest(weight.T, offsets=True).T, atol=5e-3)

    def test_activations_are_rounded_where_the_target_is_slow_in_float(self) -> None:
        """The tied table and the offsets have 8 bits, for which the runtime has no fast kernel in float."""
        levels = {}
        for activations in ("int8", "float", "auto"):
            options = QuantizeWeights(method="rtn", offsets=True, activations=activations)
            kernels = [n for n in quantized(language_model(), options)[0].graph if n.op_type == "MatMulNBits"]
            levels[activations] = {(ir.attribute(n, "bits", 0), ir.attribute(n, "accuracy_level", 0)) for n in kernels}
        assert levels == {"int8": {(4, 4), (8, 4)}, "float": {(4, 0), (8, 0)}, "auto": {(4, 0), (8, 4)}}

    @pytest.mark.parametrize("transposed", [0, 1])
    def test_gemm_keeps_its_bias(self, transposed: int) -> None:
        weight = W.T if transposed else W
        gemm = node("Gemm", ["x", "w", "c"], ["y"], name="gemm", transB=transposed)
        constants = {"w": np.ascontiguousarray(weight), "c": build.weights(48, seed=9)}
        model, result = quantized(build.proto([gemm], {"x": ["N", 64]}, {"y": ["N", 48]}, constants), RTN)
        assert build.operators(model) == ["MatMulNBits"]
        assert result.stats == {"gemm-4-bit": 1}
        x = build.weights(3, 64, scale=1.0)
        np.testing.assert_allclose(build.run(model, {"x": x})[0], x @ nearest(W.T).T + constants["c"], atol=1e-5)

    @pytest.mark.parametrize("opset", [17, 21])
    def test_a_tied_table_is_stored_once_with_8_bits(self, opset: int) -> None:
        model, result = quantized(language_model(opset), RTN)
        assert result.stats == {"gather-8-bit": 1, "matmul-4-bit": 1, "matmul-8-bit": 1}
        assert build.operators(model) == ["Reshape", "GatherBlockQuantized", "MatMulNBits", "MatMulNBits"]
        stored = [
            v for v in model.graph.initializers.values() if v.const_value is not None and v.const_value.size >= 2048
        ]
        assert len(stored) == 2, "one table, one product"
        point = next(p for p in result.details["plan"]["points"] if p["value"] == "table")
        assert "one table for lookup and product" in point["reason"]
        assert point["consumers"] == ("embed", "head")
        table, inner = nearest(ROWS, 8, symmetric=True), nearest(build.weights(64, 64, seed=4).T)
        for shape in ((1, 1), (2, 5), (1, 0)):
            feed = ids(*shape)
            expected = table[feed["ids"]] @ inner.T @ table.T
            np.testing.assert_allclose(build.run(model, feed)[0], expected, atol=1e-4)

    def test_a_table_of_its_own(self) -> None:
        _, result = quantized(language_model(tied=False), RTN)
        assert result.stats == {"gather-8-bit": 1, "matmul-4-bit": 2}

    def test_a_product_that_cannot_take_the_table_has_a_form_of_its_own(self) -> None:
        only_four = dataclasses.replace(TABLE.blocks["MatMul"], bits=(4,))
        table = dataclasses.replace(TABLE, blocks={**TABLE.blocks, "MatMul": only_four})
        _, result = quantized(language_model(), RTN, table)
        assert result.stats == {"gather-8-bit": 1, "matmul-4-bit": 2}

    def test_branches_with_one_weight_have_it_once_each(self) -> None:
        branches = {}
        for name in ("then_branch", "else_branch"):
            output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            product = node("MatMul", ["x", "w"], [f"{name}_m"], name=name)
            more = node("Neg" if name == "then_branch" else "Abs", [f"{name}_m"], [name])
            branches[name] = helper.make_graph([product, more], name, [], [output])
        source = build.proto([node("If", ["c"], ["y"], name="if", **branches)], {"x": ["N", 64]}, {"y": None}, {"w": W})
        source.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
        model, _ = quantized(source, RTN)
        x = build.weights(3, 64, scale=1.0)
        for condition, function in ((True, np.negative), (False, np.abs)):
            actual = build.run(model, {"x": x, "c": np.array(condition)})[0]
            np.testing.assert_allclose(actual, function(x @ nearest(W.T).T), atol=1e-5)

    def test_embeddings_stay_in_float_where_asked(self) -> None:
        model, result = quantized(language_model(), dataclasses.replace(RTN, embeddings="float"))
        assert result.stats == {"matmul-4-bit": 2}
        assert model.graph.initializers["table"].dtype is ir.DataType.FLOAT

    @pytest.mark.parametrize("symmetric", [True, False])
    @pytest.mark.parametrize("bits", [4, 8])
    def test_the_standard_form_for_other_targets(self, bits: int, symmetric: bool) -> None:
        options = dataclasses.replace(RTN, bits=bits, symmetric=symmetric)
        model, result = quantized(language_model(21), options, STANDARD)
        assert sum(result.stats.values()) == 3
        operators = build.operators(model)
        assert operators.count("DequantizeLinear") == 3
        assert operators.index("Gather") < operators.index("DequantizeLinear"), "only rows looked up are restored"
        wanted = {ir.DataType[f"{'' if symmetric else 'U'}INT{bits}"], ir.DataType.INT8}
        integers = {v.dtype for v in model.graph.initializers.values()} - {ir.DataType.FLOAT}
        assert integers == wanted
        grid = BlockGrid(bits, 32, symmetric, negative_scales=False)
        head, inner = (round_to_nearest(w, grid).dequantize() for w in (ROWS, build.weights(64, 64, seed=4).T))
        table = round_to_nearest(ROWS, BlockGrid(8, 32, symmetric=True, negative_scales=False)).dequantize()
        feed = ids(2, 5)
        np.testing.assert_allclose(build.run(model, feed)[0], table[feed["ids"]] @ inner.T @ head.T, atol=1e-4)

    def test_the_opset_is_raised_where_the_target_needs_it(self) -> None:
        model, result = quantized(mlp(17), RTN, STANDARD)
        assert model.opset_imports[""] == 21
        assert result.stats == {"matmul-4-bit": 2}
        x = np.random.default_rng(0).standard_normal((2, 3, 64)).astype(np.float32)
        grid = BlockGrid(4, 32, negative_scales=False)
        first, second = (round_to_nearest(w.T, grid).dequantize() for w in (W, V))
        expected = np.maximum(x @ first.T, 0) @ second.T
        np.testing.assert_allclose(build.run(model, {"x": x})[0], expected, atol=1e-4)

    def test_no_float_weight_is_left(self) -> None:
        model, _ = quantized(language_model(), RTN)
        assert not {"table", "w", "t"} & {v.name for v in model.graph.initializers.values()}
        assert all(value.uses() for value in model.graph.initializers.values())

    def test_a_weight_of_two_nodes_is_stored_once(self) -> None:
        square = build.weights(32, 32)
        nodes = [node("MatMul", ["x", "w"], ["a"], name="a"), node("MatMul", ["a", "w"], ["y"], name="b")]
        model, _ = quantized(build.proto(nodes, {"x": ["N", 32]}, {"y": ["N", 32]}, {"w": square}), RTN)
        assert len(model.graph.initializers) == 3, "integers, scales, zero points"

    def test_inside_a_branch(self) -> None:
        then = helper.make_graph(
            [node("MatMul", ["x", "w"], ["t"], name="inner")],
            "then",
            [],
            [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
        )
        other = helper.make_graph(
            [node("MatMul", ["x", "v"], ["o"], name="other")],
            "else",
            [],
            [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(build.weights(64, 48, seed=8), "v")],
        )
        source = build.proto(
            [node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)],
            {"x": ["N", 64]},
            {"y": ["N", 48]},
            {"w": W},
        )
        source.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
        x = build.weights(3, 64, scale=1.0)
        model, result = quantized(source, GPTQ, feeds=[{"x": x, "c": np.array(True)}])
        assert result.stats == {"matmul-4-bit": 2}
        assert "inside a subgraph" in refusal(result, "inner")
        for condition, weight in ((True, W), (False, build.weights(64, 48, seed=8))):
            actual = build.run(model, {"x": x, "c": np.array(condition)})[0]
            np.testing.assert_allclose(actual, x @ nearest(weight.T).T, atol=1e-5)


class TestGptq:
    feeds: ClassVar = [
        {"x": (build.weights(1, 40, 64, seed=s) @ build.weights(64, 64, seed=99)).astype(np.float32)} for s in range(6)
    ]

    def loss(self, options: QuantizeWeights) -> float:
        model, _ = quantized(mlp(), options, feeds=self.feeds)
        feed = {"x": (build.weights(1, 40, 64, seed=50) @ build.weights(64, 64, seed=99)).astype(np.float32)}
        expected, actual = build.run(mlp(), feed)[0], build.run(model, feed)[0]
        return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))

    @pytest.mark.parametrize("act_order", [True, False])
    def test_it_is_closer_on_samples_it_has_not_seen(self, act_order: bool) -> None:
        assert self.loss(dataclasses.replace(GPTQ, act_order=act_order)) < 0.85 * self.loss(RTN)

    def test_on_the_grids_of_hqq(self) -> None:
        hqq = dataclasses.replace(RTN, method="hqq")
        assert self.loss(dataclasses.replace(GPTQ, method="gptq-hqq")) < 0.9 * self.loss(hqq)

    def test_the_plan_says_what_was_done(self) -> None:
        _, result = quantized(mlp(), GPTQ, feeds=self.feeds)
        plan = QuantPlan.from_dict(result.details["plan"])
        assert plan.calibration == {"method": "gptq", "samples": 6}
        assert plan.compute_nodes == ("first", "second")
        assert [(p.value, p.dtype, p.reason) for p in plan.points] == [
            (name, "UINT4", "blocks of 32 along the summed axis, gptq") for name in ("w", "v")
        ]

    def test_results_are_remembered_for_variants_of_the_model(self) -> None:
        iterations = 0

        def samples() -> Any:
            nonlocal iterations
            iterations += 1
            return iter(self.feeds)

        context = PassContext(TABLE, load_samples(samples))
        source = ir.load(mlp()).model
        first, second = ir.clone(source), ir.clone(source)
        GPTQ.apply(first, context)
        once = iterations
        dataclasses.replace(GPTQ, exclude=("first",)).apply(second, context)
        assert iterations == once
        assert build.operators(second) == ["MatMul", "Relu", "MatMulNBits"]

    def test_without_samples_the_pass_is_undone(self) -> None:
        result = PassManager([GPTQ], context=PassContext(TABLE)).run(ir.load(mlp()).model)
        assert result.records[-1].status == "undone"
        assert "needs samples" in result.records[-1].reason

    def test_inputs_that_are_not_finite_are_rounded_to_nearest(self) -> None:
        feeds = [{"x": np.full((1, 1, 64), 3e38, np.float32)}]  # its squares are infinite
        _, result = quantized(mlp(), GPTQ, feeds=feeds)
        assert "rounded to nearest: The layer's inputs are not finite" in refusal(result, "first")


class TestRefusals:
    def one(self, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], **kwargs: Any) -> PassResult:
        options, table = kwargs.pop("options", RTN), kwargs.pop("table", TABLE)
        source = build.proto(nodes, {"x": ["N", 64]}, {"y": None}, constants, **kwargs)
        model, result = quantized(source, options, table)
        assert not result.modified
        assert ir.digest(model) == ir.digest(ir.load(source).model)
        return result

    def product(self, **kwargs: Any) -> PassResult:
        return self.one([node("MatMul", ["x", "w"], ["y"], name="n")], {"w": W}, **kwargs)

    def test_excluded(self) -> None:
        assert refusal(self.product(options=dataclasses.replace(RTN, exclude=("n",))), "n") == "excluded by 'n'"

    def test_not_included(self) -> None:
        model = build.proto(
            [node("MatMul", ["x", "w"], ["a"], name="n"), node("MatMul", ["a", "v"], ["y"], name="m")],
            {"x": ["N", 64]},
            {"y": ["N", 40]},
            {"w": W, "v": V},
        )
        _, result = quantized(model, dataclasses.replace(RTN, include=("m",)))
        assert result.stats == {"matmul-4-bit": 1}
        assert refusal(result, "n") == "it is not among the included nodes"

    def test_an_operator_that_the_target_does_not_take(self) -> None:
        table = dataclasses.replace(TABLE, blocks={})
        assert "does not take weights of MatMul" in refusal(self.product(table=table), "n")

    def test_a_block_size_that_the_target_does_not_take(self) -> None:
        assert "not 4 in blocks of 8" in refusal(self.product(options=dataclasses.replace(RTN, block=8)), "n")

    def test_an_opset_that_is_too_old_and_cannot_be_raised(self) -> None:
        inner = onnx.helper.make_function(
            "f", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [onnx.helper.make_opsetid("", 17)]
        )
        source = build.proto(
            [node("MatMul", ["x", "w"], ["h"], name="n"), node("F", ["h"], ["y"], domain="f")],
            {"x": ["N", 64]},
            {"y": ["N", 48]},
            {"w": W},
        )
        source.functions.append(inner)
        source.opset_import.append(onnx.helper.make_opsetid("f", 1))
        model, result = quantized(source, RTN, STANDARD)
        assert refusal(result, "n") == "the target takes it from opset 21; the model has 17"
        assert model.opset_imports[""] == 17
        assert [r.reason for r in result.refusals if r.rule == "raise-opset"] == [
            "The standard opset stays at 17: the model defines functions, which ONNX's converter would lose."
        ]

    def test_weights_that_are_not_finite(self) -> None:
        broken = W.copy()
        broken[3, 4] = np.nan
        result = self.one([node("MatMul", ["x", "w"], ["y"], name="n")], {"w": broken})
        assert refusal(result, "n") == "the weight 'w' has values that are not finite"

    @pytest.mark.parametrize("dtype", [np.float64, np.float16])
    def test_other_types(self, dtype: type) -> None:
        cast = {np.float64: TensorProto.DOUBLE, np.float16: TensorProto.FLOAT16}[dtype]
        nodes = [node("Cast", ["x"], ["c"], to=cast), node("MatMul", ["c", "w"], ["m"], name="n")]
        nodes.append(node("Cast", ["m"], ["y"], to=TensorProto.FLOAT))
        reason = refusal(self.one(nodes, {"w": W.astype(dtype)}), "n")
        assert reason.startswith("the target takes FLOAT here; 'w' is used with")

    def test_weights_of_higher_rank(self) -> None:
        result = self.one([node("MatMul", ["x", "w"], ["y"], name="n")], {"w": build.weights(2, 64, 48)})
        assert refusal(result, "n") == "the weight 'w' has rank 3, not 2"

    def test_a_vector_times_a_weight(self) -> None:
        nodes = [node("ReduceSum", ["x", "axis"], ["s"], keepdims=0), node("MatMul", ["s", "w"], ["y"], name="n")]
        result = self.one(nodes, {"w": W, "axis": np.array([0])})
        assert refusal(result, "n") == "the rank of 's' is 1, and the target takes 2 and more"

    @pytest.mark.parametrize(("name", "value"), [("alpha", 2.0), ("beta", 0.5), ("transA", 1)])
    def test_gemm_with_other_attributes(self, name: str, value: float) -> None:
        weight = build.weights(32 if name == "transA" else 64, 48)
        gemm = node("Gemm", ["x", "w", "c"], ["y"], name="n", **{name: value})
        source = build.proto([gemm], {"x": [32, 64]}, {"y": None}, {"w": weight, "c": build.weights(48)})
        _, result = quantized(source, RTN)
        assert refusal(result, "n").startswith(f"it has {name} other than")

    def test_gemm_with_a_bias_of_another_shape(self) -> None:
        gemm = node("Gemm", ["x", "w", "c"], ["y"], name="n")
        result = self.one([gemm], {"w": W, "c": build.weights(1)})
        assert refusal(result, "n") == "its bias 'c' is not known to have shape [48]"

    def test_weights_that_would_not_get_smaller(self) -> None:
        nodes = [node("MatMul", ["x", "w"], ["y"], name="n")]
        source = build.proto(nodes, {"x": ["N", 4]}, {"y": None}, {"w": build.weights(4, 48)})
        _, result = quantized(source, RTN)
        assert refusal(result, "n") == "integers and scales would not be smaller than 'w' itself"

    def test_lookups_of_columns_and_of_rows_that_are_no_whole_blocks(self) -> None:
        for table, axis, reason in (
            (build.weights(64, 64), 1, "it looks up along axis 1, not the rows"),
            (build.weights(64, 40), 0, "rows of 40 are not whole blocks of 32"),
        ):
            gather = node("Gather", ["t", "i"], ["g"], name="n", axis=axis)
            nodes = [
                gather,
                node("MatMul", ["x", "z"], ["m"]),
                node("ReduceSum", ["g"], ["s"]),
                node("Add", ["m", "s"], ["y"]),
            ]
            source = build.proto(nodes, {"x": ["N", 2], "z": [2, 2]}, {"y": None}, {"t": table, "i": np.array([1, 2])})
            _, result = quantized(source, RTN)
            assert refusal(result, "n") == reason

    def test_offsets_where_the_target_cannot_multiply_with_them(self) -> None:
        _, result = quantized(mlp(21), dataclasses.replace(RTN, offsets=True), STANDARD)
        assert refusal(result, "second") == "the target's DequantizeLinear cannot multiply with the offsets of blocks"

    def test_products_of_two_computed_operands_are_nothing_to_mention(self) -> None:
        source = build.proto([node("MatMul", ["x", "x"], ["y"], name="n")], {"x": [64, 64]}, {"y": [64, 64]})
        _, result = quantized(source, RTN)
        assert not result.refusals

    def test_a_kernel_that_nobody_writes(self) -> None:
        table = dataclasses.replace(TABLE, blocks={"MatMul": BlockSupport("MatMul", ("acme", "FastMatMul"))})
        with pytest.raises(PassError, match="names FastMatMul"):
            quantized(mlp(), RTN, table)

    def test_without_a_target(self) -> None:
        with pytest.raises(PassError, match="need a target's table"):
            RTN.apply(ir.load(mlp()).model, PassContext())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"bits": 3}, "bits=3"),
            ({"method": "awq"}, "method=awq"),
            ({"embeddings": "int4"}, "embeddings=int4"),
            ({"block": 15}, "Blocks of 15"),
            ({"damping": 0.0}, "damping of 0.0"),
            ({"symmetric": True, "offsets": True}, "have no offsets"),
        ],
    )
    def test_options_that_mean_nothing(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            QuantizeWeights(**options)


def test_external_weights_are_read_one_at_a_time_and_results_wait_on_disk(tmp_path: Path) -> None:
    ir.save(ir.load(mlp()).model, tmp_path / "m.onnx", external_data=True)
    model = ir.load(tmp_path / "m.onnx").model
    RTN.apply(model, PassContext(TABLE))
    held = [v.const_value for v in model.graph.initializers.values()]
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in held)
    before = ir.digest(model)
    ir.save(model, tmp_path / "q.onnx", external_data=True)
    assert ir.digest(ir.load(tmp_path / "q.onnx").model) == before


def test_a_compile_reaches_it_through_the_recipe(tmp_path: Path) -> None:
    feeds = [ids(1, 6) for _ in range(6)]
    recipe = Recipe(quantize="quantize-weights{bits=8}", timing_seconds=0.1, give_back_seconds=1)
    job = CompileJob(ir.load(language_model()).model, feeds, recipe=recipe, output=tmp_path / "out")
    record = run_compile(job).record
    candidate = record.candidate("quantized")
    assert candidate is not None
    assert candidate.accuracy is not None
    assert candidate.accuracy.drop < 0.01
    assert any("one table for lookup and product" in decision.reason for decision in record.decisions)


def test_moving_scales_before_lowers_what_rounded_activations_lose() -> None:
    """Every other channel is 30 times as large behind the normalization, and its weights as much smaller."""
    generator = np.random.default_rng(0)
    gain = np.where(np.arange(64) % 2, 30.0, 1.0).astype(np.float32)
    weight = (build.weights(64, 48, seed=1) / gain[:, None]).astype(np.float32)
    nodes = [
        node("LayerNormalization", ["x", "gain"], ["n"], name="norm", axis=-1),
        node("MatMul", ["n", "w"], ["y"], name="product"),
    ]
    source = build.proto(nodes, {"x": ["N", 64]}, {"y": ["N", 48]}, {"gain": gain, "w": weight})
    samples = [{"x": generator.standard_normal((16, 64)).astype(np.float32)} for _ in range(4)]
    feed = {"x": generator.standard_normal((32, 64)).astype(np.float32)}
    (expected,) = build.run(ir.load(source).model, feed)
    errors = {}
    for text in ("weight-int8", "weight-int8-smooth"):
        passes = parse_pipeline(scheme_named(text).pipeline, available_passes())
        result = PassManager(passes, context=PassContext(TABLE, load_samples(samples))).run(ir.load(source).model)
        assert [record.status for record in result.records] == [Status.APPLIED] * len(passes)
        errors[text] = float(np.square(build.run(result.model, feed)[0] - expected).mean())
    assert errors["weight-int8-smooth"] < errors["weight-int8"] / 4
