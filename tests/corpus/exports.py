"""The torch exports in a folder, judged."""

from pathlib import Path
from typing import Any

from sardonyx import ir
from sardonyx.models.exports.export import Export, exports_in
from tests.corpus.report import Tally
from tests.exactness import judge


def tally_exports(folder: Path) -> Tally:
    """Judges all exports in a folder, each on all its feeds; those that failed in the exporter are counted."""
    tally = Tally()
    for export in exports_in(folder):
        add_export(tally, export)
    return tally


def add_export(tally: Tally, export: Export) -> None:
    """Judges one export and counts it."""
    tally.counts["models"] += 1
    if export.error:
        tally.counts[f"not exported: {export.error.split(':')[0]}"] += 1
        return
    feeds = fitting_feeds(export)
    assert feeds, f"no feed fits the inputs of {export.name}"
    tally.count(export.name, judge(export.model, feeds))


def fitting_feeds(export: Export) -> list[dict[str, Any]]:
    """Returns the feeds that fit the declared inputs: an exporter may have fixed a size that was meant to vary."""
    shapes = {value.name: value.shape for value in ir.load(export.model).model.graph.inputs}
    return [feed for feed in export.feeds() if all(_fits(feed[name].shape, shape) for name, shape in shapes.items())]


def _fits(sizes: tuple[int, ...], declared: ir.Shape | None) -> bool:
    dims = () if declared is None else declared
    return all(size == dim or not isinstance(dim, int) for size, dim in zip(sizes, dims, strict=False))
