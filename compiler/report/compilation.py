"""The page of a compile: what its record says, in the order in which a reader asks."""

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from sardonyx.passes.quantization.evidence import EVIDENCE
from sardonyx.pipeline import Candidate, CompileRecord, PassRecord
from sardonyx.report import charts
from sardonyx.report.charts import ParetoPoint
from sardonyx.report.comparison import graph_section
from sardonyx.report.content import (
    Block,
    Cell,
    Code,
    Column,
    Facts,
    Figure,
    Notes,
    Report,
    Section,
    Table,
    Tone,
    Verdict,
    names,
    numbers,
)
from sardonyx.report.engine import engine_section
from sardonyx.report.evidence import Evidence
from sardonyx.report.measured import calibration_section, drift_section, times_section, weights_section

ORIGINAL = "original"


def compile_report(record: CompileRecord, evidence: Evidence) -> Report:
    """Returns the page of a compile.

    Args:
        record: What was done, measured and decided.
        evidence: What is known beyond the record; sections without any say why.
    """
    titles = (ORIGINAL, record.chosen)
    graph = (
        Section("Before and after", (), evidence.no_comparison)
        if evidence.comparison is None
        else graph_section(evidence.comparison)
    )
    sections = (
        _notices(record),
        Section("What each pass did", tuple(_pass_blocks(record.passes))),
        _choices(record),
        engine_section(record.engine),
        graph,
        drift_section(evidence.drift, evidence.no_drift),
        times_section(evidence.times, titles, evidence.no_times),
        calibration_section(_rounding(record, "activations")),
        weights_section(_rounding(record, "weights")),
        _candidates(record),
        _reproduction(record),
    )
    shown = tuple(section for section in sections if section.blocks or section.summary)
    version = record.tools.get("sardonyx", "")
    return Report(_name(record), "compile report", _verdict(record), shown, f"Sardonyx {version}, {record.created}")


def _name(record: CompileRecord) -> str:
    return record.source.path or "model"


def _verdict(record: CompileRecord) -> Verdict:
    decision = next((d for d in reversed(record.decisions) if d.stage == "choose"), None)
    reason = "" if decision is None else f"{decision.reason[:1].upper()}{decision.reason[1:]}."
    chosen = record.candidate(record.chosen)
    headline = f"The {record.chosen} model was written for {record.recipe.target}{_gains(record, chosen)}."
    tone: Tone = "good"
    if not record.met_budget:
        headline, tone = f"{headline} The accuracy budget could not be met with integers.", "warn"
    return Verdict(headline, tone, reason, () if chosen is None else tuple(_figures(record, chosen)))


def _gains(record: CompileRecord, chosen: Candidate | None) -> str:
    """What was gained, as it follows a statement."""
    gains = []
    if chosen is not None and chosen.latency is not None and chosen.latency.low > 1:
        gains.append(f"{chosen.latency.speedup:.2f} times as fast")
    if chosen is not None and chosen.nbytes and chosen.nbytes < (record.source.nbytes or 0):
        gains.append(f"{(record.source.nbytes or 0) / chosen.nbytes:.2f} times smaller")
    if chosen is not None and chosen.accuracy is not None and chosen.accuracy.drop <= record.recipe.max_drop:
        gains.append("within the accuracy budget")
    return f": {', '.join(gains)}" if gains else ""


def _figures(record: CompileRecord, chosen: Candidate) -> Iterator[Figure]:
    accuracy, latency = chosen.accuracy, chosen.latency
    if accuracy is not None:
        kept = accuracy.drop <= record.recipe.max_drop
        samples = f"; {accuracy.samples} held-out samples" if accuracy.samples else ""
        detail = f"drop {accuracy.drop:+.2%}, budget {record.recipe.max_drop:.2%}; {accuracy.metric}{samples}"
        value = f"{accuracy.original:.4f} → {accuracy.candidate:.4f}"
        yield Figure("accuracy", value, detail, "good" if kept else "bad")
    if latency is not None:
        interval = f"times as fast, 95 % interval {latency.low:.3f} to {latency.high:.3f}"
        detail = f"{interval}; {latency.original_ms:.3f} → {latency.candidate_ms:.3f} ms, threads: {latency.threads}"
        tone: Tone = "good" if latency.low > 1 else "bad" if latency.high < 1 else "plain"
        yield Figure("speed", f"{latency.speedup:.2f}x", f"{detail}, {latency.pairs:,} interleaved pairs", tone)
    before, after = record.source.nbytes or 0, chosen.nbytes
    ratio = f"{before / after:.2f} times smaller; bytes of tensors" if after and after < before else "bytes of tensors"
    yield Figure("size", f"{_bytes(before)} → {_bytes(after)}", ratio, "good" if after < before else "plain")


