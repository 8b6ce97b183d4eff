"""The nodes that compute a product with integer weights and an activation that is quantized while they run.

    MatMul, Gemm   DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (-> Add)   standard operators, opset 11
    LSTM           com.microsoft DynamicQuantizeLSTM

With x = S_x (q_x - Z_x), the smallest range of uint8 that holds x's extremes and 0, and w = S_w q_w for each column,
x w = S_x S_w (q_x - Z_x) q_w, where MatMulInteger computes the last product exactly in INT32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.passes.provenance import mark
from sardonyx.passes.quantization.dynamic.weights import quantized_weight
from sardonyx.passes.quantization.plan import QuantPoint
from sardonyx.passes.quantization.scopes import remove_unused_constant

RULE = "quantize-dynamic"
CONTRIBUTED = "com.microsoft"


class FormWriter:
    """Replaces nodes by their dynamically quantized forms.

    Args:
        model: The model to edit.

    Attributes:
        stats: How many nodes of each operator were replaced.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.names = ir.NameAuthority(model)
        self.stats: dict[str, int] = {}
        self._weights: dict[tuple[ir.Value, QuantPoint, bool], ir.Value] = {}
        self._activations: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ...]] = {}

    def write(self, node: ir.Node, points: Mapping[int, QuantPoint]) -> None:
        """Replaces a node.

        Args:
            node: A node that `conditions.why_not` has nothing against.
            points: The points of its weights, by input index.
        """
        graph = node.graph
        assert graph is not None, "nodes of the model are in a graph"
        outputs = FORMS[node.op_type].write(self, graph, node, points)
        weights = [node.inputs[index] for index in points]
        old = list(node.outputs[: len(outputs)])
        ir.replace_nodes_and_values(graph, node, [node], [], old, outputs)
        for weight in weights:
            if weight is not None:
                remove_unused_constant(weight)
        self.stats[node.op_type] = self.stats.get(node.op_type, 0) + 1

    def weight(self, value: ir.Value, point: QuantPoint, transpose: tuple[int, ...] | None) -> ir.Value:
        """Adds the integers of a weight, its axes permuted; nodes that share a weight share them too."""
        tensor = ir.constant_tensor(value)
        graph = value.graph
        assert tensor is not None, "only constants are planned"
        assert graph is not None, "values of the model are in a graph"
        key = (value, point, transpose is not None)
        if key not in self._weights:
            stored = tensor.shape.numpy()
            order = transpose or tuple(range(len(stored)))
            shape = tuple(stored[axis] for axis in order)
            self._weights[key] = ir.lazy_initializer(
                graph,
                self.names.value(f"{value.name}_quantized"),
                ir.DataType[point.dtype],
                shape,
                lambda: quantized_weight(tensor, point).transpose(order),
            )
        return self._weights[key]

    def constant(self, graph: ir.Graph, name: str, array: np.typing.NDArray[np.generic]) -> ir.Value:
        """Adds a small constant."""
        return ir.add_initializer(graph, self.names.value(name), array)

    def activation(self, graph: ir.Graph, value: ir.Value, before: ir.Node) -> tuple[ir.Value, ...]:
        """Quantizes an activation while the model runs, once for all nodes of a graph that take it.

        Returns:
            Its uint8 integers, scale and zero point.
        """
        key = (value, graph)
        if key not in self._activations:
            self._activations[key] = self.node(graph, before, "DynamicQuantizeLinear", [value], outputs=3)
        return self._activations[key]

    def node(
        self,
        graph: ir.Graph,
        source: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: tuple[ir.Attr, ...] = (),
        outputs: int = 1,
    ) -> tuple[ir.Value, ...]:
        """Adds a node in place of another and returns its outputs."""
        domain = CONTRIBUTED if op_type == "DynamicQuantizeLSTM" else ""
        node = ir.Node(domain, op_type, inputs, attributes, num_outputs=outputs)
        node.name = self.names.node(f"{source.name}_{op_type}")
        for output in node.outputs:
            output.name = self.names.value(f"{source.name}_{op_type}")
        mark(node, RULE, source.name)
        graph.insert_before(source, node)
        return tuple(node.outputs)


