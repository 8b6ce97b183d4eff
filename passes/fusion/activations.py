"""Rules for activations: those that repeat one another, and decomposed forms that exporters write."""

from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

HARD_SWISH_OPSET = 14
SIXTH = 1.0 / 6.0


class MergeRelus(Rule):
    """Relu(Relu(x)) = Relu(x)."""

    name = "merge-relus"
    summary = "Relu of a Relu becomes one"
    pattern: ClassVar[Op] = Op("Relu", Op("Relu", Var("x")))

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds one Relu."""
        return editor.op("Relu", [found.values["x"]])


def _float_only(value: ir.Value) -> str | None:
    return None if value.dtype is ir.DataType.FLOAT else f"{value.name} is not FLOAT"


class HardSwish(Rule):
    """HardSwish(x) = x max(0, min(1, x / 6 + 0.5)): ONNX operator HardSwish-14."""

    name = "hard-swish"
    summary = "x * HardSigmoid(x) with alpha 1/6 and beta 1/2 becomes HardSwish"
    pattern: ClassVar[Op] = Op("Mul", Var("x"), Op("HardSigmoid", Var("x"), name="gate"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other slopes, other types and opsets without the operator."""
        gate = found.named["gate"]
        if opset < HARD_SWISH_OPSET:
            return f"HardSwish needs opset {HARD_SWISH_OPSET}, the model has {opset}"
        alpha, beta = ir.attribute(gate, "alpha", 0.2), ir.attribute(gate, "beta", 0.5)
        if abs(alpha - SIXTH) > 1e-6 or abs(beta - 0.5) > 1e-6:
            return f"the HardSigmoid has alpha={alpha} and beta={beta}"
        return _float_only(found.values["x"])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds HardSwish."""
        return editor.op("HardSwish", [found.values["x"]])


class HardSwishFromClip(Rule):
    """x clip(x + 3, 0, 6) / 6, with the division (or a product with 1/6) last."""

    name = "hard-swish-from-clip"
    summary = "x * Clip(x + 3, 0, 6) / 6 becomes HardSwish"
    pattern: ClassVar[Op] = Op(
        ("Div", "Mul"),
        Op(
            "Mul",
            Var("x"),
            Op("Clip", Op("Add", Var("x"), Const("three", 3.0)), Const("zero", 0.0), Const("six", 6.0)),
        ),
        Const("last"),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses another last factor, other types and opsets without the operator."""
        if opset < HARD_SWISH_OPSET:
            return f"HardSwish needs opset {HARD_SWISH_OPSET}, the model has {opset}"
        last = found.constant("last")
        expected = 6.0 if found.root.op_type == "Div" else SIXTH
        if last.size != 1 or abs(float(last.item()) - expected) > 1e-6:
            return f"the last constant is not {expected:.6g}"
        return _float_only(found.values["x"])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds HardSwish."""
        return editor.op("HardSwish", [found.values["x"]])


RULES = (MergeRelus(), HardSwish(), HardSwishFromClip())
