"""Dynamic quantization: what becomes what, that the function is kept, and why nodes stay in float."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.driver.give_back import Quantizer
from sardonyx.errors import PassError, SpecError
from sardonyx.measure import Session, describe_machine, load_samples
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.quantization.dynamic.quantize import QuantizeDynamic
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.quantization.test_bodies import runtime_operators

node = helper.make_node
VNNI = dataclasses.replace(describe_machine(), architecture="x86_64", features=("avx2", "avx512_vnni"))
DYNAMIC = QuantizeDynamic()
CONTEXT = PassContext(capabilities(VNNI))
NOISE = 0.03
"""INT8 weights and activations: each product is off by about 1/255 of its operands' ranges, a few together by less
than 3 % of the output's range."""


def applied(source: onnx.ModelProto, instance: QuantizeDynamic = DYNAMIC) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    result = instance.apply(model, CONTEXT)
    assert ir.verify(model) == ()
    return model, result


def assert_near(source: onnx.ModelProto, model: ir.Model, *shapes: Sequence[int], name: str = "x") -> None:
    with Session(ir.serialize(model)) as session:
        for seed, shape in enumerate(shapes):
            feed = {name: build.weights(*shape, seed=seed, scale=1.0)}
            for expected, actual in zip(build.run(source, feed), session.run(feed), strict=True):
                assert actual.shape == expected.shape
                assert np.abs(actual - expected).max() < NOISE * max(np.ptp(expected), 0.1)


def matmul(weight: np.ndarray, shape: Sequence[int | str] = ("N", 8)) -> onnx.ModelProto:
    return build.proto([node("MatMul", ["x", "w"], ["y"], name="product")], {"x": shape}, {"y": None}, {"w": weight})


class TestContract(PassContract):
    """A network of products, quantized as a whole."""

    instance = QuantizeDynamic()
    context = CONTEXT
    rtol, atol = 0.0, 0.05  # the noise of INT8 in outputs that span about 2

    def sources(self) -> list[onnx.ModelProto]:
        nodes = [
            node("MatMul", ["x", "w1"], ["h"], name="one"),
            node("Relu", ["h"], ["r"], name="relu"),
            node("Gemm", ["r", "w2", "b"], ["y"], name="two", transB=1),
        ]
        constants = {"w1": build.weights(8, 16), "w2": build.weights(4, 16, seed=1), "b": build.weights(4, seed=2)}
        return [build.proto(nodes, {"x": ["N", 8]}, {"y": ["N", 4]}, constants)]

    def feed(self) -> dict[str, np.ndarray]:
        return {"x": build.weights(3, 8, seed=5, scale=1.0)}


