"""PP-OCRv4, as the package rapidocr-onnxruntime carries it, fed with rendered lines of text.

Sizes and normalization are those of the package's own preprocessing (its config.yaml): pixels to -1 to 1,
lines 48 pixels high, padded with zeros at the right.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sardonyx.models.catalogue.packages import Package
from sardonyx.models.catalogue.text import sentences
from sardonyx.models.entry import Entry, Feed

# The package only carries the files: neither what it depends on nor its bound on Python's version matters.
_INSTALL = "pip install --no-deps --ignore-requires-python rapidocr-onnxruntime==1.4.4 pillow"
_RAPIDOCR = Package("rapidocr_onnxruntime", "rapidocr-onnxruntime", _INSTALL)
_PILLOW = Package("PIL", "pillow", _INSTALL)

_LINE_HEIGHT = 48
_MIN_LINE_WIDTH = 320
_CLASSIFIER_WIDTH = 192
_PAGE_SIZES = ((736, 736), (736, 960), (960, 736))
_LINES_A_PAGE = 10

_SYNTHETIC = "Samples are English text rendered in one font on plain grounds: plausible, no measure of accuracy."
_LICENCE = "Apache-2.0 (PaddleOCR, RapidOCR)"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class _Stream:
    """Feeds that are drawn anew at each iteration, always the same."""

    draw: Callable[[], Iterator[NDArray[np.float32]]]

    def __iter__(self) -> Iterator[Feed]:
        return ({"x": image} for image in self.draw())


def recogniser() -> Entry:
    """Returns `ppocrv4_rec`.

    Raises:
        UsageError: If rapidocr-onnxruntime or pillow is not installed.
    """
    return _entry(
        "ppocrv4_rec",
        "ch_PP-OCRv4_rec_infer.onnx",
        "Text recogniser, CNN and attention with CTC: x float32 [n, 3, 48, width] to probabilities [n, steps, 6625].",
        _recogniser_inputs,
    )


def detector() -> Entry:
    """Returns `ppocrv4_det`.

    Raises:
        UsageError: If rapidocr-onnxruntime or pillow is not installed.
    """
    return _entry(
        "ppocrv4_det",
        "ch_PP-OCRv4_det_infer.onnx",
        "Text detector, fully convolutional: x float32 [n, 3, height, width], multiples of 32, to a map of "
        "text probability [n, 1, height, width].",
        _detector_inputs,
    )


def classifier() -> Entry:
    """Returns `ppocr_cls`.

    Raises:
        UsageError: If rapidocr-onnxruntime or pillow is not installed.
    """
    return _entry(
        "ppocr_cls",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "Text direction classifier (upright or turned by 180 degrees): x float32 [n, 3, 48, 192] to [n, 2].",
        _classifier_inputs,
    )


def _entry(name: str, file_name: str, description: str, draw: Callable[[], Iterator[NDArray[np.float32]]]) -> Entry:
    path = _RAPIDOCR.file(f"models/{file_name}", name)
    _PILLOW.require(f"{name} (to render its samples)")
    return Entry(
        name=name,
        path=path,
        samples=_Stream(draw),
        metric=None,
        metric_name="",
        description=f"{description} {_SYNTHETIC}",
        licence=_LICENCE,
    )


def _recogniser_inputs() -> Iterator[NDArray[np.float32]]:
    for line in _lines():
        yield _padded(line, max(_MIN_LINE_WIDTH, line.shape[1]))


def _classifier_inputs() -> Iterator[NDArray[np.float32]]:
    for index, line in enumerate(_lines()):
        shown = line[:, :_CLASSIFIER_WIDTH]
        yield _padded(shown[::-1, ::-1] if index % 2 else shown, _CLASSIFIER_WIDTH)


def _detector_inputs() -> Iterator[NDArray[np.float32]]:
    random = np.random.default_rng(1)
    lines = list(_lines())
    for index in range(2 * len(_PAGE_SIZES)):
        height, width = _PAGE_SIZES[index % len(_PAGE_SIZES)]
        page = np.full((height, width, 3), random.integers(200, 256), np.uint8)
        for number in range(_LINES_A_PAGE):
            line = lines[random.integers(len(lines))][:, : width - 64]
            left = random.integers(0, width - line.shape[1] - 16)
            top = 16 + number * (height - 32) // _LINES_A_PAGE
            page[top : top + line.shape[0], left : left + line.shape[1]] = line
        yield _normalized(page)


def _lines() -> Iterator[Image]:
    """Yields each sentence as an image uint8 [48, width, 3] in its own ink, ground and font size."""
    random = np.random.default_rng(0)
    for sentence in sentences():
        ground = random.integers(170, 256, 3)
        ink = random.integers(0, 90, 3)
        yield _render(sentence[:60], int(random.integers(24, 38)), (ink, ground))


def _render(text: str, size: int, colours: tuple[NDArray[Any], NDArray[Any]]) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    ink, ground = (tuple(map(int, colour)) for colour in colours)
    font = ImageFont.load_default(size)
    canvas = Pillow.new("RGB", (int(font.getlength(text)) + 16, _LINE_HEIGHT), ground)
    ImageDraw.Draw(canvas).text((8, _LINE_HEIGHT // 2), text, fill=ink, font=font, anchor="lm")
    return np.asarray(canvas)


def _normalized(image: Image) -> NDArray[np.float32]:
    """Turns uint8 [height, width, 3] into float32 [1, 3, height, width], values -1 to 1."""
    return (image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1).astype(np.float32)


def _padded(line: Image, width: int) -> NDArray[np.float32]:
    padded = np.zeros((1, 3, _LINE_HEIGHT, width), np.float32)
    padded[..., : line.shape[1]] = _normalized(line)
    return padded
