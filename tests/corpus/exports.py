"""The torch exports in a folder, judged."""

from pathlib import Path

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
    tally.count(export.name, judge(export.model, export.feeds()))
