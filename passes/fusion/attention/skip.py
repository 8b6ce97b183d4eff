"""Rules for normalization after a residual Add, and after the sum of embeddings.

Sources: SkipLayerNormalization, SkipSimplifiedLayerNormalization and EmbedLayerNormalization of com.microsoft, as ONNX
Runtime's contrib operators document them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.attention.rule import FusedRule, dims, integers, producer, same, same_dims, scalar
from sardonyx.passes.rewriting.driver import replace_value
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor

SUM_OUTPUT = 3
"""Index of the output with the sum before normalization."""
NO_AXES: tuple[int, ...] = ()


class _SkipRule(FusedRule):
    """Normalization of the sum of two values, the sum being an output too where others need it."""

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses other axes, parameters that vary with the input, sums that broadcast, and sums that are outputs."""
        total = found.values["sum"]
        add = producer(total, "Add")
        if add is None or add.graph is not found.root.graph:
            return f"{total.name} is not a sum"
        shape = dims(total, 3)
        if shape is None:
            return f"{total.name} is not known to have rank 3"
        parts = [value for value in add.inputs if value is not None]
        if not all(same_dims(part, total) and ir.constant_tensor(part) is None for part in parts):
            return f"{add.name} is not known to add two values of one shape"
        if total.is_graph_output():
            return f"the sum {total.name} is an output"
        return self.parameters_obstacle(found, shape) or self.dtype_obstacle(total)

    def parameters_obstacle(self, found: Match, shape: Sequence[int | ir.SymbolicDim]) -> str | None:
        """Why epsilon, axis, scale and bias do not fit the operator, or None."""
        if ir.attribute(found.root, "axis", -1) not in (-1, 2):
            return f"{found.root.name} is not over the last axis alone"
        for name in ("scale", "bias"):
            tensor = ir.constant_tensor(found.values[name]) if name in found.values else None
            if name in found.values and (tensor is None or tuple(tensor.shape) != (shape[2],)):
                return f"{found.values[name].name} is not a constant with one number for each element of the last axis"
        return None

    def epsilon(self, found: Match) -> float:
        """The number added to the variance."""
        return ir.attribute(found.root, "epsilon", 1e-5)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator where the sum stood, so that all who use the sum come after it."""
        total = found.values["sum"]
        add = producer(total, "Add")
        assert add is not None, "the check refuses what is no sum"
        parameters = [_initializer(found, name, editor) for name in ("scale", "bias") if name in found.values]
        attributes = [ir.AttrFloat32("epsilon", self.epsilon(found))]
        shared = len({use.node for use in total.uses()} - set(found.nodes)) > 0
        outputs = self.make(editor, [*add.inputs, *parameters], attributes, outputs=SUM_OUTPUT + 1 if shared else 1)
        made = editor.made[-1]
        editor.graph.remove(made)
        editor.graph.insert_before(add, made)
        if shared:
            for unused in outputs[1:SUM_OUTPUT]:
                unused.name = ""
            replace_value(total, outputs[SUM_OUTPUT])
        return outputs[0]


def _initializer(found: Match, name: str, editor: Editor) -> ir.Value:
    """A matched constant as an initializer: a Constant node may stand behind the place of the new node."""
    value = found.values[name]
    return value if value.is_initializer() else editor.constant(f"{value.name}_value", found.constant(name))


class SkipLayerNorm(_SkipRule):
    """LayerNormalization(a + b)."""

    name = "skip-layer-norm"
    summary = "LayerNormalization of a sum becomes SkipLayerNormalization"
    op_type = "SkipLayerNormalization"
    pattern: ClassVar[Op] = Op("LayerNormalization", Var("sum"), Const("scale"), Const("bias"))


class SkipRmsNorm(_SkipRule):
    """RMSNormalization(a + b): ONNX operator RMSNormalization-23."""

    name = "skip-rms-norm"
    summary = "RMSNormalization of a sum becomes SkipSimplifiedLayerNormalization"
    op_type = "SkipSimplifiedLayerNormalization"
    pattern: ClassVar[Op] = Op("RMSNormalization", Var("sum"), Const("scale"))


class SkipDecomposedRmsNorm(SkipRmsNorm):
    """The same, where RMSNormalization is written as scale x / sqrt(mean(x^2) + epsilon)."""

    name = "skip-decomposed-rms-norm"
    summary = "decomposed RMS normalization of a sum becomes SkipSimplifiedLayerNormalization"
    _SQUARE = AnyOf(Op("Pow", Var("sum"), Const("two", 2.0)), Op("Mul", Var("sum"), Var("sum")))
    _ROOT = Op("Sqrt", Op("Add", Op("ReduceMean", _SQUARE, name="mean", open_inputs=True), Const("epsilon")))
    pattern: ClassVar[Op] = Op(
        "Mul",
        AnyOf(Op("Mul", Var("sum"), Op("Reciprocal", _ROOT)), Op("Div", Var("sum"), _ROOT)),
        Const("scale"),
    )

    def parameters_obstacle(self, found: Match, shape: Sequence[int | ir.SymbolicDim]) -> str | None:
        """Refuses means over other axes and an epsilon that is not one number."""
        mean = found.named["mean"]
        axes = ir.attribute(mean, "axes", NO_AXES) or (integers(mean.inputs[1]) if len(mean.inputs) > 1 else None)
        if axes not in ((-1,), (2,)) or ir.attribute(mean, "keepdims", 1) != 1:
            return f"{mean.name} is not over the last axis alone"
        if scalar(found.values["epsilon"]) is None:
            return "epsilon is not one number"
        return super().parameters_obstacle(found, shape)

    def epsilon(self, found: Match) -> float:
        """The number added to the mean square."""
        return scalar(found.values["epsilon"]) or 0.0


def _row(name: str) -> Op:
    """Rows of a constant table."""
    return Op("Gather", Const(f"{name}_table"), Var(f"{name}_index"), name=name)


@dataclass(frozen=True)
class _Embeddings:
    words: ir.Node
    positions: ir.Node
    segments: ir.Node | None


class EmbedLayerNorm(FusedRule):
    """LayerNormalization(words[ids] + positions[p] + segments[s]).

    The operator fails on negative indices, which Gather counts from the end: no exported model has them.
    """

    name = "embed-layer-norm"
    summary = "LayerNormalization of the sum of embeddings becomes EmbedLayerNormalization"
    op_type = "EmbedLayerNormalization"
    pattern: ClassVar[Op] = Op(
        "LayerNormalization",
        Op("Add", AnyOf(Op("Add", _row("a"), _row("b")), _row("a")), _row("c")),
        Const("scale"),
        Const("bias"),
    )

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses sums that are not of rows of constant tables by indices of the needed shapes."""
        read = _embeddings(found)
        if isinstance(read, str):
            return read
        shape = dims(found.root.outputs[0], 3)
        for name in ("scale", "bias"):
            tensor = ir.constant_tensor(found.values[name])
            if shape is None or tensor is None or tuple(tensor.shape) != (shape[2],):
                return f"{found.values[name].name} does not hold one number for each element of the last axis"
        if ir.attribute(found.root, "axis", -1) not in (-1, 2):
            return f"{found.root.name} is not over the last axis alone"
        return self.dtype_obstacle(read.words.outputs[0], read.positions.outputs[0])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds EmbedLayerNormalization, its indices cast to INT32."""
        read = _embeddings(found)
        assert isinstance(read, _Embeddings), "the check refuses other sums"
        indices = [
            None if node is None else _as_int32(node.inputs[1], editor)
            for node in (read.words, read.segments, read.positions)
        ]
        tables = [node.inputs[0] if node is not None else None for node in (read.words, read.positions, read.segments)]
        parameters = [found.values["scale"], found.values["bias"]]
        inputs = [indices[0], indices[1], *tables, *parameters, None, indices[2]]
        attributes = [ir.AttrFloat32("epsilon", ir.attribute(found.root, "epsilon", 1e-5))]
        result, nothing = self.make(editor, inputs, attributes, outputs=2)  # the runtime wants both outputs named
        nothing.dtype = ir.DataType.INT32
        return result


def _as_int32(value: ir.Value | None, editor: Editor) -> ir.Value | None:
    if value is None or value.dtype is ir.DataType.INT32:
        return value
    cast = editor.op("Cast", [value], [ir.AttrInt64("to", ir.DataType.INT32.value)])
    cast.dtype, cast.shape = ir.DataType.INT32, value.shape
    return cast


def _embeddings(found: Match) -> _Embeddings | str:
    """Which Gather gives words, which positions and which segments: positions are those with a batch of 1."""
    gathers = [found.named[name] for name in ("a", "b", "c") if name in found.named]
    for node in gathers:
        table, index = (dims(value, 2) if value is not None else None for value in node.inputs)
        if table is None or index is None or ir.attribute(node, "axis", 0) != 0:
            return f"{node.name} does not take rows of a table by indices of rank 2"
    shapes = {node: dims(node.outputs[0], 3) or (0, 0, 0) for node in gathers}
    positions = [node for node in gathers if shapes[node][0] == 1]
    whole = [node for node in gathers if node not in positions]
    if len(positions) != 1 or not whole or not same(shapes[positions[0]][1], shapes[whole[0]][1]):
        return "the positions are not known to be one sequence for the whole batch"
    if not all(same_dims(node.outputs[0], whole[0].outputs[0]) for node in whole):
        return "words and segments are not known to have one shape"
    words, *segments = sorted(whole, key=lambda node: -_rows(node))
    return _Embeddings(words, positions[0], segments[0] if segments else None)


def _rows(node: ir.Node) -> int:
    tensor = ir.constant_tensor(node.inputs[0]) if node.inputs[0] is not None else None
    return 0 if tensor is None else int(tensor.shape.numpy()[0])


RULES = (EmbedLayerNorm, SkipLayerNorm, SkipRmsNorm, SkipDecomposedRmsNorm)
