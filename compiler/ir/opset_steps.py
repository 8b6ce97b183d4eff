"""Raising the standard opset in place, where all that changes for a model is an attribute of a few nodes.

ONNX's version converter rebuilds a model whatever there is to do. From opset 13 on most operators stay as they are, or
only take more types and have more attributes, whose defaults say what there was before. What changed in which opset is
read from ONNX's schemas; what each change means, from its operator changelog.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as oir

from sardonyx.ir.graphs import NameAuthority, add_initializer, all_graphs, attribute

FIRST_OPSET = 13
"""Before it axes of many operators became inputs, and Softmax another function; that is left to ONNX's converter."""

WIDENED: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "CumSum", "Relu", "GRU", "LSTM", "RNN"), frozenset((14,))),
    **dict.fromkeys(("BatchNormalization", "Pow"), frozenset((15,))),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual", "LeakyRelu", "PRelu", "Where"), frozenset((16,))),
    **dict.fromkeys(("If", "Loop", "Scan"), frozenset((16, 19))),
    **dict.fromkeys(("ScatterElements", "ScatterND"), frozenset((16, 18))),
    **dict.fromkeys(("Cast", "CastLike", "Constant", "Equal", "Size"), frozenset((19,))),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), frozenset((19,))),
    **dict.fromkeys(("ConstantOfShape", "IsInf", "IsNaN", "ReduceMax", "ReduceMin"), frozenset((20,))),
    "Identity": frozenset((14, 16, 19)),
    "Pad": frozenset((18, 19)),
    "Reshape": frozenset((14, 19)),
    "Resize": frozenset((18, 19)),
    "Shape": frozenset((15, 19)),
}
"""Opsets in which operators were given types, optional inputs or attributes, and nothing else changed."""

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
_NO_AXES: tuple[int, ...] = ()


def raise_in_place(model: oir.Model, opset: int) -> bool:
    """Raises a model's standard opset where every operator is known to be the same, or has a step in `STEPS`.

    Args:
        model: The model; unchanged where it cannot be raised this way. Types and shapes of its values stay.
        opset: The opset to raise to.

    Returns:
        Whether the model was raised.
    """
    version = model.opset_imports.get("")
    if version is None or version < FIRST_OPSET or model.functions:
        return False
    planned: list[tuple[Step, oir.Node]] = []
    for node in (node for graph in all_graphs(model) for node in graph if not node.domain):
        changes = _changes(node.op_type, version, opset)
        if changes is None:
            return False
        planned += [(STEPS[node.op_type, change], node) for change in changes]
    names = NameAuthority(model)
    for step, node in planned:
        step(node, names)
    model.opset_imports[""] = opset
    return True


@lru_cache(maxsize=1024)
def _changes(op_type: str, version: int, opset: int) -> tuple[int, ...] | None:
    """Returns the opsets in which an operator changed and there is a step for it; None where a change has none."""
    try:
        schemas = [onnx.defs.get_schema(op_type, later) for later in range(version, opset + 1)]
    except onnx.defs.SchemaError:
        return None
    found = dict.fromkeys(schema.since_version for schema in schemas if schema.since_version > version)
    changes = tuple(change for change in found if change not in WIDENED.get(op_type, ()))
    known = all((op_type, change) in STEPS for change in changes)
    return changes if known and not schemas[-1].deprecated else None


def _axes_to_input(node: oir.Node, names: NameAuthority) -> None:
    axes = attribute(node, "axes", _NO_AXES)
    node.attributes.pop("axes", None)
    if axes and node.graph is not None:
        name = names.value(f"{node.outputs[0].name}_axes")
        assert isinstance(node.graph, oir.Graph)
        node.resize_inputs(2)
        node.replace_input_with(1, add_initializer(node.graph, name, np.array(axes, np.int64)))


def _count_parts(node: oir.Node, names: NameAuthority) -> None:
    """An even Split says how many parts there are; before, the number of its outputs did."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes.add(oir.AttrInt64("num_outputs", len(node.outputs)))


Step = Callable[[oir.Node, NameAuthority], None]

STEPS: Mapping[tuple[str, int], Step] = {
    **{(op_type, 18): _axes_to_input for op_type in _REDUCTIONS},
    ("Split", 18): _count_parts,
}
"""What a node needs for the change of its operator in an opset."""
