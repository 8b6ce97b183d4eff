"""Tensors: which values are constant, and the bytes of tensors without mapping files into memory."""

import os
from collections.abc import Iterator

import onnx_ir as oir

from sardonyx.errors import LoadError

CHUNK_BYTES = 1 << 20


def constant_tensor(value: oir.Value) -> oir.TensorProtocol | None:
    """Returns the tensor of a value that no caller can change, or None.

    That is an initializer that is not also a graph input, or the output of a Constant node.
    """
    if value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain:
        return None
    attr = node.attributes.get("value")
    if attr is not None and attr.type is oir.AttributeType.TENSOR and not attr.is_ref():
        tensor: oir.TensorProtocol = attr.value
        return tensor
    return oir.convenience.get_const_tensor(value)


def read_chunks(tensor: oir.TensorProtocol) -> Iterator[bytes]:
    """Yields a tensor's bytes as ONNX stores them (little endian, sub-byte types packed).

    External data is read from its file piece by piece, not through the mapping, so that a walk over all
    weights leaves no pages resident.

    Raises:
        LoadError: If the file of an external tensor was overwritten, is missing or too short.
    """
    if isinstance(tensor, oir.LazyTensor):
        yield from read_chunks(tensor.raw())
    elif isinstance(tensor, oir.StringTensor):
        for item in tensor.string_data():
            yield len(item).to_bytes(8, "little") + item
    elif isinstance(tensor, oir.ExternalTensor):
        yield from _read_file(tensor)
    else:
        yield tensor.tobytes()


def read_bytes(tensor: oir.TensorProtocol) -> bytes:
    """Returns the bytes of `read_chunks` as one object.

    Raises:
        LoadError: As `read_chunks`.
    """
    return b"".join(read_chunks(tensor))


def _read_file(tensor: oir.ExternalTensor) -> Iterator[bytes]:
    remaining = tensor.nbytes
    if not tensor.valid():
        raise LoadError(
            f"The data of tensor {tensor.name!r} in {tensor.path} was overwritten after loading.",
            remedy="Load the model again.",
        )
    if not remaining:
        return
    try:
        with open(tensor.path, "rb") as file:
            file.seek(tensor.offset or 0, os.SEEK_SET)
            while remaining:
                chunk = file.read(min(CHUNK_BYTES, remaining))
                if not chunk:
                    raise LoadError(
                        f"{tensor.path} ends {remaining} bytes before the end of tensor {tensor.name!r}.",
                        remedy="The file changed after the model was loaded: restore it or load again.",
                    )
                remaining -= len(chunk)
                yield chunk
    except OSError as error:
        raise LoadError(
            f"The data of tensor {tensor.name!r} cannot be read from {tensor.path}: {error.strerror}.",
            remedy="Restore the file beside the model.",
        ) from error
