"""The graphs of two models side by side: the main graphs, and those in bodies of nodes and in functions."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sardonyx import ir
from sardonyx.diff import Diff, Matching
from sardonyx.diff.schema import NodeEntry
from sardonyx.diff.view import bodies, function_scope
from sardonyx.report.content import Drawing
from sardonyx.report.drawing import INTERFACE, MOST_NODES, DrawnGraph, draw, drawn_graph

_STATES = {
    "replaced": "fused",
    "fused": "fused",
    "decomposed": "fused",
    "moved": "moved",
    "added": "added",
    "removed": "removed",
    "same": "changed",
    "renamed": "changed",
}
"""State in the drawing of the nodes of a region that `Diff.regions` lists, by what became of them."""

TOUCHED_WEIGHTS = ("type", "shape", "values", "quantized", "dequantized")
"""What became of initializers whose content differs."""

MOST_BODIES = 200
"""Bodies that are drawn; of more, those in which nothing changed are left out first."""

Scope = tuple[str, ...]
_Places = tuple[Scope | None, Scope | None]


@dataclass(frozen=True)
class Comparison:
    """Two models and what a diff found.

    Attributes:
        before: The original.
        after: The model that came of it.
        matching: Which of their nodes belong together.
        diff: What differs.
        names: What to call the two.
    """

    before: ir.Model
    after: ir.Model
    matching: Matching
    diff: Diff
    names: tuple[str, str] = ("before", "after")


def drawings(compared: Comparison) -> tuple[Drawing, ...]:
    """Returns both main graphs side by side, and behind them those of bodies and functions, drawn when asked for.

    Returns:
        The drawings; none where the models are larger than a page can hold.
    """
    if ir.num_nodes(compared.before) + ir.num_nodes(compared.after) > MOST_NODES:
        return ()
    sides = (_Side(compared.before, compared.names[0]), _Side(compared.after, compared.names[1]))
    for region in compared.diff.regions:
        for side, entries in zip(sides, (region.before, region.after), strict=True):
            for entry in entries:
                side.mark(entry, _STATES[region.how], f"{region.how}: {region.evidence}")
    _mark_weights(compared, sides)
    links = _links(compared.matching)
    pairs = [((), ()), *_shown(sides, _paired(sides, links))]
    anchors = {pair: f"body-{index}" if index else "" for index, pair in enumerate(pairs)}
    for which, side in enumerate(sides):
        side.refer({scope: anchor for pair, anchor in anchors.items() if (scope := pair[which])})
    return tuple(_drawing(sides, pair, links, anchor) for pair, anchor in anchors.items())


def model_drawings(model: ir.Model) -> tuple[Drawing, ...]:
    """Returns the graphs of one model: the main graph, and those of bodies and functions, drawn when asked for.

    Returns:
        The drawings; none where the model is larger than a page can hold.
    """
    if ir.num_nodes(model) > MOST_NODES:
        return ()
    side = _Side(model, "")
    scopes = [(), *[scope for scope in side.graphs if scope and side.nodes(scope)][:MOST_BODIES]]
    anchors = {scope: f"body-{index}" if index else "" for index, scope in enumerate(scopes)}
    side.refer({scope: anchor for scope, anchor in anchors.items() if scope})
    found = [
        draw([side.done(scope)], title=_title(scope) or "Graph", anchor=anchor) for scope, anchor in anchors.items()
    ]
    return tuple(each for each in found if each is not None)


class _Side:
    """The graphs of one model by scope, with states and notes of their nodes by position in the drawing.

    Args:
        model: The model.
        title: What to call it.
    """

    def __init__(self, model: ir.Model, title: str) -> None:
        self.model = model
        self.graphs: dict[Scope, DrawnGraph] = {}
        self.places: dict[Scope, dict[int, int]] = {}
        self._located: dict[ir.Node, tuple[Scope, int]] = {}
        for scope, graph in _scoped(model):
            self.graphs[scope], self.places[scope] = drawn_graph(graph, title)
            self._located |= {node: (scope, index) for index, node in enumerate(graph)}
        self.states: dict[Scope, dict[int, str]] = defaultdict(dict)
        self.notes: dict[Scope, dict[int, str]] = defaultdict(dict)
        self._owners = self._held()

    def _held(self) -> dict[Scope, list[tuple[Scope, int]]]:
        """Where the nodes are drawn that have a graph as a body, or call it."""
        named: dict[tuple[Scope, str], list[tuple[Scope, int]]] = defaultdict(list)
        calls: dict[str, list[tuple[Scope, int]]] = defaultdict(list)
        for scope, graph in self.graphs.items():
            for place, node in enumerate(graph.nodes):
                if node.state != INTERFACE:
                    named[scope, node.name].append((scope, place))
                    calls[node.op].append((scope, place))
        found: dict[Scope, list[tuple[Scope, int]]] = {(): []}
        for scope in self.graphs.keys() - {()}:
            step = scope[-1]
            if step.startswith("function "):
                found[scope] = calls[step.removeprefix("function ").replace("::", ".")]
            else:
                found[scope] = named[scope[:-1], step.rpartition(".")[0]]
        return found

    def nodes(self, scope: Scope) -> int:
        """Returns the number of nodes of a graph that are drawn."""
        return sum(node.state != INTERFACE for node in self.graphs[scope].nodes)

    def place(self, scope: Scope, index: int) -> int | None:
        """Returns where the node at a position of a graph is drawn; None where it is not."""
        return self.places.get(scope, {}).get(index)

    def mark(self, entry: NodeEntry, state: str, note: str) -> None:
        """Marks a node, and those in whose bodies it is, where nothing else became of them."""
        place = self.place(entry.scope, entry.index)
        if place is not None:
            self.states[entry.scope][place], self.notes[entry.scope][place] = state, note
        self._mark_owners(entry.scope, f"in its body, {entry.op_type} {entry.name}: {note}")

    def touch(self, node: ir.Node, note: str) -> None:
        """Marks a node whose weight differs, and those in whose bodies it is, where nothing else became of them."""
        scope, index = self._located[node]
        place = self.place(scope, index)
        if place is not None and place not in self.states[scope]:
            self.states[scope][place], self.notes[scope][place] = "changed", note
            self._mark_owners(scope, f"in its body, {node.op_type} {node.name}: {note}")

    def _mark_owners(self, inner_scope: Scope, inner: str) -> None:
        waiting, seen = [inner_scope], {inner_scope}
        while waiting:
            for scope, owner in self._owners.get(waiting.pop(), ()):
                self.states[scope].setdefault(owner, "changed")
                self.notes[scope].setdefault(owner, inner)
                if scope not in seen:
                    seen.add(scope)
                    waiting.append(scope)

    def changed(self, scope: Scope) -> bool:
        """Whether anything became of a graph's nodes."""
        return bool(self.states[scope])

    def refer(self, anchors: Mapping[Scope, str]) -> None:
        """Lets the nodes that have bodies refer to their drawings."""
        bodies_of: dict[tuple[Scope, int], list[tuple[str, str]]] = defaultdict(list)
        for scope, anchor in anchors.items():
            for owner in self._owners[scope]:
                bodies_of[owner].append((scope[-1], anchor))
        for (scope, place), found in bodies_of.items():
            nodes = list(self.graphs[scope].nodes)
            nodes[place] = replace(nodes[place], bodies=tuple(found))
            self.graphs[scope] = replace(self.graphs[scope], nodes=tuple(nodes))

    def done(self, scope: Scope) -> DrawnGraph:
        """Returns a graph with what became of its nodes."""
        return self.graphs[scope].with_states(self.states[scope], self.notes[scope])


