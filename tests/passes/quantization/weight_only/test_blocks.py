"""The arithmetic of blocks, and the scales that are chosen from weights alone."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sardonyx.passes.quantization.weight_only.grid import BlockGrid, BlockWeight, pack
from sardonyx.passes.quantization.weight_only.hqq import half_quadratic
from sardonyx.passes.quantization.weight_only.rounding import CHUNK, fit, round_to_nearest, row_chunks
from tests import models_for_tests as build

GRIDS = [
    BlockGrid(bits, 16, symmetric, offsets=offsets)
    for bits in (4, 8)
    for symmetric, offsets in ((True, False), (False, False), (False, True))
]
WEIGHT = build.weights(24, 80, seed=3)


def error(quantized: BlockWeight, weight: np.ndarray) -> float:
    return float(np.square(quantized.dequantize() - weight).sum())


def extremes(weight: np.ndarray, grid: BlockGrid) -> BlockWeight:
    """What covering each block's range gives, as most quantizers do."""
    blocks = grid.split(weight)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    if grid.symmetric:
        scale = np.maximum(-low, high) / (grid.highest - grid.middle)
        zero_point = np.full_like(scale, grid.middle)
    else:
        scale = (high - low) / grid.highest
        zero_point = np.rint(-low / scale)
    return BlockWeight.quantize(grid, weight, scale.astype(np.float32), zero_point.astype(np.float32))


def test_four_bit_integers_are_packed_low_half_first() -> None:
    packed = pack(np.array([[1, 2, 15]], np.uint8), 4)
    assert packed.tolist() == [[0x21, 0x0F]]
    assert pack(np.array([[1, 200]], np.uint8), 8).tolist() == [[1, 200]]


@pytest.mark.parametrize("grid", [g for g in GRIDS if not g.offsets], ids=str)
def test_the_arithmetic_is_that_of_onnx(grid: BlockGrid) -> None:
    quantized = round_to_nearest(WEIGHT, grid)
    element = {4: TensorProto.UINT4, 8: TensorProto.UINT8}[grid.bits]
    tensors = [
        helper.make_tensor("q", element, WEIGHT.shape, quantized.levels.ravel().tolist()),
        helper.make_tensor("s", TensorProto.FLOAT, quantized.scale.shape, quantized.scale.ravel().tolist()),
        helper.make_tensor("z", element, quantized.scale.shape, quantized.zero_point.ravel().tolist()),
    ]
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1, block_size=grid.block)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, WEIGHT.shape)
    graph = helper.make_graph([node], "g", [], [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    np.testing.assert_array_equal(quantized.dequantize(), ReferenceEvaluator(model).run(None, {})[0])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("quantize", [round_to_nearest, half_quadratic])
def test_values_are_kept_to_a_step(grid: BlockGrid, quantize: object) -> None:
    quantized = quantize(WEIGHT, grid)  # type: ignore[operator]
    assert quantized.levels.max() <= grid.highest
    assert np.all(quantized.scale != 0)
    assert (quantized.offset is not None) is grid.offsets
    worst = np.abs(grid.split(quantized.dequantize() - WEIGHT)).max(axis=-1)
    # half a step inside the range; ranges shrink to 0.7 of the block's at most, and the ends then lie farther out
    assert np.all(worst <= np.abs(quantized.scale) * (0.5 + 0.3 * grid.highest))


@pytest.mark.parametrize("grid", [g for g in GRIDS if not g.offsets], ids=str)
def test_least_squares_beats_covering_the_range(grid: BlockGrid) -> None:
    assert error(round_to_nearest(WEIGHT, grid), WEIGHT) < 0.97 * error(extremes(WEIGHT, grid), WEIGHT)


def test_the_scale_is_close_to_the_best_of_all() -> None:
    grid = BlockGrid(4, 16, symmetric=True)
    block = WEIGHT[:1, :16]
    scale, zero_point = fit(grid.split(block), grid)
    found = error(BlockWeight.quantize(grid, block, scale, zero_point), block)
    steps = np.linspace(-0.3, 0.3, 6001, dtype=np.float32)
    steps = steps[np.abs(steps) > 1e-3]
    best = min(error(BlockWeight.quantize(grid, block, np.full((1, 1), s), zero_point), block) for s in steps)
    assert found <= 1.03 * best


def test_negative_scales_make_use_of_the_odd_integer() -> None:
    block = np.array([[8.0, *[1.0] * 15]], np.float32)  # 8 steps up: only -8 is within 4 bits, so the scale turns
    signed, unsigned = (BlockGrid(4, 16, symmetric=True, negative_scales=negative) for negative in (True, False))
    assert error(round_to_nearest(block, signed), block) == 0
    assert round_to_nearest(block, unsigned).scale.min() > 0
    assert error(round_to_nearest(block, unsigned), block) > 0


def test_importance_moves_the_scale_towards_what_matters() -> None:
    grid = BlockGrid(4, 16, symmetric=True)
    blocks = grid.split(WEIGHT)
    importance = np.ones((1, 1, 16), np.float32)
    importance[..., 3] = 1e4
    plain, weighted = (BlockWeight.quantize(grid, WEIGHT, *fit(blocks, grid, each)) for each in (None, importance))
    third = np.arange(3, 80, 16)
    assert error(weighted, WEIGHT) > error(plain, WEIGHT)
    near, far = (np.square(q.dequantize() - WEIGHT)[:, third].sum() for q in (weighted, plain))
    assert near < 0.2 * far


def test_offsets_recover_weights_that_are_on_a_grid_with_any_origin() -> None:
    random = np.random.default_rng(0)
    levels = random.integers(0, 16, (8, 4, 16))
    levels[..., 0], levels[..., 1] = 0, 15
    steps, origins = random.uniform(0.01, 0.1, (8, 4, 1)), random.uniform(-7.4, -3.1, (8, 4, 1))
    weight = ((levels + origins) * steps).reshape(8, 64).astype(np.float32)
    found = round_to_nearest(weight, BlockGrid(4, 16, offsets=True))
    np.testing.assert_allclose(found.dequantize(), weight, atol=1e-6)
    assert error(round_to_nearest(weight, BlockGrid(4, 16)), weight) > 1e-3


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("quantize", [round_to_nearest, half_quadratic])
@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-30, 0.25, -3.0, 1e30, 3e38], ids=lambda v: f"{v:g}")
def test_blocks_of_one_value_are_exact(grid: BlockGrid, quantize: object, value: float) -> None:
    weight = np.full((2, 32), value, np.float32)
    quantized = quantize(weight, grid)  # type: ignore[operator]
    assert np.isfinite(quantized.scale).all()
    np.testing.assert_allclose(quantized.dequantize(), weight, rtol=1e-5, atol=1e-37)


