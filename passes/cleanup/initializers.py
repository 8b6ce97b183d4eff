"""Merging equal initializers.

onnx_ir's pass does the same; it hashes every initializer, of which most have a shape of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sardonyx import ir


@dataclass(frozen=True)
class MergeInitializers(ir.InPlacePass):
    """Lets equal initializers of a graph be one: the first of equal dtype, shape and bytes.

    Those that are inputs or outputs of a graph stay.

    Attributes:
        max_elements: Larger initializers are not compared, as they are rarely equal and cost reading them all.
    """

    max_elements: int

    def call(self, model: ir.Model) -> ir.PassResult:
        """Merges in one sweep."""
        merged = sum(self._merge_equal(alike) for graph in ir.all_graphs(model) for alike in self._alike(graph))
        return ir.PassResult(model, modified=merged > 0)

    def _alike(self, graph: ir.Graph) -> list[list[ir.Value]]:
        """Groups of several initializers of the same dtype and shape."""
        groups: dict[tuple[ir.DataType, tuple[int, ...]], list[ir.Value]] = {}
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            groups.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
        return [group for group in groups.values() if len(group) > 1 and _size(group[0]) <= self.max_elements]

    def _merge_equal(self, alike: Iterable[ir.Value]) -> int:
        """Merges those of equal bytes; of each two are held at most, whatever their size."""
        merged = 0
        first: dict[int, ir.Value] = {}
        for value in alike:
            content = _content(value)
            kept = first.setdefault(hash(content), value)
            if kept is not value and _content(kept) == content and value.name is not None and value.graph is not None:
                value.replace_all_uses_with(kept)
                value.graph.initializers.pop(value.name)
                merged += 1
        return merged


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def _content(value: ir.Value) -> bytes:
    return b"" if value.const_value is None else ir.read_bytes(value.const_value)
