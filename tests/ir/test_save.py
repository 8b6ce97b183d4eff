"""Saving: all or nothing, every dtype byte for byte, over the files in use, and within little memory."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.errors import LoadError, SaveError
from tests import models_for_tests as build
from tests.ir.models import external_linear, linear, point_to

LARGE = np.arange(40 * 30, dtype=np.float32).reshape(40, 30)
STORED = [t for t in ir.DataType if t not in {ir.DataType.UNDEFINED, ir.DataType.STRING}]


def large() -> ir.Model:
    return ir.load(linear(LARGE)).model


def weight(model: ir.Model) -> ir.TensorProtocol:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor


def identity_of(tensor: ir.TensorProtocol) -> ir.Model:
    """A model that returns the initializer `w`."""
    value = ir.Value(name="w", type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
    out = ir.Value(name="y", type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape))
    node = ir.Node("", "Identity", [value], outputs=[out], name="n")
    graph = ir.Graph([], [out], nodes=[node], initializers=[value], opset_imports={"": 25}, name="g")
    return ir.Model(graph, ir_version=13)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_every_dtype_byte_for_byte(tmp_path: Path, dtype: ir.DataType, external: bool) -> None:
    elements = 1030 * 8 // dtype.bitwidth + 3  # above the size from which a tensor goes to the data file
    packed = np.random.default_rng(1).integers(0, 2, (elements * dtype.bitwidth + 7) // 8, dtype=np.uint8)
    proto = onnx.TensorProto(name="w", data_type=dtype.value, dims=[elements], raw_data=packed.tobytes())
    model = identity_of(onnx_ir.TensorProtoTensor(proto))
    saved = ir.save(model, tmp_path / "m.onnx", external_data=external)
    tensor = weight(ir.load(saved.path).model)
    assert tensor.dtype == dtype
    assert (saved.data_path is not None) == external == isinstance(tensor, ir.ExternalTensor)
    assert ir.read_bytes(tensor) == packed.tobytes()
    assert ir.serialize(ir.load(saved.path).model) == ir.serialize(model)


def test_strings(tmp_path: Path) -> None:
    strings = onnx_ir.StringTensor([b"a", b"\xff"], shape=ir.Shape([2]), name="w")
    ir.save(identity_of(strings), tmp_path / "m.onnx", external_data=True)
    tensor = weight(ir.load(tmp_path / "m.onnx").model)
    assert list(tensor.numpy()) == [b"a", b"\xff"]


@settings(max_examples=25, deadline=None)
@given(
    arrays=st.lists(
        st.tuples(
            st.sampled_from([np.float32, np.int8, np.uint16, np.bool_, np.float64]),
            st.lists(st.integers(0, 40), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    external=st.booleans(),
)
def test_round_trip_keeps_the_digest(tmp_path_factory, arrays, external) -> None:
    path = tmp_path_factory.mktemp("round") / "m.onnx"
    model = ir.load(linear()).model
    for i, (dtype, shape) in enumerate(arrays):
        data = np.random.default_rng(i).integers(0, 2, shape).astype(dtype)
        ir.add_initializer(model.graph, f"extra{i}", data)
    saved = ir.save(model, path, external_data=external)
    loaded = ir.load(path).model
    assert ir.digest(loaded) == ir.digest(model)
    assert ir.verify(loaded) == ()
    assert saved.nbytes == sum(file.stat().st_size for file in path.parent.iterdir())


def test_sizes_decide_by_default(tmp_path: Path) -> None:
    saved = ir.save(large(), tmp_path / "m.onnx")
    assert saved.data_path is None
    assert listing(tmp_path) == ["m.onnx"]


def test_shared_weights_are_written_once(tmp_path: Path) -> None:
    model = large()
    shared = weight(model)
    value = ir.Value(name="w2", type=ir.TensorType(shared.dtype), shape=ir.Shape(shared.shape), const_value=shared)
    model.graph.register_initializer(value)
    saved = ir.save(model, tmp_path / "m.onnx", external_data=True)
    assert saved.data_path is not None
    assert saved.data_path.stat().st_size == LARGE.nbytes == ir.nbytes(model)
    again = ir.load(saved.path).model
    assert again.graph.initializers["w2"].const_value.numpy().sum() == LARGE.sum()


def test_saving_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = large()
    before, tensor = ir.serialize(model), weight(model)
    ir.save(model, tmp_path / "m.onnx", external_data=True)
    assert weight(model) is tensor
    assert ir.serialize(model) == before


@pytest.mark.parametrize("external", [False, True])
def test_saving_over_the_files_in_use(tmp_path: Path, external: bool) -> None:
    path = ir.save(large(), tmp_path / "m.onnx", external_data=True).path
    model = ir.load(path).model
    other = ir.clone(model)
    old = weight(model)
    # A second weight before the first moves the bytes of the first.
    ir.add_initializer(model.graph, "first", np.full(5000, 7, np.float32))
    values = list(model.graph.initializers.values())[::-1]
    model.graph.initializers.clear()
    for value in values:
        model.graph.register_initializer(value)
    expected = ir.digest(model)
    ir.save(model, path, external_data=external)
    assert ir.digest(model) == expected == ir.digest(ir.load(path).model)
    np.testing.assert_array_equal(weight(model).numpy(), LARGE)
    if external:
        assert weight(other) is old
        with pytest.raises(LoadError, match="overwritten"):
            ir.digest(other)
    assert not [name for name in listing(tmp_path) if name.startswith(".")]


def test_saving_over_a_cache_leaves_its_blobs(tmp_path: Path) -> None:
    external_linear(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name)
    before = [ir.file_sha256(tmp_path / "blobs" / n) for n in ("model.onnx", "model.onnx.data")]
    model = ir.load(tmp_path / "snapshot" / "model.onnx").model
    ir.add_initializer(model.graph, "more", LARGE)
    ir.save(model, tmp_path / "snapshot" / "model.onnx", external_data=True)
    assert before == [ir.file_sha256(tmp_path / "blobs" / n) for n in ("model.onnx", "model.onnx.data")]
    assert ir.digest(ir.load(tmp_path / "snapshot" / "model.onnx").model) == ir.digest(model)


class Breaks(onnx_ir.Tensor):
    """A tensor whose bytes cannot be written: the disk is full."""

    def tobytes(self) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("external", [False, True])
def test_failure_while_writing_keeps_the_old_files(tmp_path: Path, external: bool) -> None:
    path = ir.save(large(), tmp_path / "m.onnx", external_data=True).path
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    model = large()
    model.graph.initializers["w"].const_value = Breaks(LARGE)
    with pytest.raises(SaveError, match="No space left") as caught:
        ir.save(model, path, external_data=external)
    assert "disk space" in caught.value.remedy
    assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
@pytest.mark.parametrize("existing", [True, False])
def test_failure_at_each_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, existing: bool) -> None:
    path = tmp_path / "m.onnx"
    if existing:
        ir.save(ir.load(linear(LARGE + 1)).model, path, external_data=True)
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    calls = 0
    replace = os.replace

    def flaky(source: object, target: object) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", flaky)
    if not existing and failing > 2:
        ir.save(large(), path, external_data=True)
        assert listing(tmp_path) == ["m.onnx", "m.onnx.data"]
        return
    with pytest.raises(SaveError, match="Permission denied"):
        ir.save(large(), path, external_data=True)
    assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before


@pytest.mark.parametrize("target", ["missing/m.onnx", "file/m.onnx", "folder"])
def test_places_that_cannot_be_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="cannot be written") as caught:
        ir.save(large(), tmp_path / target)
    assert caught.value.remedy
    assert listing(tmp_path) == ["file", "folder"]


def test_read_only_place() -> None:
    with pytest.raises(SaveError, match="cannot be written"):
        ir.save(large(), "/proc/m.onnx")


def test_more_than_2_gb_in_one_file(tmp_path: Path) -> None:
    huge = ir.LazyTensor(lambda: pytest.fail("evaluated"), dtype=ir.DataType.FLOAT, shape=ir.Shape([600_000_000]))
    model = identity_of(huge)
    with pytest.raises(SaveError, match=r"2\.4 GB"):
        ir.save(model, tmp_path / "m.onnx", external_data=False)
    with pytest.raises(SaveError, match="2 GB"):
        ir.serialize(model)
    assert listing(tmp_path) == []


CHILD = """
import resource, sys
from sardonyx import ir
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = peak()
model = ir.load(sys.argv[1]).model
loaded = peak()
ir.verify(model), ir.infer_shapes(model), ir.clone(model)
if sys.argv[3] in {"load", "digest"}:
    if sys.argv[3] == "digest":
        ir.digest(model)
    print(loaded - start, peak() - start, ir.nbytes(model), None)
