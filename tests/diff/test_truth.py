"""Matching against editors whose edits are known: the part of `benchmarks/diff_truth.py` that is quick."""

from pathlib import Path

import pytest

from benchmarks.diff_editors import EDITORS
from benchmarks.diff_truth import Numeric, Score, all_values, evaluate, feeds_of
from sardonyx import ir
from sardonyx.models import registry

MODELS = Path(registry.__file__).parent / "data"
OWN = [name for name in EDITORS if name in ("own-passes", "rule:fuse-batch-norm")]
EDITS = ["rename", "reorder", "one-weight", "one-attribute", "delete-layer", "upgrade-opset", *OWN]


@pytest.mark.parametrize("hide_names", [False, True], ids=["names", "other-names"])
@pytest.mark.parametrize("editor", EDITS)
@pytest.mark.parametrize("model", ["digits_cnn", "digits_transformer"])
def test_known_edits_are_told_from_the_graphs_alone(model: str, editor: str, hide_names: bool, tmp_path: Path) -> None:
    before = ir.load(MODELS / f"{model}.onnx").model
    edited = EDITORS[editor](before, tmp_path)
    if edited is None:
        assert (model, editor) == ("digits_transformer", "rule:fuse-batch-norm"), "an editor that finds nothing to edit"
        return
    feeds = feeds_of(before, None)
    truth = Numeric(all_values(before, feeds), all_values(edited.model, feeds))
    scores = evaluate(before, edited, truth, hide_names=hide_names)
    assert scores
    for what, score in scores.items():
        assert _share(score.right, score.reported) >= 0.98, (what, score.wrong)
        assert _share(score.found, score.wanted) >= 0.98, (what, score.missed)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def test_the_truth_knows_a_wrong_matching() -> None:
    score = Score(reported=4, right=3, wanted=6, found=3)
    assert str(score).split() == ["0.750", "0.500"]
