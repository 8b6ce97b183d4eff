"""The structural rules of a model: small functions with an id and a hint, for the traversal in `verify`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar

import onnx
import onnx_ir as oir

T = TypeVar("T")


@dataclass(frozen=True)
class Signature:
    """What an operator's schema asks of a node.

    Attributes:
        inputs: Least and greatest number of inputs.
        outputs: Least and greatest number of outputs.
        required: Attributes that must be there.
        allowed: Attributes that may be there; None: any.
        required_inputs: Indices of inputs that may not be left out.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    required: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None
    required_inputs: tuple[int, ...] = ()


@dataclass
class Walk:
    """The state of one traversal, at the node or graph that the rules look at.

    Attributes:
        model: The model.
        opset_imports: Opset versions in force: the model's, or the function's inside one.
        graphs: The graph at hand, last, and those around it.
        visible: Values defined so far in this graph and the graphs around it.
        names: Those values by name.
        node_names: Names of the nodes seen so far.
        function_domains: Domains in which the model defines functions.
        operator: What is known of the operator of the node at hand, see `signature`.
    """

    model: oir.Model
    opset_imports: dict[str, int]
    graphs: list[oir.Graph] = field(default_factory=list)
    visible: set[oir.Value] = field(default_factory=set)
    names: dict[str, oir.Value] = field(default_factory=dict)
    node_names: set[str] = field(default_factory=set)
    function_domains: frozenset[str] = frozenset()
    operator: Signature | str | None = None

    def signature(self, node: oir.Node) -> Signature | str | None:
        """Returns a node's signature, why it has none, or None where nothing is known of its domain."""
        domain, op_type = node.domain, node.op_type
        function = self.model.functions.get((domain, op_type, node.overload))
        if function is not None:
            attributes = frozenset(function.attributes)
            return Signature((0, len(function.inputs)), (0, len(function.outputs)), allowed=attributes)
        if domain in self.function_domains:
            return f"calls the function {domain}::{op_type}, which the model does not define"
        version = self.opset_imports.get(domain)
        return None if version is None else schema_signature(domain, op_type, version)


@lru_cache(maxsize=4096)
def schema_signature(domain: str, op_type: str, version: int) -> Signature | str | None:
    """Returns what ONNX's schema asks, why there is none, or None for a domain that ONNX does not define."""
    if domain not in _schema_domains():
        return None
    name = f"{domain}::{op_type}" if domain else op_type
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return f"{name} is not an operator of opset {version}"
    if schema.deprecated:
        return f"{name} is deprecated in opset {version}"
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return Signature(
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        required=frozenset(key for key, attr in schema.attributes.items() if attr.required),
        allowed=frozenset(schema.attributes),
        required_inputs=tuple(i for i, parameter in enumerate(schema.inputs) if parameter.option == single),
    )


@lru_cache(maxsize=1)
def _schema_domains() -> frozenset[str]:
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas())


@dataclass(frozen=True)
class Rule(Generic[T]):
    """One rule.

    Attributes:
        name: Its id, in kebab-case.
        hint: What usually breaks it and what to do.
        check: Returns what is wrong with a node, value or graph, or None.
    """

    name: str
    hint: str
    check: Callable[[T, Walk], str | None]


def _single_producer(value: oir.Value, walk: Walk) -> str | None:
    if value in walk.visible:
        return f"value {value.name!r} is defined more than once"
    producer = value.producer()
    if producer is not None and (value.is_graph_input() or value.is_initializer()):
        return f"value {value.name!r} is an input or initializer and also an output of node {producer.name!r}"
    return None


def _unique_value_name(value: oir.Value, walk: Walk) -> str | None:
    if not value.name:
        return "a value that is used has no name" if value.uses() or value.is_graph_output() else None
    other = walk.names.get(value.name)
    if other is not None and other is not value:
        return f"two values are named {value.name!r}"
    return None


