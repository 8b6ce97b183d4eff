"""Rules about a graph as a whole: names, outputs, sizes, profiles."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.rules.rule import Hit, Rule, Scope
from sardonyx.backends.tensorrt.settings import ShapeRange

_MAX_ELEMENTS = 2**31 - 1

Hits = Iterator[tuple[str, Hit]]


def _inputs(scope: Scope) -> list[ir.Value]:
    """Inputs that a caller gives, without initializers listed among them."""
    return [value for value in scope.model.graph.inputs if not value.is_initializer()]


def _duplicate_names(scope: Scope) -> Hits:
    counts = Counter(node.name for graph in ir.all_graphs(scope.model) for node in graph if node.name)
    return ((name, Hit(detail=f"{count}")) for name, count in counts.items() if count > 1)


def _no_outputs(scope: Scope) -> Hits:
    if not scope.model.graph.outputs:
        yield "", Hit()


def _outputs_not_produced(scope: Scope) -> Hits:
    graph = scope.model.graph
    for value in graph.outputs:
        made = value.producer() is not None or value.is_graph_input() or value.is_initializer()
        if not made:
            yield "", Hit(value.name or "")


def _inputs_not_produced(scope: Scope) -> Hits:
    known: set[int] = set()
    for graph in ir.all_graphs(scope.model):
        known.update(id(value) for value in (*graph.inputs, *graph.initializers.values()))
        known.update(id(value) for node in graph for value in node.outputs)
    for graph in ir.all_graphs(scope.model):
        for node in graph:
            missing = [value for value in node.inputs if value is not None and id(value) not in known]
            if missing:
                yield node.name or "", Hit(missing[0].name or "", node.op_type)


def _sizes(scope: Scope) -> Iterator[tuple[ir.Value, list[int]]]:
    for value in _inputs(scope):
        if value.shape is not None:
            yield value, [dim for dim in value.shape if isinstance(dim, int)]


def _empty(scope: Scope) -> Hits:
    return (("", Hit(value.name or "", str(value.shape))) for value, sizes in _sizes(scope) if 0 in sizes)


def _too_large(scope: Scope) -> Hits:
    for value, sizes in _sizes(scope):
        elements = 1
        for size in sizes:
            elements *= size
        if elements > _MAX_ELEMENTS:
            yield "", Hit(value.name or "", f"{elements}")


def _is_dynamic(value: ir.Value) -> bool:
    return value.shape is None or any(not isinstance(dim, int) for dim in value.shape)


def _no_profile(scope: Scope) -> Hits:
    if scope.profile is None:
        for value in filter(_is_dynamic, _inputs(scope)):
            yield "", Hit(value.name or "", "?" if value.shape is None else str(value.shape))


def _bad_profile(scope: Scope) -> Hits:
    inputs = {value.name or "": value for value in _inputs(scope)}
    given = {shapes.name: shapes for shapes in scope.profile or ()}
    for name in given:
        if name not in inputs:
            yield "", Hit(name, f"names no input of the model; inputs are {', '.join(inputs)}")
    for name, value in inputs.items():
        problem = _profile_problem(value, given.get(name)) if scope.profile is not None else ""
        if problem:
            yield "", Hit(name, problem)


def _profile_problem(value: ir.Value, given: ShapeRange | None) -> str:
    if given is None:
        return f"gives no shapes to an input of shape {value.shape}" if _is_dynamic(value) else ""
    if value.shape is None:
        return ""
    if len(given.best) != len(value.shape):
        return f"has {len(given.best)} dimensions where the input has {len(value.shape)}"
    sizes = zip(given.least, given.best, given.most, strict=True)
    for axis, (dim, asked) in enumerate(zip(value.shape, sizes, strict=True)):
        if isinstance(dim, int) and any(size != dim for size in asked):
            return f"has {':'.join(map(str, asked))} at dimension {axis}, which is fixed at {dim}"
    return ""


def _mismatched_initializers(scope: Scope) -> Hits:
    for graph in ir.all_graphs(scope.model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.shape is None:
                continue
            stored = tuple(tensor.shape)
            if tuple(value.shape) != stored:
                yield "", Hit(value.name or "", f"{list(value.shape)}, and its data has {list(stored)}")


def _inference(scope: Scope) -> Hits:
    return (("", Hit(detail=message)) for message in islice(ir.ensure_shapes(scope.model).failures, 5))


RULES = (
    Rule(
        "duplicate-node-name",
        Severity.REFUSED,
        "{detail} nodes are named {node}; TensorRT refuses names that are in use.",
        "Give each node a name of its own, as loading and legalization do.",
        model_check=_duplicate_names,
    ),
    Rule(
        "no-output",
        Severity.REFUSED,
        "The model has no outputs, of which TensorRT wants at least one.",
        "Export the model again.",
        model_check=_no_outputs,
    ),
    Rule(
        "output-not-produced",
        Severity.REFUSED,
        "The output {tensor} is not made by any node.",
        "Export the model again, or remove the output.",
        model_check=_outputs_not_produced,
    ),
    Rule(
        "input-not-produced",
        Severity.REFUSED,
        "{node} ({detail}) reads {tensor}, which no node, input or initializer makes.",
        "Export the model again.",
        model_check=_inputs_not_produced,
    ),
    Rule(
        "initializer-size",
        Severity.WRONG_NUMBERS,
        "The initializer {tensor} is declared {detail}, which TensorRT takes unchecked.",
        "Export the model again.",
        model_check=_mismatched_initializers,
    ),
    Rule(
        "shape-contradiction",
        Severity.REFUSED,
        "Types or shapes contradict an operator: {detail}.",
        "Export the model again: a runtime that checks refuses this too.",
        model_check=_inference,
    ),
    Rule(
        "empty-input",
        Severity.WRONG_NUMBERS,
        "The input {tensor} has the shape {detail}, without elements; TensorRT takes it unchecked.",
        "Export the model with the sizes it is used with.",
        model_check=_empty,
    ),
    Rule(
        "huge-input",
        Severity.WRONG_NUMBERS,
        "The input {tensor} has {detail} elements, more than TensorRT's sizes hold without overflow.",
        "Export the model with smaller sizes.",
        model_check=_too_large,
    ),
    Rule(
        "no-profile",
        Severity.NOTE,
        "The input {tensor} has the shape {detail}; TensorRT needs the smallest, usual and largest of dynamic sizes.",
        "Pass --shape name=min:opt:max, or export with fixed sizes.",
        model_check=_no_profile,
    ),
    Rule(
        "bad-profile",
        Severity.REFUSED,
        "The profile of {tensor} {detail}.",
        "Pass --shape name=min:opt:max with min <= opt <= max for each dynamic dimension.",
        model_check=_bad_profile,
    ),
)
"""What TensorRT takes of a graph as a whole."""
