"""Rules that bring products of matrices into the form of fewest nodes: Gemm at rank 2, MatMul and Add above."""

from functools import partial
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.affine import FLOATS, constant_obstacle, float64
from sardonyx.passes.fusion.linear import copy_obstacle, like, linear_of, scaled_weight
from sardonyx.passes.rewriting.pattern import Const, Match, Mismatch, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

PRODUCT_BYTES = 4 << 20
"""The product of two constant matrices is computed up to this size: a square one then takes about a second."""


def _matrices_obstacle(*values: ir.Value | None) -> str | None:
    """Why operands are not FLOAT or DOUBLE matrices, or None."""
    for value in values:
        if value is None or value.shape is None or len(value.shape) != 2:
            return f"{value.name if value is not None else 'an operand'} is not known to be a matrix"
        if value.dtype not in FLOATS:
            return f"{value.name} is not known to be FLOAT or DOUBLE"
    return None


class _OfMatrices(Rule):
    """A rule for products of matrices: operands of another rank were never meant."""

    def find(self, node: ir.Node) -> Match | Mismatch:
        """Leaves out operands that are known to have another rank than 2."""
        found = super().find(node)
        for value in (found.values["a"], found.values["b"]) if isinstance(found, Match) else ():
            if value.shape is not None and len(value.shape) != 2:
                return Mismatch(f"{value.name} has rank {len(value.shape)}, not 2", node.name or "", 1)
        return found