def test_a_row_that_is_no_whole_number_of_blocks_is_padded_with_zeros() -> None:
    weight = WEIGHT[:, :70]
    for grid in GRIDS:
        quantized = round_to_nearest(weight, grid)
        assert quantized.levels.shape == (24, 5, 16)
        assert quantized.dequantize().shape == (24, 70)
        np.testing.assert_array_equal(
            quantized.dequantize()[:, :64], round_to_nearest(WEIGHT, grid).dequantize()[:, :64]
        )


def test_work_in_chunks_gives_the_same() -> None:
    weight = build.weights(CHUNK // 256 + 3, 256, seed=5)
    grid = BlockGrid(4, 32)
    whole = BlockWeight.quantize(grid, weight, *fit(grid.split(weight), grid))
    np.testing.assert_array_equal(round_to_nearest(weight, grid).levels, whole.levels)
    assert [len(rows) for rows in row_chunks(weight, CHUNK)] == [CHUNK // 256, 3]


def test_half_quadratic_is_better_under_its_norm_and_no_better_in_squares() -> None:
    weight = WEIGHT.copy()
    weight[:, ::16] *= 4  # outliers
    grid = BlockGrid(4, 16)
    nearest, robust = round_to_nearest(weight, grid), half_quadratic(weight, grid)
    size = [np.power(np.abs(q.dequantize() - weight), 0.7).sum() for q in (nearest, robust)]
    assert size[1] < size[0]
    assert error(robust, weight) >= error(nearest, weight)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
    grid=st.sampled_from(GRIDS),
)
def test_no_block_is_worse_than_zeros(values: list[float], grid: BlockGrid) -> None:
    weight = np.array([values], np.float32)
    quantized = round_to_nearest(weight, grid)
    assert np.isfinite(quantized.dequantize()).all()
    losses = np.square(grid.split(quantized.dequantize().astype(np.float64) - weight).astype(np.float64)).sum(-1)
    assert np.all(losses <= np.square(grid.split(weight).astype(np.float64)).sum(-1) * (1 + 1e-5) + 1e-70)


@pytest.mark.parametrize("method", [round_to_nearest, half_quadratic], ids=["rtn", "hqq"])
def test_offsets_recover_weights_that_another_quantizer_has_rounded_before(
    method: Callable[[np.ndarray, BlockGrid], BlockWeight],
) -> None:
    """Files of 4-bit weights with a minimum a block are common; what exporters make of them is on real zero points."""
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 16, (24, 5, 32)).astype(np.float32)
    levels[..., 0], levels[..., 1] = 0, 15
    step = generator.uniform(0.01, 0.03, (24, 5, 1)).astype(np.float32)
    minimum = (-step * generator.uniform(6, 9, step.shape)).astype(np.float32)
    weight = (levels * step + minimum).reshape(24, -1)
    worst = {
        offsets: np.abs((method(weight, BlockGrid(4, 32, offsets=offsets)).dequantize() - weight).reshape(24, 5, 32))
        for offsets in (True, False)
    }
    assert (worst[True] / step).max() < 1e-3  # steps; this is before offsets are stored as 8 bits
    assert (worst[False] / step).max() > 0.2
