"""A diff as text: a summary, and the changed regions in the manner of a unified diff."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sardonyx import ir
from sardonyx.diff.schema import Cost, Diff, FieldChange, Grid, InitializerChange, NodeEntry, Region
from sardonyx.diff.text import printable, typed
from sardonyx.diff.view import attribute_text, placed_nodes

FACTS = 5
"""Metadata in a summary: exporters and optimizers keep books there."""

LISTED = 20
"""Weights, values and quantizers listed of each kind unless all are asked for."""


def summary_lines(diff: Diff) -> Iterator[str]:
    """Yields what differs in a few lines."""
    if diff.same:
        yield "identical" if diff.identical else "the same but for names and metadata"
    yield f"  nodes       {diff.before.cost.nodes} -> {diff.after.cost.nodes}: {_counts(diff)}"
    yield f"  weights     {diff.equal_initializers} equal{_kinds(diff.initializers)}"
    if diff.quantizers:
        added = sum(change.before is None for change in diff.quantizers)
        removed = sum(change.after is None for change in diff.quantizers)
        changed = len(diff.quantizers) - added - removed
        yield f"  quantized   {added} values more, {removed} less, {changed} on another grid"
    if diff.values:
        yield f"  types       {len(diff.values)} values of another type or shape"
    for title, changes in (("opset", diff.opsets), ("interface", diff.interface), ("metadata", diff.metadata)):
        limit = FACTS if title == "metadata" else len(changes)
        for change in changes[:limit]:
            yield f"  {title:11s} {_field(change)}"
        if len(changes) > limit:
            yield f"  {'':11s} and {len(changes) - limit} more"
    yield f"  MACs        {_number(diff.before.cost.macs, diff.after.cost.macs)}"
    yield f"  parameters  {_number(diff.before.cost.parameters, diff.after.cost.parameters)}"
    yield f"  bytes       {_number(diff.before.nbytes, diff.after.nbytes)}"


def unified_lines(
    before: ir.Model, after: ir.Model, diff: Diff, titles: tuple[str, str], *, everything: bool = False
) -> Iterator[str]:
    """Yields the changes in the manner of a unified diff: lines of the first model with `-`, of the second with `+`.

    Args:
        before: The first model.
        after: The second model.
        diff: What differs between them.
        titles: What the two are called, such as their paths.
        everything: Whether long lists are written in full.

    Returns:
        Lines without control characters; names of the models stand in them as they are otherwise.
    """
    if diff.same:
        return
    yield f"--- {printable(titles[0])}"
    yield f"+++ {printable(titles[1])}"
    sides = _nodes(before), _nodes(after)
    for region in diff.regions:
        yield from _region(region, sides)
    limit = None if everything else LISTED
    yield from _section("weights", [_initializer(i) for i in diff.initializers if i.how != "renamed"], limit)
    yield from _section("quantizers", [_grids(c.value, c.before, c.after) for c in diff.quantizers], limit)
    values = [
        [f"-{printable(v.before)}: {v.type_before}[{v.shape_before}]",
         f"+{printable(v.after)}: {v.type_after}[{v.shape_after}]"]
        for v in diff.values
    ]  # fmt: skip
    yield from _section("types and shapes", values, limit)
    yield from _section("model", [_signed(change) for change in (*diff.opsets, *diff.interface)], limit)


_Nodes = Mapping[tuple[tuple[str, ...], int], ir.Node]


def _nodes(model: ir.Model) -> _Nodes:
    return {(scope, index): node for node, scope, index in placed_nodes(model)}


def _region(region: Region, sides: tuple[_Nodes, _Nodes]) -> Iterator[str]:
    cost = _cost(region.cost_before, region.cost_after)
    evidence = f" ({printable(region.evidence)})" if region.evidence else ""
    scope = "/".join((region.after or region.before)[0].scope)
    where = f" in {printable(scope)}" if scope else ""
    yield f"@@ {region.how if region.how not in ('same', 'renamed') else 'changed'}{where}{evidence}{cost} @@"
    for sign, entries, nodes in (("-", region.before, sides[0]), ("+", region.after, sides[1])):
        for entry in entries:
            yield f"{sign}{_line(entry, nodes)}"


def _line(entry: NodeEntry, nodes: _Nodes) -> str:
    node = nodes[entry.scope, entry.index]
    operands = ", ".join("_" if value is None else printable(value.name or "") for value in node.inputs)
    results = ", ".join(f"{printable(value.name or '')}: {typed(value)}" for value in node.outputs)
    said = {name: attribute_text(attr) for name, attr in sorted(node.attributes.items())}
    attributes = "".join(f" {printable(name)}={_short(text)}" for name, text in said.items() if text)
    operator = f"{entry.domain}::{entry.op_type}" if entry.domain else entry.op_type
    return f"{printable(entry.name)}: {printable(operator)}({operands}){attributes} -> {results}"


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _section(title: str, items: Sequence[Sequence[str]], limit: int | None) -> Iterator[str]:
    if not items:
        return
    yield f"@@ {title} @@"
    for lines in items[:limit]:
        yield from lines
    if limit is not None and len(items) > limit:
        yield f" and {len(items) - limit} more"


def _initializer(change: InitializerChange) -> list[str]:
    lines = []
    if change.before is not None:
        lines.append(f"-{printable(change.before)}: {_tensor(change.dtype_before, change.shape_before)}")
    if change.after is not None:
        numbers = {"max abs": change.max_abs, "max rel": change.max_rel, "SQNR dB": change.sqnr_db}
        told = [f"{name} {value:.4g}" for name, value in numbers.items() if value is not None]
        note = f" ({', '.join([change.how, *told])})" if change.before is not None else ""
        lines.append(f"+{printable(change.after)}: {_tensor(change.dtype_after, change.shape_after)}{note}")
    return lines


def _tensor(dtype: str | None, shape: tuple[int, ...] | None) -> str:
    return f"{dtype or '?'}[{'?' if shape is None else 'x'.join(map(str, shape))}]"


def _grids(value: str, before: Grid | None, after: Grid | None) -> list[str]:
    signed = (("-", before), ("+", after))
    return [f"{sign}{printable(value)}: {_grid(grid)}" for sign, grid in signed if grid is not None]


def _grid(grid: Grid) -> str:
    spread = f"{grid.scale_min:.6g}" if grid.scales == 1 else f"{grid.scale_min:.6g} to {grid.scale_max:.6g}"
    axis = "" if grid.axis is None else f", {grid.scales} along axis {grid.axis}"
    points = "" if grid.zero_points is None else f", zero point {_range(grid.zero_points)}"
    return f"{grid.dtype}, scale {spread}{axis}{points}"


def _range(points: tuple[int, int]) -> str:
    return str(points[0]) if points[0] == points[1] else f"{points[0]} to {points[1]}"


def _signed(change: FieldChange) -> list[str]:
    signed = (("-", change.before), ("+", change.after))
    return [f"{sign}{printable(change.name)}: {printable(text)}" for sign, text in signed if text is not None]


def _field(change: FieldChange) -> str:
    sides = [_short(text) if text is not None else "none" for text in (change.before, change.after)]
    return f"{printable(change.name)}: {sides[0]} -> {sides[1]}"


def _counts(diff: Diff) -> str:
    """What became of how many nodes: of both models, where their numbers differ."""
    said = []
    for how, groups in sorted(diff.counts.items(), key=lambda item: -item[1]):
        regions = [region for region in diff.regions if region.how == how]
        nodes = {side: sum(len(getattr(region, side)) for region in regions) for side in ("before", "after")}
        said.append(_BECAME.get(how, f"{groups} {how}").format(**nodes))
    return ", ".join(said)


_BECAME = {
    "added": "{after} added",
    "removed": "{before} removed",
    "moved": "{before} moved",
    "replaced": "{before} replaced by {after}",
    "fused": "{before} fused into {after}",
    "decomposed": "{before} taken apart into {after}",
}


def _kinds(changes: Iterable[InitializerChange]) -> str:
    counts: dict[str, int] = {}
    for change in changes:
        counts[change.how] = counts.get(change.how, 0) + 1
    words = {"type": "of another type", "shape": "of another shape", "values": "with other values"}
    return "".join(f", {number} {words.get(how, how)}" for how, number in counts.items())


def _number(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _cost(before: Cost, after: Cost) -> str:
    pairs = {"MACs": (before.macs, after.macs), "parameters": (before.parameters, after.parameters)}
    told = [f"{name} {_number(*sides)}" for name, sides in pairs.items() if sides[0] != sides[1]]
    return f" [{', '.join(told)}]" if told else ""
