"""From matched values to groups of nodes: what lies between them did the same work in both models."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from networkx.utils import UnionFind

from sardonyx import ir
from sardonyx.diff.correspondence import Group, How, NodeRef
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.view import ABSENT, CLIPPING, FLOATS, NodeView, View, bodies

Token = tuple[int, int]
"""A node: 0 for the first model or 1 for the second, and its position in the view."""


class Grouping:
    """Groups the nodes of two models.

    Args:
        pairs: Matched values.
        sources: By position of a node of the second model: positions of the nodes of the first that it was made from,
            where that is on record.
    """

    def __init__(self, pairs: Pairs, sources: Mapping[int, Sequence[int]]) -> None:
        self._pairs = pairs
        self._views = (pairs.before, pairs.after)
        self._sources = sources
        self._sets = UnionFind()
        self._evidence: dict[Token, str] = {}
        self._direct: set[Token] = set()
        self._returned = [
            {*view.outputs, *(value for node in view.nodes for value in node.bodies)} for view in self._views
        ]

    def groups(self) -> tuple[Group, ...]:
        """Returns the groups in the order of the second model, what was removed where it stood."""
        self._join_pairs()
        self._join_carriers()
        self._join_carriers_by_use()
        self._join_constants()
        self._join_sources()
        for side in (0, 1):
            self._absorb(side)
        return self._ordered()

    def _join_pairs(self) -> None:
        """Nodes that compute matched values belong together."""
        pairs = self._pairs
        for value, partner in pairs.forward.items():
            first, second = pairs.before.producer[value], pairs.after.producer[partner]
            if first is None or second is None:
                continue
            self._sets.union((0, first), (1, second))
            self._evidence.setdefault((1, second), pairs.evidence[value])
            nodes = pairs.before.nodes[first], pairs.after.nodes[second]
            if self._corresponds(*nodes):
                self._direct.update(((0, first), (1, second)))
                self._join_operands(*nodes)

    def _corresponds(self, first: NodeView, second: NodeView) -> bool:
        """Whether one node alone does what the other does.

        It reads what corresponds, or it differs in nothing but what it reads: then what stood between is gone.
        """
        if first.kind != second.kind:
            return False
        pairs = self._pairs
        ours, theirs = dict(pairs.before.data(first)), dict(pairs.after.data(second))
        if first.commutative:
            partners = sorted(pairs.forward.get(value, ABSENT) for value in ours.values())
            alike = partners == sorted(theirs.values())
        else:
            alike = all(pairs.forward.get(ours[place]) == theirs[place] for place in ours.keys() & theirs.keys())
        return alike or _said(first, pairs.before) == _said(second, pairs.after)

    def _join_operands(self, first: NodeView, second: NodeView) -> None:
        """Nodes of the same operator that compute the constants of corresponding nodes belong together."""
        for ours, theirs in zip(first.inputs, second.inputs, strict=False):
            makers = self._pairs.before.producer[ours], self._pairs.after.producer[theirs]
            if ABSENT in (ours, theirs) or makers[0] is None or makers[1] is None:
                continue
            nodes = self._pairs.before.nodes[makers[0]], self._pairs.after.nodes[makers[1]]
            constant = ours in self._pairs.before.constants and theirs in self._pairs.after.constants
            tokens = (0, makers[0]), (1, makers[1])
            if constant and nodes[0].kind == nodes[1].kind and self._direct.isdisjoint(tokens):
                self._join_directly(tokens, "constant operand of matched nodes")
                self._join_operands(*nodes)

    def _join_directly(self, tokens: tuple[Token, Token], evidence: str) -> None:
        self._sets.union(*tokens)
        self._evidence.setdefault(tokens[1], evidence)
        self._direct.update(tokens)

    def _join_carriers(self) -> None:
        """Nodes that only carry matched values on belong together, one to one in order."""
        ours, theirs = _carriers(self._views[0]), _carriers(self._views[1])
        for (kind, root), positions in ours.items():
            partner = self._pairs.forward.get(root)
            if partner is not None:
                for position, other in zip(positions, theirs.get((kind, partner), ()), strict=False):
                    self._join_directly(((0, position), (1, other)), "carries on a matched value")

    def _join_carriers_by_use(self) -> None:
        """Nodes that carry values on of which one model alone has one belong together where the same is done with it.

        So an Identity stays one whose operand was computed by a node that is gone.
        """
        ours, theirs = (self._open_carriers(side) for side in (0, 1))
        for use, positions in ours.items():
            if len(positions) == len(theirs.get(use, ())) == 1:
                self._join_directly(((0, positions[0]), (1, theirs[use][0])), "carries on to the same operand")

    def _open_carriers(self, side: int) -> Mapping[object, list[int]]:
        """Nodes that only carry a value on and have no partner, by operator and what their result is used for."""
        found: dict[object, list[int]] = defaultdict(list)
        view = self._views[side]
        position_of = {id(node.node): position for position, node in enumerate(view.nodes)}
        returned = self._ends(side)
        for position, node in enumerate(view.nodes):
            if not node.transparent or (side, position) in self._direct:
                continue
            result = node.node.outputs[0]
            readers = [(position_of.get(id(use.node)), use.idx) for use in result.uses()]
            uses = sorted((self._sets[side, p], place) for p, place in readers if p is not None)
            if uses or result in returned:
                found[node.kind, tuple(uses), returned.get(result)].append(position)
        return found

    def _ends(self, side: int) -> Mapping[ir.Value, object]:
        """What tells apart the outputs of graphs: names where they are an interface, else the group and the place."""
        view = self._views[side]
        model = view.model
        found: dict[ir.Value, object] = {value: value.name for value in model.graph.outputs}
        for key, function in model.functions.items():
            found.update((value, (key, place)) for place, value in enumerate(function.outputs))
        for position, node in enumerate(view.nodes):
            for number, (_, body) in enumerate(bodies(node.node)):
                group = self._sets[side, position]
                found.update((value, (group, number, place)) for place, value in enumerate(body.outputs))
        return found

    def _join_constants(self) -> None:
        """Nodes that compute equal constants, in order; those of equal names first."""
        theirs = _constant_makers(self._views[1], self._direct, 1)
        for key, positions in _constant_makers(self._views[0], self._direct, 0).items():
            others = theirs.get(key, [])
            named = {self._views[1].nodes[p].ref.name: p for p in others}
            rest = []
            for position in positions:
                other = named.pop(self._views[0].nodes[position].ref.name, None)
                if other is None:
                    rest.append(position)
                else:
                    self._join_directly(((0, position), (1, other)), "equal constant")
            for position, other in zip(rest, named.values(), strict=False):
                self._join_directly(((0, position), (1, other)), "equal constant")

    def _join_sources(self) -> None:
        for position, made_from in self._sources.items():
            for source in made_from:
                if (0, source) not in self._direct and (1, position) not in self._direct:
                    self._sets.union((1, position), (0, source))
                    self._evidence[1, position] = "recorded by the pass that made it"

    def _absorb(self, side: int) -> None:
        """What only a group's nodes need, and has no partner, was fused into them or taken apart from them."""
        view = self._views[side]
        matched: Mapping[int, int] = self._pairs.backward if side else self._pairs.forward
        for position in range(len(view.nodes) - 1, -1, -1):
            node = view.nodes[position]
            if any(value in matched for value in node.outputs) or (side, position) in self._direct:
                continue
            if node.transparent or node.kind == ("", "Constant"):
                continue
            readers = self._reading(side, node)
            if not readers or readers & self._direct:
                continue
            groups = {self._sets[token] for token in readers}
            constant = node.outputs[0] in view.constants
            if len(groups) == 1 or (node.node.outputs[0].dtype in FLOATS and not constant):
                self._sets.union((side, position), *readers)

    def _reading(self, side: int, node: NodeView) -> set[Token]:
        """Nodes that read what a node computes; none where it is returned."""
        view = self._views[side]
        found: set[Token] = set()
        for value in node.outputs:
            if value in self._returned[side]:
                return set()
            found.update((side, reader) for reader, _ in view.consumers[value] if not view.nodes[reader].transparent)
        return found

    def _ordered(self) -> tuple[Group, ...]:
        """Groups in the order of the second model; removed nodes behind the node that stood before them."""
        members: dict[Token, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, view in enumerate(self._views):
            for position in range(len(view.nodes)):
                members[self._sets[side, position]][side].append(position)
        keyed: list[tuple[tuple[int, int, int], Group]] = []
        last: dict[int, int] = {}
        for ours, theirs in members.values():
            for position in ours:
                if theirs:
                    last[position] = theirs[-1]
        place = -1
        stands: dict[int, int] = {}
        for position in range(len(self._views[0].nodes)):
            place = last.get(position, place)
            stands[position] = place
        for ours, theirs in members.values():
            key = (theirs[-1], 0, 0) if theirs else (stands[ours[0]], 1, ours[0])
            keyed.append((key, self._group(ours, theirs)))
        return tuple(group for _, group in sorted(keyed, key=lambda item: item[0]))

    def _group(self, ours: Sequence[int], theirs: Sequence[int]) -> Group:
        before, after = [self._views[0].nodes[p] for p in ours], [self._views[1].nodes[p] for p in theirs]
        how = _how(before, after)
        if how == "replaced" and after[-1].kind == CLIPPING:
            evidence = "the quantizer clips as the activation does"
        elif how == "removed":
            evidence = self._why_removed(before[0])
        elif how == "added":
            evidence = _why_added(after[0])
        else:
            evidence = next((self._evidence[1, p] for p in reversed(theirs) if (1, p) in self._evidence), "")
        return Group(tuple(n.ref for n in before), tuple(n.ref for n in after), how, evidence)

    def _why_removed(self, node: NodeView) -> str:
        pairs = self._pairs
        value = node.outputs[0] if node.outputs else ABSENT
        if value in pairs.doubles:
            return f"the same is computed once, as {pairs.after.name(pairs.doubles[value])!r}"
        if value in pairs.before.constants:
            return "computes a constant"
        return "only carries its operand on" if node.transparent else "nothing in the second model does this"


def _why_added(node: NodeView) -> str:
    return "only carries its operand on" if node.transparent else "nothing in the first model does this"


def _how(before: Sequence[NodeView], after: Sequence[NodeView]) -> How:
    if not after:
        return "removed"
    if not before:
        return "added"
    if len(before) == len(after) == 1:
        return _how_alone(before[0], after[0])
    if Counter(map(_operator, before)) == Counter(map(_operator, after)):
        return "moved"
    return "fused" if len(before) > len(after) else "decomposed" if len(before) < len(after) else "replaced"


def _how_alone(before: NodeView, after: NodeView) -> How:
    if _operator(before) != _operator(after):
        return "replaced"
    if _place(before.ref) != _place(after.ref):
        return "moved"
    return "same" if before.ref.name == after.ref.name else "renamed"


def _operator(node: NodeView) -> tuple[str, str]:
    """A node's kind, told apart where activation and quantizer clip alike."""
    return (node.node.domain, node.node.op_type) if node.kind == CLIPPING else node.kind


def _place(ref: NodeRef) -> tuple[str, ...]:
    """Which kind of bodies a node is in, without the names of the nodes that have them."""
    return tuple(step.split(" ")[0] if step.startswith("function ") else step.rsplit(".", 1)[-1] for step in ref.scope)


def _said(node: NodeView, view: View) -> tuple[object, ...]:
    """Attributes and constants of a node."""
    constants = [
        (0 if node.commutative else place, view.constants[value].key)
        for place, value in enumerate(node.inputs)
        if value in view.constants
    ]
    return (node.attributes, *sorted(constants))


def _carriers(view: View) -> dict[tuple[tuple[str, str], int], list[int]]:
    """Nodes that only carry a value on, by operator and value."""
    found: dict[tuple[tuple[str, str], int], list[int]] = defaultdict(list)
    for position, node in enumerate(view.nodes):
        if node.transparent:
            found[node.kind, node.inputs[0]].append(position)
    return found


def _constant_makers(view: View, direct: Iterable[Token], side: int) -> dict[object, list[int]]:
    """Nodes that compute constants and have no partner, by operator and content."""
    found: dict[object, list[int]] = defaultdict(list)
    taken = set(direct)
    for position, node in enumerate(view.nodes):
        if node.outputs and node.outputs[0] in view.constants and (side, position) not in taken:
            found[node.kind, view.constants[node.outputs[0]].key].append(position)
    return found
