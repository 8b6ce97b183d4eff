"""Choosing branches at compile time: an If whose condition is constant becomes the branch that it takes."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.provenance import mark


@dataclass(frozen=True)
class ChooseBranches(Pass):
    """Replaces each If with a constant condition by the nodes of the branch it takes."""

    name = "choose-branches"
    summary = "replace an If whose condition is constant by the branch it takes"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Inlines branches, in subgraphs too.

        Raises:
            PassError: If types or shapes that an If had hidden turn out to contradict one another: runtimes that
                check them would refuse the result.
        """
        known = set(ir.infer_shapes(model).failures)
        names = ir.NameAuthority(model)
        chosen = 0
        for graph in list(ir.all_graphs(model)):
            for node in graph:
                if node.op_type == "If" and not node.domain:
                    chosen += _inline(graph, node, names)
        if chosen:
            exposed = [failure for failure in ir.infer_shapes(model).failures if failure not in known]
            if exposed:
                raise PassError(f"Without its If the model contradicts itself: {exposed[0]}")
        return PassResult(model, chosen > 0, {self.name: chosen} if chosen else {})


def _inline(graph: ir.Graph, node: ir.Node, names: ir.NameAuthority) -> bool:
    """Replaces an If in place; does nothing where its condition is not constant."""
    condition = node.inputs[0] if node.inputs else None
    tensor = ir.constant_tensor(condition) if condition is not None else None
    if tensor is None or tensor.size != 1:
        return False
    attribute = node.attributes.get("then_branch" if tensor.numpy().item() else "else_branch")
    if attribute is None or attribute.is_ref():
        return False
    branch = attribute.as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name or "")
        value.name = names.value(value.name or "constant")
        graph.register_initializer(value)
    for inner in list(branch):
        branch.remove(inner)
        inner.name = names.node(inner.name or inner.op_type)
        mark(inner, ChooseBranches.name, node.name)
        for output in inner.outputs:  # both branches may use the same names, and two Ifs as well
            output.name = names.value(output.name) if output.name else output.name
        graph.insert_before(node, inner)
    for output, result in zip(list(node.outputs), results, strict=True):
        _take_over(graph, node, output, result, names)
    graph.remove(node, safe=True)
    return True


def _take_over(graph: ir.Graph, node: ir.Node, output: ir.Value, result: ir.Value, names: ir.NameAuthority) -> None:
    """Gives the uses of an If's output to the branch's result; a graph output keeps its name."""
    if not output.is_graph_output():
        ir.replace_all_uses_with(output, result)
        return
    producer = result.producer()
    if producer is None or producer.graph is not graph or result.is_graph_output():
        copy = ir.Node("", "Identity", [result], name=names.node(f"{node.name}_result"))
        copy.outputs[0].type, copy.outputs[0].shape = result.type, result.shape
        graph.insert_before(node, copy)
        result = copy.outputs[0]
    name, output.name = output.name, names.value(f"{output.name}_of_if")
    ir.replace_all_uses_with(output, result, replace_graph_outputs=True)
    result.name = name
