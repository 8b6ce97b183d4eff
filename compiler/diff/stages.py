"""What tells at once which values of two models correspond: interface, equal computation, weights, names."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache, partial

from sardonyx.diff.alignment import common_subsequence
from sardonyx.diff.constants import Constant
from sardonyx.diff.folding import match_folded
from sardonyx.diff.numbering import SMALL, Detail, Numbering, Numbers
from sardonyx.diff.pairs import BothNumbers, Pairs
from sardonyx.diff.propagation import Surroundings, constant_shapes
from sardonyx.diff.view import ABSENT, FLOATS, NodeView, View, ordered

Known = tuple[Mapping[int, int], Mapping[int, int]]
"""Numbers of the matched values, of both models."""

AHEAD = 4
"""Nodes behind a weighted one that a runtime fuses with it: a normalization, a scale, a sum, an activation."""
TRUSTED = 0.9
"""Names are believed where this share of what is matched without them agrees with them."""


def match_interface(pairs: Pairs) -> None:
    """Matches inputs and outputs, by name, else by position where their numbers are equal."""
    before, after = pairs.before, pairs.after
    for ours, theirs, what in (
        (before.inputs, after.inputs, "input of the model"),
        (before.outputs, after.outputs, "output of the model"),
    ):
        # An output keeps its name where what it carries has another: the names are those of the interface.
        graph_ends = (before.model.graph, after.model.graph)
        names = [
            [value.name for value in (graph.inputs if what.startswith("input") else graph.outputs)]
            for graph in graph_ends
        ]
        places = dict(zip(names[1], theirs, strict=True))
        for name, value in zip(names[0], ours, strict=True):
            if name in places:
                pairs.add(value, places[name], what)
        if len(ours) == len(theirs):
            for value, partner in zip(ours, theirs, strict=True):
                pairs.add(value, partner, f"{what}, by position")


class Stages:
    """The stages of matching that look at whole models.

    Args:
        pairs: What is matched so far; the stages add to it.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self._numbers = Numbers()

    def alike(self) -> int:
        """Matches values that are computed alike from matched ones, then those that are used alike."""
        numbering = Numbering(self._numbers, Detail.CONTENT)
        known = self.pairs.known()
        forward = self._forward(numbering, known)
        uses = cache(partial(self._backward, numbering, known, forward))
        found = self.pairs.by_number(forward, "computed alike", uses)
        known = self.pairs.known()
        backward = self._backward(numbering, known, self._forward(numbering, known))
        return found + self.pairs.by_number(backward, "used alike")

    def alike_but_for_weights(self) -> int:
        """Matches values that are computed and used alike when of weights only the shape is looked at."""
        numbering = Numbering(self._numbers, Detail.SHAPE)
        known = self.pairs.known()
        forward = self._forward(numbering, known)
        backward = self._backward(numbering, known, forward)
        ours, theirs = (
            [self._numbers.of(pair) for pair in zip(ahead, behind, strict=True)]
            for ahead, behind in zip(forward, backward, strict=True)
        )
        return self.pairs.by_number((ours, theirs), "computed and used alike but for weights")

    def _forward(self, numbering: Numbering, known: Known) -> BothNumbers:
        return numbering.forward(self.pairs.before, known[0]), numbering.forward(self.pairs.after, known[1])

    def _backward(self, numbering: Numbering, known: Known, forward: BothNumbers) -> BothNumbers:
        views = self.pairs.before, self.pairs.after
        ours, theirs = (numbering.backward(*both) for both in zip(views, known, forward, strict=True))
        return ours, theirs

    def weights(self) -> int:
        """Matches what nodes with the same weights and attributes read and compute, where no others have them."""
        found = 0
        theirs = _weighted(self.pairs.after)
        for key, node in _weighted(self.pairs.before).items():
            partner = theirs.get(key)
            if node is None or partner is None:
                continue
            for before, after in zip(node.outputs, partner.outputs, strict=False):
                found += self.pairs.add(before, after, "computed with the same weights")
            operands = list(self.pairs.before.data(node)), list(self.pairs.after.data(partner))
            if len(operands[0]) == len(operands[1]) == 1 or not node.commutative:
                for (_, before), (_, after) in zip(*operands, strict=False):
                    if self.pairs.same_shape(before, after):
                        found += self.pairs.add(before, after, "read with the same weights")
        return found

    def names(self) -> int:
        """Matches values, then outputs of nodes, of the same name, where names can be believed."""
        pairs = self.pairs
        ours, theirs = _by_name(pairs.before), _by_name(pairs.after)
        if self._trust(ours, theirs) < TRUSTED:
            return 0
        found = 0
        for name, value in ours.items():
            partner = theirs.get(name)
            if partner is not None and pairs.same_shape(value, partner):
                found += self._named(value, partner, "name")
        nodes = {(node.ref.scope, node.ref.name): node for node in pairs.after.nodes if not node.transparent}
        for node in pairs.before.nodes:
            other = nodes.get((node.ref.scope, node.ref.name))
            if other is not None and node.ref.name and other.kind == node.kind and not node.transparent:
                for value, partner in zip(node.outputs, other.outputs, strict=False):
                    if pairs.same_shape(value, partner):
                        found += self._named(value, partner, "name of the node")
        return found

    def _named(self, value: int, partner: int, evidence: str) -> int:
        """Matches values of one name, unless weights tell that one of them stands for more: tools keep such names."""
        pairs = self.pairs
        makers = pairs.before.maker(value), pairs.after.maker(partner)
        if value not in pairs.forward and partner not in pairs.backward and makers[0] and makers[1]:
            folded = match_folded(pairs, makers[0], makers[1])
            if folded is not None:
                return folded
        return int(pairs.add(value, partner, evidence))

    def in_order(self) -> int:
        """Matches what nodes read that have weights of the same shapes and come in the same order.

        What they compute may differ by what was folded into the weights, so that is left to the neighbourhood.
        """
        pairs = self.pairs
        nodes = [heavy_nodes(view) for view in (pairs.before, pairs.after)]
        shared = _shared_keys(pairs, nodes)
        tokens = [[_token(view, n, shared, m) for n in found] for view, found, m in self._sides(nodes)]
        found = self._read_in_order(nodes, tokens)
        ahead = [[_token_ahead(view, n, m) for n in found] for view, found, m in self._sides(nodes)]
        return found + self._read_in_order(nodes, ahead)

    def _read_in_order(self, nodes: list[list[NodeView]], tokens: list[list[object]]) -> int:
        pairs, found = self.pairs, 0
        for ours, theirs in common_subsequence(*tokens):
            before, after = nodes[0][ours], nodes[1][theirs]
            folded = match_folded(pairs, before, after)
            if folded is not None:
                found += folded
                continue
            if not _alike_weights(pairs, before, after):
                continue
            for (_, value), (_, partner) in zip(pairs.before.data(before), pairs.after.data(after), strict=False):
                if pairs.same_shape(value, partner) and pairs.made_alike(value, partner):
                    found += pairs.add(value, partner, "read by weighted nodes in the same order")
        return found

    def all_in_order(self) -> int:
        """Matches what nodes of the same operator, attributes and shapes of constants read and compute, in order.

        The last resort, for runs of nodes between others that were rewritten: what is around them has to agree.
        """
        pairs = self.pairs
        near = Surroundings(pairs.before), Surroundings(pairs.after)
        nodes = [[n for n in ordered(v) if not n.transparent and n.outputs] for v in (pairs.before, pairs.after)]
        tokens = [[_full_token(view, n, m) for n in found] for view, found, m in self._sides(nodes)]
        found = 0
        for ours, theirs in common_subsequence(*tokens):
            before, after = nodes[0][ours], nodes[1][theirs]
            for value, partner in zip(before.outputs, after.outputs, strict=False):
                if pairs.same_shape(value, partner) and near[0].readers(value) == near[1].readers(partner):
                    found += pairs.add(value, partner, "the same operator in the same order")
        return found

    def _sides(self, nodes: list[list[NodeView]]) -> Iterator[tuple[View, list[NodeView], Mapping[int, int]]]:
        """Both models, with what is matched named alike."""
        pairs = self.pairs
        yield pairs.before, nodes[0], {value: value for value in pairs.forward}
        yield pairs.after, nodes[1], pairs.backward

    def _trust(self, ours: Mapping[str, int], theirs: Mapping[str, int]) -> float:
        """Share of what is matched that names agree with; of equal names, that name the same operator, if none is."""
        agree = differ = 0
        for value, partner in self.pairs.forward.items():
            if self.pairs.before.producer[value] is None or self.pairs.evidence[value].startswith("output"):
                continue
            name, other = self.pairs.before.name(value), self.pairs.after.name(partner)
            agree += name == other
            differ += name != other and (name in theirs or other in ours)
        if agree + differ:
            return agree / (agree + differ)
        common = [name for name in ours if name in theirs]
        if not common:
            return 0.0
        kinds = [(self.pairs.before.maker(ours[name]), self.pairs.after.maker(theirs[name])) for name in common]
        return sum(a is not None and b is not None and a.kind == b.kind for a, b in kinds) / len(kinds)


