"""Blocks of integers: the arithmetic w = (q - Z) S with one scale S and zero point Z for each block of a row.

A weight is a matrix of R rows (output channels, or entries of an embedding table) and K columns (what is summed over).
Each row is cut into B = ceil(K / block) blocks; the last one is padded with zeros. Integers are unsigned, 0 to
2^bits - 1, which is how both MatMulNBits and UINT4/UINT8 tensors hold them.

Kernels take integer zero points. Where blocks have offsets besides, w = (q - Z) S + O, which is the same as a real zero
point Z - O / S, while the integers still go through the integer kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
LevelArray = npt.NDArray[np.uint8]

SMALLEST = float(np.finfo(np.float32).tiny)
"""Blocks that nowhere exceed this hold nothing but zeros: the reciprocal of a denormal scale is infinite."""

FARTHEST_ZERO_POINT = 4
"""How far a real zero point may lie outside the integers, in their range: offsets of a row share 8 bits."""


@dataclass(frozen=True)
class BlockGrid:
    """Which integers a weight is quantized to.

    Attributes:
        bits: Bits of one integer: 4 or 8.
        block: Number of neighbours in a row that share scale and zero point.
        symmetric: Whether the zero point is fixed at the middle of the integers.
        negative_scales: Whether a scale may be negative, so that a symmetric block can use the integer that only one
            side has for whichever side needs it.
        offsets: Whether each block has an offset besides, which makes its zero point a real number.
    """

    bits: int
    block: int
    symmetric: bool = False
    negative_scales: bool = True
    offsets: bool = False

    @property
    def highest(self) -> int:
        """The largest integer; the smallest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric blocks."""
        return 1 << (self.bits - 1)

    def blocks_of(self, columns: int) -> int:
        """Returns the number of blocks of a row."""
        return -(-columns // self.block)

    @property
    def offset_grid(self) -> "BlockGrid":
        """The integers that a row's offsets are stored as, in blocks along the row."""
        return BlockGrid(8, self.block, symmetric=True, negative_scales=self.negative_scales)

    def nbytes(self, rows: int, columns: int) -> int:
        """Returns the bytes of a quantized weight: integers, float32 scales, zero points and offsets."""
        blocks = self.blocks_of(columns)
        zero_points = 0 if self.symmetric else -(-blocks * self.bits // 8)
        offsets = self.offset_grid.nbytes(rows, blocks) if self.offsets else 0
        return rows * (blocks * (self.block * self.bits // 8 + 4) + zero_points) + offsets

    def split(self, weight: Float32Array) -> Float32Array:
        """Cuts rows (R, K) into blocks (R, B, block), the last one padded with zeros."""
        rows, columns = weight.shape
        padded = np.pad(weight, ((0, 0), (0, -columns % self.block)))
        return padded.reshape(rows, -1, self.block)

    def zero_points(self, real: npt.NDArray[np.floating]) -> Float32Array:
        """Returns the allowed zero points nearest to real ones: integers, or real numbers where blocks have offsets."""
        if self.offsets:
            beyond = FARTHEST_ZERO_POINT * self.highest
            return _clip(real, -beyond, beyond)
        return _clip(np.rint(real), 0, self.highest)

    def round(self, blocks: Float32Array, scale: Float32Array, zero_point: Float32Array) -> Float32Array:
        """Returns saturate(round_half_even(w / S + Z)), as float32.

        Args:
            blocks: Real values (..., block).
            scale: Scales (...), none of them 0.
            zero_point: Zero points (...).
        """
        return _clip(np.rint(blocks / scale[..., None] + zero_point[..., None]), 0, self.highest)


@dataclass(frozen=True)
class BlockWeight:
    """A quantized weight.

    Attributes:
        grid: Its integers.
        columns: K, without padding.
        levels: The integers, uint8 (R, B, block).
        scale: float32 (R, B), none of them 0.
        zero_point: uint8 (R, B); for symmetric grids all of them the middle.
        offset: float32 (R, B) where the grid has offsets, else None.
    """

    grid: BlockGrid
    columns: int
    levels: LevelArray
    scale: Float32Array
    zero_point: LevelArray
    offset: Float32Array | None = None

    @classmethod
    def quantize(
        cls, grid: BlockGrid, weight: Float32Array, scale: Float32Array, zero_point: Float32Array
    ) -> "BlockWeight":
        """Rounds a weight (R, K) to the nearest integers of given scales and zero points, both (R, B)."""
        levels = grid.round(grid.split(weight), scale, zero_point).astype(np.uint8)
        return cls.of(grid, weight.shape[1], levels, (scale, zero_point))

    @classmethod
    def of(
        cls, grid: BlockGrid, columns: int, levels: LevelArray, parameters: tuple[Float32Array, Float32Array]
    ) -> "BlockWeight":
        """Builds a weight from integers, scales and real zero points, which become integers and offsets."""
        scale, real = parameters
        whole = np.clip(np.rint(real), 0, grid.highest)
        offset = ((whole - real) * scale).astype(np.float32) if grid.offsets else None
        return cls(grid, columns, levels, scale, whole.astype(np.uint8), offset)

    @classmethod
    def concatenate(cls, parts: Sequence["BlockWeight"]) -> "BlockWeight":
        """Joins parts along the rows."""
        if len(parts) == 1:
            return parts[0]
        offsets = [part.offset for part in parts if part.offset is not None]
        return cls(
            parts[0].grid,
            parts[0].columns,
            np.concatenate([part.levels for part in parts]),
            np.concatenate([part.scale for part in parts]),
            np.concatenate([part.zero_point for part in parts]),
            np.concatenate(offsets) if offsets else None,
        )

    def dequantize(self) -> Float32Array:
        """Returns the real values, float32 (R, K)."""
        values = (self.levels.astype(np.float32) - self.zero_point[..., None]) * self.scale[..., None]
        if self.offset is not None:
            values += self.offset[..., None]
        rows: Float32Array = values.reshape(len(values), -1)[:, : self.columns]
        return rows


def _clip(values: npt.NDArray[np.floating], low: float, high: float) -> Float32Array:
    clipped: Float32Array = np.clip(values, low, high).astype(np.float32, copy=False)
    return clipped


def pack(levels: LevelArray, bits: int) -> LevelArray:
    """Packs integers along the last axis into bytes, the first of two 4-bit integers into the low half.

    An odd number of 4-bit integers is padded with 0.
    """
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], axis=-1)
    packed: LevelArray = levels[..., ::2] | (levels[..., 1::2] << np.uint8(4))
    return packed
