"""Two models on a page: their graphs side by side, and what differs, by kind."""

from collections.abc import Iterable, Iterator

from sardonyx.diff import Diff
from sardonyx.diff.schema import Grid, InitializerChange, NodeEntry, Region
from sardonyx.report.content import (
    Block,
    Cell,
    Column,
    Facts,
    Figure,
    Notes,
    Report,
    Section,
    Table,
    Verdict,
    names,
    numbers,
)
from sardonyx.report.drawing import MOST_NODES
from sardonyx.report.graphs import TOUCHED_WEIGHTS, Comparison, drawings


def graph_section(compared: Comparison) -> Section:
    """Returns the section with both graphs and the list of changed regions."""
    drawn = drawings(compared)
    diff = compared.diff
    nodes = f"{diff.before.cost.nodes:,} nodes before, {diff.after.cost.nodes:,} after"
    summary = f"{nodes}; {diff.unchanged:,} are the same, name included."
    unseen = Notes((f"The graphs are not drawn: together they have more than {MOST_NODES:,} nodes.",))
    blocks: list[Block] = [*drawn] or [unseen]
    if diff.regions:
        blocks.append(_region_table(diff.regions))
    return Section("Before and after", tuple(blocks), summary)


def _region_table(regions: Iterable[Region]) -> Table:
    columns = (Column("what"), names("before"), names("after"), Column("why"), Column("differs"))
    rows = [
        (
            "changed" if region.how in ("same", "renamed") else region.how,
            _entries(region.before),
            _entries(region.after),
            region.evidence,
            "; ".join(f"{c.name}: {c.before} → {c.after}" for c in (*region.attributes, *region.inputs)),
        )
        for region in regions
    ]
    return Table(columns, rows, "Changed regions")


def _entries(entries: Iterable[NodeEntry]) -> str:
    return ", ".join(f"{'/'.join((*entry.scope, entry.name))} ({entry.op_type})" for entry in entries)


def weight_table(changes: Iterable[InitializerChange]) -> Table:
    """Returns initializers that differ, the largest error first."""
    columns = (
        names("before"), names("after"), Column("what"), Column("types"), Column("shape"),
        numbers("max abs", ".3e"), numbers("SQNR dB", ".1f"), numbers("elements"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            c.before,
            c.after,
            c.how,
            _changed(c.dtype_before, c.dtype_after),
            _changed(_shape(c.shape_before), _shape(c.shape_after)),
            c.max_abs,
            c.sqnr_db,
            c.elements,
        )
        for c in sorted(changes, key=lambda c: (c.sqnr_db is None, c.sqnr_db or 0.0))
    ]
    return Table(columns, rows, "Weights and constants")


def _shape(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape)) or "scalar"


def _changed(before: str | None, after: str | None) -> str:
    return before or "" if before == after else f"{before or 'none'} → {after or 'none'}"


def _cost_facts(compared: Comparison) -> Facts:
    before, after = compared.diff.before.cost, compared.diff.after.cost
    counted = ((label, getattr(before, field), getattr(after, field)) for label, field in _COSTS)
    pairs = [(label, f"{a:,} → {b:,}" if a != b else f"{a:,}") for label, a, b in counted]
    return Facts(tuple(pairs))


_COSTS = (
    ("nodes", "nodes"),
    ("parameters", "parameters"),
    ("bytes of weights", "weight_bytes"),
    ("MACs", "macs"),
    ("bytes computed", "activation_bytes"),
)


def _operators(diff: Diff) -> Table:
    before, after = diff.before.operators, diff.after.operators
    rows = [
        (op, before.get(op, 0), after.get(op, 0), after.get(op, 0) - before.get(op, 0))
        for op in sorted({*before, *after})
    ]
    columns = (names("operator"), *(numbers(t) for t in ("before", "after", "difference")))
    return Table(columns, rows, "Operators")


def _other_tables(diff: Diff) -> Iterator[Table]:
    """Tables of what differs besides nodes and weights, each only where there is something to say."""
    facts = [("opset", c) for c in diff.opsets] + [("interface", c) for c in diff.interface]
    facts += [("metadata", c) for c in diff.metadata]
    if facts:
        columns = (Column("where"), names("what"), names("before"), names("after"))
        yield Table(columns, [(where, c.name, c.before, c.after) for where, c in facts], "Opsets, interface, metadata")
    if diff.values:
        columns = (names("before"), names("after"), Column("type"), Column("shape"))
        rows = [
            (v.before, v.after, _changed(v.type_before, v.type_after), _changed(v.shape_before, v.shape_after))
            for v in diff.values
        ]
        yield Table(columns, rows, "Types and shapes")
    if diff.quantizers:
        quantizers = [(q.value, _grid(q.before), _grid(q.after)) for q in diff.quantizers]
        yield Table((names("value"), Column("before"), Column("after")), quantizers, "Quantizers")
    if diff.renamed_nodes:
        yield Table((names("before"), names("after")), sorted(diff.renamed_nodes.items()), "Renamed nodes")


def _grid(grid: Grid | None) -> str:
    if grid is None:
        return "none"
    where = "per tensor" if grid.axis is None else f"axis {grid.axis}, {grid.scales} scales"
    spread = f"{grid.scale_min:.4g}" if grid.scales == 1 else f"{grid.scale_min:.4g} to {grid.scale_max:.4g}"
    return f"{grid.dtype}, {where}, scale {spread}"


def diff_report(compared: Comparison, title: str, sections: tuple[Section, ...] = (), footer: str = "") -> Report:
    """Returns the page of a diff.

    Args:
        compared: The models and what differs.
        title: What was compared.
        sections: Further sections, such as drift, shown behind the graphs.
        footer: With what and when it was made.
    """
    diff = compared.diff
    weights = [change for change in diff.initializers if change.how != "renamed"]
    tables: tuple[Block, ...] = (*((weight_table(weights),) if weights else ()), *_other_tables(diff))
    more = (Section("What else differs", tables),) if tables else ()
    size = Section("Size and cost", (_cost_facts(compared), _operators(diff)))
    return Report(title, "model diff", _verdict(diff), (graph_section(compared), *sections, *more, size), footer)


def _verdict(diff: Diff) -> Verdict:
    if diff.identical:
        headline = "The two models are the same, names included."
    elif diff.same:
        headline = "The two models are the same but for names and order."
    else:
        headline = "The two models differ."
    groups = {how: number for how, number in diff.counts.items() if number and how != "same"}
    figures = [Figure("same", f"{diff.unchanged:,}", "nodes, name included")]
    figures += [Figure(how, f"{number:,}", "groups of nodes") for how, number in groups.items()]
    touched = sum(change.how in TOUCHED_WEIGHTS for change in diff.initializers)
    figures.append(Figure("weights", f"{touched:,}", f"changed; {diff.equal_initializers:,} equal"))
    return Verdict(headline, "good" if diff.same else "plain", "", tuple(figures))