def heavy_nodes(view: View) -> list[NodeView]:
    """Nodes that read data and weights, in an order that follows from the graph."""
    return [
        node
        for node in ordered(view)
        if not node.transparent
        and node.outputs
        and node.outputs[0] not in view.constants
        and any(view.constants[v].size > SMALL for v in node.inputs if v in view.constants)
    ]


def _shared_keys(pairs: Pairs, nodes: list[list[NodeView]]) -> set[str]:
    """Contents of weights that one node in each model reads."""
    views = pairs.before, pairs.after
    once = [
        {key for key, count in Counter(_main_weight(view, n).key for n in found).items() if count == 1}
        for view, found in zip(views, nodes, strict=True)
    ]
    return once[0] & once[1]


def _main_weight(view: View, node: NodeView) -> Constant:
    """The largest constant that a node reads, the first of several."""
    return max((view.constants[v] for v in node.inputs if v in view.constants), key=lambda constant: constant.size)


def _token(view: View, node: NodeView, shared: set[str], matched: Mapping[int, int]) -> object:
    """What aligned nodes have in common: the pair they compute, else family, weight, and the pair they read."""
    pair = matched.get(node.outputs[0])
    if pair is not None:
        return pair
    weight = _main_weight(view, node)
    family = FAMILIES.get(node.kind, node.kind)
    if weight.key in shared:
        return family, weight.key
    first = next((value for _, value in view.data(node)), ABSENT)
    return family, sorted_shape(weight), matched.get(first, ABSENT)


