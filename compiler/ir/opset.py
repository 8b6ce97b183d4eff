"""Raising the standard opset: quantization needs at least 13, from which Q/DQ take per-channel scales."""

from collections.abc import Mapping

import onnx
import onnx_ir as oir

from sardonyx.ir.graphs import all_graphs, graph_values, root_cause
from sardonyx.ir.lean import lean_proto, proto_graphs, restore_tensors, stub_index
from sardonyx.ir.opset_steps import raise_in_place
from sardonyx.ir.repair import Repair, repair_model
from sardonyx.ir.shapes import shapes_kept
from sardonyx.ir.verify import verify

FIRST_PER_CHANNEL_OPSET = 13
_FIRST_SCAN_WITHOUT_BATCH = 9


def raise_opset(
    model: oir.Model, opset: int, *, below: int = FIRST_PER_CHANNEL_OPSET
) -> tuple[oir.Model, Repair | None]:
    """Returns the model at standard opset `opset` where its own is below `below`, else the model itself.

    Weights are not copied. A model that ONNX's version converter cannot raise comes back as it is, with a
    repair of kind `opset-kept` that says why.

    Args:
        model: The model; it may be changed, and must not be used afterwards.
        opset: The opset to raise to.
        below: Models of this opset and later are left alone.
    """
    version = model.opset_imports.get("")
    if version is None or version >= below or version >= opset:
        return model, None
    if model.functions:
        return model, _kept(version, "the model defines functions, which ONNX's converter would lose")
    if version < _FIRST_SCAN_WITHOUT_BATCH and any(n.op_type == "Scan" for g in all_graphs(model) for n in g):
        return model, _kept(version, "ONNX's converter does not take the batch axis from a Scan of opset 8")
    from onnx import version_converter

    try:
        raised = _convert(model, opset)
    except (version_converter.ConvertError, RuntimeError, ValueError, TypeError) as error:
        return model, _kept(version, root_cause(error))
    if version < 11:
        _keep_resize_coordinates(raised)
    repair_model(raised)
    problem = _problem(model, raised)
    if problem:
        return model, _kept(version, problem)
    message = f"The standard opset was raised from {version} to {opset}."
    return raised, Repair("opset-raised", message)


def ensure_opset(model: oir.Model, opset: int) -> str | None:
    """Raises a model's standard opset in place, for what needs a later one; known shapes stay known.

    Args:
        model: The model; its values and nodes are new ones afterwards, and its weights the same.
        opset: The opset that is needed.

    Returns:
        Why the model stays as it is though its opset is lower, as a sentence, or None.
    """
    if model.opset_imports.get("", opset) >= opset:
        return None
    with shapes_kept(model):
        in_place = raise_in_place(model, opset)
    if in_place:
        model.ir_version = max(model.ir_version, needed_ir_version(model.opset_imports))
        return None
    raised, repair = raise_opset(model, opset, below=opset)
    if raised is model:
        return None if repair is None else repair.message
    model.graph = raised.graph
    model.ir_version = raised.ir_version
    return None


def newest_opset() -> int:
    """Returns the newest standard opset that the installed onnx package knows."""
    return int(onnx.defs.onnx_opset_version())


def _kept(version: int, why: str) -> Repair:
    return Repair("opset-kept", f"The standard opset stays at {version}: {why}.")


def needed_ir_version(opset_imports: Mapping[str, int]) -> int:
    """Returns the first IR version that may hold these opsets, by domain; unknown domains do not count."""
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opset_imports.items()]
    return int(onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))


def _convert(model: oir.Model, opset: int) -> oir.Model:
    from onnx import version_converter

    lean = lean_proto(model, graphs=[model.graph])
    proto = lean.proto
    proto.ir_version = max(proto.ir_version, 4)  # before, the converter wants initializers among the inputs
    lifted = _lift(proto.graph)
    converted = version_converter.convert_version(proto, opset)
    _restore(converted.graph, lifted)
    raised = oir.from_proto(converted)
    restore_tensors(raised, lean.tensors)
    _keep_types(model.graph, raised.graph)
    for graph, same in zip(all_graphs(model), all_graphs(raised), strict=False):
        _keep_metadata(graph, same)
    raised.metadata_props.update(model.metadata_props)
    raised.graph.metadata_props.update(model.graph.metadata_props)
    raised.ir_version = max(raised.ir_version, needed_ir_version(raised.opset_imports))
    return raised


def _lift(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Turns initializers that are stubs into graph inputs, and returns them."""
    lifted = [tensor for tensor in graph.initializer if stub_index(tensor) is not None]
    kept = [tensor for tensor in graph.initializer if stub_index(tensor) is None]
    inputs = {info.name for info in graph.input}
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for tensor in lifted:
        if tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return lifted


def _restore(graph: onnx.GraphProto, lifted: list[onnx.TensorProto]) -> None:
    """Undoes `_lift`, and drops all value_info: the converter gives the values it splits off a wrong rank."""
    names = {tensor.name for tensor in lifted}
    inputs = [info for info in graph.input if info.name not in names]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(lifted)
    for scope in proto_graphs(graph):
        del scope.value_info[:]


def _keep_types(graph: oir.Graph, raised: oir.Graph) -> None:
    """Gives the values that were there before the conversion the types and shapes they had."""
    known = {value.name: value for value in graph_values(graph)}
    for value in graph_values(raised):
        before = known.get(value.name)
        if before is not None:
            value.type, value.shape = before.type, before.shape


def _keep_metadata(graph: oir.Graph, raised: oir.Graph) -> None:
    """Gives nodes and values that were there before the conversion the metadata that ONNX's converter drops.

    A node is the same where it has the same operator and computes a value of the same name.
    """
    known = {value.name: value for value in graph_values(graph)}
    for value in graph_values(raised):
        before = known.get(value.name)
        if before is None:
            continue
        value.metadata_props.update(before.metadata_props)
        node, origin = value.producer(), before.producer()
        if node is not None and origin is not None and node.op_type == origin.op_type:
            node.metadata_props.update(origin.metadata_props)


def _keep_resize_coordinates(model: oir.Model) -> None:
    """Writes the sampling that Upsample and Resize had before opset 11, which the converter leaves out.

    They mapped coordinates as `x / scale` and rounded down; Resize since opset 11 defaults to half-pixel
    centres and rounds half down (ONNX operator changelog, Upsample-9, Resize-10, Resize-11).
    """
    for graph in all_graphs(model):
        for node in graph:
            if node.op_type != "Resize" or node.domain:
                continue
            if "coordinate_transformation_mode" not in node.attributes:
                mode = oir.AttrString("coordinate_transformation_mode", "asymmetric")
                node.attributes["coordinate_transformation_mode"] = mode
            if "nearest_mode" not in node.attributes:
                node.attributes["nearest_mode"] = oir.AttrString("nearest_mode", "floor")


def _problem(model: oir.Model, raised: oir.Model) -> str:
    """Says what is wrong with a converted model, or nothing."""
    if _interface(model) != _interface(raised):
        return "ONNX's converter changed the model's inputs or outputs"
    found = verify(raised)
    if not found:
        return ""
    known = {(violation.rule, violation.where) for violation in verify(model)}
    new = [v for v in found if (v.rule, v.where) not in known]
    return f"ONNX's converter wrote an invalid model ({new[0].message})" if new else ""


def _interface(model: oir.Model) -> list[tuple[str | None, oir.DataType | None]]:
    graph = model.graph
    constants = {value.name for value in graph.initializers.values()}
    inputs = [value for value in graph.inputs if value.name not in constants]
    return [(value.name, value.dtype) for value in [*inputs, *graph.outputs]]