class TestMatMul:
    def test_golden(self) -> None:
        model, result = applied(matmul(build.weights(8, 4)))
        assert build.operators(model) == ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"]
        assert result.stats == {"MatMul": 1}
        assert result.details["plan"]["compute_nodes"] == ["product"]
        (point,) = result.details["plan"]["points"]
        assert (point["value"], point["kind"], point["dtype"], point["axis"]) == ("w", "dynamic-weight", "INT8", 1)
        stored = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
        assert "w" not in stored
        weight = build.weights(8, 4)
        np.testing.assert_allclose(point["scale"], np.abs(weight).max(axis=0) / 127, rtol=1e-6)
        np.testing.assert_allclose(stored["w_quantized"] * stored["w_scale"], weight, atol=max(point["scale"]) / 2)

    @pytest.mark.parametrize("shapes", [[(1, 8), (5, 8)], [(2, 3, 8), (1, 1, 8)], [(1, 2, 3, 8)], [(8,)]])
    def test_any_rank_of_activations(self, shapes: list[Sequence[int]], tmp_path: Path) -> None:
        dims = [f"d{i}" for i in range(len(shapes[0]) - 1)]
        source = matmul(build.weights(8, 4), [*dims, 8])
        model, _ = applied(source)
        assert runtime_operators(model, tmp_path) == ["DynamicQuantizeMatMul"]
        assert_near(source, model, *shapes)

    def test_empty_activations_stay_empty(self) -> None:
        model, _ = applied(matmul(build.weights(8, 4)))
        with Session(ir.serialize(model)) as session:
            assert session.run({"x": np.zeros((0, 8), np.float32)})[0].shape == (0, 4)

    def test_one_quantization_serves_all_products_of_a_value(self, tmp_path: Path) -> None:
        nodes = [node("MatMul", ["x", f"w{i}"], [f"y{i}"], name=f"p{i}") for i in range(3)]
        weights = {f"w{i}": build.weights(8, 4, seed=i) for i in range(3)}
        source = build.proto(nodes, {"x": ["N", 8]}, {f"y{i}": None for i in range(3)}, weights)
        model, _ = applied(source)
        assert Counter(build.operators(model))["DynamicQuantizeLinear"] == 1
        found = Counter(runtime_operators(model, tmp_path))
        assert found == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 3}
        assert_near(source, model, (3, 8))

    def test_a_weight_of_several_nodes_is_stored_once(self) -> None:
        nodes = [
            node("MatMul", ["x", "w"], ["h"], name="one"),
            node("MatMul", ["h", "w"], ["m"], name="two"),
            node("Gemm", ["m", "w"], ["y"], name="three", transB=1),
        ]
        source = build.proto(nodes, {"x": ["N", 8]}, {"y": None}, {"w": build.weights(8, 8)})
        model, result = applied(source)
        assert [p["consumers"] for p in result.details["plan"]["points"]] == [("one", "two"), ("three",)]
        stored = [v.name for v in model.graph.initializers.values() if v.const_value.size == 64]
        assert len(stored) == 2, "one for each direction of the channels"
        assert_near(source, model, (3, 8))

    def test_a_tied_embedding_stays_for_the_lookup(self) -> None:
        nodes = [
            node("Gather", ["table", "ids"], ["e"], name="lookup"),
            node("MatMul", ["x", "w"], ["h"], name="one"),
            node("Add", ["e", "h"], ["s"], name="add"),
            node("Gemm", ["s", "table"], ["y"], name="head", transB=1),
        ]
        constants = {"table": build.weights(20, 8), "w": build.weights(8, 8, seed=1), "ids": np.array([3, 4, 19])}
        source = build.proto(nodes, {"x": [3, 8]}, {"y": None}, constants)
        model, result = applied(source)
        assert result.stats == {"MatMul": 1, "Gemm": 1}
        assert model.graph.initializers["table"].dtype is ir.DataType.FLOAT
        assert_near(source, model, (3, 8))

    def test_the_output_of_the_model_keeps_its_name(self) -> None:
        model, _ = applied(matmul(build.weights(8, 4)))
        assert [(v.name, v.dtype) for v in model.graph.outputs] == [("y", ir.DataType.FLOAT)]

    def test_large_weights_are_quantized_when_they_are_written(self) -> None:
        source = matmul(build.weights(1024, 1100), ("N", 1024))
        model, _ = applied(source)
        assert isinstance(model.graph.initializers["w_quantized"].const_value, ir.LazyTensor)
        assert_near(source, model, (2, 1024))

    def test_without_vnni_weights_keep_to_seven_bits(self) -> None:
        machine = dataclasses.replace(VNNI, features=("avx2",))
        model = ir.load(matmul(build.weights(8, 4))).model
        QuantizeDynamic().apply(model, PassContext(capabilities(machine)))
        assert np.abs(model.graph.initializers["w_quantized"].const_value.numpy().astype(int)).max() == 63

    def test_an_all_zero_channel_stays_zero(self) -> None:
        weight = build.weights(8, 4)
        weight[:, 2] = 0
        model, _ = applied(matmul(weight))
        with Session(ir.serialize(model)) as session:
            assert not session.run({"x": build.weights(3, 8)})[0][:, 2].any()


