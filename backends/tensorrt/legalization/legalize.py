"""The order in which a graph is rewritten: operators first, then the pairs, then what the pairs hold."""

from collections.abc import Callable, Sequence

import numpy as np

from sardonyx import ir
from sardonyx.backends.base import LegalizeResult
from sardonyx.backends.tensorrt.legalization.dynamic_forms import write_float
from sardonyx.backends.tensorrt.legalization.editing import Editor
from sardonyx.backends.tensorrt.legalization.fused_forms import write_standard
from sardonyx.backends.tensorrt.legalization.integer_forms import write_pairs
from sardonyx.backends.tensorrt.legalization.nbits import write_blocks
from sardonyx.backends.tensorrt.legalization.pairs import (
    float_moves,
    lone_integers,
    same_volume,
    symmetric_activations,
    use_standard_domain,
)
from sardonyx.backends.tensorrt.legalization.projections import cut_packed_projections
from sardonyx.backends.tensorrt.legalization.weights import (
    float_biases,
    float_transposed_convolutions,
    positive_scales,
    product_axes,
    signed_blocks,
    store_integers,
    symmetric_weights,
)
from sardonyx.backends.tensorrt.qdq import MICROSOFT
from sardonyx.backends.tensorrt.rules import Scope
from sardonyx.backends.tensorrt.rules.examine import examine
from sardonyx.backends.tensorrt.rules.operators import unset_condition
from sardonyx.backends.tensorrt.rules.rule import CONTRADICTIONS
from sardonyx.backends.tensorrt.settings import ShapeRange
from sardonyx.errors import VerifyError


def _unique_names(editor: Editor) -> None:
    for repair in ir.name_nodes(editor.model):
        editor.report(ir.name_list(repair.names), "nodes got names of their own")


def _loop_conditions(editor: Editor) -> None:
    """Gives a Loop the condition that its body reads: without one it is true, in ONNX as here."""
    for graph in ir.all_graphs(editor.model):
        for node in graph:
            if node.op_type == "Loop" and not node.domain and unset_condition(node) is not None:
                node.resize_inputs(max(2, len(node.inputs)))
                node.replace_input_with(1, editor.constant(node, f"{node.name}_condition", np.bool_(True)))
                editor.report(node, "a condition that is true, which its body reads")


STEPS: tuple[Callable[[Editor], None], ...] = (
    _unique_names,
    _loop_conditions,
    use_standard_domain,
    write_pairs,
    write_float,
    write_blocks,
    write_standard,
    store_integers,
    float_biases,
    float_moves,
    lone_integers,
    same_volume,
    symmetric_activations,
    symmetric_weights,
    signed_blocks,
    positive_scales,
    product_axes,
    float_transposed_convolutions,
    cut_packed_projections,
)
"""Each leaves nothing for itself to do, and what a later one writes needs none of the earlier ones."""


def rewrite(model: ir.Model) -> Editor:
    """Rewrites a model in place to what TensorRT takes, as far as that is possible.

    Returns:
        What was changed, and what was kept and why.

    Raises:
        VerifyError: If a node contradicts its operator's schema; the model may then be changed in part.
    """
    ir.ensure_shapes(model)
    editor = Editor(model)
    for step in STEPS:
        try:
            step(editor)
        except CONTRADICTIONS as error:
            raise VerifyError(
                f"The model cannot be rewritten for TensorRT ({step.__name__.strip('_').replace('_', ' ')}): {error}",
                remedy="A node contradicts its operator's schema: export the model again.",
            ) from error
    if editor.changes:
        _drop_unused_domain(model)
        ir.ensure_shapes(model)
    return editor


def _drop_unused_domain(model: ir.Model) -> None:
    """Forgets ONNX Runtime's domain where nothing of it is left."""
    used = {node.domain for graph in ir.all_graphs(model) for node in graph}
    if MICROSOFT not in used:
        model.opset_imports.pop(MICROSOFT, None)


def legalize(
    model: ir.Model, *, profile: Sequence[ShapeRange] | None = None, compute_capabilities: Sequence[str] = ()
) -> LegalizeResult:
    """Rewrites a model in place to what TensorRT takes, and names what it will still refuse or compute otherwise.

    Exact but for rounding, except where a change says more: asymmetric ranges are widened to symmetric ones, weights
    with scales along another axis are quantized again, dynamic quantization no longer rounds activations.

    Args:
        model: The model.
        profile: Shapes of dynamic inputs; None where they are not chosen yet.
        compute_capabilities: What to build for, such as `8.6`; empty: the builder's default.

    Returns:
        The changes, and a refusal for each finding with which an engine must not be built.

    Raises:
        VerifyError: If a node contradicts its operator's schema; the model may then be changed in part.
    """
    editor = rewrite(model)
    scope = Scope(model, None if profile is None else tuple(profile), tuple(compute_capabilities))
    kept = {name: why for why, names in editor.kept.items() for name in names}
    refusals = []
    for finding in examine(scope):
        if finding.severity.is_fatal:
            why = kept.get(finding.node)
            refusals.append(f"{finding}" + (f" It was not rewritten: {why}." if why else ""))
    return LegalizeResult(editor.sentences(), tuple(refusals), editor.exact)