def _scoped(model: ir.Model) -> Iterator[tuple[Scope, ir.Graph]]:
    """Yields the graphs of a model with their scopes, the main graph first."""
    yield from _within(model.graph, ())
    for function in model.functions.values():
        yield from _within(function.graph, (function_scope(function),))


def _within(graph: ir.Graph, scope: Scope) -> Iterator[tuple[Scope, ir.Graph]]:
    yield scope, graph
    for node in graph:
        for step, body in bodies(node):
            yield from _within(body, (*scope, step))


def _links(matching: Matching) -> Mapping[tuple[Scope, Scope], list[tuple[int, int]]]:
    """Positions of nodes that belong together, by the graphs in which they are."""
    found: dict[tuple[Scope, Scope], list[tuple[int, int]]] = defaultdict(list)
    for group in matching.groups:
        for a in group.before:
            for b in group.after:
                found[a.scope, b.scope].append((a.index, b.index))
    return found


def _paired(
    sides: tuple[_Side, _Side], links: Mapping[tuple[Scope, Scope], Sequence[tuple[int, int]]]
) -> Iterator[_Places]:
    """Yields bodies that belong together, by most of the nodes in them, else by their names; others alone."""
    votes = Counter({pair: len(found) for pair, found in links.items() if all(pair)})
    named = [(scope, scope) for scope in sides[0].graphs if scope and scope in sides[1].graphs]
    partner: dict[Scope, Scope] = {}
    for ours, theirs in (*(pair for pair, _ in votes.most_common()), *named):
        if ours not in partner and theirs not in partner.values():
            partner[ours] = theirs
    for scope in sides[0].graphs:
        if scope:
            yield scope, partner.get(scope)
    for scope in sides[1].graphs:
        if scope and scope not in partner.values():
            yield None, scope


