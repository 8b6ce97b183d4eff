"""The truth of what an editor changed, by kind, and what a diff reports, in the same words.

A change is a kind and the name of what changed: a node of the first model (`removed`, `replaced`, `fused`,
`decomposed`, `moved`), a node of the second (`added`), a node and its attribute, an initializer, a quantized value, a
value of another type, a domain. The truth is read off names and off the notes of passes, neither of which
the matcher sees.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set

from networkx.utils import UnionFind

from sardonyx import ir
from sardonyx.diff import Diff
from sardonyx.passes.provenance import sources

Change = tuple[str, str]
Truth = Callable[[ir.Model, ir.Model], Set[Change]]

_NODE_KINDS = ("removed", "added", "fused", "decomposed", "replaced", "moved")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_ENDS = ("_quantized", "_scaled")
"""Ends of the names of what is a tensor on a grid, or with factors moved into it."""
_GRIDS = ("_scale", "_zero_point", "_offset")
"""Ends of the names of what belongs to a grid: no tensor made from another one."""


def reported_changes(diff: Diff, names: Mapping[str, str]) -> set[Change]:
    """Returns what a diff reports; renaming is left out.

    Args:
        diff: The diff.
        names: New names of the second model's values and nodes by old, see `diff_editors.renamed`.
    """
    original = {new: old.removeprefix("node ") for old, new in names.items()}
    found: set[Change] = set()
    for region in diff.regions:
        if region.how in _NODE_KINDS:
            found.update((region.how, original.get(n.name, n.name)) for n in region.before or region.after)
        ops = Counter(node.op_type for node in region.before) & Counter(node.op_type for node in region.after)
        named = [node.name for node in region.before if node.op_type in ops]
        found.update(("attribute", f"{name}.{c.name}") for name in named for c in region.attributes)
    for change in diff.initializers:
        if change.how != "renamed":
            name = change.before if change.before is not None else original.get(change.after or "", change.after)
            found.add((f"initializer {change.how}", name or ""))
    found.update(("quantizer", original.get(change.value, change.value)) for change in diff.quantizers)
    found.update(("type", change.before) for change in diff.values if change.type_before != change.type_after)
    found.update(("opset", change.name) for change in diff.opsets)
    found.update(("interface", change.name) for change in diff.interface)
    return found


def noted_changes(before: ir.Model, after: ir.Model) -> set[Change]:
    """Returns what passes of a compile changed, by their notes in the nodes that they made and the names they give."""
    absorbed = _absorbed(before, after)
    found = {("replaced", name) for name in absorbed.values()}
    found |= set(_node_changes(before, after, absorbed))
    found |= set(_named_attributes(before, after))
    found |= set(_initializer_changes(before, after))
    found |= set(_quantizer_changes(before, after))
    found |= set(_type_changes(before, after))
    found |= set(_opset_changes(before, after))
    return found


def constant_nodes(model: ir.Model) -> set[str]:
    """Returns the names of nodes that compute nothing but constants, in bodies too."""
    held = {value for graph in ir.all_graphs(model) for value in graph.initializers.values()}
    found: set[str] = set()
    for graph in ir.all_graphs(model):
        for node in graph:
            if not any(ir.node_subgraphs(node)) and all(value is None or value in held for value in node.inputs):
                held.update(node.outputs)
                found.add(node.name or "")
    return found


def kept_nodes(before: ir.Model, after: ir.Model) -> set[str]:
    """Returns the names of nodes that have kept name and operator, as tools leave those that they do not rewrite."""
    theirs = {n.name: n for graph in ir.all_graphs(after) for n in graph}
    return {n.name or "" for graph in ir.all_graphs(before) for n in graph if _stays(n, theirs)}


def changes_of_tool(before: ir.Model, after: ir.Model) -> set[Change]:
    """Returns what another tool changed, as far as names tell: nodes that are gone, attributes, opsets."""
    names = {n.name or "" for graph in ir.all_graphs(before) for n in graph}
    found = {("gone", name) for name in names - kept_nodes(before, after)}
    return found | set(_named_attributes(before, after)) | set(_opset_changes(before, after))


def reported_of_tool(diff: Diff, kept: Set[str]) -> set[Change]:
    """Returns what a diff reports, in the words of `changes_of_tool`.

    A node that others were fused with is kept. Attributes of nodes that a tool renamed are left out: names do not tell
    what became of those.
    """
    said = {c for c in reported_changes(diff, {}) if c[0] in ("attribute", "opset")}
    found = {c for c in said if c[0] == "opset" or c[1].rpartition(".")[0] in kept}
    for region in diff.regions:
        names = {node.name for node in region.before}
        if region.how in _NODE_KINDS and region.how != "moved":
            found.update(("gone", name) for name in (names - kept or names))
    return found


def _absorbed(before: ir.Model, after: ir.Model) -> dict[str, str]:
    """Activations that are gone, by the quantizer whose result has their name."""
    made = {f"{node.outputs[0].name}_quantized": node.name or "" for node in before.graph if node.outputs}
    left = {node.name for node in after.graph}
    return {
        node.name or "": made[result]
        for node in after.graph
        if node.op_type == "QuantizeLinear" and (result := node.outputs[0].name or "") in made
        if made[result] not in left
    }


def _node_changes(before: ir.Model, after: ir.Model, absorbed: Mapping[str, str]) -> Iterator[Change]:
    """Yields what became of nodes: those that notes tie together are one change."""
    ours = {n.name or "": n for graph in ir.all_graphs(before) for n in graph}
    theirs = {n.name or "": n for graph in ir.all_graphs(after) for n in graph}
    sets: UnionFind = UnionFind()
    tied: set[str] = set()
    for name, node in theirs.items():
        noted = node.op_type not in _QUANTIZERS and not _is_shared(node)
        origin = made_from(node, ours, theirs) if noted else []
        if not origin and name in ours and ours[name].op_type == node.op_type:
            origin = [name]
        if name not in absorbed:
            sets.union(("after", name), *(("before", source) for source in origin))
        tied.update(origin)
    for name in ours.keys() - tied - set(absorbed.values()):
        sets.union(("before", name))
    for members in sets.to_sets():
        b = sorted(name for side, name in members if side == "before")
        a = sorted(name for side, name in members if side == "after")
        how = _how([ours[n] for n in b], [theirs[n] for n in a])
        if how is not None:
            yield from ((how, name) for name in b or a)


def made_from(node: ir.Node, ours: Mapping[str, ir.Node], theirs: Mapping[str, ir.Node]) -> list[str]:
    """Returns the nodes of the first model that a node of the second replaces, through those that were in between."""
    known = dict.fromkeys(original_name(source, ours) for source in sources(node))
    return [name for name in known if name in ours and not _stays(ours[name], theirs)]


def _stays(node: ir.Node, theirs: Mapping[str, ir.Node]) -> bool:
    """Whether the second model has a node too: what was made of it then stands beside it."""
    other = theirs.get(node.name or "")
    return other is not None and other.op_type == node.op_type


def _is_shared(node: ir.Node) -> bool:
    """Whether nodes made from others read what was made for one of them: it is part of none of these changes."""
    readers = [set(sources(use.node)) for value in node.outputs for use in value.uses()]
    own = set(sources(node))
    return any(own & read for read in readers) and any(read and not own & read for read in readers)


def _how(before: list[ir.Node], after: list[ir.Node]) -> str | None:
    """What became of nodes that belong together; None where nothing did."""
    if not before or not after:
        return "removed" if before else "added"
    if Counter(n.op_type for n in before) == Counter(n.op_type for n in after):
        return None if len(before) == 1 else "moved"
    return "replaced" if len(before) == len(after) else "fused" if len(before) > len(after) else "decomposed"


def _named_attributes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    """Yields attributes that differ between nodes of the same operator, of one name or one noted as made of the other.

    A default counts as said.
    """
    ours = {n.name or "": n for graph in ir.all_graphs(before) for n in graph}
    theirs = {n.name or "": n for graph in ir.all_graphs(after) for n in graph}
    made = {(o, n.op_type): n for n in theirs.values() for o in made_from(n, ours, theirs)}
    for name, node in ours.items():
        other = theirs[name] if _stays(node, theirs) else made.get((name, node.op_type))
        if other is None:
            continue
        sides = [_said(node, before), _said(other, after)]
        for said in sorted(sides[0].keys() | sides[1].keys()):
            if sides[0].get(said) != sides[1].get(said):
                yield "attribute", f"{name}.{said}"


def _said(node: ir.Node, model: ir.Model) -> dict[str, str]:
    defaults = ir.default_attributes(node.domain, node.op_type, model.opset_imports.get(node.domain, 1))
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    said = {n: str(a.value) for n, a in {**defaults, **node.attributes}.items() if a.type not in graphs}
    return {n: text for n, text in said.items() if n not in defaults or text != str(defaults[n].value)}


def _initializer_changes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    """Yields initializers with other content, those gone, and those that are new but for grids of quantizers."""
    theirs = after.graph.initializers
    origin = {name: original_name(name, before.graph.initializers) for name in theirs}
    made_of: dict[str, list[str]] = defaultdict(list)
    for name, source in origin.items():
        first = before.graph.initializers.get(source)
        if first is not None and (name == source or (not made_of[source] and _holds(theirs[name], first))):
            made_of[source] = [name]
    for name, value in before.graph.initializers.items():
        if value.is_graph_input() or value.const_value is None:
            continue
        if not made_of[name]:
            yield "initializer removed", name
        elif name not in theirs or not _equal(value, theirs[name]):
            yield f"initializer {_what(value, theirs[made_of[name][0]])}", name
    for name, value in theirs.items():
        if name not in made_of[origin[name]] and not _is_grid(value):
            yield "initializer added", name


def original_name(name: str, known: Iterable[str]) -> str:
    """Returns the name of what a tensor was made from: passes append words to it."""
    base = name
    while base not in known and "_" in base and not base.endswith(_GRIDS):
        base = base.rpartition("_")[0]
    return base if base in known else name


def _holds(value: ir.Value, first: ir.Value) -> bool:
    """Whether a tensor has as many elements as another, or packs them."""
    a, b = value.const_value, first.const_value
    return a is not None and b is not None and (a.size == b.size or (a.dtype == ir.DataType.UINT8 and a.size > 1))


def _equal(first: ir.Value, second: ir.Value) -> bool:
    a, b = first.const_value, second.const_value
    return a is not None and b is not None and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def _what(first: ir.Value, second: ir.Value) -> str:
    a, b = first.const_value, second.const_value
    if a is None or b is None or a.dtype == b.dtype:
        return "values" if a is None or b is None or a.shape == b.shape or a.size != b.size else "shape"
    if b.dtype.is_integer():
        return "quantized"
    return "values" if "_scaled" in (second.name or "") else "type"  # an equalization came before the rounding


def _is_grid(value: ir.Value) -> bool:
    readers = [(use.node.op_type, use.idx) for use in value.uses()]
    return bool(readers) and all(op in _QUANTIZERS and place > 0 for op, place in readers)


def _quantizer_changes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    """Yields what is quantized with constant scales, by the name that it had, or that it has where it is new.

    Passes name a bias after its node, whatever it was called: it is the third operand that the node had, if any.
    """
    nodes = {node.name or "": node for node in before.graph}
    known = {value.name for value in ir.graph_values(before.graph)}
    for node in after.graph:
        if node.op_type not in _QUANTIZERS or node.inputs[1] is None or not node.inputs[1].is_initializer():
            continue
        integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
        name = (integers.name or "") if integers is not None else ""
        first = name
        while first.endswith(_ENDS):
            first = first.rpartition("_")[0]
        read = nodes[owner].inputs[2:3] if (owner := first.removesuffix("_bias")) in nodes else ()
        biases = [value.name or "" for value in read if value is not None]
        yield "quantizer", first if first in known else biases[0] if biases else name


def _type_changes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    """Yields values that have kept their name and not their type."""
    theirs = {v.name: v for node in after.graph for v in node.outputs}
    for value in (v for node in before.graph for v in node.outputs):
        other = theirs.get(value.name)
        if other is None or value.dtype is None or other.dtype is None or other.dtype.is_integer():
            continue
        if value.dtype != other.dtype:
            yield "type", value.name or ""


def _opset_changes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    for domain in before.opset_imports.keys() | after.opset_imports.keys():
        if before.opset_imports.get(domain) != after.opset_imports.get(domain):
            yield "opset", domain or "ai.onnx"


def by_kind(changes: Iterable[Change]) -> Mapping[str, set[Change]]:
    """Groups changes by kind."""
    found: dict[str, set[Change]] = defaultdict(set)
    for change in changes:
        found[change[0]].add(change)
    return found


def without_nodes(changes: Iterable[Change], nodes: Set[str]) -> set[Change]:
    """Returns changes but those of some nodes: of those that compute constants, several accounts are right."""
    kinds = {*_NODE_KINDS, "attribute", "gone"}
    return {c for c in changes if c[0] not in kinds or not nodes & {c[1], c[1].rpartition(".")[0]}}
