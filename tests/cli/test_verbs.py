"""Every verb does its work, speaks JSON when asked, and keeps its exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from sardonyx.cli.main import main
from sardonyx.driver import compile as driver
from sardonyx.pipeline import CompileRecord
from tests import models_for_tests as build
from tests.timing_for_tests import decree

RECIPE = "timing_seconds: 0.1\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.onnx").write_bytes(build.cnn().SerializeToString())
    (tmp_path / "quick.yaml").write_text(RECIPE)
    (tmp_path / "verb_samples.py").write_text(
        "from tests.models_for_tests import images\ndef feeds(): return images(12)\ndef half(run): return 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "verb_samples", raising=False)
    return tmp_path


def run(arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sardonyx", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


COMPILE = "compile model.onnx -o out --recipe quick.yaml --data verb_samples:feeds --max-drop 20%"


def test_compile(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(COMPILE, capsys, monkeypatch)
    assert (code, err) == (0, "")
    for part in ("accuracy", "speed", "size", "95 % interval", "out/model.onnx", "out/record.json"):
        assert part in out
    onnx.checker.check_model(onnx.load(folder / "out" / "model.onnx"))


def test_compile_to_integers(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=2.0)
    code, out, _ = run(COMPILE, capsys, monkeypatch)
    assert code == 0
    assert "speed      2.00x" in out
    assert "integers   3 weights; 0 nodes of the target's table kept in float" in out
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(folder / "out" / "model.onnx").graph.node}


def test_compile_json_is_the_record(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(f"{COMPILE} --json", capsys, monkeypatch)
    assert (code, err) == (0, "")
    written = CompileRecord.read(folder / "out" / "record.json")
    assert json.loads(out)["chosen"] == written.chosen
    assert json.loads(out)["outputs"] == [entry.model_dump() for entry in written.outputs]


def test_a_budget_that_cannot_be_met_is_exit_code_1_and_writes_the_exact_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decree(monkeypatch, quantized=2.0)
    code, out, _ = run(COMPILE.replace("20%", "0"), capsys, monkeypatch)
    assert code == 1
    assert "more than the budget of 0.00%" in out
    operators = {n.op_type for n in onnx.load(folder / "out" / "model.onnx").graph.node}
    assert "QuantizeLinear" not in operators
    assert "BatchNormalization" not in operators


def test_a_metric_is_named_in_the_result(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(f"{COMPILE} --metric verb_samples:half", capsys, monkeypatch)
    assert code == 0
    assert "accuracy   0.5000 -> 0.5000 (drop +0.00%, budget 20.00%; verb_samples:half)" in out


def test_an_interrupted_compile_leaves_the_old_output(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(COMPILE, capsys, monkeypatch)
    before = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.CompileRecord, "write", interrupt)
    code, _, err = run(COMPILE, capsys, monkeypatch)
    assert (code, err) == (130, "warning: interrupted; nothing was written\n")
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir()} == before
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".out")) == []


def test_a_terminated_compile_leaves_the_old_output_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(COMPILE, capsys, monkeypatch)
    before = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(driver.CompileRecord, "write", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code, out, _ = run(COMPILE, capsys, monkeypatch)
    assert (code, out) == (143, "")
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir()} == before
    assert [p.name for p in folder.iterdir() if p.name.startswith(".out")] == []
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("verb", ["inspect model.onnx", "verify model.onnx model.onnx", "bench model.onnx model.onnx"])
def test_ctrl_c_is_exit_code_130_without_a_traceback(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sardonyx.measure.Session.run", interrupt)
    monkeypatch.setattr("sardonyx.ir.load", interrupt)
    code, out, err = run(verb, capsys, monkeypatch)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_warnings_go_to_standard_error_and_quiet_silences_them(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "one_sample.py").write_text("from tests.models_for_tests import images\ndef one(): return images(1)\n")
    command = COMPILE.replace("verb_samples:feeds", "one_sample:one")
    code, out, err = run(command, capsys, monkeypatch)
    assert (code, err.count("warning: ")) == (0, 1)
    assert "only one sample" in err
    assert "only one sample" not in out
    for option in ("--quiet", "--json"):
        assert run(f"{command} {option}", capsys, monkeypatch)[2] == ""


def test_inspect(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("inspect model.onnx", capsys, monkeypatch)
    assert code == 0
    assert "11 nodes" in out
    assert "MACs       202,792" in out, "55,296 + 147,456 of the convolutions, 40 of the Gemm"
    assert "3 weights" in out
    data = json.loads(run("inspect model.onnx --json", capsys, monkeypatch)[1])
    assert data["operators"]["Conv"] == 2
    assert data["target"]["float_nodes"] == {}


def test_optimize(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("optimize model.onnx -o out", capsys, monkeypatch)
    assert code == 0
    assert "optimized" in out
    operators = {n.op_type for n in onnx.load(folder / "out" / "model.onnx").graph.node}
    assert not operators & {"BatchNormalization", "Pad", "QuantizeLinear"}
    code, out, _ = run("optimize model.onnx -o out --passes fuse{disable=fuse-pad} --json", capsys, monkeypatch)
    assert code == 0
    assert json.loads(out)["pipeline"] == "fuse{disable=[fuse-pad]}"
    assert "Pad" in {n.op_type for n in onnx.load(folder / "out" / "model.onnx").graph.node}


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        ("norm1", ["fuse rewrote it to", "by fuse-batch-norm", "fuse-batch-norm: nothing: it applies"]),
        ("pad1", ["fuse rewrote it to", "by fuse-pad"]),
        ("gemm", ["no pass changed it", "it runs as integers"]),
        ("add1", ["fuse-channelwise: ", "not a constant", "it runs as integers"]),
    ],
)
def test_explain(
    node: str, parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(f"explain model.onnx {node}", capsys, monkeypatch)
    assert code == 0
    for part in parts:
        assert part in out


def test_explain_reads_a_compiles_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(COMPILE, capsys, monkeypatch)
    code, out, _ = run("explain out norm1 --json", capsys, monkeypatch)
    assert code == 0
    assert json.loads(out)["op_type"] == "BatchNormalization"
    (folder / "model.onnx").write_bytes(build.cnn(batch_norm=False).SerializeToString())
    code, _, err = run("explain out norm1", capsys, monkeypatch)
    assert code == 2
    assert "has changed since" in err
    code, _, err = run("explain model.onnx nobody", capsys, monkeypatch)
    assert code == 2
    assert "no node 'nobody'" in err


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("verify model.onnx model.onnx", capsys, monkeypatch)
    assert code == 0
    assert "bitwise equal" in out
    other = build.cnn()
    other.graph.node[-1].attribute.append(helper.make_attribute("alpha", 1.5))
    onnx.save(other, "other.onnx")
    code, out, _ = run("verify model.onnx other.onnx --data verb_samples:feeds --json", capsys, monkeypatch)
    assert code == 1
    assert json.loads(out)["same"] is False


def test_bench(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("bench model.onnx model.onnx --seconds 0.2 --json", capsys, monkeypatch)
    assert code == 0
    data = json.loads(out)
    assert data["low"] <= data["ratio"] <= data["high"]
    assert "interleaved pairs" in run("bench model.onnx model.onnx --seconds 0.2", capsys, monkeypatch)[1]


@pytest.mark.parametrize(("verb", "part"), [("passes", "fold-constants"), ("targets", "onnxruntime")])
def test_lists(verb: str, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert part in run(verb, capsys, monkeypatch)[1]
    assert part in json.loads(run(f"{verb} --json", capsys, monkeypatch)[1])[verb]


def test_unknown_options_are_exit_code_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("compile model.onnx --fast", capsys, monkeypatch)
    assert code == 2
    assert "--fast" in err


def test_help_needs_none_of_the_heavy_modules() -> None:
    program = (
        "import sys; sys.argv = ['sardonyx', '--help']\n"
        "from sardonyx.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'pydantic', 'yaml', 'torch'} & set(sys.modules)\n"
        "sys.stderr.write(' '.join(sorted(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "compile" in done.stdout
    assert done.stderr == ""
