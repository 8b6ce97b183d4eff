"""What differs between two matched models, by kind."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sardonyx import ir
from sardonyx.diff.correspondence import Group, Matching, NodeRef
from sardonyx.diff.costs import cost_of, totals_of
from sardonyx.diff.initializers import compare_initializers
from sardonyx.diff.matching import match
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.quantizers import compare_quantizers
from sardonyx.diff.schema import Diff, FieldChange, NodeEntry, Region, ValueChange
from sardonyx.diff.view import ABSENT, NodeView, View, attribute_text
from sardonyx.diff.weights import corresponding_constants

_Key = tuple[tuple[str, ...], int]


def compare(before: ir.Model, after: ir.Model, matching: Matching) -> Diff:
    """Says what differs between two models.

    Args:
        before: The first model.
        after: The second model.
        matching: What corresponds, from `match` of these very models.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    pairs = matching.pairs or match(before, after).pairs
    if pairs is None:  # `match` always keeps them
        raise AssertionError("a matching without its tables")
    equal, initializers = compare_initializers(pairs, matching.initializers)
    regions = tuple(_Regions(pairs, matching).changed())
    counts = Counter(group.how for group in matching.groups)
    found = Diff(
        same=False,
        identical=False,
        counts=dict(counts),
        unchanged=counts["same"],
        regions=regions,
        renamed_nodes=_renamed_nodes(matching.groups),
        renamed_values={name: other for name, other in matching.values.items() if name != other},
        values=tuple(_value_changes(pairs, matching.values)),
        initializers=tuple(initializers),
        equal_initializers=equal,
        quantizers=tuple(compare_quantizers(pairs, _constants(pairs, matching))),
        opsets=tuple(_fields(_texts(before.opset_imports), _texts(after.opset_imports))),
        interface=tuple(_interface(before, after)),
        metadata=tuple(_fields(_metadata(before), _metadata(after))),
        before=totals_of(before),
        after=totals_of(after),
    )
    return found.model_copy(update=_verdict(found))


def _constants(pairs: Pairs, matching: Matching) -> dict[str, str]:
    """Constants of the second model by those of the first whose place they took: initializers first."""
    found = dict(matching.initializers)
    taken = set(found.values())
    for name, other in corresponding_constants(pairs, matching.groups):
        if name and name not in found and other not in taken:
            found[name] = other
            taken.add(other)
    return found


def _verdict(diff: Diff) -> dict[str, bool]:
    content = diff.regions or diff.values or diff.quantizers or diff.opsets or diff.interface
    same = not content and all(change.how == "renamed" for change in diff.initializers)
    named = not (diff.counts.get("renamed") or diff.renamed_values or diff.initializers or diff.metadata)
    return {"same": same, "identical": same and named}


def _renamed_nodes(groups: Sequence[Group]) -> dict[str, str]:
    return {
        group.before[0].name: group.after[0].name
        for group in groups
        if group.how == "renamed" and not group.before[0].scope
    }


class _Regions:
    """Turns groups into regions, with what differs between nodes that correspond one to one."""

    def __init__(self, pairs: Pairs, matching: Matching) -> None:
        self._pairs = pairs
        self._groups = matching.groups
        self._before, self._after = _by_place(pairs.before), _by_place(pairs.after)

    def changed(self) -> Iterator[Region]:
        """Yields the regions in which anything but names differs."""
        for group in self._groups:
            attributes: tuple[FieldChange, ...] = ()
            inputs: tuple[FieldChange, ...] = ()
            counterparts = _counterparts(group)
            if counterparts is not None:
                nodes = self._before[_place(counterparts[0])], self._after[_place(counterparts[1])]
                attributes = tuple(_attributes(*nodes))
                inputs = tuple(self._operands(*nodes)) if len(group.before) == len(group.after) == 1 else ()
            if group.how not in ("same", "renamed") or attributes or inputs:
                yield self._region(group, attributes, inputs)

    def _region(self, group: Group, attributes: tuple[FieldChange, ...], inputs: tuple[FieldChange, ...]) -> Region:
        return Region(
            how=group.how,
            before=tuple(map(NodeEntry.of, group.before)),
            after=tuple(map(NodeEntry.of, group.after)),
            evidence=group.evidence,
            attributes=attributes,
            inputs=inputs,
            cost_before=cost_of(self._before[_place(ref)].node for ref in group.before),
            cost_after=cost_of(self._after[_place(ref)].node for ref in group.after),
        )

    def _operands(self, first: NodeView, second: NodeView) -> Iterator[FieldChange]:
        """Operands that are data and do not correspond."""
        pairs = self._pairs
        ours, theirs = dict(pairs.before.data(first)), dict(pairs.after.data(second))
        partners = {place: pairs.forward.get(v, pairs.doubles.get(v, ABSENT)) for place, v in ours.items()}
        if first.commutative and sorted(partners.values()) == sorted(theirs.values()):
            return
        for place in sorted(ours.keys() | theirs.keys()):
            if partners.get(place) != theirs.get(place):
                yield FieldChange(
                    name=f"input {place}",
                    before=pairs.before.name(first.inputs[place]) if place < len(first.inputs) else None,
                    after=pairs.after.name(second.inputs[place]) if place < len(second.inputs) else None,
                )