def _token_ahead(view: View, node: NodeView, matched: Mapping[int, int]) -> object:
    """What aligned nodes have in common where one may do more than the other: weight, and the pair they lead to."""
    value = node.outputs[0]
    for _ in range(AHEAD):
        readers = {position for position, _ in view.consumers[value]}
        if value in matched or len(readers) != 1:
            break
        value = view.root[view.nodes[readers.pop()].outputs[0]]
    weight = _main_weight(view, node)
    return FAMILIES.get(node.kind, node.kind), sorted_shape(weight), matched.get(value, (id(view), node.outputs[0]))


def _alike_weights(pairs: Pairs, before: NodeView, after: NodeView) -> bool:
    """Whether nodes may have the same weight: of the same family, or of as many floats, or where one is packed.

    A scale or shift may be the last step of what the other does as one, so that reads something else.
    """
    if FAMILIES.get(before.kind, before.kind) == FAMILIES.get(after.kind, after.kind):
        return True
    if before.commutative or after.commutative:
        return False
    ours, theirs = _main_weight(pairs.before, before), _main_weight(pairs.after, after)
    return ours.size == theirs.size or not (ours.dtype in FLOATS and theirs.dtype in FLOATS)


def _full_token(view: View, node: NodeView, matched: Mapping[int, int]) -> object:
    """What aligned nodes have in common: the pair that they compute where they do, else all but what they read."""
    pair = matched.get(node.outputs[0])
    if pair is not None:
        return pair
    return node.kind, node.attributes, tuple(constant_shapes(node, view))


def sorted_shape(constant: Constant) -> tuple[int, ...]:
    """A constant's shape but for the order of its dimensions, which transposing changes."""
    return tuple(sorted(constant.shape or ()))


_CONVOLUTION, _PRODUCT = ("", "Conv"), ("", "MatMul")

FAMILIES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("com.microsoft", "FusedConv"): _CONVOLUTION,
    ("com.microsoft", "NhwcFusedConv"): _CONVOLUTION,
    ("com.microsoft.nchwc", "Conv"): _CONVOLUTION,
    ("", "ConvInteger"): _CONVOLUTION,
    ("", "QLinearConv"): _CONVOLUTION,
    ("com.microsoft", "QLinearConv"): _CONVOLUTION,
    ("", "Gemm"): _PRODUCT,
    ("", "MatMulInteger"): _PRODUCT,
    ("", "QLinearMatMul"): _PRODUCT,
    ("com.microsoft", "FusedMatMul"): _PRODUCT,
    ("com.microsoft", "FusedGemm"): _PRODUCT,
    ("com.microsoft", "TransposeMatMul"): _PRODUCT,
    ("com.microsoft", "MatMulIntegerToFloat"): _PRODUCT,
    ("com.microsoft", "DynamicQuantizeMatMul"): _PRODUCT,
    ("com.microsoft", "QGemm"): _PRODUCT,
}
"""Operators that are another one with something fused into it, or in integers."""


def _by_name(view: View) -> dict[str, int]:
    """Computed values of the main graph by name."""
    return {
        value.name: number
        for number in view.roots()
        if (value := view.values[number]).name and (maker := view.maker(number)) is not None and not maker.ref.scope
    }


def _weighted(view: View) -> dict[object, NodeView | None]:
    """Nodes by their weights, attributes and operator; None where several have the same."""
    found: dict[object, NodeView | None] = {}
    readers: Counter[str] = Counter()
    keys: dict[int, list[object]] = defaultdict(list)
    for position, node in enumerate(view.nodes):
        for operand, value in enumerate(node.inputs):
            constant = view.constants.get(value) if value != ABSENT else None
            if constant is not None and not node.transparent:
                keys[position].append((0 if node.commutative else operand, constant.key))
                readers[constant.key] += constant.size > SMALL
    for position, used in keys.items():
        node = view.nodes[position]
        if any(readers[key[1]] == 1 for key in used):  # type: ignore[index]
            key = (node.kind, node.attributes, len(node.inputs), tuple(sorted(map(str, used))))
            found[key] = None if key in found else node
    return found
