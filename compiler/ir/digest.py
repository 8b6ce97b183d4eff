"""Fingerprints of files and models."""

import hashlib
import os

import onnx
import onnx_ir as oir

from sardonyx.ir.lean import lean_proto, proto_graphs
from sardonyx.ir.tensors import CHUNK_BYTES, read_chunks


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal, read piece by piece.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest(model: oir.Model) -> str:
    """Returns a SHA-256 of what the model computes: nodes, names, attributes, opsets, weights, interface.

    Saving and loading does not change it, nor where weights are stored, nor what is only said about the
    model: producer, documentation, metadata, inferred shapes. Mapped weights are read from their file and do
    not stay in memory.

    Raises:
        LoadError: If external data can no longer be read.
    """
    lean = lean_proto(model, threshold=-1)
    _strip(lean.proto)
    result = hashlib.sha256(lean.proto.SerializeToString(deterministic=True))
    for tensor in lean.tensors:
        result.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for chunk in read_chunks(tensor):
            result.update(chunk)
    return result.hexdigest()


def _strip(proto: onnx.ModelProto) -> None:
    for name in ("producer_name", "producer_version", "doc_string", "metadata_props", "model_version"):
        proto.ClearField(name)
    for graph in proto_graphs(proto.graph):
        for name in ("value_info", "doc_string", "metadata_props"):
            graph.ClearField(name)
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for output in graph.output:
            output.ClearField("doc_string")
