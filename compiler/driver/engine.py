"""What a compile does with engines: records them, and takes them along into the output folder."""

import shutil
from pathlib import Path

from sardonyx.backends import EngineReport
from sardonyx.pipeline import CompileRecord


def note_engine(record: CompileRecord, name: str, report: EngineReport) -> None:
    """Records what became of building a candidate, with a decision for each node that is not INT8 as planned."""
    record.engine = report
    record.warnings.extend(w for w in report.warnings if w not in record.warnings)
    if not report.built:
        record.decide("engine", "none", "; ".join(report.problems))
        record.warnings.append(f"No engine was built of {name}: {'; '.join(report.problems)}")
        return
    proof = report.proof
    if proof is not None:
        built = f"{proof.integer} of {proof.planned} planned products run as integers"
        record.decide("engine", report.file, built)
        for miss in proof.misses:
            runs = f"in {miss.precision}" if miss.precision else "nowhere by itself"
            record.decide("engine", "not integer", f"{miss.op_type} runs {runs}: {miss.reason}", (miss.node,))
    if report.unmet:
        record.warnings.append(report.unmet)


def is_met(engine: EngineReport | None) -> bool:
    """Returns whether demands on an engine are met: it is built and misses none, or there was no builder to ask."""
    return engine is None or not (engine.failed or engine.unmet)


def take_along(scratch: Path, folder: Path) -> None:
    """Moves what was built beside a candidate into the output folder; what `emit` wrote there stays."""
    for file in sorted(scratch.iterdir()):
        if not (folder / file.name).exists():
            shutil.move(file, folder / file.name)
