"""Sections of what was measured inside the models: drift, time by node, calibration, weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sardonyx.diff.drift_schema import Drift, Error, Place
from sardonyx.measure.profile import Profile
from sardonyx.report import charts
from sardonyx.report.charts import Histogram
from sardonyx.report.content import Block, Cell, Charts, Column, Section, Table, names, numbers

MOST_POINTS = 4_000
"""Points of a chart; of more, the worst of equal stretches are drawn, and all are in the table."""


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
            place.why or ("parts here" if place.parts else ""),
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


def times_section(profiles: tuple[Profile, Profile] | None, models: tuple[str, str], why_not: str = "") -> Section:
    """Returns where the time goes, by operator as a chart and by node as a table."""
    title = "Time by node"
    if profiles is None:
        return Section(title, (), why_not)
    before, after = profiles
    chart = charts.times(_by_operator(before), _by_operator(after), models)
    columns = (
        Column("model"), names("node of the runtime"), names("operator"), numbers("ms a run", ",.4f"),
        numbers("share %", ".1f"), names("nodes of the model"),
    )  # fmt: skip
    rows = [
        (model, node.name, node.op_type, 1e3 * node.seconds, 100 * node.seconds / total, ", ".join(node.sources))
        for model, profile in zip(models, profiles, strict=True)
        for total in [sum(node.seconds for node in profile.nodes) or 1.0]
        for node in profile.nodes
    ]
    rows.sort(key=lambda row: -row[3])
    totals = f"{1e3 * before.seconds:.3f} ms a run before, {1e3 * after.seconds:.3f} ms after"
    summary = f"{totals}, with the runtime's profiler on, over {before.runs} and {after.runs} runs."
    return Section(title, (chart, Table(columns, rows, "Nodes, the longest first")), summary)


def _by_operator(profile: Profile) -> Mapping[str, float]:
    """Milliseconds by operator."""
    spent: dict[str, float] = {}
    for node in profile.nodes:
        spent[node.op_type] = spent.get(node.op_type, 0.0) + 1e3 * node.seconds
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
