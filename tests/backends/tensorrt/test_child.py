"""The child process may die, hang or be cancelled; nothing of that reaches the caller or stays behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from sardonyx.backends.tensorrt import worker
from sardonyx.backends.tensorrt.build import BuildJob, build, build_all, find_builders
from sardonyx.backends.tensorrt.child import Stage
from sardonyx.backends.tensorrt.settings import BuildSettings
from sardonyx.errors import SaveError

FAKE = Path(__file__).parent / "fake"
RTX = BuildSettings(modules=("tensorrt_rtx",), timeout_seconds=30)


@pytest.fixture(autouse=True)
def fake_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def model(folder: Path, text: str) -> Path:
    path = folder / f"{text.replace(' ', '_')}.onnx"
    path.write_text(text)
    return path


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("die in the parser", ["The builder died with SIGSEGV."]),
        ("die in the builder", ["The builder died with SIGABRT.", "Its last words:", "terminate called"]),
        ("leave", ["The builder died with exit code 7."]),
    ],
)
def test_a_builder_that_dies_is_reported(tmp_path: Path, behaviour: str, said: list[str]) -> None:
    result = build(model(tmp_path, behaviour), RTX, engine=tmp_path / "model.engine")
    assert result.stage is Stage.CRASH
    assert all(words in result.why() for words in said)
    assert [p.name for p in tmp_path.iterdir()] == [f"{behaviour.replace(' ', '_')}.onnx"]
    assert not children()


def test_a_builder_that_hangs_is_stopped(tmp_path: Path) -> None:
    settings = BuildSettings(modules=("tensorrt_rtx",), timeout_seconds=0.6)
    result = build(model(tmp_path, "hang"), settings, engine=tmp_path / "model.engine")
    assert result.stage is Stage.TIMEOUT
    assert result.why() == "The builder did not finish within 0.6 s and was stopped."
    assert [p.name for p in tmp_path.iterdir()] == ["hang.onnx"]
    assert not children()


def test_a_build_can_be_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()

    def at_work(done: int, total: int | None, what: str) -> None:
        cancel.set()

    result = build(model(tmp_path, "hang"), RTX, progress=at_work, cancel=cancel)
    assert result.stage is Stage.CANCELLED
    assert not children()


def test_an_interrupt_stops_the_child_and_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(model(tmp_path, "hang"), RTX, engine=tmp_path / "model.engine", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["hang.onnx"]
    assert not children()


def test_the_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    path = model(tmp_path, "hang")
    code = (
        "from sardonyx.backends.tensorrt.build import build\n"
        f"build({str(path)!r}, progress=lambda done, total, what: print('at work', flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "at work\n"
    (child,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive


def test_one_job_that_dies_does_not_take_the_others_along(tmp_path: Path) -> None:
    jobs = [BuildJob(model(tmp_path, text), RTX) for text in ("one", "die in the parser", "two", "refuse", "three")]
    results = build_all(jobs)
    assert [result.stage for result in results] == ["done", "crash", "done", "build", "done"]


def test_messages_are_told_without_noise(tmp_path: Path) -> None:
    result = build(model(tmp_path, "refuse"), RTX)
    assert result.why() == "no tactics to implement the operation"
    assert (result.module, result.version) == ("tensorrt_rtx", "0.fake")


def test_progress_and_result_arrive(tmp_path: Path) -> None:
    told: list[tuple[int, int | None, str]] = []
    result = build(
        model(tmp_path, "fine"),
        RTX,
        engine=tmp_path / "model.engine",
        progress=lambda done, total, what: told.append((done, total, what)),
    )
    assert told[0] == (0, 4, "tensorrt: Building engine")
    assert (result.stage, result.engine_bytes, result.weights_bytes) == (Stage.DONE, 4, 12)
    assert (tmp_path / "model.engine").read_bytes() == b"fine"
    assert result.peak_rss_bytes > 5e6


def test_an_engine_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="cannot be written"):
        build(model(tmp_path, "fine"), RTX, engine=tmp_path / "no" / "model.engine")


def test_builders_are_found_with_their_versions() -> None:
    found = find_builders(("absent_builder", "tensorrt_rtx"))
    assert found["tensorrt_rtx"].version == "0.fake"
    assert found["absent_builder"].stage is Stage.START
    assert "No module named 'absent_builder'" in found["absent_builder"].why()


def test_a_target_that_the_builder_lacks_is_named(tmp_path: Path) -> None:
    result = build(model(tmp_path, "fine"), BuildSettings(compute_capabilities=("8.9",)))
    assert result.stage is Stage.PROFILE
    assert result.why() == "The builder has no target SM89."


def test_the_next_module_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "class Builder:\n    def __init__(self, logger): raise TypeError('nullptr')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{FAKE}")
    result = build(model(tmp_path, "fine"), BuildSettings(timeout_seconds=30))
    assert result.module == "tensorrt_rtx"
    assert list(result.skipped) == ["tensorrt"]


def test_the_child_imports_nothing_of_the_package() -> None:
    source = Path(worker.__file__).read_text()
    assert "sardonyx" not in source.partition('"""')[2].partition('"""')[2]


@pytest.fixture
def full_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildSettings:
    """One that times tactics; the settings name a file for the timings."""
    (tmp_path / "tensorrt.py").write_text(
        "import tensorrt_rtx\nfrom tensorrt_rtx import *\ndel ComputeCapability\n__version__ = '11.fake'\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{FAKE}")
    return BuildSettings(timing_cache=tmp_path / "timings", timeout_seconds=30)


def test_the_full_builder_has_a_timing_cache(tmp_path: Path, full_builder: BuildSettings) -> None:
    results = [build(model(tmp_path, "fine"), full_builder) for _ in "ab"]
    assert [(each.module, each.version, each.stage) for each in results] == [("tensorrt", "11.fake", "done")] * 2
    assert (tmp_path / "timings").read_bytes() == b"timed timed "
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"fine.onnx", "tensorrt.py", "timings"}


def test_timings_of_another_gpu_are_refused_and_kept(tmp_path: Path, full_builder: BuildSettings) -> None:
    timings = tmp_path / "timings"
    timings.write_bytes(b"of another GPU")
    result = build(model(tmp_path, "fine"), full_builder, engine=tmp_path / "model.engine")
    assert (result.stage, timings.read_bytes()) == (Stage.BUILD, b"of another GPU")
    assert result.why().startswith(f"{timings} holds no timings of this GPU and this version of TensorRT")
    assert not (tmp_path / "model.engine").exists()


def test_a_timing_cache_that_cannot_be_read_is_told(tmp_path: Path, full_builder: BuildSettings) -> None:
    (tmp_path / "timings").mkdir()
    result = build(model(tmp_path, "fine"), full_builder)
    assert result.stage is Stage.BUILD
    assert "timings cannot be read: Is a directory." in result.why()