def _no_dangling_input(value: oir.Value, walk: Walk) -> str | None:
    if value.producer() is None and value.graph is None:
        return f"input {value.name!r} is neither computed nor a graph input nor an initializer"
    return None


def _defined_before_use(value: oir.Value, walk: Walk) -> str | None:
    if value.producer() is not None and value.graph in walk.graphs:
        return f"input {value.name!r} is computed by a later node"
    return None


def _no_scope_leak(value: oir.Value, walk: Walk) -> str | None:
    if value.graph is not None and value.graph not in walk.graphs:
        return f"input {value.name!r} belongs to the graph {value.graph.name!r}, which is not around the node"
    if value.graph is None and value.producer() is not None:
        return f"input {value.name!r} is computed by a node that is in no graph"
    return None


def _unique_node_name(node: oir.Node, walk: Walk) -> str | None:
    if not node.name or node.name not in walk.node_names:
        return None
    return f"two nodes are named {node.name!r}"


def _opset_import(node: oir.Node, walk: Walk) -> str | None:
    if node.domain in walk.opset_imports:
        return None
    return f"the domain {node.domain!r} is not imported"


def _known_operator(node: oir.Node, walk: Walk) -> str | None:
    signature = walk.operator
    if isinstance(signature, str) and node.domain not in walk.function_domains:
        return signature
    return None


def _function_call(node: oir.Node, walk: Walk) -> str | None:
    signature = walk.operator
    if isinstance(signature, str) and node.domain in walk.function_domains:
        return signature
    return None


def _arity(node: oir.Node, walk: Walk) -> str | None:
    signature = walk.operator
    if not isinstance(signature, Signature):
        return None
    inputs = node.inputs
    wrong = _miscounted(len(inputs), "inputs", *signature.inputs)
    wrong = wrong or _miscounted(len(node.outputs), "outputs", *signature.outputs)
    if wrong:
        return wrong
    for index in signature.required_inputs:
        if index >= len(inputs) or inputs[index] is None:
            return f"lacks its required input number {index}"
    return None


def _miscounted(count: int, what: str, least: int, most: int) -> str | None:
    if least <= count <= most:
        return None
    return f"has {count} {what}, expected {least if least == most else f'{least} to {most}'}"


def _attributes(node: oir.Node, walk: Walk) -> str | None:
    signature = walk.operator
    if not isinstance(signature, Signature):
        return None
    present = node.attributes.data.keys()
    if not signature.required <= present:
        return f"lacks the attribute {min(signature.required - present)!r}"
    if signature.allowed is not None and not present <= signature.allowed:
        return f"has the unknown attribute {min(present - signature.allowed)!r}"
    return None


def _quantization(node: oir.Node, walk: Walk) -> str | None:
    if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or node.domain or len(node.inputs) < 2:
        return None
    x, scale = node.inputs[:2]
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or scale is None:
        return None
    carrier = x if node.op_type == "DequantizeLinear" else node.outputs[0]
    return _scale_shape(node, x, scale) or _zero_point_agrees(carrier, scale, zero_point)


def _scale_shape(node: oir.Node, x: oir.Value, scale: oir.Value) -> str | None:
    if x.shape is None or scale.shape is None or len(scale.shape) != 1 or not len(x.shape):
        return None  # per tensor, blocked, or not known
    if "block_size" in node.attributes and node.attributes["block_size"].value:
        return None
    axis = node.attributes.get_int("axis", 1)
    if not -len(x.shape) <= axis < len(x.shape):
        if scale.shape[0] == 1:
            return None
        return f"quantizes along axis {axis} of a value of rank {len(x.shape)}"
    channels, scales = x.shape[axis], scale.shape[0]
    if isinstance(channels, int) and isinstance(scales, int) and scales not in {1, channels}:
        return f"has {scales} scales for {channels} channels"
    return None


def _same_shape(first: oir.Shape, second: oir.Shape) -> bool:
    """Whether two shapes are equal, where a scalar and a tensor of one element count as the same."""
    return first == second or all(shape.is_static() and list(shape) in ([], [1]) for shape in (first, second))


