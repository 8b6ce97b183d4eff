"""The shipped models: two classifiers of handwritten digits, their samples and their accuracy.

Every function of no argument can be named on a command line, such as `sardonyx.models.digits:cnn_samples`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sardonyx.models.entry import Entry, Feed, Run

SIDE = 8
"""Height and width of a digit as the data set has it."""
UPSCALED_SIDE = 32
"""Height and width of the image that the convolutional network takes."""
LEVELS = 16
"""Largest value of a pixel."""

_DATA = Path(__file__).parent / "data"
_BATCH = 100
_LICENCE = "Apache-2.0; data: CC BY 4.0, Alpaydin and Kaynak, UCI repository, doi:10.24432/C50P49"

Preprocess = Callable[[NDArray[np.uint8]], Feed]


def cnn() -> Entry:
    """Returns `digits_cnn`."""
    return Entry(
        name="digits_cnn",
        path=_DATA / "digits_cnn.onnx",
        samples=cnn_samples(),
        metric=cnn_accuracy,
        metric_name="top-1 accuracy",
        description="Residual and depthwise-separable CNN, BatchNormalization unfused: image float32 "
        "[batch, 1, 32, 32], values 0 to 1, to logits [batch, 10]. Samples are training images.",
        licence=_LICENCE,
    )


def transformer() -> Entry:
    """Returns `digits_transformer`."""
    return Entry(
        name="digits_transformer",
        path=_DATA / "digits_transformer.onnx",
        samples=transformer_samples(),
        metric=transformer_accuracy,
        metric_name="top-1 accuracy",
        description="Two-layer transformer encoder: tokens int64 [batch, 64], the pixels' values 0 to 16, to "
        "logits [batch, 10]. Samples are training images.",
        licence=_LICENCE,
    )


def cnn_samples() -> list[Feed]:
    """Returns calibration feeds of batch 1 for `digits_cnn`, from its training images."""
    return _samples("digits_cnn", cnn_input)


def cnn_accuracy(run: Run) -> float:
    """Returns the top-1 accuracy, 0 to 1, of a model with the inputs and outputs of `digits_cnn`."""
    return _accuracy("digits_cnn", cnn_input, run)


def transformer_samples() -> list[Feed]:
    """Returns calibration feeds of batch 1 for `digits_transformer`, from its training images."""
    return _samples("digits_transformer", transformer_input)


def transformer_accuracy(run: Run) -> float:
    """Returns the top-1 accuracy, 0 to 1, of a model with the inputs and outputs of `digits_transformer`."""
    return _accuracy("digits_transformer", transformer_input, run)


def cnn_input(images: NDArray[np.uint8]) -> Feed:
    """Scales images to values 0 to 1 and bilinearly to 32x32.

    Args:
        images: uint8 [n, 8, 8], values 0 to 16.

    Returns:
        `image`: float32 [n, 1, 32, 32].
    """
    matrix = upscaling()
    upscaled = matrix @ (images.astype(np.float32) / LEVELS) @ matrix.T
    return {"image": upscaled[:, None]}


def transformer_input(images: NDArray[np.uint8]) -> Feed:
    """Turns images into sequences of tokens, one a pixel.

    Args:
        images: uint8 [n, 8, 8], values 0 to 16.

    Returns:
        `tokens`: int64 [n, 64].
    """
    return {"tokens": images.reshape(len(images), SIDE * SIDE).astype(np.int64)}


def upscaling() -> NDArray[np.float32]:
    """Returns the matrix [32, 8] of bilinear interpolation of an axis: half-pixel centres, edges clamped."""
    centres = (np.arange(UPSCALED_SIDE) + 0.5) * (SIDE / UPSCALED_SIDE) - 0.5
    distance = np.abs(np.clip(centres, 0, SIDE - 1)[:, None] - np.arange(SIDE))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


def _read(name: str, *keys: str) -> tuple[NDArray[Any], ...]:
    with np.load(_DATA / f"{name}.npz") as data:
        return tuple(data[key] for key in keys)


def _samples(name: str, preprocess: Preprocess) -> list[Feed]:
    (images,) = _read(name, "calibration")
    return [preprocess(image[None]) for image in images]


def _accuracy(name: str, preprocess: Preprocess, run: Run) -> float:
    images, labels = _read(name, "test", "test_labels")
    right = 0
    for start in range(0, len(images), _BATCH):
        logits = run(preprocess(images[start : start + _BATCH]))[0]
        right += int((logits.argmax(1) == labels[start : start + _BATCH]).sum())
    return right / len(images)
