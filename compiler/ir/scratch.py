"""A temporary file for tensors that are made while a model is edited, so that they need no memory."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as oir

from sardonyx.ir.temporary import TemporaryFolder, unwritable

_ALIGNMENT_BYTES = 64
_OWNER = "sardonyx.scratch"


class ScratchFile:
    """Holds tensors on disk for as long as any of them, or this object, is alive.

    Args:
        folder: Where to make it; None for the system's folder of temporary files.

    Raises:
        SaveError: If it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = TemporaryFolder(folder)
        self._path = self._folder.path / "tensors.bin"

    def add(self, name: str, array: npt.NDArray[Any], dtype: oir.DataType | None = None) -> oir.ExternalTensor:
        """Writes an array and returns the tensor that reads it.

        Args:
            name: The tensor's name.
            array: Its values; 4-bit types one element a value, they are packed here.
            dtype: Its type; None for that of the array.

        Raises:
            SaveError: If the disk is full or the folder was removed.
        """
        tensor = oir.Tensor(np.ascontiguousarray(array), dtype=dtype, name=name)
        try:
            with open(self._path, "ab") as file:
                file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
                offset = file.tell()
                file.write(tensor.tobytes())
        except OSError as error:
            raise unwritable(self._path, error) from error
        stored = oir.ExternalTensor(
            self._path.name,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=oir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=str(self._folder.path),
        )
        stored.meta[_OWNER] = self
        return stored
