"""Rules for Transpose: pairs, those that move nothing, and those that Gemm does itself.

Moving a Transpose past other operators is what the pass `sink-transposes` does, because it pays for whole regions only.
"""

from collections.abc import Sequence
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.facts import ONE, operand, rank, sizes
from sardonyx.passes.fusion.reshapes import Form, FormRule, constant_target
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

NO_PERM: tuple[int, ...] = ()
BIASLESS_GEMM_OPSET = 11
GEMM_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """Returns the perm of a Transpose, written out or by its default; None where the rank is needed and unknown."""
    perm = ir.attribute(node, "perm", NO_PERM)
    count = rank(operand(node, 0))
    return perm or (None if count is None else tuple(reversed(range(count))))


def transpose(x: ir.Value, perm: Sequence[int], editor: Editor) -> ir.Value:
    """Builds a Transpose, or returns `x` where it would move nothing."""
    return x if list(perm) == sorted(perm) else editor.op("Transpose", [x], [ir.AttrInt64s("perm", perm)])


class MergeTransposes(Rule):
    """Two permutations are one; their product may be none at all."""

    name = "merge-transposes"
    summary = "Transpose of a Transpose becomes one or none"
    pattern: ClassVar[Op] = Op("Transpose", Op("Transpose", Var("x"), name="inner", shared=True))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses permutations that are not written out: without them the rank must be known."""
        if self._product(found) is None:
            return f"{found.named['inner'].name} or {found.root.name} has no perm, and the rank is unknown"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the product of both permutations."""
        return transpose(found.values["x"], self._product(found) or NO_PERM, editor)

    @staticmethod
    def _product(found: Match) -> tuple[int, ...] | None:
        inner, outer = permutation(found.named["inner"]), permutation(found.root)
        count = len(inner or outer or NO_PERM)
        inner, outer = (perm or tuple(reversed(range(count))) for perm in (inner, outer))
        return tuple(inner[axis] for axis in outer) if count else None


def _moved_axes(node: ir.Node) -> str | None:
    """Why a Transpose does more than to move axes of size 1, or None."""
    perm, given = permutation(node), sizes(operand(node, 0))
    if perm is not None and list(perm) == sorted(perm):
        return None
    if perm is None or given is None:
        return f"the rank of the input of {node.name} is unknown"
    long = [axis for axis in perm if given[axis] != ONE]
    return None if long == sorted(long) else f"{node.name} moves axes whose size is not 1"


class TransposeToReshape(FormRule):
    """Axes of size 1 have no place in memory: moving them alone only renames the axes, which copies nothing."""

    name = "transpose-to-reshape"
    summary = "Transpose that only moves axes of size 1 becomes Reshape; one that moves none goes"
    pattern: ClassVar[Op] = Op("Transpose", Var("x"), fits=_moved_axes)

    def _form(self, found: Match) -> Form | str:
        perm, given = permutation(found.root), sizes(found.values["x"])
        if perm is None or list(perm) == sorted(perm) or given is None:
            return Form("")
        return constant_target(given, tuple(given[axis] for axis in perm))


def _swaps_matrix(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Transpose" and not node.domain and permutation(node) == (1, 0)


def _lacks_swapped_matrix(node: ir.Node) -> str | None:
    swapped = any(_swaps_matrix(value.producer()) for value in node.inputs[:2] if value is not None)
    return None if swapped else f"neither matrix of {node.name} is computed by a Transpose"


def _product_obstacle(a: ir.Value, b: ir.Value, opset: int) -> str | None:
    """Why a product is not one of two matrices of a type that every Gemm takes, or None."""
    if opset < BIASLESS_GEMM_OPSET:
        return f"Gemm without a bias needs opset {BIASLESS_GEMM_OPSET}, the model has {opset}"
    if rank(a) != 2 or rank(b) != 2:
        return f"{a.name} or {b.name} is not known to be a matrix"
    return None if a.dtype in GEMM_TYPES else f"{a.name} is of type {a.dtype}, which not every Gemm takes"


class TransposeIntoGemm(Rule):
    """A Gemm reads its matrices either way round; so does a MatMul of two matrices, written as Gemm."""

    name = "transpose-into-gemm"
    summary = "Transpose of a matrix before Gemm or MatMul becomes transA or transB of a Gemm"
    pattern: ClassVar[Op] = Op(("Gemm", "MatMul"), Var("a"), Var("b"), open_inputs=True, fits=_lacks_swapped_matrix)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses what is no product of two matrices of a type that every Gemm takes."""
        return _product_obstacle(found.values["a"], found.values["b"], opset)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the Gemm on the matrices as they are."""
        attributes = dict(found.root.attributes)
        inputs = list(found.root.inputs)
        for index, flag in enumerate(("transA", "transB")):
            value = inputs[index]
            producer = value.producer() if value is not None else None
            if producer is not None and _swaps_matrix(producer):
                inputs[index] = producer.inputs[0]
                attributes[flag] = ir.AttrInt64(flag, 1 - ir.attribute(found.root, flag, 0))
        return editor.op("Gemm", inputs, list(attributes.values()))


class TransposeOfProduct(Rule):
    """(A B) transposed is B transposed times A transposed."""

    name = "transpose-of-product"
    summary = "Transpose of a MatMul of two matrices becomes a Gemm with exchanged, transposed operands"
    pattern: ClassVar[Op] = Op("Transpose", Op("MatMul", Var("a"), Var("b"), name="product"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses products of more than two dimensions and types that not every Gemm takes."""
        return _product_obstacle(found.values["a"], found.values["b"], opset)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the Gemm."""
        flags = [ir.AttrInt64("transA", 1), ir.AttrInt64("transB", 1)]
        return editor.op("Gemm", [found.values["b"], found.values["a"]], flags)


RULES = (MergeTransposes(), TransposeToReshape(), TransposeIntoGemm(), TransposeOfProduct())
