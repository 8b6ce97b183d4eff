"""Sources that `load` takes, and files that are no models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from sardonyx import ir
from sardonyx.errors import LoadError, UsageError, VerifyError
from tests.ir.models import linear, model


def weights(loaded: ir.LoadedModel) -> np.ndarray:
    tensor = loaded.model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


@dataclass
class Program:
    """Looks like torch.onnx.ONNXProgram."""

    model: onnx_ir.Model


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path) -> None:
    proto = linear()
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    graph = onnx_ir.from_proto(proto)
    sources = [path, str(path), proto.SerializeToString(), proto, graph, Program(graph)]
    loaded = [ir.load(source) for source in sources]
    assert len({ir.digest(each.model) for each in loaded}) == 1
    assert [each.path for each in loaded] == [path, path, None, None, None, None]
    assert all(each.repairs == () for each in loaded)


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
@pytest.mark.parametrize("suffix", [".onnxtxt", ".textproto", ".json"])
def test_text_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    onnx.save(linear(np.ones((4, 3), np.float32)), path)
    assert weights(ir.load(path)).sum() == 12


def test_sources_are_not_changed() -> None:
    proto = model(
        [onnx.helper.make_node("Relu", ["h"], ["y"]), onnx.helper.make_node("Add", ["x", "w"], ["h"])],
        {"x": [2], "w": [2]},
        {"y": [2]},
        {"w": np.ones(2, np.float32)},
        opset=9,
        ir_version=3,
    )
    before = proto.SerializeToString(deterministic=True)
    graph = onnx_ir.from_proto(proto)
    text = onnx_ir.to_onnx_text(graph)
    assert len(ir.load(proto).repairs) > 2
    ir.load(graph)
    assert proto.SerializeToString(deterministic=True) == before
    assert onnx_ir.to_onnx_text(graph) == text


def test_clone_shares_weights_and_nothing_else() -> None:
    source = ir.load(linear()).model
    copy = ir.clone(source)
    copy.graph[0].outputs[0].dtype = ir.DataType.FLOAT16
    copy.graph.remove(copy.graph[1])
    assert source.graph[0].outputs[0].dtype == ir.DataType.FLOAT
    assert len(source.graph) == 2
    assert copy.graph.initializers["w"].const_value is source.graph.initializers["w"].const_value


def test_clone_of_a_broken_model_names_the_cause() -> None:
    source = ir.load(linear()).model
    source.graph[1].replace_input_with(0, ir.Value(name="nobody"))
    with pytest.raises(VerifyError, match="nobody"):
        ir.clone(source)


BAD_FILES = {
    "empty": (b"", "is empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image"),
    "json": (b'{"model": 1}', "text file"),
    "html": (b"<!DOCTYPE html><html></html>", "text file"),
    "torch": (b"PK\x03\x04" + bytes(64), "PyTorch checkpoint"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
    "ort": (b"\x18\x00\x00\x00ORTM", "ort format"),
    "random": (np.random.default_rng(0).bytes(4096), "is not an ONNX model"),
    "zeros": (bytes(100), "is not an ONNX model"),
    "truncated": (linear().SerializeToString()[:-40], "is truncated or damaged"),
    "no graph": (
        onnx.ModelProto(ir_version=8, producer_name="p").SerializeToString(),
        "holds no graph",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(tmp_path: Path, kind: str) -> None:
    data, message = BAD_FILES[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=message) as caught:
        ir.load(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_maps_are_refused_with_the_option_that_avoids_them() -> None:
    proto = linear()
    entry = onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(1, None))
    zipped = onnx.helper.make_value_info("probabilities", onnx.helper.make_sequence_type_proto(entry))
    zipmap = onnx.helper.make_node("ZipMap", ["y"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    proto.graph.node.append(zipmap)
    proto.graph.output.append(zipped)
    with pytest.raises(LoadError, match="'probabilities' of the given model is a map or a sequence of maps") as caught:
        ir.load(proto)
    assert "options={'zipmap': False}" in caught.value.remedy


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    data = linear().SerializeToString()
    for size in range(1, len(data)):
        with pytest.raises(LoadError):
            ir.load(data[:size])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not exist"):
        ir.load(tmp_path / "nothing.onnx")
    with pytest.raises(LoadError, match="is a folder"):
        ir.load(tmp_path)
    (tmp_path / "link.onnx").symlink_to(tmp_path / "blob")
    with pytest.raises(LoadError, match="leads nowhere"):
        ir.load(tmp_path / "link.onnx")


def test_no_opset_import() -> None:
    proto = linear()
    del proto.opset_import[:]
    with pytest.raises(LoadError, match="opset_import"):
        ir.load(proto)


def test_no_outputs() -> None:
    proto = linear()
    del proto.graph.output[:]
    with pytest.raises(LoadError, match="no outputs"):
        ir.load(proto)


def test_sparse_initializers_are_refused() -> None:
    proto = linear()
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.name = "pruned"
    with pytest.raises(LoadError, match="pruned"):
        ir.load(proto)


def test_cycle_names_its_nodes() -> None:
    nodes = [
        onnx.helper.make_node("Add", ["x", "c"], ["a"], name="first"),
        onnx.helper.make_node("Relu", ["a"], ["b"], name="second"),
        onnx.helper.make_node("Relu", ["b"], ["c"], name="third"),
        onnx.helper.make_node("Relu", ["c"], ["y"], name="innocent"),
    ]
    with pytest.raises(LoadError, match="cycle") as caught:
        ir.load(model(nodes, {"x": [2]}, {"y": [2]}))
    assert all(name in caught.value.message for name in ("first", "second", "third"))
    assert "innocent" not in caught.value.message


@pytest.mark.parametrize(("source", "opset"), [(3, 17), (object(), 17), (b"x", 12), (b"x", 999)])
def test_wrong_usage(source: object, opset: int) -> None:
    with pytest.raises(UsageError):
        ir.load(source, opset=opset)


def test_weights_without_a_type_are_told() -> None:
    proto = linear()
    proto.graph.initializer[0].ClearField("data_type")
    name = proto.graph.initializer[0].name
    with pytest.raises(LoadError, match=f"The initializer '{name}' of the given bytes has no type"):
        ir.load(proto.SerializeToString())
