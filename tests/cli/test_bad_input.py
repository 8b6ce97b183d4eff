"""Bad input: one line that names the culprit and the remedy, the right exit code, nothing half-written."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sardonyx.cli.main import main
from sardonyx.pipeline import CompileRecord, FileEntry
from tests import models_for_tests as build

MODULE = """
import numpy as np

def image(shape=(1, 3, 16, 16), dtype=np.float32):
    return np.zeros(shape, dtype)

def noise(seed):
    return np.random.default_rng(seed).standard_normal((1, 3, 16, 16)).astype(np.float32)

def good(): return [{"image": noise(i)} for i in range(8)]
def wrong_name(): return [{"imaeg": image()}]
def wrong_dtype(): return [{"image": image(dtype=np.float64)}]
def wrong_rank(): return [{"image": image((3, 16, 16))}]
def wrong_shape(): return [{"image": image((1, 4, 16, 16))}]
def with_nan(): return [{"image": image() * np.nan}]
def none(): return []
def raises(): raise OSError("disk on fire")
def nan_metric(run): return float("nan")
def text_metric(run): return "good"
"""


@dataclass(frozen=True)
class World:
    """A folder with a good model, samples, and an earlier output that must survive."""

    folder: Path
    model: Path
    output: Path

    def snapshot(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted(self.output.iterdir())}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "my_samples.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_samples", raising=False)
    model = tmp_path / "model.onnx"
    model.write_bytes(build.cnn().SerializeToString())
    output = tmp_path / "out"
    output.mkdir()
    for name in ("model.onnx", "record.json"):
        (output / name).write_text("an earlier compile")
    return World(tmp_path, model, output)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Runs the command and returns its exit code and the one line it says."""
    monkeypatch.setattr(sys, "argv", ["sardonyx", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert captured.out == ""
    assert isinstance(stop.value.code, int)
    return stop.value.code, lines[0]


def missing(folder: Path) -> Path:
    return folder / "missing.onnx"


def a_picture(folder: Path) -> Path:
    path = folder / "picture.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    return path


def a_page(folder: Path) -> Path:
    path = folder / "page.onnx"
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    return path


def noise(folder: Path) -> Path:
    path = folder / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    return path


def json_text(folder: Path) -> Path:
    path = folder / "config.onnx"
    path.write_text('{"model": "none"}')
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "folder.onnx"
    path.mkdir()
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.onnx"
    path.touch()
    return path


def truncated(folder: Path) -> Path:
    path = folder / "truncated.onnx"
    data = build.cnn().SerializeToString()
    path.write_bytes(data[: len(data) // 2])
    return path


def _external(folder: Path, location: str, name: str) -> Path:
    model = build.cnn()
    tensor = next(t for t in model.graph.initializer if t.name == "w2")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(8 * 8 * 9 * 4)}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "models" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def without_its_data(folder: Path) -> Path:
    return _external(folder, "gone.bin", "no_data.onnx")


def data_outside(folder: Path) -> Path:
    (folder / "secret.bin").write_bytes(bytes(8 * 8 * 9 * 4))
    return _external(folder, "../secret.bin", "outside.onnx")


def cyclic(folder: Path) -> Path:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    path = folder / "cyclic.onnx"
    path.write_bytes(build.proto(nodes, {"x": [1]}, {"b": [1]}).SerializeToString())
    return path


def with_an_undefined_value(folder: Path) -> Path:
    path = folder / "undefined.onnx"
    nodes = [helper.make_node("Relu", ["nowhere"], ["y"], name="lost")]
    path.write_bytes(build.proto(nodes, {"x": [1]}, {"y": [1]}).SerializeToString())
    return path


MODELS = {
    missing: ("missing.onnx", "does not exist"),
    a_picture: ("picture.onnx", "is a PNG image"),
    a_page: ("page.onnx", "not an ONNX model"),
    noise: ("noise.onnx", "not an ONNX model"),
    json_text: ("config.onnx", "text file"),
    a_folder: ("folder.onnx", ""),
    empty: ("empty.onnx", "empty"),
    truncated: ("truncated.onnx", "truncated"),
    without_its_data: ("gone.bin", "w2"),
    data_outside: ("secret.bin", "outside"),
    cyclic: ("first", "cycle"),
    with_an_undefined_value: ("undefined.onnx", "lost", "nowhere"),
}


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("verb", ["compile", "optimize", "inspect", "explain"])
def test_unusable_models(
    world: World,
    make: Callable[[Path], Path],
    verb: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = world.snapshot()
    path = make(world.folder)
    present = sorted(world.folder.iterdir())
    writes = ["-o", "out", "--data", "my_samples:good"]
    extra = {"compile": writes, "optimize": writes, "explain": ["conv1"]}.get(verb, [])
    code, line = fails([verb, str(path), *extra], capsys, monkeypatch)
    assert code == 2
    for part in MODELS[make]:
        assert part in line
    assert world.snapshot() == before
    assert sorted(world.folder.iterdir()) == present


@pytest.mark.parametrize("verb", ["verify", "bench"])
@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_unusable_models_of_a_pair(
    world: World,
    make: Callable[[Path], Path],
    verb: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, line = fails([verb, "model.onnx", str(make(world.folder))], capsys, monkeypatch)
    assert code == 2
    for part in MODELS[make]:
        assert part in line


OPTIONS = {
    "wrong name": (["--data", "my_samples:wrong_name"], ["imaeg", "image"]),
    "wrong dtype": (["--data", "my_samples:wrong_dtype"], ["image", "float64", "float32"]),
    "wrong rank": (["--data", "my_samples:wrong_rank"], ["image", "(3, 16, 16)"]),
    "wrong shape": (["--data", "my_samples:wrong_shape"], ["image", "4"]),
    "NaN": (["--data", "my_samples:with_nan"], ["image", "NaN"]),
    "zero samples": (["--data", "my_samples:none"], ["my_samples:none"]),
    "samples that raise": (["--data", "my_samples:raises"], ["my_samples:raises", "disk on fire"]),
    "no such function": (["--data", "my_samples:nothing"], ["nothing"]),
    "no such module": (["--data", "no_module:f"], ["no_module"]),
    "no such samples": (["--data", "missing.npz"], ["missing.npz"]),
    "metric NaN": (["--data", "my_samples:good", "--metric", "my_samples:nan_metric"], ["nan_metric"]),
    "metric text": (["--data", "my_samples:good", "--metric", "my_samples:text_metric"], ["text_metric"]),
    "unknown target": (["--target", "abacus"], ["abacus", "onnxruntime"]),
    "budget": (["--max-drop", "lots"], ["lots", "1%"]),
    "budget above all": (["--max-drop", "150%"], ["150%"]),
    "missing recipe": (["--recipe", "missing.yaml"], ["missing.yaml"]),
    "unknown entry": (["--recipe", "unknown.yaml"], ["unknown.yaml", "speed"]),
    "no folder for samples": (["--data", "not_samples"], ["not_samples", ".npz"]),
    "recipe that is none": (["--recipe", "model.onnx"], ["model.onnx", ".yaml"]),
    "value of an entry": (["--recipe", "value.yaml"], ["value.yaml", "max_drop", "1%", "0.01"]),
    "metric that is none": (["--metric", "my_samples:MISSING"], ["my_samples:MISSING"]),
    "metric that raises": (["--data", "my_samples:good", "--metric", "my_samples:good"], ["my_samples:good", "TypeE"]),
    "broken pipeline": (["--recipe", "broken.yaml"], ["column 9"]),
    "unknown pass": (["--recipe", "pass.yaml"], ["make-faster", "cleanup"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_unusable_options(
    world: World, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "unknown.yaml").write_text("speed: high\n")
    (world.folder / "value.yaml").write_text("max_drop: 1%\n")
    (world.folder / "broken.yaml").write_text("optimize: cleanup fold-constants\n")
    (world.folder / "not_samples").mkdir()
    (world.folder / "pass.yaml").write_text("optimize: cleanup, make-faster\n")
    before = world.snapshot()
    options, parts = OPTIONS[case]
    code, line = fails(["compile", "model.onnx", "-o", "out", *options], capsys, monkeypatch)
    assert code == 2
    for part in parts:
        assert part in line
    assert world.snapshot() == before


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("model.onnx/out", "cannot be written"),
        ("result.onnx", "not a folder"),
        ("mine", "notes.txt"),
        ("mine/..", "current folder"),
        ("/", "mount point"),
        ("x" * 300, "too long"),
        ("/proc/x", "cannot be written"),
    ],
)
def test_unusable_output_folders(
    world: World, output: str, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "mine").mkdir()
    (world.folder / "mine" / "notes.txt").write_text("keep me")
    source = world.model.read_bytes()
    code, line = fails(["compile", "model.onnx", "-o", output, "--data", "my_samples:good"], capsys, monkeypatch)
    assert code == 2
    assert part in line
    assert (world.folder / "mine" / "notes.txt").read_text() == "keep me"
    assert world.model.read_bytes() == source


def test_a_sample_the_runtime_fails_on_is_a_runtime_failure(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [helper.make_node("Reshape", ["image", "target"], ["y"])]
    constants = {"target": np.array([7, 7], np.int64)}
    onnx.save(build.proto(nodes, {"image": ["N", 3, 16, 16]}, {"y": None}, constants), "fails.onnx")
    code, line = fails(["compile", "fails.onnx", "-o", "out", "--data", "my_samples:good"], capsys, monkeypatch)
    assert code == 3
    assert "Reshape" in line or "fails.onnx" in line


@pytest.mark.parametrize("verb", ["verify", "bench"])
@pytest.mark.parametrize("case", ["wrong name", "wrong dtype", "wrong rank", "NaN", "zero samples", "no such samples"])
def test_unusable_samples_for_a_pair(
    world: World, verb: str, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, parts = OPTIONS[case]
    code, line = fails([verb, "model.onnx", "model.onnx", *options], capsys, monkeypatch)
    assert code == 2
    for part in parts:
        assert part in line


@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_models_with_other_inputs_are_not_compared(
    world: World, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build.proto([helper.make_node("Relu", ["picture"], ["scores"])], {"picture": [1, 5]}, {"scores": [1, 5]})
    onnx.save(other, "other.onnx")
    code, line = fails([verb, "model.onnx", "other.onnx"], capsys, monkeypatch)
    assert code == 2
    assert "other.onnx" in line
    assert "'image'" in line


def test_nothing_is_left_of_a_compile_that_fails(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, line = fails(
        ["compile", "model.onnx", "-o", "new/folder/out", "--data", "my_samples:none"], capsys, monkeypatch
    )
    assert (code, "no samples" in line) == (2, True)
    assert not (world.folder / "new").exists()


@pytest.mark.parametrize("seconds", ["inf", "0", "-1", "soon"])
def test_unusable_times_are_refused_by_the_command_line(
    world: World, seconds: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sardonyx", "bench", "model.onnx", "model.onnx", "--seconds", seconds])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out) == (2, "")
    assert "--seconds" in captured.err
    assert "Traceback" not in captured.err


EXPLAIN = {
    "no such node": ("model.onnx", "cnov1", ["model.onnx has no node 'cnov1'", "'conv1'"]),
    "no record": ("models", "conv1", ["models holds no record.json", "output folder"]),
    "a broken record": ("out", "conv1", ["record.json is not a compile record", "compile again"]),
    "the source is gone": (
        "moved",
        "conv1",
        ["moved was compiled from gone.onnx, which is not there", "Run from the folder"],
    ),
    "no source file": ("memory", "conv1", ["memory was not compiled from a file"]),
}


@pytest.mark.parametrize("case", EXPLAIN)
def test_unexplainable(
    world: World, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models", "moved", "memory"):
        (world.folder / name).mkdir()
    CompileRecord(source=FileEntry(path="gone.onnx", sha256="0")).write(world.folder / "moved" / "record.json")
    CompileRecord().write(world.folder / "memory" / "record.json")
    source, node, parts = EXPLAIN[case]
    code, line = fails(["explain", source, node], capsys, monkeypatch)
    assert code == 2
    for part in parts:
        assert part in line


@pytest.mark.parametrize("text", ["make-faster", "fuse{disable=", "fuse{disable=everything}"])
def test_unusable_passes_of_optimize(
    world: World, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.snapshot()
    code, line = fails(["optimize", "model.onnx", "-o", "out", "--passes", text], capsys, monkeypatch)
    assert code == 2
    assert text.partition("=")[2].rstrip("}") in line
    assert world.snapshot() == before
