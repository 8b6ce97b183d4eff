"""Rounding with compensation, and the Gram matrices it needs."""

from typing import ClassVar

import numpy as np
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.errors import DataError, PassError
from sardonyx.measure import load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.weight_only import gptq
from sardonyx.passes.quantization.weight_only.gptq import compensated_rounding, compensation
from sardonyx.passes.quantization.weight_only.gram import gram_matrices, groups
from sardonyx.passes.quantization.weight_only.grid import BlockGrid, BlockWeight
from sardonyx.passes.quantization.weight_only.hqq import fit_half_quadratic, half_quadratic
from sardonyx.passes.quantization.weight_only.rounding import round_to_nearest
from tests import models_for_tests as build

WEIGHT = build.weights(20, 96, seed=1)
GRID = BlockGrid(4, 16)


def inputs(columns: int = 96, rows: int = 400, seed: int = 2) -> np.ndarray:
    """Correlated inputs of very different sizes, as layers have them."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((rows, 12)) @ random.standard_normal((12, columns))
    return ((mixed + 0.4 * random.standard_normal((rows, columns))) * random.uniform(0.2, 2, columns)).astype(
        np.float32
    )


X = inputs()


def output_error(quantized: BlockWeight) -> float:
    return float(np.linalg.norm(X @ (quantized.dequantize() - WEIGHT).T) / np.linalg.norm(X @ WEIGHT.T))


def test_the_factor_is_that_of_the_inverse() -> None:
    gram = X.T @ X
    known = compensation(gram, damping=0.01, act_order=True)
    hessian = gram.astype(np.float64) + 0.01 * np.diag(gram).mean() * np.eye(96)
    inverse = np.linalg.inv(hessian[np.ix_(known.order, known.order)])
    factor = known.factor.astype(np.float64)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor, inverse, rtol=1e-3, atol=1e-4 * np.abs(inverse).max())
    assert np.all(np.diff(np.diag(gram)[known.order]) <= 0), "large inputs come first"


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [GRID, BlockGrid(4, 32, symmetric=True), BlockGrid(4, 16, offsets=True)], ids=str)
def test_outputs_are_much_closer_than_with_nearest_integers(grid: BlockGrid, act_order: bool) -> None:
    known = compensation(X.T @ X, damping=0.01, act_order=act_order)
    assert output_error(compensated_rounding(WEIGHT, grid, known)) < 0.6 * output_error(round_to_nearest(WEIGHT, grid))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [GRID, BlockGrid(4, 16, offsets=True)], ids=str)
def test_grids_that_are_given_stay_and_only_integers_move(grid: BlockGrid, act_order: bool) -> None:
    known = compensation(X.T @ X, damping=0.01, act_order=act_order)
    plain, found = half_quadratic(WEIGHT, grid), compensated_rounding(WEIGHT, grid, known, fit_half_quadratic)
    np.testing.assert_array_equal(found.scale, plain.scale)
    np.testing.assert_array_equal(found.zero_point, plain.zero_point)
    assert output_error(found) < 0.7 * output_error(plain)


def test_uncorrelated_inputs_leave_nothing_to_compensate() -> None:
    known = compensation(np.eye(96, dtype=np.float32), damping=0.01, act_order=False)
    found = compensated_rounding(WEIGHT, GRID, known)
    np.testing.assert_array_equal(found.levels, round_to_nearest(WEIGHT, GRID).levels)


def test_rows_are_independent_so_that_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = compensation(X.T @ X, damping=0.01, act_order=False)
    whole = compensated_rounding(WEIGHT, GRID, known)
    monkeypatch.setattr(gptq, "CHUNK", 3 * 96)
    parts = compensated_rounding(WEIGHT, GRID, known)
    # sums of another shape round differently in the last bit, which may turn a tie
    assert np.mean(parts.levels != whole.levels) < 0.01


@pytest.mark.parametrize("act_order", [False, True])
def test_columns_without_inputs_are_rounded_to_nearest(act_order: bool) -> None:
    used = X.copy()
    used[:, 32:48] = 0  # a whole block
    known = compensation(used.T @ used, damping=0.01, act_order=act_order)
    found = compensated_rounding(WEIGHT, GRID, known)
    nearest = round_to_nearest(WEIGHT, GRID)
    np.testing.assert_array_equal(found.levels[:, 2], nearest.levels[:, 2])


def test_layers_that_saw_nothing_at_all_are_rounded_to_nearest() -> None:
    known = compensation(np.zeros((96, 96), np.float32), damping=0.01, act_order=False)
    np.testing.assert_array_equal(
        compensated_rounding(WEIGHT, GRID, known).levels, round_to_nearest(WEIGHT, GRID).levels
    )


def test_a_last_block_that_is_not_whole() -> None:
    known = compensation(X[:, :90].T @ X[:, :90], damping=0.01, act_order=False)
    found = compensated_rounding(WEIGHT[:, :90], GRID, known)
    assert found.levels.shape == (20, 6, 16)
    assert found.dequantize().shape == (20, 90)
    padding = found.levels[:, -1, 10:]
    np.testing.assert_array_equal(padding, np.broadcast_to(found.zero_point[:, -1:], padding.shape))


def test_inputs_of_low_rank_are_damped_until_they_factorize() -> None:
    thin = inputs(rows=3)
    known = compensation(thin.T @ thin, damping=1e-16, act_order=False)
    assert np.isfinite(known.factor).all()


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PassError, match="not finite"):
        compensation(np.full((4, 4), np.inf, np.float32), damping=0.01, act_order=False)


class TestGram:
    model = build.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "v"], ["y"]),
        ],
        {"x": ["N", "T", 6]},
        {"y": ["N", "T", 3]},
        {"w": build.weights(6, 4), "v": build.weights(4, 3, seed=1)},
    )
    feeds: ClassVar = [{"x": build.weights(n, t, 6, seed=n)} for n, t in ((1, 5), (2, 3), (4, 1))]

    def test_matrices_are_the_sums_over_samples_of_any_shape(self) -> None:
        context = PassContext(samples=load_samples(self.feeds))
        observed = gram_matrices(self.model, {"x": 6, "b": 4}, ["x", "b"], context)
        weight = ir.read_array(self.model.graph.initializers["w"].const_value)
        x = np.concatenate([feed["x"].reshape(-1, 6) for feed in self.feeds])
        b = np.maximum(x @ weight, 0)
        assert observed.samples == 3
        np.testing.assert_allclose(observed.matrices["x"], x.T @ x, rtol=1e-5)
        np.testing.assert_allclose(observed.matrices["b"], b.T @ b, rtol=1e-5)
        assert [v.name for v in self.model.graph.outputs] == ["y"]

    def test_groups_fit_the_budget_and_a_larger_one_stands_alone(self) -> None:
        columns = {"a": 10, "b": 10, "c": 30, "d": 10}
        assert list(groups(columns, budget=900)) == [("a", "b"), ("c",), ("d",)]
        assert list(groups({}, budget=900)) == []

    def test_without_samples(self) -> None:
        with pytest.raises(PassError, match="needs samples"):
            gram_matrices(self.model, {"x": 6}, ["x"], PassContext())
        with pytest.raises(DataError, match="zero calibration samples"):
            gram_matrices(self.model, {"b": 4}, ["b"], PassContext(samples=load_samples(lambda: iter(()))))

    def test_samples_that_do_not_fit(self) -> None:
        context = PassContext(samples=load_samples([{"x": np.zeros((1, 2, 5), np.float32)}]))
        with pytest.raises(DataError, match="'x'"):
            gram_matrices(self.model, {"b": 4}, ["b"], context)
