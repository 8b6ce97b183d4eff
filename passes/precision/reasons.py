"""Why a node stays in FP32: a list of small checks, each of which answers with a sentence or None."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from sardonyx import ir
from sardonyx.passes.precision import operators
from sardonyx.passes.precision.analysis import Analysis, float_constant, is_float
from sardonyx.passes.precision.formats import element_error
from sardonyx.passes.precision.integers import of_weight
from sardonyx.passes.precision.masks import is_bound

ERROR_LIMIT = 2.0**-8
"""A constant may be off by this share of its largest element (a divisor: each element by this share of itself).

BF16 rounds by up to 2^-9, FP16 by 2^-12; more means that elements underflow, such as an epsilon of 1e-12 to 0.
"""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})

Check = Callable[[ir.Node, Analysis], str | None]


def why_float(node: ir.Node, facts: Analysis) -> str | None:
    """Returns why a node must stay in FP32, as a sentence, or None where it may be converted."""
    return next(filter(None, (check(node, facts) for check in _CHECKS)), None)


def blocking(node: ir.Node, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the patterns that name a node's operator or the node itself."""
    name = node.name or ""
    return tuple(p for p in patterns if p in (node.op_type, name) or fnmatchcase(name, p))


def _types(node: ir.Node, facts: Analysis) -> str | None:
    name, version = facts.form.dtype.name, facts.opsets.get(node.domain)
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
    for value in values:
        if value.type is None:
            return f"the type of {value.name} is not known"
        if not isinstance(value.type, ir.TensorType):
            return f"{value.name} is no tensor"
    if node.domain or ir.formal_types(node, facts.opsets) is None:
        where = f"{node.domain}::" if node.domain else ""
        return f"{where}{node.op_type} is no operator of ONNX's standard domain, so that its types are not known"
    if not facts.positions(node).inputs | facts.positions(node).outputs:
        return f"{node.op_type} of opset {version} does not take {name}"
    return None


def _target(node: ir.Node, facts: Analysis) -> str | None:
    name, support = facts.form.dtype.name, facts.support
    key = (node.domain, node.op_type)
    if support is None or node.op_type == "Cast":
        return None
    if facts.native and key not in support.native:
        return f"the target has no {name} kernel for {node.op_type}"
    return None if support.loads(*key) else f"the target refuses {node.op_type} in {name}"


def _special(node: ir.Node, facts: Analysis) -> str | None:
    if node.op_type in operators.RANDOM:
        return f"{node.op_type} draws other numbers in another type"
    if node.op_type in operators.INFLEXIBLE:
        return f"{node.op_type} stays FLOAT: {operators.INFLEXIBLE[node.op_type]}"
    if node.op_type in ("ScatterElements", "ScatterND") and ir.attribute(node, "reduction", "none") != "none":
        return f"{node.op_type} accumulates, which loses a little with each element"
    if node.op_type == "Attention" and any(value.uses() or value.is_graph_output() for value in node.outputs[3:]):
        return f"{node.outputs[3].name} shows the mask, which overflows"
    return None


def _cast(node: ir.Node, facts: Analysis) -> str | None:
    """A Cast between FLOAT and the format becomes one that does nothing; others convert what needs FP32."""
    if node.op_type not in ("Cast", "CastLike"):
        return None
    floats = (ir.DataType.FLOAT, facts.form.dtype)
    source, target = node.inputs[0], node.outputs[0]
    if source is not None and source.dtype in floats and target.dtype in floats:
        return None
    return f"it converts {source.dtype if source is not None else None} to {target.dtype}"


def _from_integers(node: ir.Node, facts: Analysis) -> str | None:
    for value in node.outputs:
        if value in facts.derived:
            return f"{value.name} is computed from integers, which {facts.form.dtype.name} does not represent exactly"
    return None


def _periodic(node: ir.Node, facts: Analysis) -> str | None:
    argument = node.inputs[0] if node.op_type in operators.PERIODIC else None
    if argument is None:
        return None
    interval = facts.interval(argument)
    if interval is None:
        return f"nothing shows that the angles {argument.name} are small"
    reach = max(-interval[0], interval[1])
    limit = operators.PERIODIC_LIMIT
    return f"the angles {argument.name} reach {reach:.3g}, beyond {limit:g}" if reach > limit else None


def _integer_region(node: ir.Node, facts: Analysis) -> str | None:
    """Nodes that the target runs as integers, and the Q/DQ nodes around them, keep the types its kernels match."""
    if facts.support is not None and facts.support.around_integers:
        return None
    for candidate in _served(node):
        if _runs_as_integers(candidate, facts):
            return f"the target runs {candidate.op_type} {candidate.name} as integers"
    return None


def _served(node: ir.Node) -> list[ir.Node]:
    """The nodes for whose sake a Q/DQ node is there; of another node, itself."""
    if node.op_type == "QuantizeLinear":
        producer = None if node.inputs[0] is None else node.inputs[0].producer()
        return [] if producer is None else [producer]
    if node.op_type == "DequantizeLinear":
        return [use.node for use in node.outputs[0].uses()]
    return [node]


