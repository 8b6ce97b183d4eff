"""Fetching values of the bodies of If, Loop and Scan.

A value of a body leaves it as a further output of the node that runs the body, level by level up to the main graph:

    If            the value; an empty tensor where the other branch ran
    Loop, Scan    a summary of the value, of one size for all iterations, stacked over them

A summary is the value itself, flattened, where its shape is known and it has up to `LARGEST` elements. Of a larger one,
or one whose size may vary, it is `LARGEST` elements spread evenly over it, and its smallest and largest. One sample's
summaries therefore take at most (iterations x (LARGEST + 2)) floats a value, whatever the value's size.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sardonyx import ir
from sardonyx.passes.quantization.scopes import bodies, nodes_in_order

LARGEST = 4096
"""Elements of a value that are looked at in each iteration of a Loop or Scan."""


class Lifter:
    """Makes values of bodies available in the main graph.

    Args:
        model: A model whose values have names of their own (`scopes.name_inner_values`), with shapes; it is edited.
    """

    def __init__(self, model: ir.Model) -> None:
        self._main = model.graph
        self._names = ir.NameAuthority(model)
        self._runner_of = {body: node for node in nodes_in_order(model.graph) for body in bodies(node)}

    def in_main_graph(self, value: ir.Value) -> ir.Value:
        """Returns a value of the main graph for one of any graph. It takes over the name."""
        lifted, name = value, value.name
        while lifted.graph is not self._main:
            body = lifted.graph
            assert body is not None, "values of the model are in a graph"
            runner = self._runner_of[body]
            lifted = _LIFTS[runner.op_type](self, runner, body, lifted)
        if lifted is not value:
            value.name = self._names.value(f"{name}_inner")
            lifted.name = name
        return lifted

    def _through_if(self, runner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        for branch in bodies(runner):
            if branch is not body:
                empty = ir.AttrTensor("value", ir.tensor(np.zeros(0, np.float32)))
                branch.outputs.append(self._op(branch, "Constant", [], (empty,)))
            else:
                branch.outputs.append(self._op(branch, "Identity", [value]))
        return self._new_output(runner)

    def _through_loop(self, runner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        body.outputs.append(self._summary(body, value))
        return self._new_output(runner)

    def _through_scan(self, runner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in runner.attributes:
                longer = (*ir.attribute(runner, name, ()), 0)
                runner.attributes[name] = ir.AttrInt64s(name, longer)
        return self._through_loop(runner, body, value)

    def _summary(self, body: ir.Graph, value: ir.Value) -> ir.Value:
        shape = value.shape
        size = math.prod(shape.numpy()) if shape is not None and shape.is_static() else None
        if size is not None and size <= LARGEST:
            return self._op(body, "Reshape", [value, self._constant(body, np.array([size], np.int64))])
        flat = self._op(body, "Reshape", [value, self._constant(body, np.array([-1], np.int64))])
        # A zero, which every range holds anyway, stands in for what may be empty.
        filled = self._op(body, "Concat", [flat, self._constant(body, np.zeros(1, np.float32))], (_axis_0(),))
        places = self._constant(body, np.arange(LARGEST, dtype=np.int64))
        scaled = self._op(body, "Mul", [places, self._op(body, "Size", [filled])])
        indices = self._op(body, "Div", [scaled, self._constant(body, np.int64(LARGEST))])
        spread = self._op(body, "Gather", [filled, indices], (_axis_0(),))
        extremes = [self._op(body, op_type, [filled]) for op_type in ("ReduceMin", "ReduceMax")]
        return self._op(body, "Concat", [spread, *extremes], (_axis_0(),))

    def _new_output(self, runner: ir.Node) -> ir.Value:
        runner.resize_outputs(len(runner.outputs) + 1)
        output = runner.outputs[-1]
        output.name = self._names.value("tap")
        output.dtype = ir.DataType.FLOAT
        return output

    def _constant(self, body: ir.Graph, array: np.typing.NDArray[np.generic] | np.generic) -> ir.Value:
        return ir.add_initializer(body, self._names.value("tap_constant"), array)

    def _op(
        self, body: ir.Graph, op_type: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr] = ()
    ) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes, name=self._names.node(f"tap_{op_type}"))
        node.outputs[0].name = self._names.value(f"tap_{op_type}")
        body.append(node)
        return node.outputs[0]


_LIFTS: Mapping[str, Callable[[Lifter, ir.Node, ir.Graph, ir.Value], ir.Value]] = {
    "If": Lifter._through_if,
    "Loop": Lifter._through_loop,
    "Scan": Lifter._through_scan,
}


def _axis_0() -> ir.Attr:
    return ir.AttrInt64("axis", 0)
