"""Repairs that a model needs before it can become a graph of values: names that are defined twice.

Which definition a use means is not in the file, so the exporter's order decides: a use refers to the latest
definition before it, and a use before all definitions to the first. The last definition keeps the name,
because that is the one a graph output of this name means; earlier ones are renamed. A graph input keeps its
name in any case. PyTorch's exporter writes such models when a requested output name meets an inner one.
"""

from collections import Counter
from collections.abc import Iterable

import onnx

from sardonyx.errors import LoadError
from sardonyx.ir.lean import proto_graphs, proto_subgraphs
from sardonyx.ir.repair import Repair


def rename_duplicates(proto: onnx.ModelProto) -> tuple[Repair, ...]:
    """Gives each value of a model that was defined twice a name of its own, in place.

    Raises:
        LoadError: If a name is both a graph input and a graph output that a node computes.
    """
    graphs = [proto.graph, *proto.functions]
    if not any(_duplicates(scope) for root in graphs for scope in _scopes(root)):
        return ()
    renamer = _Renamer({name for root in graphs for scope in _scopes(root) for name in _names(scope)})
    for root in graphs:
        renamer.rename(root, {})
    return (
        Repair(
            "duplicate-value",
            f"{len(renamer.renamed)} values had a name that another value also has; they were renamed.",
            tuple(renamer.renamed),
        ),
    )


_Scope = onnx.GraphProto | onnx.FunctionProto


def _scopes(root: _Scope) -> Iterable[_Scope]:
    if isinstance(root, onnx.GraphProto):
        return proto_graphs(root)
    inner = (graph for node in root.node for sub in proto_subgraphs(node) for graph in proto_graphs(sub))
    return (root, *inner)


def _definitions(scope: _Scope) -> Counter[str]:
    """Counts how often each name is defined: as input or initializer, and by nodes."""
    counts = Counter(_given(scope))
    counts.update(name for node in scope.node for name in node.output if name)
    return counts


def _given(scope: _Scope) -> set[str]:
    if isinstance(scope, onnx.FunctionProto):
        return set(scope.input)
    return {info.name for info in scope.input} | {tensor.name for tensor in scope.initializer}


def _duplicates(scope: _Scope) -> dict[str, int]:
    return {name: count for name, count in _definitions(scope).items() if count > 1}


def _names(scope: _Scope) -> Iterable[str]:
    yield from _definitions(scope)
    for node in scope.node:
        yield from node.input


class _Renamer:
    """Walks scopes in file order and renames all but one definition of each duplicated name.

    Args:
        taken: Names in use anywhere in the model.
    """

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self.renamed: dict[str, None] = {}

    def rename(self, scope: _Scope, outer: dict[str, str]) -> None:
        """Renames within one scope and the scopes inside it; `outer` holds the renamings around it."""
        counts = _definitions(scope)
        current = {name: new for name, new in outer.items() if name not in counts}
        remaining = {name: count for name, count in counts.items() if count > 1}
        fixed = self._keep_inputs(scope, remaining)
        current.update(self._rename_given(scope, remaining, fixed))
        first = {name: self._fresh(name) for name in remaining if name not in current and name not in fixed}
        current.update(first)
        for node in scope.node:
            node.input[:] = [current.get(name, name) for name in node.input]
            for subgraph in proto_subgraphs(node):
                self.rename(subgraph, current)
            for i, name in enumerate(node.output):
                if name not in remaining:
                    continue
                remaining[name] -= 1
                if remaining[name] == 0 and name not in fixed:
                    current.pop(name, None)
                    continue
                current[name] = first.pop(name, "") or self._fresh(name)
                node.output[i] = current[name]
        if isinstance(scope, onnx.GraphProto):
            kept = [info for info in scope.value_info if info.name not in remaining]
            del scope.value_info[:]
            scope.value_info.extend(kept)

    def _keep_inputs(self, scope: _Scope, remaining: dict[str, int]) -> set[str]:
        """Returns the duplicated names that belong to an input of the scope."""
        is_graph = isinstance(scope, onnx.GraphProto)
        inputs = {info.name for info in scope.input} if is_graph else set(scope.input)
        outputs = {info.name for info in scope.output} if is_graph else set(scope.output)
        for name in inputs & outputs & set(remaining):
            raise LoadError(
                f"{name!r} is an input of graph {scope.name!r} and also an output that a node computes.",
                remedy="Export the model again with different names for its inputs and outputs.",
            )
        return inputs & set(remaining)

    def _rename_given(self, scope: _Scope, remaining: dict[str, int], fixed: set[str]) -> dict[str, str]:
        """Renames initializers whose name a node also defines; inputs keep theirs. Both count as defined."""
        renamed = {}
        for name in _given(scope) & set(remaining):
            remaining[name] -= 1
            if name not in fixed:
                renamed[name] = self._fresh(name)
        if isinstance(scope, onnx.GraphProto):
            for tensor in scope.initializer:
                tensor.name = renamed.get(tensor.name, tensor.name)
        return renamed

    def _fresh(self, name: str) -> str:
        number = 1
        while (candidate := f"{name}_{number}") in self._taken:
            number += 1
        self._taken.add(candidate)
        self.renamed[name] = None
        return candidate