else:
    saved = ir.save(model, sys.argv[2], external_data={"force": True, "default": None}[sys.argv[3]])
    print(loaded - start, peak() - start, saved.nbytes, saved.data_path)
"""


def sparse_model(folder: Path, tensors: int) -> Path:
    """A model with `tensors` weights of 100 MiB in a file that occupies no disk."""
    proto = linear()
    del proto.graph.initializer[:]
    size = 100 << 20
    for i in range(tensors):
        tensor = proto.graph.initializer.add(name=f"w{i}" if i else "w", data_type=1, dims=[4, size // 16])
        point_to(tensor, "big", i * size, size)
    proto.graph.output[0].ClearField("type")
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with open(folder / "big", "wb") as file:
        file.truncate(tensors * size)
    return folder / "m.onnx"


@pytest.mark.parametrize(
    ("tensors", "what"),
    [(30, "load"), (5, "digest"), (5, "force"), pytest.param(30, "default", marks=pytest.mark.slow)],
)
def test_external_weights_need_little_memory(tmp_path: Path, tensors: int, what: str) -> None:
    path, out = sparse_model(tmp_path, tensors), tmp_path / "out.onnx"
    command = [sys.executable, "-c", CHILD, str(path), str(out), what]
    result = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    loaded, total, nbytes, data_path = float(result[0]), float(result[1]), int(result[2]), result[3]
    assert loaded < 100  # MiB above what the imports need
    assert total < 150
    assert nbytes >= tensors * (100 << 20)
    if what in {"force", "default"}:
        assert data_path == f"{out}.data"
        assert os.path.getsize(data_path) == tensors * (100 << 20)
        os.unlink(data_path)


def test_declarations_of_what_every_reader_infers_can_be_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Unknown", ["a"], ["b"], domain="somewhere"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    source = build.proto(nodes, {"x": [2, 3]}, {"y": [2, 3]})
    source.opset_import.append(helper.make_opsetid("somewhere", 1))
    source.graph.value_info.append(helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [2, 3]))
    model = ir.load(source).model
    declared = {True: {"a", "b"}, False: {"b"}}
    for declare, expected in declared.items():
        ir.save(model, tmp_path / "m.onnx", declare=declare)
        assert {info.name for info in onnx.load(tmp_path / "m.onnx").graph.value_info} == expected