class TestGemm:
    @pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5}, {"alpha": -2.0, "beta": 3.0}, {"beta": 0.0}])
    @pytest.mark.parametrize("transposed", [0, 1])
    @pytest.mark.parametrize("bias", ["vector", "row", "scalar", None])
    def test_alpha_beta_and_bias(
        self, attributes: Mapping[str, float], transposed: int, bias: str | None, tmp_path: Path
    ) -> None:
        shape = {"vector": (4,), "row": (1, 4), "scalar": ()}
        constants = {"w": build.weights(*((4, 8) if transposed else (8, 4)))}
        if bias:
            constants["b"] = build.weights(*shape[bias], seed=3)
        gemm = node("Gemm", ["x", *constants], ["y"], name="gemm", transB=transposed, **attributes)
        source = build.proto([gemm], {"x": ["N", 8]}, {"y": None}, constants)
        model, result = applied(source)
        assert result.stats == {"Gemm": 1}
        assert "DynamicQuantizeMatMul" in runtime_operators(model, tmp_path)
        assert_near(source, model, (1, 8), (6, 8))

    def test_a_bias_that_the_model_computes(self) -> None:
        gemm = node("Gemm", ["x", "w", "c"], ["y"], name="gemm")
        nodes = [node("Tanh", ["x"], ["c"]), gemm]
        source = build.proto(nodes, {"x": ["N", 8]}, {"y": None}, {"w": build.weights(8, 8)})
        model, result = applied(source)
        assert result.stats == {"Gemm": 1}
        assert_near(source, model, (3, 8))


def lstm(
    direction: str = "forward", *, everything: bool = False, **attributes: Any
) -> tuple[onnx.ModelProto, Sequence[int]]:
    """An LSTM of 12 inputs and 16 hidden units over sequences of any length."""
    directions, hidden, inputs = 2 if direction == "bidirectional" else 1, 16, 12
    constants = {
        "w": build.weights(directions, 4 * hidden, inputs, seed=1),
        "r": build.weights(directions, 4 * hidden, hidden, seed=2),
        "b": build.weights(directions, 8 * hidden, seed=3, scale=0.1),
    }
    operands, outputs = ["x", "w", "r", "b"], ["y"]
    if everything:
        constants |= {
            "lengths": np.array([7, 4], np.int32),
            "h0": build.weights(directions, 2, hidden, seed=4),
            "c0": build.weights(directions, 2, hidden, seed=5),
            "p": build.weights(directions, 3 * hidden, seed=6),
        }
        operands += ["lengths", "h0", "c0", "p"]
        outputs = ["", "h", "c"]
    made = node("LSTM", operands, outputs, name="lstm", hidden_size=hidden, direction=direction, **attributes)
    return build.proto([made], {"x": ["T", 2, inputs]}, {o: None for o in outputs if o}, constants), (7, 2, inputs)


class TestLstm:
    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    @pytest.mark.parametrize("everything", [False, True])
    def test_becomes_the_runtimes_own(self, direction: str, everything: bool) -> None:
        source, shape = lstm(direction, everything=everything, clip=4.0)
        model, result = applied(source)
        assert result.stats == {"LSTM": 1}
        (made,) = model.graph
        assert (made.domain, made.op_type) == ("com.microsoft", "DynamicQuantizeLSTM")
        assert [v.name for v in made.outputs] == (["", "h", "c"] if everything else ["y"])
        assert ir.attribute(made, "clip", 0.0) == 4.0
        weight = made.inputs[1]
        assert weight is not None
        assert weight.dtype is ir.DataType.INT8
        assert weight.shape == [2 if direction == "bidirectional" else 1, 12, 64], "transposed"
        assert_near(source, model, shape)

    def test_every_row_of_every_gate_has_its_scale(self) -> None:
        _, result = applied(lstm("bidirectional")[0])
        assert [(p["value"], len(p["scale"])) for p in result.details["plan"]["points"]] == [("w", 128), ("r", 128)]

    def test_longer_and_shorter_sequences(self) -> None:
        source, _ = lstm()
        model, _ = applied(source)
        assert_near(source, model, (1, 2, 12), (40, 2, 12))


