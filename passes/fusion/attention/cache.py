"""Keys and values of earlier steps: where a decoder concatenates them with the new ones."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.passes.fusion.attention.heads import Heads
from sardonyx.passes.fusion.attention.rule import producer
from sardonyx.passes.fusion.attention.scores import TIME_AXIS, Attention
from sardonyx.passes.rewriting.driver import replace_value
from sardonyx.passes.rewriting.pattern import Match


@dataclass(frozen=True)
class Cache:
    """What a decoder keeps between steps, as [B, N, P, H] before and [B, N, P + S, H] after one.

    Attributes:
        past: Keys and values of earlier steps.
        new: Keys and values of this step.
        present: The concatenations, which may be outputs of the graph.
    """

    past: tuple[ir.Value, ir.Value]
    new: tuple[Heads, Heads]
    present: tuple[ir.Value, ir.Value]

    def replace_present(self, key: ir.Value, value: ir.Value) -> None:
        """Puts a fused operator's present keys and values in place of the concatenations, which go."""
        for old, new in zip(self.present, (key, value), strict=True):
            node = old.producer()
            replace_value(old, new)
            if node is not None and node.graph is not None:
                node.graph.remove(node, safe=True)


def read_cache(read: Attention, found: Match) -> Cache | None:
    """Reads the concatenations before an attention; None where there are none, or where others compute with them."""
    inside = {*read.nodes, *found.nodes}
    nodes = [producer(heads.value, "Concat") for heads in (read.key, read.value) if not heads.sequence_first]
    parts: list[tuple[ir.Value, ir.Value]] = []
    for node in nodes:
        if (
            node is None
            or node.graph is not found.root.graph
            or len(node.inputs) != 2
            or ir.attribute(node, "axis", 0) not in TIME_AXIS
        ):
            return None
        past, new = node.inputs
        if past is None or new is None or any(use.node not in inside for use in node.outputs[0].uses()):
            return None
        parts.append((past, new))
    if len(parts) != 2 or nodes[0] is nodes[1] or nodes[0] is None or nodes[1] is None:
        return None
    (past_key, key), (past_value, value) = parts
    present = (nodes[0].outputs[0], nodes[1].outputs[0])
    return Cache((past_key, past_value), (Heads(key), Heads(value)), present)
