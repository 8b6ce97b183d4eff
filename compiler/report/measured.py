"""Sections of what was measured inside the models: drift, time by node, calibration, weights."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sardonyx.diff.drift_schema import Drift, Error, Place
from sardonyx.diff.schema import NodeEntry
from sardonyx.diff.timing import Kernel, Times
from sardonyx.report import charts
from sardonyx.report.charts import Histogram
from sardonyx.report.content import Block, Cell, Charts, Column, Section, Table, names, numbers

MOST_POINTS = 4_000
"""Points of a chart; of more, the worst of equal stretches are drawn, and all are in the table."""

MOST_NAMES = 4
"""Nodes of a group that are named; of more, their number is."""


def drift_section(drift: Drift | None, why_not: str = "") -> Section:
    """Returns the error of matched values along the depth, as a chart and a table, the worst first."""
    title = "Error along the depth"
    if drift is None or not drift.places:
        return Section(title, (), why_not or "No value inside the models is matched.")
    values = [place for place in drift.places if place.kind == "value"]
    stride = math.ceil(len(values) / MOST_POINTS) or 1
    drawn = [_worst(values[i : i + stride]) for i in range(0, len(values), stride)]
    points = [
        charts.DriftPoint(index * stride, _decibel(place.total), _decibel(place.local), place.parts)
        for index, place in enumerate(drawn)
    ]
    columns = (
        names("value before"), names("value after"), numbers("position"), numbers("SQNR dB", ".1f"),
        numbers("own SQNR dB", ".1f"), numbers("max abs", ".3e"), names("computed by"), Column("found"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            place.before,
            place.after,
            index,
            _decibel(place.total),
            _decibel(place.local),
            place.total.max_abs,
            _computing(place),
            _found(place),
        )
        for index, place in enumerate(drift.places)
    ]
    rows.sort(key=lambda row: (row[4] is None, row[4], row[3]))
    table = Table(columns, rows, "Matched values, those first whose own nodes err the most")
    blocks: tuple[Block, ...] = (*((charts.drift(points),) if points else ()), table)
    return Section(title, blocks, _parting(drift))


def _parting(drift: Drift) -> str:
    """Where the models part first, as a sentence."""
    compared = f"{len(drift.places):,} values and constants compared on {drift.samples} samples from {drift.what}"
    if drift.first is None:
        return f"{compared}: nowhere do the models part by more than rounding explains."
    place = drift.places[drift.first]
    why = f" ({place.why})" if place.why else ""
    return f"{compared}: the models part first at {place.after}, computed by {_computing(place)}{why}."


def _found(place: Place) -> str:
    """What is to be said of a place, in a few words."""
    verdict = place.why or ("parts here" if place.parts else "")
    return "; ".join(filter(None, (verdict, "" if place.rescaled is None else str(place.rescaled))))


def _computing(place: Place) -> str:
    """The last node that computes a value, and how many others do."""
    if not place.after_nodes:
        return ""
    last, others = place.after_nodes[-1], len(place.after_nodes) - 1
    return f"{last.name} ({last.op_type}){f' and {others} before it' if others else ''}"


def _worst(places: Sequence[Place]) -> Place:
    return min(places, key=lambda place: -math.inf if (db := _decibel(place.total)) is None else db)


def _decibel(error: Error | None) -> float | None:
    """The signal-to-noise ratio in dB: infinite where equal, None where it is not known."""
    if error is None or error.relative is None:
        return None
    return -20 * math.log10(error.relative) if error.relative > 0 else math.inf


def times_section(times: Times | None, models: tuple[str, str], why_not: str = "") -> Section:
    """Returns where the time goes, by operator as a chart and by region as a table."""
    title = "Time by node"
    if times is None:
        return Section(title, (), why_not)
    before = [kernel for region in times.regions for kernel in region.before_kernels] + [*times.before_untraced]
    after = [kernel for region in times.regions for kernel in region.after_kernels] + [*times.after_untraced]
    chart = charts.times(_by_operator(before), _by_operator(after), models)
    columns = (
        names("nodes before"), names("nodes after"), names("run as"), numbers("ms before", ",.4f"),
        numbers("ms after", ",.4f"), numbers("saved ms", ",.4f"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (_entries(region.before), _entries(region.after), _kernels(region.after_kernels or region.before_kernels),
         1e3 * region.before_seconds, 1e3 * region.after_seconds, 1e3 * (region.before_seconds - region.after_seconds))
        for region in sorted(times.regions, key=lambda region: -max(region.before_seconds, region.after_seconds))
    ]  # fmt: skip
    loose = sum(k.seconds for k in times.before_untraced), sum(k.seconds for k in times.after_untraced)
    if any(loose):
        kernels = _kernels((*times.before_untraced, *times.after_untraced))
        rows.append(
            (
                "traced to no node",
                "traced to no node",
                kernels,
                1e3 * loose[0],
                1e3 * loose[1],
                1e3 * (loose[0] - loose[1]),
            )
        )
    totals = f"{1e3 * times.before_seconds:.3f} ms a run before, {1e3 * times.after_seconds:.3f} ms after"
    summary = f"{totals}, on one thread with the runtime's profiler on, over {times.runs} runs of each."
    return Section(title, (chart, Table(columns, rows, "Corresponding nodes, the longest first")), summary)


def _entries(entries: Sequence[NodeEntry]) -> str:
    shown = ", ".join(f"{entry.name} ({entry.op_type})" for entry in entries[:MOST_NAMES])
    return f"{shown} and {len(entries) - MOST_NAMES:,} more" if len(entries) > MOST_NAMES else shown


def _kernels(kernels: Iterable[Kernel]) -> str:
    counts = Counter(kernel.op_type for kernel in kernels)
    return ", ".join(op if times == 1 else f"{op} ({times})" for op, times in counts.most_common())


def _by_operator(kernels: Iterable[Kernel]) -> Mapping[str, float]:
    """Milliseconds by operator."""
    spent: dict[str, float] = {}
    for kernel in kernels:
        spent[kernel.op_type] = spent.get(kernel.op_type, 0.0) + 1e3 * kernel.seconds
    return spent


def calibration_section(activations: Sequence[Mapping[str, Any]]) -> Section:
    """Returns histograms of activations with the ranges chosen for them; entries as `rounding_evidence` makes them."""
    title = "Calibration"
    if not activations:
        return Section(title)
    seen = [
        Histogram(
            value=entry["value"],
            edges=tuple(np.linspace(entry["edges"][0], entry["edges"][1], len(entry["counts"]) + 1).tolist()),
            counts=tuple(entry["counts"]),
            low=entry["low"],
            high=entry["high"],
            sqnr_db=math.inf if entry["sqnr_db"] is None else entry["sqnr_db"],
        )
        for entry in activations
    ]
    summary = (
        f"The {len(seen)} activations that rounding costs the most. Counts are on a logarithmic scale; the integers "
        "cover the range between the lines."
    )
    return Section(title, (Charts(tuple(charts.histogram(each) for each in seen)),), summary)


def weights_section(weights: Sequence[Mapping[str, Any]]) -> Section:
    """Returns what rounding the weights cost, the worst first; entries as `rounding_evidence` makes them."""
    title = "Weights"
    if not weights:
        return Section(title)
    columns = (
        names("weight"), Column("stored as"), numbers("scales"), numbers("SQNR dB", ".1f"),
        numbers("max abs error", ".3e"), numbers("largest / smallest scale", ",.1f"),
    )  # fmt: skip
    rows = [(w["weight"], w["dtype"], w["channels"], w["sqnr_db"], w["max_abs"], w["scale_ratio"]) for w in weights]
    return Section(title, (Table(columns, rows, "Rounded weights, the worst first"),))
