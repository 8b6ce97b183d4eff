"""What makers build in: a graph with the values that exist so far, their kinds, and its opset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]


class Kind(Enum):
    """Kinds of values by their dimensions: N and L are dynamic. All are of the model's float type but IDS."""

    IMAGE = ("N", 4, "L", 6)
    SEQUENCE = ("N", "L", 8)
    IDS = ("N", "L")


IMAGE, SEQUENCE, IDS = Kind.IMAGE, Kind.SEQUENCE, Kind.IDS
FLAG = "flag"
"""Name of the model's boolean scalar input."""


@dataclass
class Names:
    """Gives every value of a model its own name."""

    count: int = 0

    def new(self, stem: str) -> str:
        self.count += 1
        return f"{stem.lower()}_{self.count}"


@dataclass
class Scope:
    """A graph under construction.

    Attributes:
        draw: Draws from a strategy.
        opset: The model's opset.
        dtype: The model's float type.
        names: Shared by a model's graphs.
        values: What exists, by kind; in a subgraph the outer values too.
        functions: The model's local functions by name.
        depth: How many graphs surround this one.
        nodes: The graph's nodes.
        weights: Its initializers by name.
        made: Element types of what its nodes give, by name: all may become outputs.
    """

    draw: Callable[[st.SearchStrategy[Any]], Any]
    opset: int
    dtype: np.dtype[Any]
    names: Names = field(default_factory=Names)
    values: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    depth: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)

    @property
    def element(self) -> int:
        """The float type as ONNX numbers it."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def inner(self) -> "Scope":
        """Returns a scope for a subgraph, which sees what exists here."""
        return Scope(
            self.draw,
            self.opset,
            self.dtype,
            self.names,
            {kind: list(names) for kind, names in self.values.items()},
            self.functions,
            self.depth + 1,
        )

    def take(self, kind: Kind) -> str:
        """Draws a value of a kind."""
        return str(self.draw(st.sampled_from(self.values[kind])))

    def give(self, kind: Kind, name: str) -> None:
        """Adds a value for others to take."""
        self.values[kind].append(name)

    def choose(self, *options: Any) -> Any:
        """Draws one of some options."""
        return self.draw(st.sampled_from(options))

    def flip(self) -> bool:
        """Draws a boolean."""
        return bool(self.draw(st.booleans()))

    def op(self, op_type: str, *inputs: str, element: int | None = None, domain: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns its name.

        Args:
            op_type: Operator.
            *inputs: Names of its inputs.
            element: Element type of the output; None for the model's float type.
            domain: Domain of the operator.
            **attributes: Its attributes.
        """
        output = self.names.new(op_type)
        self.node(op_type, inputs, [output], domain=domain, **attributes)
        self.made[output] = self.element if element is None else element
        return output

    def node(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Adds a node whose outputs are named by the caller."""
        self.nodes.append(
            helper.make_node(op_type, list(inputs), list(outputs), name=self.names.new("node"), **attributes)
        )

    def weight(self, *shape: int, scale: float = 0.5, offset: float = 0.0) -> str:
        """Adds random weights of the model's float type; the same shape may give the same, shared ones."""
        shared = f"shared_{'x'.join(map(str, shape))}_{offset}"
        if shared in self.weights and self.flip():
            return shared
        name = shared if shared not in self.weights and not self.depth else self.names.new("weight")
        generator = np.random.default_rng(self.draw(st.integers(0, 99)))
        return self.constant((generator.standard_normal(shape) * scale + offset).astype(self.dtype), name)

    def number(self, value: float) -> str:
        """Adds a scalar of the model's float type."""
        return self.constant(np.array(value, self.dtype))

    def integers(self, *values: int) -> str:
        """Adds a vector of int64."""
        return self.constant(np.array(values, np.int64))

    def constant(self, array: Array, name: str = "") -> str:
        """Adds a constant: an initializer, or a Constant node if it has no name of its own and chance says so."""
        if not name and self.draw(st.integers(0, 3)) == 0:
            value = numpy_helper.from_array(array)
            return self.op("Constant", element=value.data_type, value=value)
        name = name or self.names.new("constant")
        self.weights[name] = array
        return name

    def reduce(self, op_type: str, value: str, axis: int, *, keep: bool = True) -> str:
        """Adds a reduction, whose axes are an input from opset 18 on (13 for ReduceSum)."""
        if self.opset >= (13 if op_type == "ReduceSum" else 18):
            return self.op(op_type, value, self.integers(axis), keepdims=int(keep))
        return self.op(op_type, value, axes=[axis], keepdims=int(keep))

    def squeeze(self, op_type: str, value: str, axis: int, element: int | None = None) -> str:
        """Adds a Squeeze or Unsqueeze, whose axes are an input from opset 13 on."""
        if self.opset >= 13:
            return self.op(op_type, value, self.integers(axis), element=element)
        return self.op(op_type, value, axes=[axis], element=element)

    def graph(
        self, inputs: Mapping[str, tuple[int, Sequence[int | str]]], outputs: Mapping[str, int]
    ) -> onnx.GraphProto:
        """Returns the graph.

        Args:
            inputs: Element type and shape by name.
            outputs: Element types by name.
        """
        return helper.make_graph(
            self.nodes,
            self.names.new("graph"),
            [helper.make_tensor_value_info(name, element, shape) for name, (element, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, element, None) for name, element in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )


Maker = Callable[[Scope], None]