def _runs_as_integers(node: ir.Node, facts: Analysis) -> bool:
    if facts.capabilities is None or facts.capabilities.support(node.domain, node.op_type) is None:
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(p is not None and p.op_type == "DequantizeLinear" and not of_weight(p) for p in producers)


def _constants(node: ir.Node, facts: Analysis) -> str | None:
    name = facts.form.dtype.name
    for index in sorted(facts.positions(node).inputs):
        value = node.inputs[index]
        tensor = float_constant(value)
        if value is None or tensor is None:
            continue
        loss = facts.loss(tensor)
        if loss.overflows and not (is_bound(node, index) or facts.masks(value)):
            return f"the constant {value.name} reaches {loss.magnitude:.3g} and overflows {name}"
        if (node.op_type, index) in operators.ADDED_INPUTS and tensor.size > 1 and not loss.overflows:
            continue
        error = loss.error
        if (node.op_type, index) in operators.PRECISE_INPUTS:
            error = element_error(tensor, facts.form, _epsilon(node))
        if error > ERROR_LIMIT and not loss.overflows:
            return f"the constant {value.name} loses {error:.0%} in {name}: it holds values that underflow"
    return None


def _epsilon(node: ir.Node) -> float:
    """What a normalization adds to a variance before it divides by it."""
    return ir.attribute(node, "epsilon", 1e-5) if node.op_type == "BatchNormalization" else 0.0


def _ranges(node: ir.Node, facts: Analysis) -> str | None:
    """Values that exceed what the format holds, as measured or proven."""
    name = facts.form.dtype.name
    for value in _converted_values(node, facts):
        interval = facts.interval(value)
        if interval is None or float_constant(value) is not None:
            continue
        overflow = facts.overflow(value)
        if overflow is not None and not facts.masks(value):
            return overflow
        reach = max(-interval[0], interval[1])
        if 0.0 < reach < facts.form.smallest_normal:
            return f"{value.name} stays below {reach:.2g}, where {name} loses precision"
    return None


def _converted_values(node: ir.Node, facts: Analysis) -> Iterator[ir.Value]:
    positions = facts.positions(node)
    for index in sorted(positions.inputs):
        value = node.inputs[index]
        if value is not None:
            yield value
    for index in sorted(positions.outputs):
        yield node.outputs[index]


def _incoming(node: ir.Node, facts: Analysis) -> str | None:
    """Values computed from integers in FP32 that enter here, and of which nothing bounds the size."""
    for index in sorted(facts.positions(node).inputs) if facts.form.narrow_range else ():
        value = node.inputs[index]
        if value is None or value not in facts.derived or facts.interval(value) is not None:
            continue
        if not (facts.masks(value) or is_bound(node, index)):
            return f"nothing bounds {value.name}, which is computed from integers"
    return None


def _squares_inside(node: ir.Node, facts: Analysis) -> str | None:
    if node.op_type not in operators.SQUARING or not facts.form.narrow_range:
        return None
    if "stash_type" in node.attributes or (node.op_type == "GroupNormalization" and facts.opsets.get("", 0) >= 21):
        return None  # the operator computes its statistics in FP32
    source = node.inputs[0]
    interval = None if source is None else facts.interval(source)
    if source is None or interval is None:
        return f"{node.op_type} squares its input, and nothing shows how large that is"
    square = max(-interval[0], interval[1]) ** 2
    return f"{node.op_type} squares {source.name}, up to {square:.4g}" if square > facts.limit else None


def _unmeasured(node: ir.Node, facts: Analysis) -> str | None:
    """Operators whose results may be far larger than their inputs, where nothing shows that they are not."""
    if not facts.form.narrow_range:
        return None
    if all(facts.interval(value) is not None for value in node.outputs if is_float(value)):
        return None
    reason = operators.CAUTIOUS.get(node.op_type) or _grows(node)
    return None if reason is None else f"no samples show how large {node.outputs[0].name} gets: {reason}"


def _grows(node: ir.Node) -> str | None:
    second = node.inputs[1] if len(node.inputs) > 1 else None
    constant = float_constant(second)
    if node.op_type == "Pow" and (constant is None or constant.size != 1 or abs(float(constant.numpy().item())) > 1):
        return "powers grow"
    if node.op_type == "Mul" and second is node.inputs[0]:
        return "squares grow"
    if node.op_type == "Div" and constant is None:
        return "the divisor may underflow to 0"
    return None


def _accumulates(node: ir.Node, facts: Analysis) -> str | None:
    """Sums carried from one iteration of a Loop or Scan to the next lose a little each time."""
    if node.op_type not in ("Add", "Sub", "Sum", "Mul") or node.graph is facts.model.graph:
        return None
    graph = node.graph
    carried = set(graph.inputs) if isinstance(graph, ir.Graph) else set()
    operand = next((value for value in node.inputs if value in carried), None)
    if operand is not None and node.outputs[0].is_graph_output():
        return f"{node.outputs[0].name} accumulates {operand.name} over iterations"
    return None


_CHECKS: tuple[Check, ...] = (
    _types,
    _target,
    _special,
    _cast,
    _from_integers,
    _periodic,
    _integer_region,
    _constants,
    _ranges,
    _incoming,
    _squares_inside,
    _unmeasured,
    _accumulates,
)
"""In order of how fundamental the reason is."""