def _zero_point_agrees(carrier: oir.Value, scale: oir.Value, zero_point: oir.Value | None) -> str | None:
    if zero_point is None:
        return None
    if carrier.dtype is not None and zero_point.dtype is not None and carrier.dtype != zero_point.dtype:
        return f"has a zero point of type {zero_point.dtype} for values of type {carrier.dtype}"
    if scale.shape is not None and zero_point.shape is not None and not _same_shape(scale.shape, zero_point.shape):
        return f"has a scale of shape {scale.shape} and a zero point of shape {zero_point.shape}"
    return None


def _initializer_data(value: oir.Value, walk: Walk) -> str | None:
    return f"initializer {value.name!r} has no data" if value.const_value is None else None


def _initializer_type(value: oir.Value, walk: Walk) -> str | None:
    tensor = value.const_value
    if tensor is None:
        return None
    if value.type is not None and value.dtype != tensor.dtype:
        return f"initializer {value.name!r} is declared {value.dtype} and holds {tensor.dtype}"
    if value.shape is None:
        return None
    declared, held = tuple(value.shape), tuple(tensor.shape)
    agrees = declared == held or (
        len(declared) == len(held)
        and all(not isinstance(dim, int) or dim == size for dim, size in zip(declared, held, strict=True))
    )
    return None if agrees else f"initializer {value.name!r} is declared {declared} and holds {held}"


def _graph_outputs(graph: oir.Graph, walk: Walk) -> str | None:
    for value in graph.outputs:
        producer = value.producer()
        if value not in walk.visible or (producer is not None and producer.graph is not graph):
            return f"output {value.name!r} is not defined in the graph"
    return None


VALUE_RULES: tuple[Rule[oir.Value], ...] = (
    Rule("single-producer", "A value has one definition: give the second one a new value.", _single_producer),
    Rule("unique-value-names", "Take new names from NameAuthority.", _unique_value_name),
)
"""Checked for each value where it is defined."""

INPUT_RULES: tuple[Rule[oir.Value], ...] = (
    Rule("no-dangling-inputs", "Keep or replace the producer of every value in use.", _no_dangling_input),
    Rule("defined-before-use", "Sort the graph after inserting nodes.", _defined_before_use),
    Rule("no-scope-leaks", "Values of a subgraph leave it only as its outputs.", _no_scope_leak),
)
"""Checked for each input of a node that is not defined where the node stands."""

OPERATOR_RULES: tuple[Rule[oir.Node], ...] = (
    Rule("opset-import", "Add the domain to the model's opset_imports.", _opset_import),
    Rule("known-operator", "Use an operator of the opset, or raise the opset.", _known_operator),
    Rule("function-calls", "Keep each function that a node calls.", _function_call),
)
"""Checked for one node of each operator: what they say holds of all nodes of it."""

NODE_RULES: tuple[Rule[oir.Node], ...] = (
    Rule("unique-node-names", "Take new names from NameAuthority.", _unique_node_name),
    Rule("arity", "Give the node the inputs and outputs that its schema asks for.", _arity),
    Rule("attributes", "Give the node the attributes that its schema knows.", _attributes),
    Rule("quantization", "Scale and zero point fit the quantized value.", _quantization),
)
"""Checked for each node."""

INITIALIZER_RULES: tuple[Rule[oir.Value], ...] = (
    Rule("initializer-data", "Set const_value before registering an initializer.", _initializer_data),
    Rule("initializer-type", "Set the value's type and shape from its new tensor.", _initializer_type),
)
"""Checked for each initializer."""

GRAPH_RULES: tuple[Rule[oir.Graph], ...] = (
    Rule(
        "graph-outputs",
        "Compute each output in its own graph; an Identity passes on a value from around it.",
        _graph_outputs,
    ),
)
"""Checked for each graph after its nodes."""