class TestRefusals:
    def refused(self, source: onnx.ModelProto, instance: QuantizeDynamic = DYNAMIC) -> str:
        model, result = applied(source, instance)
        assert not result.modified
        assert ir.digest(model) == ir.digest(ir.load(source).model)
        (refusal,) = result.refusals
        assert refusal.nodes == (next(n.name for n in source.graph.node if n.name),)
        return refusal.reason

    def gemm(self, **attributes: object) -> onnx.ModelProto:
        made = node("Gemm", ["x", "w", "x"], ["y"], name="gemm", **attributes)
        return build.proto([made], {"x": [8, 8]}, {"y": None}, {"w": build.weights(8, 8)})

    @pytest.mark.parametrize(
        ("attributes", "reason"),
        [({"transA": 1}, "needs transA=0, the node has 1"), ({"beta": 2.0}, "beta=2.0 scales x, which is not")],
    )
    def test_gemm(self, attributes: Mapping[str, float], reason: str) -> None:
        assert reason in self.refused(self.gemm(**attributes))

    @pytest.mark.parametrize(
        ("weight", "shape", "reason"),
        [
            (build.weights(2, 8, 4), (2, 3, 8), "its weight w has rank 3, not 2"),
            (build.weights(8), (3, 8), "its weight w has rank 1, not 2"),
            (np.full((8, 4), np.nan, np.float32), (3, 8), "its weight w holds NaN or infinities"),
            (np.zeros((8, 0), np.float32), (3, 8), "its weight w is empty"),
        ],
    )
    def test_weights(self, weight: np.ndarray, shape: Sequence[int], reason: str) -> None:
        assert reason in self.refused(matmul(weight, shape))

    def test_a_constant_on_the_left(self) -> None:
        made = node("MatMul", ["w", "x"], ["y"], name="product")
        source = build.proto([made], {"x": [8, 3]}, {"y": None}, {"w": build.weights(4, 8)})
        assert "its constant w is the first operand" in self.refused(source)

    def test_a_sum_that_may_overflow(self) -> None:
        assert "sums of 70000 products with its weight w may overflow" in self.refused(
            matmul(np.zeros((70000, 1), np.float32), ("N", 70000))
        )

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_floats(self, dtype: type) -> None:
        source = matmul(build.weights(8, 4).astype(dtype))
        for info in (*source.graph.input, *source.graph.output):
            info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        assert f"its weight w is {ir.DataType.from_numpy(np.dtype(dtype)).name}, not FLOAT" in self.refused(source)

    def test_an_old_opset(self) -> None:
        source = matmul(build.weights(8, 4))
        model = ir.load(source).model
        model.opset_imports[""] = 10
        result = QuantizeDynamic().apply(model, CONTEXT)
        assert "needs opset 11; the model has 10" in result.refusals[0].reason

    @pytest.mark.parametrize(("op", "gates"), [("GRU", 3), ("RNN", 1)])
    def test_recurrent_operators_without_a_kernel(self, op: str, gates: int) -> None:
        constants = {"w": build.weights(1, gates * 4, 6), "r": build.weights(1, gates * 4, 4)}
        made = node(op, ["x", "w", "r"], ["y"], name="recurrent", hidden_size=4)
        source = build.proto([made], {"x": [3, 1, 6]}, {"y": None}, constants)
        assert f"the target has no {op} with integer weights" in self.refused(source)

    def test_an_lstm_with_the_batch_first(self) -> None:
        constants = {"w": build.weights(1, 16, 6), "r": build.weights(1, 16, 4)}
        made = node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=4, layout=1)
        source = build.proto([made], {"x": [3, 1, 6]}, {"y": None}, constants)
        assert "needs layout=0, the node has 1" in self.refused(source)

    def test_an_lstm_of_one_unusable_weight_stays_as_a_whole(self) -> None:
        source, _ = lstm()
        weight = next(t for t in source.graph.initializer if t.name == "r")
        weight.CopyFrom(onnx.numpy_helper.from_array(np.full((1, 64, 16), np.inf, np.float32), "r"))
        assert "its weight r holds NaN or infinities" in self.refused(source)

    def test_an_lstm_whose_weight_is_computed(self) -> None:
        source, _ = lstm()
        source.graph.input.append(helper.make_tensor_value_info("w_in", TensorProto.FLOAT, [1, 64, 12]))
        source.graph.node[0].input[1] = "w_in"
        assert "its weight w_in is not a constant" in self.refused(source)

    def test_convolutions_are_left_to_samples(self) -> None:
        made = node("Conv", ["x", "w"], ["y"], name="conv")
        source = build.proto([made], {"x": [1, 3, 8, 8]}, {"y": None}, {"w": build.weights(4, 3, 3, 3)})
        assert "use quantize-static" in self.refused(source)

    def test_a_product_of_two_activations_is_no_omission(self) -> None:
        source = build.proto([node("MatMul", ["x", "x"], ["y"], name="p")], {"x": [8, 8]}, {"y": None})
        _, result = applied(source)
        assert result.refusals == ()

    def test_needs_a_target(self) -> None:
        with pytest.raises(PassError, match="needs a target's table"):
            QuantizeDynamic().apply(ir.load(matmul(build.weights(8, 4))).model, PassContext())


