"""Inspection: what is in a model, what it costs, and what a target would do with it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.errors import UsageError
from sardonyx.measure import describe_machine
from sardonyx.passes.quantization.placement import place
from sardonyx.pipeline import PassContext, PassManager, Recipe, available_passes, parse_pipeline


@dataclass(frozen=True)
class Inspection:
    """Facts about a model.

    Attributes:
        path: Where it lies, if it came from a file.
        opsets: Version by operator domain.
        ir_version: Version of the file format.
        inputs: Name, type and shape of each input, as text.
        outputs: Likewise.
        operators: Number of nodes by operator, subgraphs included.
        nodes: Number of nodes in all graphs.
        parameters: Number of elements of all initializers and constants.
        nbytes: Bytes of all tensors.
        macs: Multiply-accumulates of Conv, MatMul and Gemm for one run.
        unknown_macs: Such nodes whose shapes are not known.
        peak_bytes: Largest number of bytes of activations needed at once, see `sardonyx.ir.peak_activations`.
        peak_node: The node at which that is.
        unknown_values: Values whose shape is not known and that count as nothing.
        dtypes: Number of values and weights by element type.
        dynamic_axes: Axes of inputs without a fixed size, as `NAME[AXIS]=DIMENSION`.
        assumption: The sizes that symbolic dimensions were given.
        repairs: What loading repaired.
        target: What the target would do, after the exact passes.
    """

    path: str | None
    opsets: Mapping[str, int]
    ir_version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: Mapping[str, int]
    nodes: int
    parameters: int
    nbytes: int
    macs: int
    unknown_macs: int
    peak_bytes: int
    peak_node: str
    unknown_values: int
    dtypes: Mapping[str, int]
    dynamic_axes: tuple[str, ...]
    assumption: str
    repairs: tuple[str, ...]
    target: Mapping[str, Any]


NO_SIZES: Mapping[str, int] = {}


def inspect_model(source: Any, target: str, sizes: Mapping[str, int] = NO_SIZES) -> tuple[Inspection, ir.Model]:
    """Inspects a model for a target.

    Args:
        source: Anything `sardonyx.ir.load` takes.
        target: Name of a backend.
        sizes: Size of symbolic dimensions of inputs, by name; those that are not given count as 1.

    Returns:
        What was found, and the model with shapes.

    Raises:
        UsageError: If the model cannot be loaded, the target does not exist, or no input has a dimension of a name.
    """
    loaded = ir.load(source)
    model = loaded.model
    dynamic_axes = tuple(_dynamic_axes(model))
    unknown = ir.set_dims(model, sizes)
    if unknown:
        remedy = f"Symbolic dimensions: {', '.join(dynamic_axes) or 'none'}."
        raise UsageError(f"No input has a dimension {unknown[0]!r}.", remedy=remedy)
    ir.ensure_shapes(model)
    sized = _sized(model)
    peak = ir.peak_activations(sized)
    given = "".join(f"{name} at {size}, " for name, size in sizes.items())
    macs = [ir.node_macs(node) for graph in ir.all_graphs(sized) for node in graph if ir.has_macs(node)]
    found = Inspection(
        path=None if loaded.path is None else str(loaded.path),
        opsets=dict(model.opset_imports),
        ir_version=int(model.ir_version),
        inputs=tuple(_describe(value) for value in model.graph.inputs),
        outputs=tuple(_describe(value) for value in model.graph.outputs),
        operators=ir.operator_counts(model),
        nodes=ir.num_nodes(model),
        parameters=_parameters(model),
        nbytes=ir.nbytes(model),
        macs=sum(m for m in macs if m is not None),
        unknown_macs=sum(m is None for m in macs),
        peak_bytes=peak.nbytes,
        peak_node=peak.node,
        unknown_values=peak.unknown,
        dtypes=_dtypes(model),
        dynamic_axes=dynamic_axes,
        assumption=f"{given}{'other ' if given else ''}symbolic dimensions at 1",
        repairs=tuple(repair.message for repair in loaded.repairs),
        target=_on_target(model, target),
    )
    return found, model


def _sized(model: ir.Model) -> ir.Model:
    """Returns a copy with the symbolic dimensions of its inputs at 1 and the arithmetic of sizes folded.

    Exporters write sizes as arithmetic: only where that is folded are all shapes known.
    """
    sized = ir.clone(model)
    symbolic = {str(dim): 1 for value in sized.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    ir.set_dims(sized, symbolic)
    passes = parse_pipeline("fold-constants, choose-branches", available_passes())
    sized = PassManager(passes).run(sized).model
    ir.ensure_shapes(sized)
    return sized


def _dtypes(model: ir.Model) -> dict[str, int]:
    values = (value for graph in ir.all_graphs(model) for value in ir.graph_values(graph))
    return dict(Counter(value.dtype.name if value.dtype is not None else "unknown" for value in values).most_common())


def _dynamic_axes(model: ir.Model) -> Iterator[str]:
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                yield f"{value.name}[{axis}]={dim.value or '?'}"


def _parameters(model: ir.Model) -> int:
    tensors = (v.const_value for graph in ir.all_graphs(model) for v in graph.initializers.values())
    constants = (
        ir.constant_tensor(node.outputs[0])
        for graph in ir.all_graphs(model)
        for node in graph
        if node.op_type == "Constant" and not node.domain
    )
    return sum(t.size for t in (*tensors, *constants) if t is not None)


def _describe(value: ir.Value) -> str:
    return f"{value.name}: {ir.describe_type(value)}"


def _on_target(model: ir.Model, name: str) -> dict[str, Any]:
    """What the exact passes leave and what of it the target could run as integers."""
    target = backend(name)
    capabilities = target.capabilities(describe_machine())
    passes = parse_pipeline(Recipe().optimize, available_passes())
    optimized = PassManager(passes, context=PassContext(capabilities)).run(ir.clone(model)).model
    ir.ensure_shapes(optimized)
    placement = place(optimized, capabilities)
    return {
        "name": name,
        "preflight": list(target.preflight(model)),
        "nodes_after_exact_passes": ir.num_nodes(optimized),
        "integer_weights": len(placement.weights),
        "quantized_values": len(placement.values),
        "float_nodes": dict(placement.float_nodes),
        "refusals": list(target.legalize(optimized).refusals),
        "warnings": list(capabilities.warnings),
        "not_in_table": dict(
            Counter(node.op_type for node in optimized.graph if capabilities.support(node.domain, node.op_type) is None)
        ),
    }
