"""Fetching inner values, those inside the bodies of If, Loop and Scan included.

A value of a body leaves it as a further output of the node that runs the body, level by level up to the main graph:

    If            the value; an empty tensor where the other branch ran
    Loop, Scan    a summary of the value, of one size for all iterations, stacked over them

A summary is the value itself, flattened, where its shape is known and it has up to `LARGEST` elements. Of a larger one,
or one whose size may vary, it is `LARGEST` elements spread evenly over it, and its smallest and largest. One sample's
summaries therefore take at most (iterations x (LARGEST + 2)) floats a value, whatever the value's size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.passes.quantization.scopes import named_values, nodes_in_order

LARGEST = 4096
"""Elements of a value that are looked at in each iteration of a Loop or Scan."""


@dataclass(frozen=True)
class TappedModel:
    """A copy of a model that also returns inner values.

    Attributes:
        model: The copy; it shares weights with the original. Its outputs are those of the taps.
        outputs: Names of its outputs by name of the value.
    """

    model: ir.Model
    outputs: Mapping[str, str]


def tap(model: ir.Model, names: Sequence[str]) -> TappedModel:
    """Makes values the outputs of a copy of a model.

    Args:
        model: A model whose values have names of their own (`scopes.name_inner_values`), with shapes.
        names: Names of values other than the model's inputs, of the main graph or of bodies; none for the model's own
            outputs.
    """
    copy = ir.clone(model)
    if not names:
        return TappedModel(copy, {})
    values = named_values(copy.graph)
    lifter = _Lifter(copy)
    lifted = [lifter.to_main_graph(values[name]) for name in names]
    copy.graph.outputs[:] = lifted
    return TappedModel(copy, {name: value.name or "" for name, value in zip(names, lifted, strict=True)})


class _Lifter:
    def __init__(self, model: ir.Model) -> None:
        self.main = model.graph
        self.names = ir.NameAuthority(model)
        self.runner_of = {body: node for node in nodes_in_order(model.graph) for body in ir.node_subgraphs(node)}

    def to_main_graph(self, value: ir.Value) -> ir.Value:
        while value.graph is not self.main:
            body = value.graph
            assert body is not None, "values of the model are in a graph"
            runner = self.runner_of[body]
            value = _LIFTS[runner.op_type](self, runner, body, value)
        return value

    def through_if(self, runner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        for branch in ir.node_subgraphs(runner):
            if branch is not body:
                empty = ir.AttrTensor("value", ir.tensor(np.zeros(0, np.float32)))
                branch.outputs.append(self.op(branch, "Constant", [], (empty,)))
            else:
                branch.outputs.append(self.op(branch, "Identity", [value]))
        return self.new_output(runner)

    def through_loop(self, runner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        body.outputs.append(self.summary(body, value))
        return self.new_output(runner)

    def through_scan(self, runner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in runner.attributes:
                longer = (*ir.attribute(runner, name, ()), 0)
                runner.attributes[name] = ir.AttrInt64s(name, longer)
        return self.through_loop(runner, body, value)

    def summary(self, body: ir.Graph, value: ir.Value) -> ir.Value:
        shape = value.shape
        size = math.prod(shape.numpy()) if shape is not None and shape.is_static() else None
        if size is not None and size <= LARGEST:
            return self.op(body, "Reshape", [value, self.constant(body, np.array([size], np.int64))])
        flat = self.op(body, "Reshape", [value, self.constant(body, np.array([-1], np.int64))])
        # A zero, which every range holds anyway, stands in for what may be empty.
        filled = self.op(body, "Concat", [flat, self.constant(body, np.zeros(1, np.float32))], (_axis_0(),))
        places = self.constant(body, np.arange(LARGEST, dtype=np.int64))
        scaled = self.op(body, "Mul", [places, self.op(body, "Size", [filled])])
        indices = self.op(body, "Div", [scaled, self.constant(body, np.int64(LARGEST))])
        spread = self.op(body, "Gather", [filled, indices], (_axis_0(),))
        extremes = [self.op(body, op_type, [filled]) for op_type in ("ReduceMin", "ReduceMax")]
        return self.op(body, "Concat", [spread, *extremes], (_axis_0(),))

    def new_output(self, runner: ir.Node) -> ir.Value:
        runner.resize_outputs(len(runner.outputs) + 1)
        output = runner.outputs[-1]
        output.name = self.names.value("tap")
        output.dtype = ir.DataType.FLOAT
        return output

    def constant(self, body: ir.Graph, array: np.typing.NDArray[np.generic] | np.generic) -> ir.Value:
        return ir.add_initializer(body, self.names.value("tap_constant"), array)

    def op(
        self, body: ir.Graph, op_type: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr] = ()
    ) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes, name=self.names.node(f"tap_{op_type}"))
        node.outputs[0].name = self.names.value(f"tap_{op_type}")
        body.append(node)
        return node.outputs[0]


_LIFTS: Mapping[str, Callable[[_Lifter, ir.Node, ir.Graph, ir.Value], ir.Value]] = {
    "If": _Lifter.through_if,
    "Loop": _Lifter.through_loop,
    "Scan": _Lifter.through_scan,
}


def _axis_0() -> ir.Attr:
    return ir.AttrInt64("axis", 0)
