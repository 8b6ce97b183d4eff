"""Reads and writes one tensor in a file, as the ONNX project's `test_data_set_*` folders hold them."""

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sardonyx.errors import DataError


def read_tensor(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Reads a serialized TensorProto, such as `test_data_set_0/input_0.pb`.

    Returns:
        The array in the tensor's dtype and shape.

    Raises:
        DataError: If the file cannot be read or holds no tensor.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        proto = onnx.TensorProto.FromString(Path(path).read_bytes())
        if proto.data_type == onnx.TensorProto.UNDEFINED:
            raise DataError(
                f"{os.fspath(path)} holds no tensor.", remedy="Only tensor inputs can be read from .pb files."
            )
        return onnx.numpy_helper.to_array(proto)
    except (DecodeError, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{os.fspath(path)} is not a tensor file: {error}", remedy="Write it with onnx.save_tensor."
        ) from error


def write_tensor(path: str | os.PathLike[str], name: str, array: NDArray[Any]) -> None:
    """Writes a serialized TensorProto, such as `test_data_set_0/input_0.pb`.

    Raises:
        OSError: If the file cannot be written.
    """
    import onnx

    onnx.save_tensor(onnx.numpy_helper.from_array(array, name), os.fspath(path))
