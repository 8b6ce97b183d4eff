"""What the documents say is true: their commands run, their examples work, their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from onnx import helper

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext
from sardonyx.pipeline import CompileRecord, PassManager, Recipe, available_passes, available_schemes, parse_pipeline
from tests import models_for_tests as build

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "models" / "README.md"])


def code(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def demo_command() -> list[str]:
    block = next(b for b in code("README.md", "") if b.startswith("sardonyx compile models/"))
    return shlex.split(block.replace("\\\n", " "))


def test_the_demo_in_the_readme_is_the_one_make_runs_and_it_works(tmp_path: Path) -> None:
    command = demo_command()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n\t  ", "").replace("\\\n", " ")
    in_makefile = re.search(r"\$\(BIN\)/(sardonyx compile .*)", makefile)
    assert in_makefile is not None
    assert sorted(shlex.split(in_makefile.group(1))) == sorted(command)
    arguments = [*command[1:-1], str(tmp_path / "demo")]
    done = subprocess.run(
        [sys.executable, "-m", "sardonyx.cli.main", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = CompileRecord.read(tmp_path / "demo" / "record.json")
    chosen = record.candidate(record.chosen)
    assert chosen is not None
    assert chosen.accuracy is not None
    assert f"{chosen.accuracy.original:.4f}" == "0.9887", "the accuracy that the README states"
    assert chosen.accuracy.drop <= 0.01


def test_the_example_pass_works() -> None:
    namespace: dict[str, object] = {}
    exec(compile(code("docs/writing-a-pass.md", "python")[0], "writing-a-pass.md", "exec"), namespace)
    example = namespace["DropNeg"]
    assert isinstance(example, type)
    assert issubclass(example, Pass)
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in (("x", "a"), ("a", "b"))]
    model = build.model([*nodes, helper.make_node("Exp", ["b"], ["y"])], {"x": [2]}, {"y": [2]})
    result = example().apply(model, PassContext())
    assert result.stats == {"drop-neg": 1}
    assert build.operators(model) == ["Neg", "Exp"]
    assert ir.verify(model) == ()


def test_the_example_of_a_rule_of_another_package_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = "docs/writing-a-pass.md"
    (tmp_path / "my_rules.py").write_text(code(document, "python")[1])
    monkeypatch.syspath_prepend(tmp_path)
    pipeline = re.search(r"`optimize: (cleanup, rewrite.*)`", (ROOT / document).read_text(encoding="utf-8"))
    assert pipeline is not None
    cast, sub, neg = (partial(helper.make_node, op) for op in ("Cast", "Sub", "Neg"))
    nodes = [
        *(sub(["x", "z"], ["d"]), neg(["d"], ["y"])),
        *(cast(["x"], ["i"], to=6), sub(["i", "i"], ["j"]), neg(["j"], ["k"]), cast(["k"], ["w"], to=1)),
    ]
    model = build.model(nodes, {"x": [2], "z": [2]}, {"y": [2], "w": [2]})
    result = PassManager(parse_pipeline(pipeline.group(1), available_passes())).run(model)
    assert sorted(build.operators(result.model)) == ["Cast", "Cast", "Neg", "Sub", "Sub"]
    assert result.records[1].stats == {"turn-difference": 1}
    assert [r.reason for r in result.records[1].refusals] == ["i is not known to be floating-point"]


def test_the_example_of_quantizing_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(build.cnn().SerializeToString())
    monkeypatch.chdir(tmp_path)
    exec(compile(code("docs/quantization.md", "python")[0], "quantization.md", "exec"), {})
    assert capsys.readouterr().out == "w3 dynamic-weight 5\n"


def test_the_schemes_in_the_document_are_all_there_are() -> None:
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    assert [name for name in available_schemes() if f"`{name}`" not in text] == []


def test_the_documented_recipe_is_the_default() -> None:
    assert Recipe.from_data(yaml.safe_load(code("docs/recipes-and-records.md", "yaml")[0])) == Recipe()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_architecture_fits_one_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 80
