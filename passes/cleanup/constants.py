"""Turning Constant nodes into initializers.

onnx_ir's pass does the same; what it asks of each node takes longer than most passes over the whole model.
"""

from sardonyx import ir


class LiftConstants(ir.InPlacePass):
    """Turns the Constant nodes that hold a tensor into initializers of the same name, in their own graph.

    Those that are outputs of a graph stay, and those of functions, which have no initializers.
    """

    def call(self, model: ir.Model) -> ir.PassResult:
        """Lifts in one sweep."""
        lifted = 0
        for graph in ir.with_subgraphs(model.graph):
            for node in graph:
                if node.op_type == "Constant" and not node.domain and list(node.attributes) == ["value"]:
                    lifted += _lift(graph, node)
        return ir.PassResult(model, modified=lifted > 0)


def _lift(graph: ir.Graph, node: ir.Node) -> bool:
    output = node.outputs[0]
    tensor = ir.constant_tensor(output)
    if tensor is None or output.name is None or output.is_graph_output():
        return False
    name, output.name = output.name, None
    value = ir.add_initializer(graph, name, tensor)
    value.metadata_props.update(output.metadata_props)
    ir.replace_all_uses_with(output, value)
    graph.remove(node, safe=True)
    return True
