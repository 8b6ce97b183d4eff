"""Moving the nodes of a body (a branch, an iteration) into the graph of the node that owns it."""

from collections.abc import Sequence

from sardonyx import ir
from sardonyx.passes.provenance import mark


def splice(
    node: ir.Node, body: ir.Graph, arguments: Sequence[ir.Value], names: ir.NameAuthority, rule: str
) -> list[ir.Value]:
    """Moves the contents of `body` before `node`, with fresh names, and returns what the body's outputs are there.

    Args:
        node: The node that owns the body or a copy of it; it stays.
        body: Left empty.
        arguments: What takes the place of each input of the body.
        names: Gives the names.
        rule: Noted in the nodes moved.
    """
    graph = node.graph
    assert graph is not None
    results = list(body.outputs)
    body.outputs.clear()
    for formal, argument in zip(list(body.inputs), arguments, strict=True):
        ir.replace_all_uses_with(formal, argument)
        results = [argument if result is formal else result for result in results]
    for value in list(body.initializers.values()):
        body.initializers.pop(value.name or "")
        value.name = names.value(value.name or "constant")
        graph.register_initializer(value)
    for inner in list(body):
        body.remove(inner)
        inner.name = names.node(inner.name or inner.op_type)
        mark(inner, rule, node.name)
        for output in inner.outputs:  # two bodies may use the same names, and every iteration does
            output.name = names.value(output.name) if output.name else output.name
        graph.insert_before(node, inner)
    return results


def replace_outputs(node: ir.Node, results: Sequence[ir.Value], names: ir.NameAuthority) -> None:
    """Gives the uses of a node's outputs to other values, removes the node, and what only it needed."""
    graph = node.graph
    assert graph is not None
    for output, result in zip(list(node.outputs), results, strict=True):
        _take_over(graph, node, output, result, names)
    ir.remove_unused([node])
    ir.remove_unused(producer for result in results if (producer := result.producer()) is not None)


def _take_over(graph: ir.Graph, node: ir.Node, output: ir.Value, result: ir.Value, names: ir.NameAuthority) -> None:
    """Gives the uses of one output to a value; a graph output keeps its name."""
    if not output.is_graph_output():
        ir.replace_all_uses_with(output, result)
        return
    producer = result.producer()
    if producer is None or producer.graph is not graph or result.is_graph_output():
        copy = ir.Node("", "Identity", [result], name=names.node(f"{node.name}_result"))
        copy.outputs[0].type, copy.outputs[0].shape = result.type, result.shape
        graph.insert_before(node, copy)
        result = copy.outputs[0]
    name, output.name = output.name, names.value(f"{output.name}_of_{node.op_type}")
    ir.replace_all_uses_with(output, result, replace_graph_outputs=True)
    result.name = name
