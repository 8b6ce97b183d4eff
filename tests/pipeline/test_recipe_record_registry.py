"""Recipes in, records out, passes from other packages."""

import json
import re
from pathlib import Path

import pytest

from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import Refusal
from sardonyx.pipeline import CompileRecord, PassRecord, Recipe, Status, available_passes

TEXTS = {
    "recipe.yaml": "max_drop: 0.02\nthreads: 2\n",
    "recipe.yml": "max_drop: 0.02\nthreads: 2\n",
    "recipe.toml": "max_drop = 0.02\nthreads = 2\n",
    "recipe.json": '{"max_drop": 0.02, "threads": 2}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_recipes_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEXTS[name])
    assert Recipe.from_file(tmp_path / name) == Recipe(max_drop=0.02, threads=2)


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    assert Recipe.from_file(tmp_path / "empty.yaml") == Recipe()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "speed: 1\n", "unknown entry speed. Known entries: target, "),
        ("a.yaml", "max_dorp: 0.1\n", "unknown entry max_dorp. Did you mean max_drop?"),
        ("a.yaml", "max_drop: 2\n", "max_drop is 2, which should be less than 1. Its default is 0.01."),
        ("a.yaml", "max_drop: 1%\n", "max_drop is '1%', which should be a valid number"),
        ("a.yaml", "opset: 9\n", "opset is 9, which should be greater than or equal to 13. Its default is 17."),
        ("a.yaml", "quantize: [a]\n", "quantize is ['a'], which should be a valid string"),
        ("a.yaml", "- 1\n- 2\n", "is not a mapping"),
        ("a.yaml", "false\n", "is not a mapping"),
        ("a.yaml", "a: [\n", "cannot be read"),
        ("a.toml", "a = \n", "cannot be read"),
        ("a.txt", "", "is no recipe file"),
    ],
)
def test_bad_recipes(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        Recipe.from_file(tmp_path / name)
    assert name in caught.value.message
    assert caught.value.remedy


def test_records_survive_json(tmp_path: Path) -> None:
    record = CompileRecord(recipe=Recipe(threads=3))
    record.passes.append(
        PassRecord("p", "p{a=1}", Status.UNDONE, "why", 0.5, (3, 3), (9, 9), {"r": 1}, (Refusal("r", "why", ("n",)),))
    )
    record.decide("stage", "choice", "reason", ("subject",))
    record.write(tmp_path / "record.json")
    assert CompileRecord.read(tmp_path / "record.json") == record
    assert json.loads((tmp_path / "record.json").read_text())["passes"][0]["status"] == "undone"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1, "unknown": 2}', b'{"version": 2}', b"\xff\xfe\x00"])
def test_unreadable_records(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(SpecError, match="not a compile record"):
        CompileRecord.read(tmp_path / "record.json")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, location: str, module: str) -> None:
    """Puts a distribution that registers one pass on the path."""
    info = folder / "plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[sardonyx.passes]\n{name} = {location}\n")
    (folder / f"{location.partition(':')[0]}.py").write_text(module)
    monkeypatch.syspath_prepend(str(folder))


PLUGIN = """
from dataclasses import dataclass
from sardonyx.passes.base import Pass, PassResult

@dataclass(frozen=True)
class Nothing(Pass):
    name = "nothing"
    summary = "does nothing"

    def apply(self, model, context):
        return PassResult(model, modified=False)

text = "no pass"
"""


def test_passes_of_other_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "nothing", "plugin_good:Nothing", PLUGIN)
    assert available_passes()["nothing"].summary == "does nothing"


@pytest.mark.parametrize(
    ("name", "location", "module", "message"),
    [
        ("cleanup", "plugin_clash:Nothing", PLUGIN, "'cleanup', registered by plugin .* has a name that is taken"),
        ("raises", "plugin_raises:Nothing", "undefined_name", "'raises'.* cannot be imported: NameError"),
        ("other-name", "plugin_name:Nothing", PLUGIN, "calls itself 'nothing'"),
        ("broken", "plugin_broken:Nothing", "import does_not_exist", "cannot be imported"),
        ("absent", "plugin_absent:Something", PLUGIN, "cannot be imported"),
        ("text", "plugin_text:text", PLUGIN, "not a subclass of Pass"),
    ],
)
def test_bad_plugins_are_named(
    name: str, location: str, module: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, name, location, module)
    with pytest.raises(PassError, match=message):
        available_passes()


def test_a_record_that_is_missing_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"There is no compile record at .*record\.json\. Name the output folder"):
        CompileRecord.read(tmp_path / "record.json")


def test_what_is_wrong_ends_before_what_to_do() -> None:
    assert str(SpecError("a.npz: no zip file", remedy="Write it again.")) == "a.npz: no zip file. Write it again."
    assert str(SpecError("It is late.", remedy="Go on.")) == "It is late. Go on."
    assert str(SpecError("no remedy")) == "no remedy"
