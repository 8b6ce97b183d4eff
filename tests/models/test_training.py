"""The training scripts, for a few steps and where torch is installed."""

import dataclasses
import importlib

import numpy as np
import pytest

pytestmark = pytest.mark.slow
MODULES = ("digits_cnn", "digits_transformer")


@pytest.mark.parametrize("name", MODULES)
def test_script_trains_exports_and_repeats_itself(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    shared = importlib.import_module("sardonyx.models.training.digits")
    script = importlib.import_module(f"sardonyx.models.training.{name}")
    monkeypatch.setattr(shared, "DATA", tmp_path)
    monkeypatch.setattr(script, "SCHEDULE", dataclasses.replace(script.SCHEDULE, epochs=1))
    script.main()
    first = capsys.readouterr().out
    script.main()
    assert capsys.readouterr().out == first
    assert "accuracy" in first
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.onnx", f"{name}.npz"}


def test_split_is_disjoint_and_calibrates_with_training_images():
    pytest.importorskip("sklearn", reason="the extra `train` is not installed")
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    data = importlib.import_module("sardonyx.models.training.digits").split()
    trained = {image.tobytes() for image in data.images}
    assert {image.tobytes() for image in data.calibration} <= trained
    assert not {image.tobytes() for image in data.test} & trained
    assert data.images.dtype == np.uint8
    assert data.images.max() == 16