class TestSelection:
    def source(self) -> onnx.ModelProto:
        nodes = [
            node("MatMul", ["x", "w1"], ["h"], name="/head/one"),
            node("Gemm", ["h", "w2"], ["y"], name="/tail/two"),
        ]
        constants = {"w1": build.weights(8, 8), "w2": build.weights(8, 8, seed=1)}
        return build.proto(nodes, {"x": ["N", 8]}, {"y": None}, constants)

    @pytest.mark.parametrize("pattern", ["/tail/*", "op:Gemm", "region:h..y"])
    def test_exclude(self, pattern: str) -> None:
        model, result = applied(self.source(), QuantizeDynamic(exclude=(pattern,)))
        assert result.stats == {"MatMul": 1}
        assert result.refusals[0].reason == f"excluded by {pattern!r}"
        assert "Gemm" in build.operators(model)

    def test_include(self) -> None:
        _, result = applied(self.source(), QuantizeDynamic(include=("op:Gemm",)))
        assert result.stats == {"Gemm": 1}
        assert result.refusals[0].reason == "it is not among the included nodes"

    def test_a_pattern_that_matches_nothing(self) -> None:
        with pytest.raises(SpecError, match="matches no node"):
            applied(self.source(), QuantizeDynamic(exclude=("/neck/*",)))


def recurrent() -> tuple[onnx.ModelProto, PassContext]:
    """A convolution in front of an LSTM, and samples."""
    source, _ = lstm()
    constants = {"k": build.weights(12, 12, 3, seed=9), "b0": build.weights(12, seed=8)}
    front = [
        node("Conv", ["image", "k", "b0"], ["f"], name="conv", pads=[1, 1]),
        node("Relu", ["f"], ["g"], name="relu"),
        node("Transpose", ["g"], ["x"], name="turn", perm=[2, 0, 1]),
    ]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in source.graph.initializer}
    whole = build.proto([*front, *source.graph.node], {"image": [2, 12, "T"]}, {"y": None}, {**constants, **weights})
    feeds = [{"image": build.weights(2, 12, 20, seed=seed, scale=1.0)} for seed in range(6)]
    return whole, PassContext(capabilities(VNNI), load_samples(feeds))


def test_after_static_it_takes_what_that_left_in_float() -> None:
    source, context = recurrent()
    pipeline = f"{Recipe().optimize}, quantize-static, quantize-dynamic"
    done = PassManager(parse_pipeline(pipeline, available_passes()), context=context).run(ir.load(source).model)
    static, dynamic = done.records[-2:]
    assert static.status is dynamic.status is Status.APPLIED
    assert static.details["plan"]["compute_nodes"] == ["conv"]
    assert dynamic.details["plan"]["compute_nodes"] == ["lstm"]
    assert dynamic.refusals == (), "the convolution is done"
    assert_near(source, done.model, (2, 12, 20), name="image")


@pytest.mark.parametrize("order", [("quantize-static", "quantize-dynamic"), ("quantize-dynamic", "quantize-static")])
def test_every_product_can_be_given_back(order: tuple[str, str]) -> None:
    source, context = recurrent()
    passes = parse_pipeline(", ".join(order), available_passes())
    quantizer = Quantizer(ir.load(source).model, passes, context)
    everything = quantizer.variant().compute_nodes
    assert sorted(everything) == ["conv", "lstm"]
    for name in everything:
        variant = quantizer.variant([name])
        assert [other for other in everything if other != name] == list(variant.compute_nodes)
        assert variant.plan is not None
        assert variant.plan["float_nodes"][name] == f"excluded by {name!r}"
    assert not quantizer.variant(everything).changed
