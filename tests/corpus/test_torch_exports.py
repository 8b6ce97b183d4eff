"""What torch's exporters write: every export is optimized, runs at several sizes, and is equal."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `exports` is not installed")
pytest.importorskip("transformers", reason="the extra `exports` is not installed")
pytest.importorskip("timm", reason="the extra `exports` is not installed")

from sardonyx.models.exports.corpus import ARCHITECTURES, corpus
from tests.corpus.exports import add_export
from tests.corpus.report import Tally

pytestmark = pytest.mark.slow  # imports torch and exports

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


@pytest.mark.parametrize("name", [architecture.name for architecture in ARCHITECTURES])
def test_exports_are_optimized_and_equal(name: str, tmp_path: Path) -> None:
    tally = Tally()
    for export in corpus(tmp_path, [name]):
        assert FAILS.get(export.name, "") in export.error
        assert bool(export.error) is (export.name in FAILS), export.error
        add_export(tally, export)
    assert tally.failures == []
    assert tally.undone == []
    assert tally.counts["equal"] > 0
