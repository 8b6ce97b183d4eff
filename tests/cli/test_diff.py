"""`sardonyx diff` and `sardonyx text`: exit codes, JSON, and git's textconv."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from sardonyx.cli.main import main
from sardonyx.diff import Diff
from tests import models_for_tests as build


def run(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sardonyx", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def changed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with another operator in place of the first Relu."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    next(node for node in copy.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    return copy


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for i, node in enumerate(copy.graph.node):
        node.name = f"other{i}"
    return copy


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str, str]:
    models = {"a": build.cnn(), "b": changed(build.cnn()), "c": renamed(build.cnn())}
    for name, model in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    return tuple(str(tmp_path / f"{name}.onnx") for name in models)  # type: ignore[return-value]


def test_exit_codes_say_same_different_or_unreadable(
    pair: tuple[str, str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = pair
    code, out, _ = run(["diff", a, c], capsys, monkeypatch)
    assert (code, out.splitlines()[0]) == (0, "the same but for names and metadata")
    code, out, _ = run(["diff", a, b], capsys, monkeypatch)
    assert code == 1
    assert "@@ replaced" in out
    assert any(line.startswith("-") and "Relu(" in line for line in out.splitlines())
    assert any(line.startswith("+") and "Sigmoid(" in line for line in out.splitlines())
    code, _, err = run(["diff", a, "missing.onnx"], capsys, monkeypatch)
    assert code == 2
    assert "missing.onnx" in err


def test_json_is_one_document_of_the_schema(
    pair: tuple[str, str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(["diff", pair[0], pair[1], "--json"], capsys, monkeypatch)
    found = Diff.model_validate(json.loads(out))
    assert (code, found.same, found.counts["replaced"]) == (1, False, 1)


def test_the_text_does_not_change_with_names(
    pair: tuple[str, str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [run(["text", path], capsys, monkeypatch)[1] for path in pair]
    assert texts[0] == texts[2]
    differing = [(x, y) for x, y in zip(*(t.splitlines() for t in texts[:2]), strict=True) if x != y]
    assert [(x.split("(")[0], y.split("(")[0]) for x, y in differing] == [("Relu", "Sigmoid")]
    with_names = run(["text", pair[2], "--names"], capsys, monkeypatch)[1]
    assert "# other0" in with_names


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_shows_the_changes_of_committed_models(pair: tuple[str, str, str], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    environment = os.environ | identity | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=repository, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "-q")
    (repository / ".gitattributes").write_text("*.onnx diff=onnx\n")
    git("config", "diff.onnx.textconv", f"{sys.executable} -m sardonyx.cli.main text")
    for path in pair[:2]:
        shutil.copy(path, repository / "model.onnx")
        git("add", "-A")
        git("commit", "-q", "-m", "model")
    lines = git("diff", "HEAD~1", "HEAD", "--", "model.onnx").splitlines()
    edits = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.split("(")[0] for line in edits] == ["-Relu", "+Sigmoid"]


def test_the_document_names_every_field_of_the_schema() -> None:
    document = (Path(__file__).parents[2] / "docs" / "diff.md").read_text(encoding="utf-8")
    assert [name for name in Diff.model_fields if f"`{name}`" not in document] == []
