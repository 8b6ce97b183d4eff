"""What agreement is believed: of a few numbers no more than what all samples leave likely."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.driver.judge import AGREEMENT, AGREEMENT_OF_FEW, Judge
from sardonyx.measure import load_samples
from sardonyx.passes.base import no_progress
from sardonyx.pipeline import Accuracy, Recipe
from tests import models_for_tests as build


def capped(width: int, cap: float) -> ir.Model:
    """Returns its input of shape (1, width), at most `cap`."""
    node = helper.make_node("Min", ["x", "cap"], ["y"])
    return build.model([node], {"x": [1, width]}, {"y": [1, width]}, {"cap": np.array([cap], np.float32)})


def judged(folder: Path, width: int, cap: float, calibration: list[float] | None) -> Accuracy | None:
    """Judges a cap against none on held-out values of 0 to 3; `calibration` holds one value a sample."""
    target = backend("onnxruntime")

    def feeds(values: list[float]) -> list[dict[str, np.ndarray]]:
        return [{"x": np.full((1, width), value, np.float32)} for value in values]

    paths = []
    for name, limit in (("original", 1e9), ("quantized", cap)):
        (folder / name).mkdir()
        paths.append(target.emit(capped(width, limit), folder / name, check=False))
    with target.load(paths[0], threads=1) as original:
        judge = Judge(
            backend=target,
            original=original,
            metric=None,
            metric_name=AGREEMENT,
            original_metric=1.0,
            held_out=load_samples(feeds([0, 1, 2, 3])),
            calibration=None if calibration is None else load_samples(feeds(calibration)),
            feed=None,
            recipe=Recipe(),
            progress=no_progress,
        )
        return judge.measure("quantized", capped(width, cap), paths[1]).accuracy


@pytest.mark.parametrize(
    ("width", "cap", "calibration", "metric", "samples"),
    [
        (1, 4.0, [0, 1, 9, 2, 3, 1], AGREEMENT_OF_FEW, 10),
        (1, 2.5, [0, 1, 2], AGREEMENT_OF_FEW, 7),
        (1, 99.0, [0, 1, 9], AGREEMENT, 4),
        (200, 4.0, [0, 1, 9, 2, 3, 1], AGREEMENT, 4),
    ],
    ids=["luck", "few", "nothing lost", "numbers enough"],
)
def test_few_numbers_are_believed_no_more_than_all_samples_leave_likely(
    tmp_path: Path, width: int, cap: float, calibration: list[float], metric: str, samples: int
) -> None:
    accuracy = judged(tmp_path, width, cap, calibration)
    assert accuracy is not None
    assert (accuracy.metric, accuracy.samples) == (metric, samples)
    reference = np.array([0, 1, 2, 3] + (calibration if metric == AGREEMENT_OF_FEW else []))
    lost = np.square(reference - np.minimum(reference, cap)).sum() / np.square(reference - reference.mean()).sum()
    if metric == AGREEMENT_OF_FEW:
        assert accuracy.drop > lost
    else:
        assert accuracy.drop == pytest.approx(lost)


def test_without_samples_of_the_user_agreement_says_nothing_of_accuracy(tmp_path: Path) -> None:
    assert judged(tmp_path, 1, 2.5, None) is None
