"""External data: cache layouts that are accepted, escapes that are not, and files that do not fit."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from sardonyx import ir
from sardonyx.errors import LoadError
from tests.ir.models import external_linear, model, point_to

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def weight_of(path: object) -> np.ndarray:
    tensor = ir.load(path).model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None  # not mapped by loading
    array = tensor.numpy().copy()
    assert ir.read_bytes(tensor) == array.tobytes()
    return array


def rewrite(path: Path, location: str, offset: int | None = 0, length: int | None = 48) -> Path:
    proto = onnx.load(path, load_external_data=False)
    point_to(proto.graph.initializer[0], location, offset, length)
    path.write_bytes(proto.SerializeToString())
    return path


def test_data_beside_the_model(tmp_path: Path) -> None:
    np.testing.assert_array_equal(weight_of(external_linear(tmp_path)), WEIGHT)


def test_relative_model_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external_linear(tmp_path / "sub")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(weight_of("sub/model.onnx"), WEIGHT)


def test_graph_of_onnx_ir(tmp_path: Path) -> None:
    np.testing.assert_array_equal(weight_of(onnx_ir.load(external_linear(tmp_path))), WEIGHT)


def test_hugging_face_cache(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    path = external_linear(blobs)
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for name in ("model.onnx", "model.onnx.data"):
        os.rename(blobs / name, blobs / f"hash-{name}")
        (snapshot / name).symlink_to(Path("..", "..", "blobs", f"hash-{name}"))
    assert not path.exists()
    np.testing.assert_array_equal(weight_of(snapshot / "model.onnx"), WEIGHT)


def test_hard_links(tmp_path: Path) -> None:
    path = external_linear(tmp_path)
    os.link(tmp_path / "model.onnx.data", tmp_path / "other")
    np.testing.assert_array_equal(weight_of(path), WEIGHT)
    again = ir.load(ir.load(path).model).model
    assert ir.digest(again) == ir.digest(ir.load(path).model)


def test_link_inside_the_folder_and_dotted_location(tmp_path: Path) -> None:
    path = external_linear(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("model.onnx.data")
    np.testing.assert_array_equal(weight_of(rewrite(path, "sub/../link")), WEIGHT)


def test_link_that_leaves_the_folder(tmp_path: Path) -> None:
    path = external_linear(tmp_path / "model")
    secret = tmp_path / "secret"
    os.rename(tmp_path / "model" / "model.onnx.data", secret)
    (tmp_path / "model" / "model.onnx.data").symlink_to(secret)
    with pytest.raises(LoadError, match=r"'w' lies at .*secret, outside"):
        ir.load(path)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret", "outside"),
        ("sub/../../secret", "outside"),
        ("/etc/passwd", "absolute"),
        ("C:\\data", "absolute"),
        ("", "names no file"),
        ("missing", "missing"),
        (".", "not a file"),
        ("a\0b", "cannot be read"),
    ],
)
def test_bad_locations(tmp_path: Path, location: str, message: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    path = rewrite(external_linear(tmp_path / "model"), location)
    with pytest.raises(LoadError, match=message) as caught:
        ir.load(path)
    assert "'w'" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(("offset", "length"), [(1, 48), (0, 47), (0, 49), (48, None), (1 << 62, 48)])
def test_extent_that_does_not_fit(tmp_path: Path, offset: int, length: int | None) -> None:
    path = rewrite(external_linear(tmp_path), "model.onnx.data", offset, length)
    with pytest.raises(LoadError, match=r"'w' .*model\.onnx\.data"):
        ir.load(path)


@pytest.mark.parametrize("offset", ["abc", "-4", ""])
def test_offset_that_is_no_number(tmp_path: Path, offset: str) -> None:
    path = external_linear(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[1].value = offset
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(LoadError, match=f"'w' .* offset '{offset}'"):
        ir.load(path)


def test_truncated_data(tmp_path: Path) -> None:
    path = external_linear(tmp_path)
    os.truncate(tmp_path / "model.onnx.data", 47)
    with pytest.raises(LoadError, match="47 bytes"):
        ir.load(path)


def test_data_that_shrinks_after_loading(tmp_path: Path) -> None:
    loaded = ir.load(external_linear(tmp_path)).model
    os.truncate(tmp_path / "model.onnx.data", 40)
    with pytest.raises(LoadError, match="ends 8 bytes before the end of tensor 'w'"):
        ir.digest(loaded)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(LoadError, match="No such file"):
        ir.serialize(loaded)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_external_data_without_a_folder(tmp_path: Path, as_bytes: bool) -> None:
    path = external_linear(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    with pytest.raises(LoadError, match="Pass the path"):
        ir.load(proto.SerializeToString() if as_bytes else proto)


def test_external_strings_are_refused(tmp_path: Path) -> None:
    path = external_linear(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].data_type = onnx.TensorProto.STRING
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(LoadError, match="strings"):
        ir.load(path)


def test_tensor_without_elements(tmp_path: Path) -> None:
    proto = model([onnx.helper.make_node("Add", ["x", "w"], ["y"])], {"x": [0]}, {"y": [0]}, {"w": np.zeros(0, "f")})
    point_to(proto.graph.initializer[0], "w.data", 0, 0)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    loaded = ir.load(tmp_path / "model.onnx").model
    assert ir.load(ir.serialize(loaded)).model.graph.initializers["w"].shape == (0,)


def test_external_data_in_a_constant_node(tmp_path: Path) -> None:
    path = external_linear(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    weight = proto.graph.initializer.pop()
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], name="constant", value=weight))
    path.write_bytes(proto.SerializeToString())
    loaded = ir.load(path).model
    embedded = onnx.load_from_string(ir.serialize(loaded))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(embedded.graph.node[0].attribute[0].t), WEIGHT)
