"""The whole corpus: every architecture by every exporter and opset."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sardonyx.models.exports import handmade, language, vision
from sardonyx.models.exports.architecture import Architecture
from sardonyx.models.exports.export import VARIANTS, Export, Variant
from sardonyx.models.exports.exporters import export

ARCHITECTURES: tuple[Architecture, ...] = (
    *vision.ARCHITECTURES,
    *language.ARCHITECTURES,
    *handmade.ARCHITECTURES,
)


def corpus(folder: Path, names: Sequence[str] = (), variants: Sequence[Variant] = VARIANTS) -> Iterator[Export]:
    """Exports architectures into a folder, one after the other, and yields each; what is there already is kept.

    Args:
        folder: Where the exports are kept.
        names: The architectures wanted; none for all.
        variants: The exporters and opsets.
    """
    for architecture in ARCHITECTURES:
        if not names or architecture.name in names:
            for variant in variants:
                yield export(architecture, variant, folder)