def _matmul(
    writer: FormWriter, graph: ir.Graph, node: ir.Node, points: Mapping[int, QuantPoint], factor: float = 1.0
) -> list[ir.Value]:
    activation, weight = node.inputs[0], node.inputs[1]
    assert activation is not None, "MatMul has two operands"
    assert weight is not None, "checked by the conditions"
    point = points[1]
    integers, scale, zero_point = writer.activation(graph, activation, node)
    transpose = (1, 0) if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else None
    stored = writer.weight(weight, point, transpose)
    factors = np.asarray(point.scale, np.float32) * np.float32(factor)
    weight_scale = writer.constant(graph, f"{weight.name}_scale", factors)
    inputs: list[ir.Value | None] = [integers, stored, zero_point]
    if any(point.zero_point):
        zeros = np.asarray(point.zero_point, ir.DataType[point.dtype].numpy())
        inputs.append(writer.constant(graph, f"{weight.name}_zero_point", zeros))
    (product,) = writer.node(graph, node, "MatMulInteger", inputs)
    (as_float,) = writer.node(graph, node, "Cast", [product], (ir.AttrInt64("to", ir.DataType.FLOAT.value),))
    (scales,) = writer.node(graph, node, "Mul", [scale, weight_scale])
    return list(writer.node(graph, node, "Mul", [as_float, scales]))


def _gemm(writer: FormWriter, graph: ir.Graph, node: ir.Node, points: Mapping[int, QuantPoint]) -> list[ir.Value]:
    (product,) = _matmul(writer, graph, node, points, ir.attribute(node, "alpha", 1.0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    beta = ir.attribute(node, "beta", 1.0)
    if bias is None or beta == 0.0:
        return [product]
    tensor = ir.constant_tensor(bias)
    if beta != 1.0 and tensor is not None:
        bias = writer.constant(graph, f"{bias.name}_scaled", tensor.numpy() * np.float32(beta))
    return list(writer.node(graph, node, "Add", [product, bias]))


def _lstm(writer: FormWriter, graph: ir.Graph, node: ir.Node, points: Mapping[int, QuantPoint]) -> list[ir.Value]:
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    for index in FORMS["LSTM"].weights:
        weight, point = node.inputs[index], points[index]
        assert weight is not None, "checked by the conditions"
        tensor = ir.constant_tensor(weight)
        assert tensor is not None, "checked by the conditions"
        shape = tensor.shape.numpy()[:2]
        inputs[index] = writer.weight(weight, point, (0, 2, 1))
        scale = np.asarray(point.scale, np.float32).reshape(shape)
        zero_point = np.asarray(point.zero_point, ir.DataType[point.dtype].numpy()).reshape(shape)
        inputs.append(writer.constant(graph, f"{weight.name}_scale", scale))
        inputs.append(writer.constant(graph, f"{weight.name}_zero_point", zero_point))
    attributes = tuple(attr for name, attr in node.attributes.items() if name != "layout")
    writer.model.opset_imports.setdefault(CONTRIBUTED, 1)
    return list(writer.node(graph, node, "DynamicQuantizeLSTM", inputs, attributes, outputs=len(node.outputs)))


@dataclass(frozen=True)
class Form:
    """How a node of one operator is written.

    Attributes:
        write: Adds the new nodes before the old one and returns what takes the place of its outputs.
        weights: Indices of the inputs that are weights: all become integers, or none.
    """

    write: Callable[[FormWriter, ir.Graph, ir.Node, Mapping[int, QuantPoint]], list[ir.Value]]
    weights: tuple[int, ...] = (1,)


FORMS: Mapping[str, Form] = {"Gemm": Form(_gemm), "LSTM": Form(_lstm, weights=(1, 2)), "MatMul": Form(_matmul)}
"""Forms by operator of the standard domain."""
