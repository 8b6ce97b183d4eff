"""Matching: which nodes, values and initializers of two models are the same, although names, order, fusion changed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sardonyx import ir
from sardonyx.diff.clipping import Absorbed, absorbed_activations
from sardonyx.diff.correspondence import Group, How, Matching, NodeRef
from sardonyx.diff.groups import Grouping
from sardonyx.diff.likeness import match_like_weights
from sardonyx.diff.pairs import Pairs, by_rank
from sardonyx.diff.propagation import Propagation
from sardonyx.diff.stages import Stages, match_interface
from sardonyx.diff.view import FLOATS, View, view_again, view_of
from sardonyx.diff.weights import match_initializers
from sardonyx.passes.provenance import sources

__all__ = ["Group", "How", "Matching", "NodeRef", "match"]

ABSORBING = 3
"""Times that activations absorbed by quantizers are looked for; what one time shows may tell of others."""
ROUNDS = 8
"""Rounds of all stages at most; nearly all models settle in two."""


def match(before: ir.Model, after: ir.Model, *, provenance: bool = True) -> Matching:
    """Matches two models, in time nearly linear in their nodes and bytes.

    What is computed alike from the inputs, or used alike up to the outputs, is matched first; then what has the same
    weights, and what has the same names where names agree with all that; then the neighbours of what is matched,
    across operators that were fused, folded or taken apart. Identity, Cast between floats, and Q/DQ carry a quantity on
    and are seen through. Nodes between matched values belong together.

    Args:
        before: The first model; it is not changed. Shapes should be inferred, as `ir.load` does.
        after: The second model; it is not changed.
        provenance: Whether to believe what the passes of a compile noted in the nodes they made.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    with ir.paused_gc():
        pairs = _settled(Pairs(view_of(before), view_of(after)))
        made_from = _sources(pairs) if provenance else {}
        groups = Grouping(pairs, made_from).groups()
        return Matching(groups, _value_names(pairs), match_initializers(pairs, groups), pairs)


def _settled(pairs: Pairs) -> Pairs:
    """Matches values; once more where activations turn out to be absorbed by quantizers, which then stand for them."""
    absorbed = Absorbed()
    for _ in range(ABSORBING):
        match_interface(pairs)
        _match_values(pairs)
        more = absorbed.joined(absorbed_activations(pairs))
        if more == absorbed:
            break
        absorbed = more
        pairs = Pairs(view_again(pairs.before, absorbed.before), view_again(pairs.after, absorbed.after))
    else:
        match_interface(pairs)
        _match_values(pairs)
    return pairs


def _match_values(pairs: Pairs) -> None:
    stages, propagation = Stages(pairs), Propagation(pairs)
    for turn in range(ROUNDS):
        found = stages.alike() + stages.weights() + stages.names()
        if turn == 0:
            found += match_like_weights(pairs)
        found += stages.alike_but_for_weights() + stages.in_order() + propagation.run()
        if not found and not stages.all_in_order():
            break


def _sources(pairs: Pairs) -> dict[int, list[int]]:
    """Positions of the nodes of the first model that nodes of the second say they were made from."""
    named = {node.ref.name: position for position, node in enumerate(pairs.before.nodes) if node.ref.name}
    found: dict[int, list[int]] = {}
    for position, node in enumerate(pairs.after.nodes):
        origin = [named[name] for name in sources(node.node) if name in named]
        if origin:
            found[position] = origin
    return found


def _value_names(pairs: Pairs) -> dict[str, str]:
    """Names of matched values of the main graphs; values that only carry a quantity on keep their kind of type."""
    carrying = _carrying(pairs.before), _carrying(pairs.after)
    ranks = _ranks(pairs.before, carrying[0]), _ranks(pairs.after, carrying[1])
    found: dict[str, str] = {}
    for value, root in enumerate(pairs.before.root):
        partner = pairs.forward.get(root, pairs.doubles.get(root))
        if partner is None or not _in_main(pairs.before, value):
            continue
        candidates = [v for v in carrying[1].get(partner, ()) if _in_main(pairs.after, v)]
        if len(candidates) > 1:
            rank = ranks[0].get(value)
            candidates.sort(key=lambda v, rank=rank: ranks[1].get(v) != rank)  # type: ignore[misc]
        chosen = _counterpart(pairs, value, candidates)
        if chosen is not None:
            found[pairs.before.name(value)] = pairs.after.name(chosen)
    return found


def _carrying(view: View) -> dict[int, list[int]]:
    """Values by their root, the root first."""
    found: dict[int, list[int]] = defaultdict(list)
    for value, root in enumerate(view.root):
        if value not in view.constants:
            found[root].append(value)
    return found


def _ranks(view: View, carrying: Mapping[int, Sequence[int]]) -> dict[int, object]:
    """By value that another one carries on: the operator that does so, and how many of that operator do so before."""
    return {v: rank for root, values in carrying.items() for rank, v in by_rank(view, values).items() if v != root}


def _counterpart(pairs: Pairs, value: int, candidates: list[int]) -> int | None:
    """Of values that carry the same quantity, in their order, the one to compare with: by name, else by kind."""
    name, dtype = pairs.before.name(value), pairs.before.values[value].dtype
    alike = [v for v in candidates if pairs.alike(value, v)]
    typed = [v for v in alike if pairs.after.values[v].dtype == dtype]
    floats = [v for v in alike if pairs.after.values[v].dtype in FLOATS] if dtype in FLOATS else []
    same = [v for v in (floats or alike) if pairs.after.name(v) == name]
    return next(iter((*same, *floats, *typed, *alike)), None)


def _in_main(view: View, value: int) -> bool:
    maker = view.maker(value)
    named = bool(view.name(value))
    return named and (not maker.ref.scope if maker is not None else value in view.inputs)