def _counterparts(group: Group) -> tuple[NodeRef, NodeRef] | None:
    """The node of either model whose operator is the only one that occurs once on both sides of a group."""
    sides = [
        {kind: refs[0] for kind, refs in _by_operator(refs).items() if len(refs) == 1}
        for refs in (group.before, group.after)
    ]
    shared = sides[0].keys() & sides[1].keys()
    if len(shared) != 1:
        return None
    (kind,) = shared
    return sides[0][kind], sides[1][kind]


def _by_operator(refs: Sequence[NodeRef]) -> Mapping[tuple[str, str], list[NodeRef]]:
    found: dict[tuple[str, str], list[NodeRef]] = {}
    for ref in refs:
        found.setdefault((ref.domain, ref.op_type), []).append(ref)
    return found


def _by_place(view: View) -> dict[_Key, NodeView]:
    return {_place(node.ref): node for node in view.nodes}


def _place(ref: NodeRef) -> _Key:
    return ref.scope, ref.index


def _attributes(first: NodeView, second: NodeView) -> Iterator[FieldChange]:
    """Attributes that say something else; a default counts as said by both."""
    ours, theirs = dict(first.attributes), dict(second.attributes)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield FieldChange(name=name, before=_said(first.node, name), after=_said(second.node, name))


def _said(node: ir.Node, name: str) -> str | None:
    attr = node.attributes.get(name)
    return None if attr is None else attribute_text(attr)


def _value_changes(pairs: Pairs, matched: Mapping[str, str]) -> Iterator[ValueChange]:
    """Matched values of the main graphs whose type, rank or known dimensions differ."""
    before, after = _main_values(pairs.before), _main_values(pairs.after)
    for name, other in matched.items():
        value, partner = before[name], after[other]
        first, second = pairs.before.values[value], pairs.after.values[partner]
        types_differ = None not in (first.dtype, second.dtype) and first.dtype != second.dtype
        if types_differ or not pairs.same_shape(value, partner):
            yield ValueChange(
                before=name,
                after=other,
                type_before=_type(first),
                type_after=_type(second),
                shape_before=_shape(first),
                shape_after=_shape(second),
            )


def _main_values(view: View) -> dict[str, int]:
    """Numbers of the main graph's inputs and computed values by name."""
    return {
        view.name(number): number
        for number in range(len(view.values))
        if number in view.inputs or ((maker := view.maker(number)) is not None and not maker.ref.scope)
    }


def _interface(before: ir.Model, after: ir.Model) -> Iterator[FieldChange]:
    for what in ("inputs", "outputs"):
        sides = [
            {f"{what[:-1]} {v.name}": f"{_type(v)}[{_shape(v)}]" for v in getattr(model.graph, what)}
            for model in (before, after)
        ]
        yield from _fields(*sides)
        if sides[0].keys() == sides[1].keys() and list(sides[0]) != list(sides[1]):
            yield FieldChange(name=f"order of {what}", before=", ".join(sides[0]), after=", ".join(sides[1]))


def _metadata(model: ir.Model) -> dict[str, str]:
    fields = {
        "ir_version": model.ir_version,
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "domain": model.domain,
        "model_version": model.model_version,
        "doc_string": model.doc_string,
        "graph_name": model.graph.name,
    }
    kept = {name: str(value) for name, value in fields.items() if value not in (None, "")}
    return kept | {f"metadata {key}": value for key, value in model.metadata_props.items()}


def _fields(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[FieldChange]:
    for name in (*before, *(name for name in after if name not in before)):
        if before.get(name) != after.get(name):
            yield FieldChange(name=name, before=before.get(name), after=after.get(name))


def _texts(opsets: Mapping[str, int]) -> dict[str, str]:
    return {domain or "ai.onnx": str(version) for domain, version in opsets.items()}


def _type(value: ir.Value) -> str:
    return "?" if value.dtype is None else value.dtype.name


def _shape(value: ir.Value) -> str:
    return "?" if value.shape is None else "x".join("?" if str(dim) == "None" else str(dim) for dim in value.shape)
