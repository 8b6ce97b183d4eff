"""From a file's bytes to a ModelProto, or to a message that says what the file is instead."""

import logging
from pathlib import Path

import onnx

from sardonyx.errors import LoadError
from sardonyx.ir.graphs import root_cause

_EXPORT_AGAIN = "Export or download the model again."

_OTHER_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model", "Run `git lfs pull`."),
    (0, b"\x89PNG", "a PNG image", "Pass the .onnx file."),
    (0, b"\xff\xd8\xff", "a JPEG image", "Pass the .onnx file."),
    (0, b"PK\x03\x04", "a zip archive or a PyTorch checkpoint", "Unpack it, or use torch.onnx.export."),
    (0, b"\x80\x02", "a pickle or a PyTorch checkpoint", "Export it with torch.onnx.export."),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (0, b"\x89HDF", "an HDF5 (Keras) file", "Export it with tf2onnx."),
    (0, b"GGUF", "a GGUF file", "Export the original model to ONNX."),
    (4, b"ORTM", "ONNX Runtime's own .ort format", "Pass the .onnx file it was made from."),
    (4, b"TFL3", "a TensorFlow Lite file", "Convert it with tf2onnx."),
    (8, b'{"', "a safetensors file", "Pass the .onnx file that goes with it."),
)


def read_model_file(path: Path) -> onnx.ModelProto:
    """Reads a model file, without its external data.

    The text formats that `onnx.load` knows are recognised by their extension.

    Raises:
        LoadError: If the file cannot be read or is not an ONNX model.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        remedy = "Check the path."
        if path.is_symlink():
            remedy = "The link leads nowhere: download the file it stands for."
        raise LoadError(f"{path} does not exist.", remedy=remedy) from None
    except IsADirectoryError:
        raise LoadError(f"{path} is a folder.", remedy="Pass the .onnx file inside it.") from None
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}.", remedy="Check its permissions.") from error
    return parse_model(data, str(path), suffix=path.suffix)


def node_outputs(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the names of the outputs of each node of a file's main graph, by the node's name.

    Weights in files of their own are not touched.

    Raises:
        LoadError: If the file cannot be read or is not an ONNX model.
    """
    return {node.name: tuple(node.output) for node in read_model_file(path).graph.node}


def parse_model(data: bytes, source: str, *, suffix: str = "") -> onnx.ModelProto:
    """Parses a serialised model.

    Args:
        data: The bytes.
        source: What to call them in messages.
        suffix: File extension with its dot, which may name one of ONNX's text formats.

    Raises:
        LoadError: If the bytes are not an ONNX model.
    """
    if not data:
        raise LoadError(f"{source} is empty.", remedy=_EXPORT_AGAIN)
    for offset, magic, what, remedy in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            raise LoadError(f"{source} is {what}.", remedy=remedy)
    text_format = onnx.serialization.registry.get_format_from_file_extension(suffix)
    proto = onnx.ModelProto()
    try:
        if text_format not in {None, "protobuf"}:
            serializer = onnx.serialization.registry.get(text_format)
            proto = serializer.deserialize_proto(data, proto)
        else:
            proto.ParseFromString(data)
    except Exception as error:  # every parser has its own class of errors
        raise LoadError(f"{source} {_unparsable(data, error)}", remedy=_EXPORT_AGAIN) from error
    check_proto(proto, source)
    return proto


def _unparsable(data: bytes, error: Exception) -> str:
    if data[:1] == b"\x08" and data[1:2] < b"\x40":  # the ir_version with which every model file begins
        return "is truncated or damaged."
    if data.lstrip()[:1] in {b"{", b"<"}:
        return "is a text file (JSON, HTML or XML), not an ONNX model."
    return f"is not an ONNX model: {root_cause(error)}"


def check_proto(proto: onnx.ModelProto, source: str) -> None:
    """Checks that a parsed message is a model: protobuf reads some other files without complaint.

    Raises:
        LoadError: If it has no graph, no opset, computes nothing, has weights without a type or values that are maps,
            or uses parts of ONNX that would be lost.
    """
    if not proto.HasField("graph"):
        known = proto.ir_version > 0 and (proto.opset_import or proto.producer_name)
        problem = "is truncated or damaged: it holds no graph." if known else "is not an ONNX model."
        raise LoadError(f"{source} {problem}", remedy=_EXPORT_AGAIN)
    if not proto.opset_import:
        raise LoadError(f"{source} imports no operator set (opset_import).", remedy=_EXPORT_AGAIN)
    if not proto.graph.output:
        raise LoadError(f"The graph of {source} has no outputs.", remedy=_EXPORT_AGAIN)
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise LoadError(
            f"{source} has the sparse initializer {name!r}, which is not supported.",
            remedy="Export the model with dense weights.",
        )
    untyped = next((each.name for each in proto.graph.initializer if not each.data_type), None)
    if untyped is not None:
        raise LoadError(f"The initializer {untyped!r} of {source} has no type.", remedy=_EXPORT_AGAIN)
    graph = proto.graph
    mapped = next((v.name for v in (*graph.output, *graph.input, *graph.value_info) if _holds_map(v.type)), None)
    if mapped is not None:
        raise LoadError(
            f"The value {mapped!r} of {source} is a map or a sequence of maps, which is not supported.",
            remedy="Convert the model again so that it gives tensors: skl2onnx does with options={'zipmap': False}.",
        )
    if proto.training_info:
        logging.getLogger(__name__).warning("The training information in %s is left out.", source)


def _holds_map(kind: onnx.TypeProto) -> bool:
    """Whether a value is a map, or a sequence or an optional of maps, as ZipMap makes them."""
    while kind.WhichOneof("value") in {"sequence_type", "optional_type"}:
        kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
    return bool(kind.HasField("map_type"))
