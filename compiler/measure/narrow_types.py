"""Inputs and outputs of element types that numpy lacks, carried exactly in the next wider type."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sardonyx.measure.feeds import Array, Feed


@dataclass(frozen=True)
class _Float:
    """A float of 8 or 16 bits: its name in ONNX and the integer that holds its bits."""

    name: str
    bits: str

    def widen(self, raw: bytes, shape: tuple[int, ...]) -> Array:
        from sardonyx.ir import DataType

        narrow = np.frombuffer(raw, self.bits).view(DataType[self.name].numpy())
        return narrow.reshape(shape).astype(np.float32)

    def to_runtime(self, array: Array) -> Any:
        """Rounds float32 to the nearest value of this type."""
        import onnxruntime

        from sardonyx.ir import DataType

        dtype = DataType[self.name]
        bits = np.ascontiguousarray(array).astype(dtype.numpy()).view(self.bits)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, dtype.value)


@dataclass(frozen=True)
class _HalfByte:
    """Integers of four bits, two a byte, the first in the low half."""

    signed: bool

    def widen(self, raw: bytes, shape: tuple[int, ...]) -> Array:
        packed = np.frombuffer(raw, np.uint8)
        halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))]
        if self.signed:
            halves = ((halves ^ 8).astype(np.int8) - 8).astype(np.int8)
        return halves.reshape(shape)


_FLOATS = {
    "tensor(bfloat16)": _Float("BFLOAT16", "uint16"),
    **{
        f"tensor({name.lower()})": _Float(name, "uint8")
        for name in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
    },
}
_NARROW: dict[str, _Float | _HalfByte] = {
    **_FLOATS,
    "tensor(int4)": _HalfByte(signed=True),
    "tensor(uint4)": _HalfByte(signed=False),
}

CARRIERS: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(_FLOATS, np.dtype("float32")),
    "tensor(int4)": np.dtype("int8"),
    "tensor(uint4)": np.dtype("uint8"),
}
"""The numpy type that carries each narrow type, by the runtime's name of it."""


def run(session: Any, names: Sequence[str] | None, feed: Feed, types: dict[str, str]) -> list[Any]:
    """Runs an `onnxruntime.InferenceSession` that has narrow inputs or outputs.

    Args:
        session: The runtime's session.
        names: The outputs wanted, or None for all.
        feed: Arrays by input name, in their carrying types.
        types: The runtime's type of each input, by name.

    Returns:
        One array an output, narrow ones widened.
    """
    import onnxruntime

    values = {}
    for name, array in feed.items():
        narrow = _FLOATS.get(types.get(name, ""))
        make = narrow.to_runtime if narrow else onnxruntime.OrtValue.ortvalue_from_numpy
        values[name] = make(np.asarray(array))
    return [_widened(value) for value in session.run_with_ort_values(names, values)]


def _widened(value: Any) -> Any:
    narrow = _NARROW.get(value.data_type())
    if narrow is None:
        return value.numpy()
    shape = tuple(value.shape())
    size = value.tensor_size_in_bytes()
    return narrow.widen(ctypes.string_at(value.data_ptr(), size), shape)
