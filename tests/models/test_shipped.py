"""The models in models/data: they run, they are as good as stated, and nothing in them is too large."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sardonyx import models
from sardonyx.models import digits

ROOT = Path(__file__).parents[2]
SHIPPED = ("digits_cnn", "digits_transformer")


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def stated_accuracy(name: str) -> float:
    readme = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
    return float(re.search(r"\b0\.\d{4}\b", row).group())


@pytest.mark.parametrize("name", SHIPPED)
def test_accuracy_is_as_stated(name):
    entry = models.load(name)
    runner = session(entry.path)
    accuracy = entry.metric(lambda feed: runner.run(None, dict(feed)))
    # One of the 797 images may fall on the other side on another machine: sums are in another order there.
    assert accuracy == pytest.approx(stated_accuracy(name), abs=1.5 / 797)


@pytest.mark.parametrize("name", SHIPPED)
def test_samples_fit_the_model_and_can_be_iterated_again(name):
    entry = models.load(name)
    runner = session(entry.path)
    first, again = list(entry.samples), list(entry.samples)
    assert len(first) == len(again) == 100
    for feed, same in zip(first, again, strict=True):
        assert feed.keys() == same.keys() == {value.name for value in runner.get_inputs()}
        assert all(np.array_equal(feed[key], same[key]) and len(feed[key]) == 1 for key in feed)
    (logits,) = runner.run(None, dict(first[0]))
    assert logits.shape == (1, 10)


@pytest.mark.parametrize("name", SHIPPED)
def test_rows_of_a_batch_do_not_influence_each_other(name):
    entry = models.load(name)
    runner = session(entry.path)
    feeds = list(entry.samples)[:5]
    batch = {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}
    together = runner.run(None, batch)[0]
    alone = np.concatenate([runner.run(None, dict(feed))[0] for feed in feeds])
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("name", SHIPPED)
def test_calibration_and_test_images_are_disjoint(name):
    with np.load(digits._DATA / f"{name}.npz") as data:
        calibration = {image.tobytes() for image in data["calibration"]}
        test = {image.tobytes() for image in data["test"]}
        assert len(data["test_labels"]) == len(data["test"]) > 700
        assert set(data["test_labels"]) == set(range(10))
    assert not calibration & test


def test_files_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "models" / "data").iterdir()}
    assert {f"{name}.{kind}" for name in SHIPPED for kind in ("onnx", "npz")} <= sizes.keys()
    assert max(sizes.values()) < 1.05e6
    assert sum(sizes.values()) < 2.5e6


def test_every_data_file_is_beside_the_installed_package():
    source = {path.name for path in (ROOT / "models" / "data").iterdir()}
    assert {path.name for path in digits._DATA.iterdir()} == source


def test_models_carry_no_paths_of_the_machine_that_trained_them():
    for name in SHIPPED:
        assert b'File "/' not in models.load(name).path.read_bytes()


def test_the_graphs_hold_what_a_compiler_has_to_fuse():
    text = models.load("digits_cnn").path.read_bytes()
    for op_type in (b"BatchNormalization", b"Relu", b"Add", b"MaxPool", b"GlobalAveragePool", b"Gemm"):
        assert op_type in text
    text = models.load("digits_transformer").path.read_bytes()
    for op_type in (b"Gather", b"MatMul", b"Softmax", b"LayerNormalization", b"Erf"):
        assert op_type in text


def test_upscaling_keeps_flat_images_flat_and_corners_clamped():
    matrix = digits.upscaling()
    assert matrix.shape == (32, 8)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    assert matrix[0, 0] == matrix[-1, -1] == 1


def test_inputs_have_the_documented_range():
    images = np.full((2, 8, 8), digits.LEVELS, np.uint8)
    assert digits.cnn_input(images)["image"].shape == (2, 1, 32, 32)
    np.testing.assert_allclose(digits.cnn_input(images)["image"], 1, atol=1e-6)
    tokens = digits.transformer_input(images)["tokens"]
    assert tokens.dtype == np.int64
    assert (tokens == 16).all()
