"""Sections of what was measured inside the models: drift, time by node, calibration, weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sardonyx.report import charts
from sardonyx.report.charts import Histogram
from sardonyx.report.content import Charts, Column, Section, Table, names, numbers
from sardonyx.report.evidence import Drift, NodeTime, NodeTimes

MOST_POINTS = 4_000
"""Points of a chart; of more, the worst of equal stretches are drawn, and all are in the table."""


def drift_section(drift: Drift) -> Section:
    """Returns the error of matched values along the depth, as a chart and a table, the worst first."""
    if not drift.points:
        return Section("Error along the depth", (), drift.summary)
    stride = math.ceil(len(drift.points) / MOST_POINTS)
    ordered = sorted(drift.points, key=lambda point: point.depth)
    drawn = [min(ordered[i : i + stride], key=lambda p: p.sqnr_db) for i in range(0, len(ordered), stride)]
    chart = charts.drift([point.depth for point in drawn], [point.sqnr_db for point in drawn])
    columns = (
        names("value before"), names("value after"), names("computed by"),
        numbers("position"), numbers("SQNR dB", ".1f"), numbers("max abs", ".3e"),
    )  # fmt: skip
    worst = sorted(drift.points, key=lambda point: (point.sqnr_db, point.depth))
    rows = [(p.before, p.after, p.producer, p.depth, p.sqnr_db, p.max_abs) for p in worst]
    return Section(
        "Error along the depth", (chart, Table(columns, rows, "Matched values, the worst first")), drift.summary
    )


def times_section(times: NodeTimes, models: tuple[str, str]) -> Section:
    """Returns where the time goes, by operator as a chart and by node as a table."""
    title = "Time by node"
    if not times.before and not times.after:
        return Section(title, (), times.summary)
    chart = charts.times(_by_operator(times.before), _by_operator(times.after), models)
    columns = (
        Column("model"), names("node"), names("operator"), numbers("ms a run", ",.4f"),
        numbers("share %", ".1f"), names("made from"),
    )  # fmt: skip
    rows = [
        (model, node.node, node.op_type, node.milliseconds, 100 * node.milliseconds / (total or 1.0), node.source)
        for model, nodes in zip(models, (times.before, times.after), strict=True)
        for total in [sum(node.milliseconds for node in nodes)]
        for node in nodes
    ]
    rows.sort(key=lambda row: -row[3])
    return Section(title, (chart, Table(columns, rows, "Nodes, the longest first")), times.summary)


def _by_operator(nodes: Iterable[NodeTime]) -> Mapping[str, float]:
    spent: dict[str, float] = {}
    for node in nodes:
        spent[node.op_type] = spent.get(node.op_type, 0.0) + node.milliseconds
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
