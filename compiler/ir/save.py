"""Writing models: all or nothing, weights streamed, never half of one model beside half of another."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as oir

from sardonyx.errors import SaveError
from sardonyx.ir.graphs import all_graphs
from sardonyx.ir.lean import LeanProto, lean_proto
from sardonyx.ir.tensors import read_chunks

PROTO_LIMIT_BYTES = 2**31 - 1
"""The largest message that protobuf serialises."""

_ALIGNMENT_BYTES = 64
_FRAMING_BYTES = 32  # tags and lengths around one embedded tensor

_REMEDIES = {
    errno.ENOENT: "Create the folder first.",
    errno.ENOTDIR: "Choose a path whose parent is a folder.",
    errno.EISDIR: "Choose the path of a file.",
    errno.EACCES: "Choose a folder you may write to.",
    errno.EPERM: "Choose a folder you may write to.",
    errno.EROFS: "Choose a folder you may write to.",
    errno.ENOSPC: "Free some disk space; the previous file is untouched.",
    errno.EDQUOT: "Free some disk space; the previous file is untouched.",
}


@dataclass(frozen=True)
class SavedModel:
    """What was written.

    Attributes:
        path: The model file.
        data_path: The file with its external data, if there is one.
        nbytes: Bytes of both together.
    """

    path: Path
    data_path: Path | None
    nbytes: int


def to_proto(model: oir.Model) -> onnx.ModelProto:
    """Returns the model as a proto with all its weights inside.

    Raises:
        SaveError: If it would exceed the 2 GB that a proto can hold.
        LoadError: If external data can no longer be read.
    """
    lean = lean_proto(model)
    _require_embeddable(lean, "as one message")
    return lean.embed()


def serialize(model: oir.Model) -> bytes:
    """Returns the model with all its weights as the bytes of an .onnx file.

    Raises:
        SaveError: If it would exceed the 2 GB that a proto can hold.
        LoadError: If external data can no longer be read.
    """
    return bytes(to_proto(model).SerializeToString())


def save(
    model: oir.Model, path: str | os.PathLike[str], *, external_data: bool | None = None, declare: bool = True
) -> SavedModel:
    """Writes a model, replacing what is there only when all of it is written.

    External data goes to `<path>.data`, streamed tensor by tensor. Saving over the very files that the model
    is mapped from is safe: the model then maps the new ones. Any other model mapped from them must be loaded
    again, and its tensors say so where they are shared.

    Args:
        model: The model; its structure and weights stay as they are.
        path: The .onnx file to write; its folder must exist.
        external_data: Whether weights go to a file of their own. None: only where a proto cannot hold them.
        declare: Whether the main graph declares types and shapes of values that standard operators compute, which
            every reader can infer.

    Raises:
        SaveError: If the place cannot be written, or the model is too large for one file.
        LoadError: If external data that the model is mapped from can no longer be read.
    """
    target = Path(path).absolute()
    lean = lean_proto(model)
    if not declare:
        _drop_declarations(lean.proto.graph)
    if external_data is None:
        external_data = _embedded_nbytes(lean) > PROTO_LIMIT_BYTES
    if not external_data:
        _require_embeddable(lean, str(path))
    if lean.proto.ByteSize() > PROTO_LIMIT_BYTES:
        raise SaveError(
            f"{path} would exceed 2 GB even with its initializers in external data.",
            remedy="Turn large Constant nodes into initializers first.",
        )
    with _told_as_save_error(path):
        if external_data and lean.tensors:
            return _save_pair(model, lean, target)
        return _save_one(lean, target)


def _drop_declarations(graph: onnx.GraphProto) -> None:
    inferable = {name for node in graph.node if not node.domain for name in node.output}
    kept = [info for info in graph.value_info if info.name not in inferable]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _embedded_nbytes(lean: LeanProto) -> int:
    return int(lean.proto.ByteSize()) + lean.data_nbytes() + _FRAMING_BYTES * len(lean.tensors)


def _require_embeddable(lean: LeanProto, where: str) -> None:
    size = _embedded_nbytes(lean)
    if size > PROTO_LIMIT_BYTES:
        raise SaveError(
            f"The model needs {size / 1e9:.1f} GB {where}, and a single file holds at most 2 GB.",
            remedy="Save it with external_data=True.",
        )


@contextmanager
def _told_as_save_error(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "Choose another place.")
        raise SaveError(f"{os.fspath(path)} cannot be written: {reason}.", remedy=remedy) from error


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yields a new name beside `target`, and removes what is left there in the end."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    staged = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield staged
    finally:
        with suppress(FileNotFoundError):
            staged.unlink()


def _save_one(lean: LeanProto, target: Path) -> SavedModel:
    with _staged(target) as staged:
        nbytes = _write(staged, lean.embed())
        os.replace(staged, target)
    return SavedModel(target, None, nbytes)


def _save_pair(model: oir.Model, lean: LeanProto, target: Path) -> SavedModel:
    data_target = target.with_name(f"{target.name}.data")
    with _staged(target) as staged, _staged(data_target) as staged_data:
        with open(staged_data, "xb") as file:
            offsets = _write_tensors(file, lean.tensors)
            nbytes = file.tell()
        _point_to(lean, data_target.name, offsets)
        nbytes += _write(staged, lean.proto)
        replaces_data = os.path.lexists(data_target)
        _publish_pair(staged, target, staged_data, data_target)
    if replaces_data:
        _map_anew(model, lean, data_target, offsets)
    return SavedModel(target, data_target, nbytes)


def _write(path: Path, proto: onnx.ModelProto) -> int:
    with open(path, "xb") as file:
        return file.write(proto.SerializeToString())


def _write_tensors(file: BinaryIO, tensors: tuple[oir.TensorProtocol, ...]) -> list[int]:
    """Writes tensors one after the other, aligned; returns their offsets in bytes."""
    offsets = []
    for tensor in tensors:
        file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
        offsets.append(file.tell())
        if isinstance(tensor, oir.ExternalTensor) and tensor.valid():
            tensor.tofile(file)  # copied inside the kernel where it can be
            continue
        for chunk in read_chunks(tensor):
            file.write(chunk)
    return offsets


def _point_to(lean: LeanProto, location: str, offsets: list[int]) -> None:
    for initializer, index in list(lean.stubs()):
        del initializer.external_data[:]
        entries = {"location": location, "offset": offsets[index], "length": lean.tensors[index].nbytes}
        for key, value in entries.items():
            initializer.external_data.add(key=key, value=str(value))


def _publish_pair(staged: Path, target: Path, staged_data: Path, data_target: Path) -> None:
    """Renames both files into place so that at no moment one model's file stands beside the other's data.

    An older pair is first moved aside, the model before its data, and comes back if anything fails. If the
    machine stops in between, there is no model at `target`, and the old one lies beside it.
    """
    with ExitStack() as leftovers, ExitStack() as undo:  # undone before anything is removed
        if os.path.lexists(data_target):
            for path in (target, data_target):
                if os.path.lexists(path):
                    backup = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
                    os.replace(path, backup)
                    undo.callback(os.replace, backup, path)
                    leftovers.callback(_remove, backup)
        else:
            undo.callback(_remove, data_target)
        os.replace(staged_data, data_target)
        os.replace(staged, target)
        undo.pop_all()


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _map_anew(model: oir.Model, lean: LeanProto, data_path: Path, offsets: list[int]) -> None:
    """Binds the model's tensors to the file just written, where their old one may have been replaced."""
    index_of = {id(tensor): index for index, tensor in enumerate(lean.tensors)}
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            index = index_of.get(id(value.const_value))
            if index is None or value.const_value is None:
                continue
            old = value.const_value
            value.const_value = oir.ExternalTensor(
                data_path.name,
                offsets[index],
                old.nbytes,
                old.dtype,
                shape=oir.Shape(old.shape.numpy()),
                name=value.name or "",
                base_dir=str(data_path.parent),
            )
    for tensor in lean.tensors:
        if isinstance(tensor, oir.ExternalTensor) and _names_file(tensor.path, data_path):
            tensor.invalidate()


def _names_file(path: str, replaced: Path) -> bool:
    """Whether `path` led to the file whose name was given to a new one."""
    named = Path(path).absolute()
    resolved = replaced.parent.resolve() / replaced.name
    return named.parent.resolve() / named.name == resolved
