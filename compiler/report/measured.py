"""Sections of what was measured inside the models: drift, time by node, calibration, weights."""

import math
from collections.abc import Iterable, Mapping

from sardonyx.report import charts
from sardonyx.report.charts import Histogram
from sardonyx.report.content import Block, Charts, Column, Section, Table
from sardonyx.report.evidence import Drift, NodeTime, NodeTimes, WeightError

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
        Column("value before", "name"), Column("value after", "name"), Column("computed by", "name"),
        Column("position", "number"), Column("SQNR dB", "number"), Column("max abs", "number"),
    )  # fmt: skip
    worst = sorted(drift.points, key=lambda point: (point.sqnr_db, point.depth))
    rows = [(p.before, p.after, p.producer, p.depth, p.sqnr_db, p.max_abs) for p in worst]
    return Section("Error along the depth", (chart, Table(columns, rows, "Matched values, the worst first")), drift.summary)


def times_section(times: NodeTimes, names: tuple[str, str]) -> Section:
    """Returns where the time goes, by operator as a chart and by node as a table."""
    title = "Time by node"
    if not times.before and not times.after:
        return Section(title, (), times.summary)
    chart = charts.times(_by_operator(times.before), _by_operator(times.after), names)
    columns = (
        Column("model"), Column("node", "name"), Column("operator", "name"), Column("ms a run", "number"),
        Column("share %", "number"), Column("made from", "name"),
    )  # fmt: skip
    rows = [
        (name, node.node, node.op_type, node.milliseconds, 100 * node.milliseconds / (total or 1.0), node.source)
        for name, nodes in zip(names, (times.before, times.after), strict=True)
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


def calibration_section(histograms: tuple[Histogram, ...], missing: str) -> Section:
    """Returns histograms of activations with the ranges chosen for them."""
    title = "Calibration"
    if not histograms:
        return Section(title, (), missing)
    summary = (
        f"The {len(histograms)} activations with the largest rounding error; counts on a logarithmic scale, "
        "the range that integers cover between the lines."
    )
    return Section(title, (Charts(tuple(charts.histogram(seen) for seen in histograms)),), summary)


def weights_section(weights: tuple[WeightError, ...], missing: str) -> Section:
    """Returns what rounding the weights cost, the worst first."""
    title = "Weights"
    if not weights:
        return Section(title, (), missing)
    columns = (
        Column("weight", "name"), Column("stored as"), Column("scales"), Column("SQNR dB", "number"),
        Column("max abs error", "number"), Column("largest / smallest scale", "number"),
    )  # fmt: skip
    rows = [
        (w.weight, w.dtype, w.granularity, w.sqnr_db, w.max_abs, w.scale_ratio)
        for w in sorted(weights, key=lambda w: w.sqnr_db)
    ]
    blocks: tuple[Block, ...] = (Table(columns, rows, "Rounded weights, the worst first"),)
    return Section(title, blocks, f"{len(weights):,} weights are stored as integers.")
