"""Better scales, integers, biases and ranges: each is never worse than what it replaces, and is what is written."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.errors import PassError, SpecError
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.arithmetic import IntegerRange
from sardonyx.passes.quantization.methods.adaround import affordable, round_adaptively
from sardonyx.passes.quantization.methods.layers import linear_layers
from sardonyx.passes.quantization.methods.presets import ModelKind, model_kind
from sardonyx.passes.quantization.methods.responses import response, scaled_gate
from sardonyx.passes.quantization.methods.rounding import Grid, output_error, round_compensated
from sardonyx.passes.quantization.methods.selection import NAMES, Methods, resolved, select_methods
from sardonyx.passes.quantization.methods.sequential import correct_in_sequence
from sardonyx.passes.quantization.methods.weight_scales import search_weight_reach
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.static import QuantizeStatic
from tests import models_for_tests as build

node = helper.make_node
INT8 = IntegerRange(-127, 127)
INT4 = IntegerRange(-7, 7)
VNNI = dataclasses.replace(describe_machine(), architecture="x86_64", features=("avx2", "avx512_vnni"))
AVX2 = dataclasses.replace(VNNI, features=("avx2",))


def layer(groups: int, outputs: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, Grid]:
    """A matrix, second moments of correlated columns, and a grid of 4 bits."""
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((groups, outputs, size))
    columns = generator.standard_normal((groups, 4 * size, size)) @ generator.standard_normal((groups, size, size))
    second = np.matmul(columns.transpose(0, 2, 1), columns) / columns.shape[1]
    return matrix, second, Grid(np.abs(matrix).max(axis=2) / INT4.high, INT4)


class TestRounding:
    @pytest.mark.parametrize("method", [round_compensated, round_adaptively])
    @pytest.mark.parametrize(("groups", "outputs", "size"), [(1, 8, 24), (6, 1, 9), (1, 4, 200)])
    def test_error_falls_and_weights_lie_on_the_grid(self, method: Any, groups: int, outputs: int, size: int) -> None:
        matrix, second, grid = layer(groups, outputs, size, seed=groups + size)
        rounded = method(matrix, second, grid)
        np.testing.assert_allclose(grid.nearest(rounded), rounded, rtol=0, atol=1e-12)
        nearest = output_error(grid.nearest(matrix) - matrix, second)
        assert output_error(rounded - matrix, second) < 0.8 * nearest

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12), st.integers(0, 10**6))
    def test_never_worse_than_nearest(self, groups: int, outputs: int, size: int, seed: int) -> None:
        matrix, second, grid = layer(groups, outputs, size, seed)
        damped = second + 0.01 * np.trace(second, axis1=1, axis2=2)[:, None, None] / size * np.eye(size)
        error = output_error(grid.nearest(matrix) - matrix, damped)
        assert output_error(round_compensated(matrix, second, grid) - matrix, damped) <= error * (1 + 1e-9)
        assert output_error(round_adaptively(matrix, second, grid) - matrix, second) <= output_error(
            grid.nearest(matrix) - matrix, second
        ) * (1 + 1e-9)

    def test_columns_without_data_are_rounded_to_nearest(self) -> None:
        matrix, _, grid = layer(1, 3, 5, seed=0)
        rounded = round_compensated(matrix, np.zeros((1, 5, 5)), grid)
        np.testing.assert_array_equal(rounded, grid.nearest(matrix))

    def test_large_layers_are_too_many_products(self) -> None:
        assert affordable(1, 64, 64)
        assert not affordable(1, 2048, 4096)


class TestWeightScales:
    @pytest.mark.parametrize("integers", [INT8, INT4])
    def test_no_share_of_a_grid_is_better(self, integers: IntegerRange) -> None:
        matrix = np.random.default_rng(0).standard_t(3, (2, 4, 60))
        reach = search_weight_reach(matrix, integers)

        def error(reach: np.ndarray) -> np.ndarray:
            return np.asarray(((Grid(reach / integers.high, integers).nearest(matrix) - matrix) ** 2).sum(axis=2))

        largest = np.abs(matrix).max(axis=2)
        for share in (1.0, 0.9, 0.75, 0.5):
            assert (error(reach) <= error(share * largest) + 1e-12).all()
        if integers is INT4:
            assert (error(reach) < 0.8 * error(largest)).any()

    def test_importance_decides_what_is_cut(self) -> None:
        matrix = np.concatenate([np.full(50, 0.1), [1.0]])[None, None]
        matters = np.concatenate([np.full(50, 1e-6), [1.0]])[None]
        assert search_weight_reach(matrix, INT4, matters) == pytest.approx(1.0)

    def test_channels_of_zeros(self) -> None:
        assert (search_weight_reach(np.zeros((1, 2, 3)), INT8) == 0).all()


def context(machine: Any = VNNI, count: int = 8) -> PassContext:
    return PassContext(capabilities(machine), load_samples(build.images(count)))


def stored_integers(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[f"{name}_quantized"].const_value.numpy()  # type: ignore[union-attr]


class TestPass:
    @pytest.mark.parametrize("method", ["gptq", "adaround", "mse-weights", "output-mse-weights"])
    def test_what_was_rounded_is_what_is_written(self, method: str) -> None:
        """InsertQdq divides the replaced weight by its scale and must get the very integers that were chosen."""
        model = ir.load(build.cnn(batch_norm=False)).model
        floats = ir.clone(model)
        plan = QuantizeStatic(methods=(method,)).plan(floats, context())
        result = QuantizeStatic(methods=(method,)).apply(model, context())
        assert result.stats[method.removesuffix("-weights")] == 3
        scale = np.array(next(p.scale for p in plan.points if p.value == "w2")).reshape(-1, 1, 1, 1)
        written = stored_integers(model, "w2")
        nearest = np.rint(floats.graph.initializers["w2"].const_value.numpy() / scale)  # type: ignore[union-attr]
        assert (written != np.clip(nearest, -127, 127)).any() == (method in ("gptq", "adaround"))
        assert np.abs(written - nearest).max() <= (2 if method == "gptq" else 1) or "mse" in method

    @pytest.mark.parametrize("methods", [("mse-weights",), ("gptq",), ("adaround", "output-mse-weights")])
    def test_weights_keep_to_seven_bits_where_kernels_saturate(self, methods: tuple[str, ...]) -> None:
        model = ir.load(build.cnn(batch_norm=False)).model
        QuantizeStatic(methods=methods).apply(model, context(AVX2))
        assert all(np.abs(stored_integers(model, name)).max() <= 63 for name in ("w1", "w2", "w3"))

    @pytest.mark.parametrize("methods", [(), *((name,) for name in NAMES), ("gptq", "bias-correction", "mse-weights")])
    def test_outputs_stay_close(self, methods: tuple[str, ...]) -> None:
        source = build.cnn()
        model = ir.load(source).model
        QuantizeStatic(methods=methods).apply(model, context())
        assert ir.verify(model) == ()
        for feed in build.images(4, seed=1):
            expected, actual = build.run(source, feed)[0], build.run(model, feed)[0]
            # INT8 noise of a four-layer network with random weights: a few percent of the scores' range.
            assert np.abs(expected - actual).max() < 0.08 * np.ptp(expected)

    def test_planning_leaves_the_model_alone(self) -> None:
        model = ir.load(build.cnn()).model
        ir.ensure_shapes(model)
        digest = ir.digest(model)
        QuantizeStatic(methods=("gptq", "bias-correction")).plan(model, context())
        assert ir.digest(model) == digest

    def test_memory_gives_copies_the_same_weights(self) -> None:
        shared = context()
        models = [ir.load(build.cnn()).model for _ in range(1)]
        models.append(ir.clone(models[0]))
        for model in models:
            QuantizeStatic(methods=("gptq", "bias-correction")).apply(model, shared)
        assert ir.digest(models[0]) == ir.digest(models[1])

    def test_variants_with_nodes_in_float_observe_nothing_anew(self) -> None:
        """Giving regions back makes many: what biases need was seen once, also where one was added."""
        looks: list[str] = []
        shared = dataclasses.replace(context(), progress=lambda done, total, what: looks.append(what))
        source = ir.load(build.cnn()).model
        methods = ("mse-ranges", "bias-correction")
        first = QuantizeStatic(methods=methods).apply(ir.clone(source), shared)
        assert first.stats["bias-correction"] == 3
        assert "observe" in looks
        looks.clear()
        variant = QuantizeStatic(methods=methods, exclude=("gemm",)).apply(ir.clone(source), shared)
        assert variant.stats["bias-correction"] == 2
        assert looks == []

    @pytest.mark.parametrize("calibrator", ["percentile", "minmax"])
    def test_ranges_are_searched_in_what_calibration_saw(self, calibrator: str) -> None:
        looks: list[str] = []
        watched = dataclasses.replace(context(), progress=lambda done, total, what: looks.append(what))
        QuantizeStatic(calibrator=calibrator, methods=("mse-ranges",)).apply(ir.load(build.cnn()).model, watched)
        assert watched.samples is not None
        assert looks == ["calibrate"] * watched.samples.count()

    def test_inputs_that_hardly_vary_about_a_large_mean(self) -> None:
        nodes = [node("Gemm", ["x", "w"], ["y"], name="gemm")]
        source = build.proto(nodes, {"x": ["N", 96]}, {"y": None}, {"w": build.weights(96, 16)})
        feeds = [{"x": 1e4 + build.weights(8, 96, seed=seed, scale=1e-3)} for seed in range(4)]
        model = ir.load(source).model
        result = QuantizeStatic(methods=("gptq", "bias-correction")).apply(
            model, PassContext(capabilities(VNNI), load_samples(feeds))
        )
        assert result.stats["gptq"] == 1
        wanted, got = build.run(source, feeds[0])[0], build.run(model, feeds[0])[0]
        np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())  # a step of the activation is 0.4 %

    def test_moments_that_are_none_are_a_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise np.linalg.LinAlgError

        monkeypatch.setattr("sardonyx.passes.quantization.methods.refine.round_compensated", fail)
        model = ir.load(build.cnn()).model
        result = QuantizeStatic(methods=("gptq",)).apply(model, context())
        reasons = [refusal.reason for refusal in result.refusals if refusal.rule == "refine-weights"]
        assert len(reasons) == 3
        assert all("are not positive definite" in reason for reason in reasons)
        assert ir.verify(model) == ()

    def test_shared_weights_are_refused(self) -> None:
        nodes = [node("MatMul", ["x", "w"], ["y"], name="one"), node("MatMul", ["y", "w"], ["z"], name="two")]
        model = build.model(nodes, {"x": [4, 8]}, {"z": None}, {"w": build.weights(8, 8)})
        samples = load_samples([{"x": build.weights(4, 8, seed=1)}])
        result = QuantizeStatic(methods=("gptq",)).apply(model, PassContext(capabilities(VNNI), samples))
        reasons = [refusal.reason for refusal in result.refusals if refusal.rule == "refine-weights"]
        assert len(reasons) == 2
        assert "the weight w of one has further users" in reasons[0]


class TestBiasCorrection:
    def mean_shift(self, source: ir.Model, methods: tuple[str, ...], samples: list[dict[str, Any]]) -> float:
        model = ir.clone(source)
        PassContext(capabilities(VNNI), load_samples(samples))
        QuantizeStatic(calibrator="minmax", methods=methods).apply(
            model, PassContext(capabilities(AVX2), load_samples(samples))
        )
        shifts = [build.run(model, feed)[0] - build.run(source, feed)[0] for feed in samples]
        return float(np.abs(np.mean(np.concatenate(shifts), axis=0)).mean())

    @pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul"])
    def test_the_mean_of_outputs_comes_back(self, operator: str) -> None:
        shape = (4, 16, 3, 3) if operator == "Conv" else (16, 4)
        inputs = {"x": [64, 16, 3, 3] if operator == "Conv" else [64, 16]}
        nodes = [node(operator, ["x", "w"], ["m" if operator == "MatMul" else "y"], name="layer")]
        constants = {"w": build.weights(*shape)}
        if operator == "MatMul":
            nodes.append(node("Add", ["m", "b"], ["y"]))
            constants["b"] = build.weights(4, seed=2)
        model = build.model(nodes, inputs, {"y": None}, constants)
        samples = [{"x": 3 + build.weights(*inputs["x"], seed=seed)} for seed in range(4)]
        before, after = (self.mean_shift(model, methods, samples) for methods in ((), ("bias-correction",)))
        assert after < 0.5 * before

    def test_nothing_behind_a_product_is_a_refusal(self) -> None:
        model = build.model(
            [node("MatMul", ["x", "w"], ["y"], name="layer")], {"x": [4, 8]}, {"y": None}, {"w": build.weights(8, 8)}
        )
        samples = load_samples([{"x": build.weights(4, 8, seed=1)}])
        result = QuantizeStatic(methods=("bias-correction",)).apply(model, PassContext(capabilities(VNNI), samples))
        assert any("no Add puts a constant behind layer" in refusal.reason for refusal in result.refusals)


class TestSequentialBiasCorrection:
    """A chain whose second layer sees what rounding of activations to few integers does, not weights alone."""

    def chain(self) -> ir.Model:
        nodes = [
            node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "v", "b"], ["d"], name="second"),
            node("GlobalAveragePool", ["d"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("MatMul", ["f", "u"], ["m"], name="third"),
            node("Add", ["m", "a"], ["y"]),
        ]
        constants = {
            "w": build.weights(16, 4, 3, 3),
            "v": build.weights(8, 16, 3, 3, seed=1),
            "b": build.weights(8, seed=2),
            "u": build.weights(8, 6, seed=3),
            "a": build.weights(1, 6, seed=4),
        }
        return build.model(nodes, {"x": ["N", 4, 12, 12]}, {"y": None}, constants)

    def samples(self, count: int = 8, seed: int = 0) -> list[dict[str, Any]]:
        return [{"x": 1 + build.weights(2, 4, 12, 12, seed=10 * seed + i)} for i in range(count)]

    def error(self, methods: tuple[str, ...]) -> tuple[float, Any]:
        """The mean shift of outputs with activations clipped hard, and the result of the pass."""
        source, samples = self.chain(), self.samples()
        model = ir.clone(source)
        static = QuantizeStatic(calibrator="percentile", percentile=90.0, methods=methods)
        result = static.apply(model, PassContext(capabilities(AVX2), load_samples(samples)))
        assert ir.verify(model) == ()
        shifts = [build.run(model, feed)[0] - build.run(source, feed)[0] for feed in samples]
        return float(np.abs(np.mean(np.concatenate(shifts), axis=0)).mean()), result

    def test_clipping_of_activations_is_corrected_too(self) -> None:
        without, _ = self.error(())
        of_weights, _ = self.error(("bias-correction",))
        sequential, result = self.error(("sequential-bias-correction",))
        assert sequential < 0.2 * min(without, of_weights)
        assert result.stats["sequential-bias-correction"] == 3
        assert result.refusals == ()

    def test_the_float_models_means_are_met_layer_after_layer(self) -> None:
        """Without a source of error, nothing is shifted; the weights of the model stay what they are."""
        model = self.chain()
        before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
        plan = QuantPlan("onnxruntime", ())
        placed = list(linear_layers(model.graph))
        refined = correct_in_sequence(model, placed[1:], plan, PassContext(None, load_samples(self.samples())))
        assert refined.stats == {"sequential-bias-correction": 2}
        for name, array in before.items():
            np.testing.assert_allclose(model.graph.initializers[name].const_value.numpy(), array, atol=1e-6)  # type: ignore[union-attr]

    def test_refusals_name_the_reason(self) -> None:
        model = build.model(
            [node("MatMul", ["x", "w"], ["y"], name="layer")], {"x": [4, 8]}, {"y": None}, {"w": build.weights(8, 8)}
        )
        samples = load_samples([{"x": build.weights(4, 8, seed=1)}])
        static = QuantizeStatic(methods=("sequential-bias-correction",))
        result = static.apply(model, PassContext(capabilities(VNNI), samples))
        assert any("no Add puts a constant behind layer" in refusal.reason for refusal in result.refusals)
        assert "sequential-bias-correction" not in result.stats


class TestResponses:
    def graph(self, *nodes: Any) -> ir.Value:
        model = build.model(list(nodes), {"x": ["N", 4, 2, 2]}, {"y": None}, {"s": 2.0 ** build.weights(1, 4, 1, 1)})
        return model.graph.inputs[0]

    def test_silu_makes_nothing_of_small_numbers(self) -> None:
        value = self.graph(node("Sigmoid", ["x"], ["g"]), node("Mul", ["x", "g"], ["y"]))
        samples = np.linspace(-20, 5, 101)
        found = response(value, samples)
        np.testing.assert_allclose(found.results, [samples / (1 + np.exp(-samples))], atol=1e-12)

    def test_what_a_layer_takes_is_the_identity(self) -> None:
        value = self.graph(node("GlobalAveragePool", ["x"], ["y"]))
        assert response(value, np.linspace(-1, 1, 5)).is_identity

    def test_a_value_that_is_also_used_as_it_is(self) -> None:
        value = self.graph(node("Sigmoid", ["x"], ["g"]), node("Concat", ["x", "g"], ["y"], axis=1))
        samples = np.linspace(-1, 1, 5)
        found = response(value, samples)
        assert {tuple(row) for row in found.results} == {tuple(samples), tuple(0.5 * (1 + np.tanh(samples / 2)))}

    def test_a_gate_with_scales_is_cut_where_no_channel_looks(self) -> None:
        value = self.graph(
            node("Mul", ["x", "s"], ["u"]), node("Sigmoid", ["u"], ["g"]), node("Mul", ["x", "g"], ["y"])
        )
        gate = scaled_gate(value)
        assert gate is not None
        assert gate.axis == -3
        assert gate.low(np.full(4, -1000.0)) == pytest.approx(-8 / gate.scales.min())
        assert gate.low(np.full(4, -2.0)) == -2.0

    def test_ranges_of_silu_are_cut_below(self) -> None:
        nodes = [
            node("Conv", ["x", "w"], ["z"], name="first"),
            node("Sigmoid", ["z"], ["g"]),
            node("Mul", ["z", "g"], ["a"]),
            node("Conv", ["a", "w"], ["y"], name="second"),
        ]
        weight = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
        model = build.model(nodes, {"x": [1, 4, 16, 16]}, {"y": None}, {"w": weight})
        samples = load_samples([{"x": build.weights(1, 4, 16, 16, scale=12.0, seed=seed)} for seed in range(4)])
        plans = [
            QuantizeStatic(calibrator="minmax", methods=methods).plan(model, PassContext(capabilities(VNNI), samples))
            for methods in ((), ("response-ranges",))
        ]
        lows = [next(p.low for p in plan.points if p.value == "z") for plan in plans]
        assert lows[0] is not None
        assert lows[1] is not None
        assert lows[0] < -30
        assert -8 < lows[1] < -1


class TestSelection:
    def test_names(self) -> None:
        assert select_methods(("gptq", "mse-weights")) == Methods(weights="mse", rounding="gptq")

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("auto",), ("mse-ranges", "bias-correction")),
            (("auto", "gptq"), ("mse-ranges", "bias-correction", "gptq")),
            (("response-ranges", "auto"), ("bias-correction", "response-ranges")),
            (("gptq",), ("gptq",)),
            ((), ()),
        ],
    )
    def test_auto_stands_for_what_suits_the_model(self, names: tuple[str, ...], expected: tuple[str, ...]) -> None:
        assert resolved(names, ("mse-ranges", "bias-correction")) == expected

    @pytest.mark.parametrize(
        ("names", "message"),
        [(("magic",), "no accuracy method 'magic'"), (("gptq", "adaround"), "both choose rounding")],
    )
    def test_unusable_names(self, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            QuantizeStatic(methods=names)

    def test_no_samples(self) -> None:
        with pytest.raises(PassError, match="needs samples"):
            QuantizeStatic(methods=("gptq",)).apply(ir.load(build.cnn()).model, PassContext(capabilities(VNNI)))


class TestKinds:
    def test_convolutional(self) -> None:
        model = ir.load(build.cnn()).model
        ir.ensure_shapes(model)
        assert model_kind(model) is ModelKind.CONVOLUTIONAL

    def test_transformer(self) -> None:
        model = build.model([node("MatMul", ["x", "w"], ["y"])], {"x": [4, 8]}, {"y": None}, {"w": build.weights(8, 8)})
        ir.ensure_shapes(model)
        assert model_kind(model) is ModelKind.TRANSFORMER

    def test_recurrent(self) -> None:
        constants = {"w": build.weights(1, 32, 8), "r": build.weights(1, 32, 8)}
        model = build.model(
            [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=8)], {"x": [5, 1, 8]}, {"y": None}, constants
        )
        assert model_kind(model) is ModelKind.RECURRENT
