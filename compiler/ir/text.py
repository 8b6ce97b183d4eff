"""Models as text, in ONNX's own syntax: short to write and to compare in tests."""

import onnx
import onnx_ir as oir

from sardonyx.errors import LoadError
from sardonyx.ir.graphs import paused_gc, root_cause
from sardonyx.ir.repair import name_nodes


def from_text(text: str) -> oir.Model:
    """Builds a model from ONNX text; nodes without a name get one, as from `load`.

    Raises:
        LoadError: If the text breaks the syntax, with the place.
    """
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise LoadError(f"The model text cannot be parsed: {error}", remedy="See onnx/docs/Syntax.md.") from error
    try:
        with paused_gc():
            model = oir.from_proto(proto)
    except oir.serde.SerdeError as error:
        raise LoadError(f"The model text is not a valid graph: {root_cause(error)}") from error
    for _ in name_nodes(model):
        pass
    return model


def to_text(model: oir.Model, *, initializers: bool = True) -> str:
    """Returns the model as ONNX text.

    Args:
        model: The model; its weights should be small or left out.
        initializers: Whether to print the main graph's initializers.
    """
    return oir.to_onnx_text(model, exclude_initializers=not initializers)
