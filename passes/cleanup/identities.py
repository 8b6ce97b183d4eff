"""Removing Identity nodes.

onnx_ir's pass of this name fails on a branch of an If that returns a value of the graph around it through an Identity,
which exporters write because a branch may not return an outer value directly. Such an Identity is needed and stays.
"""

from sardonyx import ir


class RemoveIdentities(ir.InPlacePass):
    """Removes Identity nodes from all graphs; names of graph outputs are kept."""

    def call(self, model: ir.Model) -> ir.PassResult:
        """Removes what can go in one sweep."""
        removed = 0
        for graph in ir.all_graphs(model):
            for node in graph:
                if node.op_type == "Identity" and not node.domain:
                    removed += _remove(graph, node)
        return ir.PassResult(model, modified=removed > 0)


def _remove(graph: ir.Graph, node: ir.Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if source is None:
        return False
    if result.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return False
        name, result.name = result.name, None
        ir.replace_all_uses_with(result, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        source.name = name
        return True
    ir.replace_all_uses_with(result, source)
    graph.remove(node, safe=True)
    return True
