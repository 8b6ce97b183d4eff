"""External data: which files a model may map, and whether they hold what it says.

The containment rule is ONNX Runtime's: a location is joined to the folder of the model file as it was named
(without following a link), then resolved; the target must lie under that folder or under the folder of the
model file that the name finally leads to. Caches that link `snapshots/<revision>/model.onnx` to
`blobs/<hash>` are laid out so. onnx_ir refuses them, so tensors are rebuilt with the resolved path.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as oir

from sardonyx.errors import LoadError
from sardonyx.ir.graphs import all_graphs
from sardonyx.ir.lean import proto_graphs
from sardonyx.ir.tensors import read_bytes

_RESTORE = "Put the complete data file beside the model, or export the model again."


@dataclass
class _Resolver:
    """Checks locations against the folders they may lie in, one look at the disk per file.

    Attributes:
        folder: The folder that locations are relative to, as it was named.
        allowed: Resolved folders under which a target may lie.
    """

    folder: Path
    allowed: tuple[Path, ...]
    _files: dict[str, tuple[Path, os.stat_result]] = field(default_factory=dict)

    def rebuild(self, tensor: oir.ExternalTensor) -> oir.TensorProtocol:
        """Returns a tensor that reads the same bytes from a checked, resolved path.

        Raises:
            LoadError: If the location is not allowed, or the file does not hold the tensor.
        """
        if tensor.dtype == oir.DataType.STRING:
            raise LoadError(
                f"Tensor {tensor.name!r} holds strings in external data, which ONNX does not allow.",
                remedy="Export the model again with its strings inside.",
            )
        if not tensor.nbytes:
            # onnx_ir cannot give the bytes of an external tensor without elements.
            empty = np.empty(tensor.shape.numpy(), dtype=tensor.dtype.numpy())
            return oir.Tensor(empty, dtype=tensor.dtype, name=tensor.name)
        path, status = self._file(tensor)
        _check_extent(tensor, path, status.st_size)
        # onnx_ir refuses files with several hard links unless no base folder is set. The name was checked
        # above, as ONNX Runtime checks it.
        linked = status.st_nlink > 1
        return oir.ExternalTensor(
            str(path) if linked else path.name,
            tensor.offset,
            tensor.nbytes,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir="" if linked else str(path.parent),
        )

    def _file(self, tensor: oir.ExternalTensor) -> tuple[Path, os.stat_result]:
        location = os.fspath(tensor.location)
        if location not in self._files:
            self._files[location] = self._resolve(location, tensor.name)
        return self._files[location]

    def _resolve(self, location: str, name: str) -> tuple[Path, os.stat_result]:
        where = f"External data of tensor {name!r}"
        if not location:
            raise LoadError(f"{where} names no file.", remedy=_RESTORE)
        if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
            raise LoadError(
                f"{where} has the absolute location {location!r}.",
                remedy="Save the model again with a location relative to the model file.",
            )
        try:
            path = (self.folder / location).resolve()
            if not any(path.is_relative_to(folder) for folder in self.allowed):
                raise LoadError(
                    f"{where} lies at {path}, outside the model's folder {self.folder}.",
                    remedy="Move the data file into the model's folder; links may not leave it.",
                )
            status = path.stat()
        except FileNotFoundError:
            raise LoadError(f"{where} is missing: {self.folder / location}.", remedy=_RESTORE) from None
        except (OSError, ValueError, RuntimeError) as error:
            raise LoadError(f"{where} cannot be read at {location!r}: {error}.", remedy=_RESTORE) from error
        if not path.is_file():
            raise LoadError(f"{where} is not a file: {path}.", remedy=_RESTORE)
        return path, status


def _check_extent(tensor: oir.ExternalTensor, path: Path, file_size: int) -> None:
    offset = tensor.offset or 0
    if tensor.length is not None and tensor.length != tensor.nbytes:
        raise LoadError(
            f"Tensor {tensor.name!r} needs {tensor.nbytes} bytes, but the model gives it {tensor.length} "
            f"bytes of {path}.",
            remedy=_RESTORE,
        )
    if offset < 0 or offset + tensor.nbytes > file_size:
        raise LoadError(
            f"Tensor {tensor.name!r} occupies bytes {offset} to {offset + tensor.nbytes} of {path}, "
            f"which has {file_size} bytes.",
            remedy=_RESTORE,
        )


def check_extents(proto: onnx.ModelProto, source: str) -> None:
    """Checks that offsets and lengths of external initializers are numbers of bytes.

    Raises:
        LoadError: If one is not, with the tensor's name.
    """
    for graph in proto_graphs(proto.graph):
        for tensor in graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            for entry in tensor.external_data:
                if entry.key in {"offset", "length"} and not entry.value.isdecimal():
                    raise LoadError(
                        f"External data of tensor {tensor.name!r} in {source} has the {entry.key} "
                        f"{entry.value!r}, which is not a number of bytes.",
                        remedy="Export the model again.",
                    )


def map_external_data(model: oir.Model, path: Path | None) -> bool:
    """Binds the external tensors of `model` to the files beside it, and checks those files without reading.

    External tensors in attributes are read into memory: they are rare and small.

    Args:
        model: The model, changed in place.
        path: The model file as it was named. None: tensors must already know their folder.

    Returns:
        Whether tensors of attributes were read.

    Raises:
        LoadError: If a location is not allowed, a file is missing, or too short for its tensor.
    """
    resolvers: dict[Path, _Resolver] = {}

    def rebuild(tensor: oir.ExternalTensor) -> oir.TensorProtocol:
        if path is not None:
            folder, real = path.absolute().parent, path.resolve().parent
        else:
            tensor, folder = _own_folder(tensor)
            real = folder.resolve()
        resolver = resolvers.setdefault(folder, _Resolver(folder, (folder.resolve(), real)))
        return resolver.rebuild(tensor)

    read = False
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, oir.ExternalTensor):
                value.const_value = rebuild(value.const_value)
        for node in graph:
            for attr in tuple(node.attributes.data.values()):
                if attr.type is oir.AttributeType.TENSOR and isinstance(attr.value, oir.ExternalTensor):
                    tensor = _in_memory(rebuild(attr.value))
                    node.attributes[attr.name] = oir.AttrTensor(attr.name, tensor)
                    read = True
    return read


def _own_folder(tensor: oir.ExternalTensor) -> tuple[oir.ExternalTensor, Path]:
    """Returns a tensor with a relative location, and the folder that a program gave it."""
    if tensor.base_dir:
        return tensor, Path(tensor.base_dir)
    if not os.path.isabs(tensor.location):
        raise LoadError(
            f"Tensor {tensor.name!r} is stored in external data, and the folder is not known.",
            remedy="Pass the path of the model file instead of its content.",
        )
    # The program that set an absolute path has already chosen the file, whatever it links to.
    path = Path(tensor.location).resolve()
    relative = oir.ExternalTensor(
        path.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        base_dir=str(path.parent),
    )
    return relative, path.parent


def _in_memory(tensor: oir.TensorProtocol) -> oir.TensorProtocol:
    proto = onnx.TensorProto(data_type=tensor.dtype.value, dims=tensor.shape.numpy(), name=tensor.name or "")
    proto.raw_data = read_bytes(tensor)
    return oir.TensorProtoTensor(proto)