def _shown(sides: tuple[_Side, _Side], pairs: Iterator[_Places]) -> list[_Places]:
    """Bodies in which there is a node to see, at most `MOST_BODIES`."""
    both = [
        (pair, any(side.changed(scope) for side, scope in zip(sides, pair, strict=True) if scope is not None))
        for pair in pairs
        if any(side.nodes(scope) for side, scope in zip(sides, pair, strict=True) if scope is not None)
    ]
    if len(both) > MOST_BODIES:
        both.sort(key=lambda item: not item[1])
    return [pair for pair, _ in both[:MOST_BODIES]]


def _drawing(
    sides: tuple[_Side, _Side],
    pair: _Places,
    links: Mapping[tuple[Scope, Scope], Sequence[tuple[int, int]]],
    anchor: str,
) -> Drawing:
    graphs = [side.done(scope) for side, scope in zip(sides, pair, strict=True) if scope is not None]
    ties: list[tuple[int, int]] = []
    ours, theirs = pair
    if ours is not None and theirs is not None:
        places = [
            (sides[0].place(ours, before), sides[1].place(theirs, after))
            for before, after in links.get((ours, theirs), ())
        ]
        ties = [(a, b) for a, b in places if a is not None and b is not None]
        ties += _interface(graphs)
    made = draw(graphs, ties, title=_title(*(scope for scope in pair if scope)) or "Graphs", anchor=anchor)
    if made is None:  # `drawings` has counted the nodes
        raise AssertionError("a graph that is larger than its model")
    return made


def _title(*scopes: Scope) -> str:
    """What to call a body: the path to it, in both models where that differs."""
    return " → ".join(dict.fromkeys("/".join(scope) for scope in scopes if scope))


def _interface(graphs: Sequence[DrawnGraph]) -> Iterator[tuple[int, int]]:
    """Pairs of inputs and of outputs of the same name."""
    theirs = {(n.op, n.name): i for i, n in enumerate(graphs[1].nodes) if n.state == INTERFACE}
    for index, node in enumerate(graphs[0].nodes):
        if (node.op, node.name) in theirs:
            yield index, theirs[node.op, node.name]


def _mark_weights(compared: Comparison, sides: tuple[_Side, _Side]) -> None:
    """Marks the nodes that read an initializer whose content differs, where nothing else became of them."""
    for change in compared.diff.initializers:
        if change.how not in TOUCHED_WEIGHTS:
            continue
        for side, weight in zip(sides, (change.before, change.after), strict=True):
            value = None if weight is None else side.model.graph.initializers.get(weight)
            for use in () if value is None else value.uses():
                side.touch(use.node, f"its weight {weight}: {change.how}")