class MatMulAddToGemm(_OfMatrices):
    """Gemm is a product of matrices and the sum with a bias, in one node."""

    name = "matmul-add-to-gemm"
    summary = "MatMul of matrices, then Add or Sub of a constant, becomes Gemm"
    pattern: ClassVar[Op] = Op(("Add", "Sub"), Op("MatMul", Var("a"), Var("b"), name="product"), Const("bias"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses operands that are not matrices, and constants that are not one per column."""
        reason = _matrices_obstacle(found.values["a"], found.values["b"]) or constant_obstacle(found.values["bias"])
        if reason is not None:
            return reason
        bias, b = found.values["bias"], found.values["b"]
        tensor = ir.constant_tensor(bias)
        dims = () if tensor is None else tuple(tensor.shape.numpy())
        columns = b.shape[1] if b.shape is not None else None
        fits = len(dims) <= 2 and all(d == 1 for d in dims[:-1]) and (not dims or dims[-1] in (1, columns))
        return None if fits else f"the constant {bias.name} of shape {list(dims)} is not one per column of {b.name}"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds Gemm; what was subtracted is added with the other sign."""
        bias = found.values["bias"]
        if found.root.op_type == "Sub":
            negated = -float64(bias)
            dtype = found.values["b"].dtype or ir.DataType.FLOAT
            bias = editor.constant(f"{bias.name}_negated", negated.astype(dtype.numpy()))
        return editor.op("Gemm", [found.values["a"], found.values["b"], bias])


class FoldGemmFactors(Rule):
    """alpha A B + beta C is A (alpha B) + (beta C), for which runtimes and quantization have a plain path."""

    name = "fold-gemm-factors"
    summary = "alpha and beta of a Gemm with constant weight and bias go into them"
    pattern: ClassVar[Op] = Op("Gemm", Var("x"), Const("weight"), name="linear", open_inputs=True)

    def find(self, node: ir.Node) -> Match | Mismatch:
        """Leaves out every Gemm whose factors are 1."""
        found = super().find(node)
        if isinstance(found, Match) and _factors(node) == (1.0, 1.0):
            return Mismatch("alpha and beta are 1", node.name or "", 1)
        return found

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses operands that are not constant, and large shared weights."""
        linear = linear_of(found)
        if isinstance(linear, str):
            return linear
        return copy_obstacle(linear, found.nodes) if _factors(found.root)[0] != 1.0 else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds Gemm without factors."""
        linear = linear_of(found)
        assert not isinstance(linear, str), "the check refuses other matches"
        alpha, beta = _factors(found.root)
        channels = linear.output.channels(linear.shape)
        inputs = [found.values["x"], scaled_weight(linear, np.full(channels, alpha), linear.output, editor)]
        if linear.bias is not None:
            scaled = (float64(linear.bias) * beta).astype(linear.dtype)
            inputs.append(editor.constant(f"{linear.bias.name}_scaled", scaled) if beta != 1.0 else linear.bias)
        attributes = [a for a in found.root.attributes.values() if a.name not in ("alpha", "beta")]
        return editor.op("Gemm", inputs, attributes)


def _factors(gemm: ir.Node) -> tuple[float, float]:
    """A Gemm's alpha, and its beta where it has a bias."""
    biased = len(gemm.inputs) > 2 and gemm.inputs[2] is not None
    return ir.attribute(gemm, "alpha", 1.0), ir.attribute(gemm, "beta", 1.0) if biased else 1.0


class GemmBetweenReshapes(Rule):
    """Exporters flatten the leading axes around a Gemm; a MatMul multiplies along the last axis of any rank."""

    name = "gemm-between-reshapes"
    summary = "Gemm between Reshapes that flatten and restore the leading axes becomes MatMul and Add"
    pattern: ClassVar[Op] = Op(
        "Reshape",
        Op(
            "Gemm",
            Op(("Reshape", "Flatten"), Var("x"), name="flatten", open_inputs=True),
            Const("weight"),
            name="linear",
            open_inputs=True,
        ),
        Var("shape"),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses factors, transposed inputs, and shapes that are not known to restore the leading axes."""
        gemm, x, y = found.named["linear"], found.values["x"], found.root.outputs[0]
        linear = linear_of(found)
        if isinstance(linear, str):
            return linear
        if _factors(gemm) != (1.0, 1.0) or ir.attribute(gemm, "transA", 0):
            return f"{gemm.name} has factors or a transposed input"
        inner = linear.input.channels(linear.shape)
        if x.shape is None or y.shape is None or len(x.shape) != len(y.shape):
            return f"{x.name} and {y.name} are not known to have the same rank"
        if x.shape[-1] != inner or y.shape[-1] != linear.output.channels(linear.shape):
            return f"the last axis of {x.name} or {y.name} is not that of the matrix {linear.weight.name}"
        if not _same_leading(list(x.shape)[:-1], list(y.shape)[:-1]):
            return f"the leading axes of {x.name} and {y.name} are not known to be the same"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds MatMul, and Add where there is a bias."""
        linear = linear_of(found)
        assert not isinstance(linear, str), "the check refuses other matches"
        weight = linear.weight
        if linear.output.weight_axis == 0:
            transpose = partial(_transposed, linear.tensor)
            weight = editor.lazy_constant(f"{weight.name}_t", linear.tensor.dtype, linear.shape[::-1], transpose)
        product = like(editor.op("MatMul", [found.values["x"], weight]), found.root.outputs[0])
        return product if linear.bias is None else editor.op("Add", [product, linear.bias])


def _transposed(tensor: ir.TensorProtocol) -> "np.typing.NDArray[np.generic]":
    return np.ascontiguousarray(ir.read_array(tensor).T)


def _same_leading(before: list[int | ir.SymbolicDim], after: list[int | ir.SymbolicDim]) -> bool:
    """Whether axes with the same number of elements are the same: all but one are, statically and not 0, or all are."""
    differing = [a for a, b in zip(before, after, strict=True) if not _equal(a, b)]
    agreeing = [a for a, b in zip(before, after, strict=True) if _equal(a, b)]
    return not differing or (len(differing) == 1 and all(isinstance(a, int) and a > 0 for a in agreeing))


def _equal(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return a == b
    return a.value is not None and a.value == b.value


class MergeMatMuls(Rule):
    """(x A) B = x (A B), where the product of the constants is smaller than both.

    The terms are summed in another order: float32 rounding of the sums, about 1e-6 of the largest term.
    """

    name = "merge-matmuls"
    summary = "MatMul by two constant matrices in a row becomes one where that takes fewer bytes"
    pattern: ClassVar[Op] = Op("MatMul", Op("MatMul", Var("x"), Const("a")), Const("b"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other types and ranks, and products that are not smaller."""
        a, b = found.values["a"], found.values["b"]
        reason = constant_obstacle(a) or constant_obstacle(b) or _matrices_obstacle(a, b)
        if reason is not None:
            return reason
        first, second = ir.constant_tensor(a), ir.constant_tensor(b)
        if first is None or second is None:
            return f"{a.name} or {b.name} is not constant"
        size = int(first.shape.numpy()[0] * second.shape.numpy()[1] * first.dtype.itemsize)
        if any(use.node not in found.nodes for value in (a, b) for use in value.uses()):
            return f"other nodes use {a.name} or {b.name} too, and their product would stand beside them"
        if size >= first.nbytes + second.nbytes:
            return f"the product of {a.name} and {b.name} would take {size} bytes, no fewer than both"
        if size > PRODUCT_BYTES:
            return f"the product of {a.name} and {b.name} takes {size} bytes, above the budget"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds one MatMul by the product."""
        first, second = ir.constant_tensor(found.values["a"]), ir.constant_tensor(found.values["b"])
        assert first is not None, "the pattern matches constants"
        assert second is not None, "the pattern matches constants"
        shape = (int(first.shape.numpy()[0]), int(second.shape.numpy()[1]))
        name = f"{found.values['a'].name}_{found.values['b'].name}"
        product = editor.lazy_constant(name, first.dtype, shape, partial(_product, first, second))
        return editor.op("MatMul", [found.values["x"], product])


def _product(first: ir.TensorProtocol, second: ir.TensorProtocol) -> "np.typing.NDArray[np.generic]":
    """Sums in float64 and rounds once."""
    product = ir.read_array(first).astype(np.float64) @ ir.read_array(second).astype(np.float64)
    return product.astype(first.dtype.numpy())


RULES = (
    FoldGemmFactors(),
    MatMulAddToGemm(),
    GemmBetweenReshapes(),
    MergeMatMuls(),
)