def _bytes(nbytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"


def _notices(record: CompileRecord) -> Section:
    blocks: list[Block] = []
    if record.warnings:
        blocks.append(Notes(tuple(record.warnings), "warn"))
    if record.repairs:
        blocks.append(Notes(tuple(f"Repaired: {repair}" for repair in record.repairs)))
    return Section("To know", tuple(blocks))


def _pass_blocks(passes: Iterable[PassRecord]) -> Iterator[Block]:
    passes = tuple(passes)
    columns = (
        numbers("#"), names("pass"), Column("outcome"), numbers("nodes"),
        numbers("change"), numbers("bytes"), numbers("ms", ",.1f"),
        Column("rules applied"), numbers("refusals"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            position,
            done.name,
            f"{done.status}: {done.reason}" if done.reason else str(done.status),
            done.nodes[1],
            done.nodes[1] - done.nodes[0],
            done.nbytes[1],
            1e3 * done.seconds,
            ", ".join(f"{rule} {times}" for rule, times in sorted(done.stats.items(), key=lambda item: -item[1])),
            len(done.refusals),
        )
        for position, done in enumerate(passes, start=1)
    ]
    yield Table(columns, rows, "Passes in order")
    refusals: list[tuple[Cell, ...]] = [
        (done.name, refusal.rule, ", ".join(refusal.nodes), refusal.reason)
        for done in passes
        for refusal in done.refusals
    ]
    if refusals:
        where = (names("pass"), names("rule"), names("where"), Column("reason"))
        yield Table(where, refusals, "What was not done, and why")


def _choices(record: CompileRecord) -> Section:
    columns = (Column("stage"), Column("choice"), names("where"), Column("reason"))
    rows = [(d.stage, d.choice, ", ".join(d.subjects), d.reason) for d in record.decisions]
    return Section("Choices", (Table(columns, rows, "Every decision"),) if rows else ())


def _candidates(record: CompileRecord) -> Section:
    points = [
        ParetoPoint(
            c.name, c.latency.speedup, c.latency.low, c.latency.high, c.accuracy.drop, c.nbytes, _won(record, c)
        )
        for c in record.candidates
        if c.latency is not None and c.accuracy is not None
    ]
    columns = (
        Column("candidate"), numbers("times as fast", ".3f"), numbers("from", ".3f"), numbers("to", ".3f"),
        numbers("drop %", ".3f"), numbers("bytes"), Column("outcome"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            c.name,
            c.latency.speedup if c.latency else None,
            c.latency.low if c.latency else None,
            c.latency.high if c.latency else None,
            100 * c.accuracy.drop if c.accuracy else None,
            c.nbytes,
            c.rejected or ("written" if _won(record, c) else "not the fastest"),
        )
        for c in record.candidates
    ]
    chart: tuple[Block, ...] = (charts.pareto(points, record.recipe.max_drop),) if points else ()
    return Section("Candidates", (*chart, Table(columns, rows)) if rows else ())


def _rounding(record: CompileRecord, kind: str) -> list[dict[str, Any]]:
    """What the passes noted of the rounding of activations or weights."""
    return [entry for done in record.passes for entry in done.details.get(EVIDENCE, {}).get(kind, ())]


def _won(record: CompileRecord, candidate: Candidate) -> bool:
    return candidate.name == record.chosen


def _reproduction(record: CompileRecord) -> Section:
    recipe = yaml.safe_dump(record.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    files = [("source", record.source), *((file.path or "", file) for file in record.outputs)]
    columns = (
        names("file"),
        names("SHA-256 of the file"),
        names("digest of graph and weights"),
    )
    hashes = Table(columns, [(path, file.sha256, file.digest) for path, file in files], "Files")
    machine = ((key, _words(value)) for key, value in record.machine.items())
    samples = ((f"samples: {key}", _words(value)) for key, value in record.samples.items())
    versions = ((f"version: {tool}", version) for tool, version in record.tools.items())
    blocks: tuple[Block, ...] = (
        Code(_command(record), "Command"),
        Code(recipe, "recipe.yaml"),
        *((Code(record.pipeline, "Pipeline"),) if record.pipeline else ()),
        hashes,
        Facts((*machine, *samples, *versions)),
    )
    return Section("How to reproduce", blocks)


def _words(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _command(record: CompileRecord) -> str:
    """The command with the recipe below; samples and metric by the names that the record has for them."""
    words = ["sardonyx", "compile", record.source.path or "model.onnx", "--recipe", "recipe.yaml"]
    if record.samples.get("calibration"):
        words += ["--data", str(record.samples["source"])]
    metric = next((c.accuracy.metric for c in record.candidates if c.accuracy), None)
    if metric is not None and ":" in metric:  # a function by name, as the command line takes it
        words += ["--metric", metric]
    return shlex.join([*words, "-o", "out"])
