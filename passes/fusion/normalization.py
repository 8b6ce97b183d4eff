"""Rules that write decomposed normalizations back to one operator."""

from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

LAYER_NORM_OPSET = 17
NO_AXES: tuple[int, ...] = ()


def _last_axis_only(node: ir.Node) -> bool:
    """Whether a ReduceMean keeps dimensions and reduces the last axis alone."""
    axes = ir.attribute(node, "axes", NO_AXES)
    if not axes and len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.constant_tensor(node.inputs[1])
        axes = () if tensor is None else tuple(int(a) for a in tensor.numpy().ravel())
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    last = (-1,) if shape is None else (-1, len(shape) - 1)
    return len(axes) == 1 and axes[0] in last and ir.attribute(node, "keepdims", 1) == 1


_CENTRED = Op("Sub", Var("x"), Op("ReduceMean", Var("x"), name="mean", open_inputs=True), name="centred")


class LayerNorm(Rule):
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias: ONNX operator LayerNormalization-17."""

    name = "layer-norm"
    summary = "decomposed layer normalization over the last axis becomes LayerNormalization"
    pattern: ClassVar[Op] = Op(
        "Add",
        Op(
            "Mul",
            Op(
                "Div",
                _CENTRED,
                Op(
                    "Sqrt",
                    Op(
                        "Add",
                        Op(
                            "ReduceMean",
                            Op("Pow", _CENTRED, Const("two", 2.0)),
                            name="variance",
                            open_inputs=True,
                        ),
                        Const("epsilon"),
                    ),
                ),
            ),
            Const("scale"),
        ),
        Const("bias"),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other axes, parameters of other shapes or types, and opsets without the operator."""
        if opset < LAYER_NORM_OPSET:
            return f"LayerNormalization needs opset {LAYER_NORM_OPSET}, the model has {opset}"
        x = found.values["x"]
        if x.dtype is not ir.DataType.FLOAT:
            return f"{x.name} is not FLOAT"
        if not all(_last_axis_only(found.named[name]) for name in ("mean", "variance")):
            return "the mean or the variance is not over the last axis alone"
        if found.constant("epsilon").size != 1:
            return "epsilon is not a single constant"
        scale, bias = found.constant("scale"), found.constant("bias")
        if scale.ndim != 1 or scale.shape != bias.shape:
            return f"scale and bias have shapes {list(scale.shape)} and {list(bias.shape)}"
        if x.shape is None or x.shape[-1] != scale.size:
            return "the size of the last axis is not known to be that of the scale"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds LayerNormalization."""
        epsilon = float(found.constant("epsilon").item())
        attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon)]
        return editor.op("LayerNormalization", [found.values[name] for name in ("x", "scale", "bias")], attributes)


RULES = (LayerNorm(),)
