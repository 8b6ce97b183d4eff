"""The verbs with `--target tensorrt`: options, what is printed, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from sardonyx.backends.tensorrt.settings import AHEAD_OF_TIME
from tests.backends.tensorrt.graphs import convolutions
from tests.backends.tensorrt.test_child import FAKE
from tests.cli import test_verbs

pytest.importorskip(AHEAD_OF_TIME, reason="the ahead-of-time builder has no wheels for this system")

Run = Callable[[str], tuple[int, str, str]]
COMPILE = "compile model.onnx -o out --target tensorrt --data verb_samples:feeds --max-drop 20%"
folder = test_verbs.folder


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda arguments: test_verbs.run(arguments, capsys, monkeypatch)


def test_compile_prints_the_proof(folder: Path, run: Run) -> None:
    code, out, _ = run(f"{COMPILE} --sm 8.6 --require-int8 95% --shape image=1x3x16x16:2x3x16x16:4x3x16x16")
    assert code == 0
    assert "-sm86.engine" in out
    assert "proof      3 of 3 planned products run as INT8; in all: Int8 3" in out
    assert "shapes     image=1x3x16x16:2x3x16x16:4x3x16x16" in out
    record = json.loads((folder / "out" / "record.json").read_text())
    assert record["recipe"]["target_options"]["require_int8"] == 0.95
    assert record["engine"]["proof"]["integer"] == 3


def test_an_unmet_requirement_exits_with_1(folder: Path, run: Run) -> None:
    (folder / "model.onnx").write_bytes(convolutions().SerializeToString())
    code, out, _ = run("compile model.onnx -o out --target tensorrt --sm 7.5 --require-int8 95%")
    assert code == 1
    assert "not INT8   conv0 (Conv): Conv 'conv0'" in out
    assert "not met    0 of 2 products" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sm 8.6,7.5", "7.5 cannot be combined"),
        ("--sm 9.0", "no target for compute capability '9.0'"),
        ("--shape image=1x3x8x8", "is 16; the range image=1x3x8x8:1x3x8x8:1x3x8x8 has 8 there"),
        ("--shape picture=1x3x16x16", "no input 'picture'"),
        ("--workspace lots", "'lots' is no amount of memory"),
        ("--require-int8 ninety", "ninety"),
    ],
)
def test_options_that_cannot_be_meant_exit_with_2(run: Run, options: str, message: str) -> None:
    code, _, err = run(f"{COMPILE} {options}")
    assert code == 2
    assert message in err


def test_options_of_another_target_exit_with_2(run: Run) -> None:
    code, _, err = run("compile model.onnx -o out --sm 8.6")
    assert code == 2
    assert "The target onnxruntime has no option 'sm'. It has no options." in err


def test_inspect_is_the_preflight_check(folder: Path, run: Run) -> None:
    (folder / "model.onnx").write_bytes(convolutions(weight_only=True).SerializeToString())
    code, out, _ = run("inspect model.onnx --target tensorrt")
    assert code == 0
    assert "pre-flight  silent-float: Conv 'conv1'" in out
    assert "[weight-only]" in out


def test_targets_tells_which_builder_is_usable(run: Run) -> None:
    code, out, _ = run("targets --json")
    assert code == 0
    status = json.loads(out)["targets"]["tensorrt"]["status"]
    assert any(line.startswith(f"builder {AHEAD_OF_TIME} ") and line.endswith("usable") for line in status)
    assert json.loads(out)["targets"]["onnxruntime"]["status"] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_compile_that_is_stopped_while_the_builder_works_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    scratch, model = tmp_path / "scratch", convolutions()
    scratch.mkdir()
    model.graph.name = "hang"  # what the builder that stands in does with it
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    command = ["compile", "model.onnx", "-o", "out", "--target", "tensorrt", "--sm", "8.6"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sardonyx.cli.main", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FAKE), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background may ignore it
    )
    while not (builders := psutil.Process(process.pid).children()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in said) == (code, False), said
    assert not psutil.wait_procs(builders, timeout=10)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "scratch"]
    assert not list(scratch.glob("sardonyx*"))
