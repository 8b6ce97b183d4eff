"""What torch's exporters write: every export is optimized, runs at several sizes, and is equal."""

import importlib.util
from pathlib import Path

import pytest

from tests.corpus.report import Tally

MISSING = [name for name in ("torch", "transformers", "timm") if importlib.util.find_spec(name) is None]
# Importing torch and exporting take minutes.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"the extra `exports` is not installed: no {', '.join(MISSING)}"),
]

NAMES = (
    *("resnet", "mobilenet-v2", "mobilenet-v3", "efficientnet", "densenet", "shufflenet", "squeezenet", "googlenet"),
    *("regnet", "ghostnet", "mobilevit", "levit", "convnext", "vit", "vit-eager", "swin"),
    *("bert", "gpt2", "llama", "llama-cached", "t5", "clip", "whisper-encoder", "segformer"),
    *("bert-eager", "gpt2-eager", "llama-eager", "t5-eager"),
    *("unet", "lstm", "gru", "conv-tasnet", "detector", "norms-and-activations"),
)
# Exports that fail in torch's own exporter, with what its message says.
ATTENTION = "scaled_dot_product_attention"
FAILS = {
    **{
        f"{name}-torchscript-11": ATTENTION
        for name in ("bert", "clip", "gpt2", "llama", "llama-cached", "mobilevit", "segformer", "t5", "vit")
    },
    "whisper-encoder-torchscript-11": ATTENTION,
    "norms-and-activations-torchscript-11": "celu",
    "t5-dynamo-18": "Cannot view a tensor",
    "t5-dynamo-23": "Cannot view a tensor",
}


@pytest.mark.parametrize("name", NAMES)
def test_exports_are_optimized_and_equal(name: str, tmp_path: Path) -> None:
    from sardonyx.models.exports.corpus import corpus
    from tests.corpus.exports import add_export

    tally = Tally()
    for export in corpus(tmp_path, [name]):
        assert FAILS.get(export.name, "") in export.error
        assert bool(export.error) is (export.name in FAILS), export.error
        add_export(tally, export)
    assert tally.failures == []
    assert tally.undone == []
    assert tally.counts["equal"] > 0


def test_all_architectures_are_tried() -> None:
    from sardonyx.models.exports.corpus import ARCHITECTURES

    assert tuple(architecture.name for architecture in ARCHITECTURES) == NAMES
