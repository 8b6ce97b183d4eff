"""Reading of scaled dot product attention, softmax(scale q k^T + mask) v, in the forms that exporters write.

The scale stands at the queries, at the keys, at the scores, or its square root at both; keys are transposed by one
Transpose or by one between two Reshapes; grouped keys and values are repeated by Expand. What is read is described
together with the reason why it cannot be, so that a user learns what was missing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sardonyx import ir
from sardonyx.passes.fusion.attention.bounds import bounds
from sardonyx.passes.fusion.attention.heads import Heads, packed_third
from sardonyx.passes.fusion.attention.rule import Dim, dims, permutation, producer, same, scalar
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Var

TIME_AXIS = (2, -2)
"""The axis of [B, N, T, H] along which earlier and new keys are concatenated."""
NEGLIGIBLE = -1e30
"""A score plus a number below this is, in float32, the number itself."""
KEYS_BY_TRANSPOSE: Mapping[tuple[int, ...], bool] = {(0, 1, 3, 2): False, (0, 2, 3, 1): True}
"""Permutations that give [B, N, H, T], with whether their input has the sequence first."""

_SOFTMAX = Op("Softmax", Var("scores"), name="softmax")
_FLAT_SOFTMAX = Op(
    "Reshape",
    Op("Softmax", Op("Flatten", Var("scores"), name="flatten"), name="softmax"),
    Op("Shape", Var("scores"), name="shape"),
)
ATTENTION = Op(
    "MatMul",
    AnyOf(
        _SOFTMAX,
        Op("Where", Op("IsNaN", _SOFTMAX), Const("zero", 0.0), _SOFTMAX, name="guard"),
        _FLAT_SOFTMAX,
    ),
    Var("value"),
    name="product",
)
"""Probabilities times values.

Where a row is masked by -inf everywhere, PyTorch's export puts zeros for NaN. Under a finite mask that can only happen
where activations are infinite or NaN themselves.
"""


@dataclass(frozen=True)
class Mask:
    """What is added to the scores.

    Attributes:
        value: Added as it is; or, with `fill`, a condition under which scores are kept or replaced.
        fill: What replaced scores are, small enough that adding it is the same; None: the mask is additive.
        keep: Whether scores are kept where the condition holds; else they are replaced there.
    """

    value: ir.Value
    fill: float | None = None
    keep: bool = True

    @property
    def low(self) -> float:
        """The least that the mask can add, as far as that is known."""
        return bounds(self.value)[0] if self.fill is None else self.fill


@dataclass(frozen=True)
class Attention:
    """softmax(scale q k^T + mask) v.

    Attributes:
        query: Queries [B, N, S, H].
        key: Keys [B, N, T, H], or with fewer heads where `groups` > 1.
        value: Values [B, N, T, Hv], alike.
        scale: Factor of the scores.
        mask: What is added to them, or None.
        groups: How many query heads share a head of keys and values.
        nodes: Nodes between keys and values and their products, which only this attention may use.
    """

    query: Heads
    key: Heads
    value: Heads
    scale: float
    mask: Mask | None
    groups: int = 1
    nodes: tuple[ir.Node, ...] = ()

    @property
    def sizes(self) -> tuple[Dim, Dim, Dim]:
        """(B, S, T)."""
        query, key = self.query.shape, self.key.shape
        assert query is not None, "reading makes sure of the ranks"
        assert key is not None, "reading makes sure of the ranks"
        return query[0], query[2], key[2]


@dataclass(frozen=True)
class _Scores:
    product: ir.Node
    scale: float
    mask: Mask | None


def read_attention(found: Match, *, grouped: bool = True) -> Attention | str:
    """Reads the attention around a match of `ATTENTION`, or says why that is none that can be fused.

    Args:
        found: The match.
        grouped: Whether to see through keys and values that are repeated for groups of query heads.
    """
    reason = _softmax_obstacle(found)
    scores = reason or _scores(found.values["scores"])
    if isinstance(scores, str):
        return scores
    left, right = scores.product.inputs
    assert left is not None, "MatMul has two inputs"
    assert right is not None, "MatMul has two inputs"
    query, query_scale = scaled(left)
    key = _keys(right)
    if isinstance(key, str):
        return key
    heads, key_scale, nodes = key
    scale = scores.scale * query_scale * key_scale
    read = Attention(Heads(query), heads, Heads(found.values["value"]), scale, scores.mask, nodes=nodes)
    return _obstacle(read, guarded="guard" in found.named) or (_ungrouped(read) if grouped else read)


def scaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Strips multiplications with and divisions by one finite number; returns what is left and the factor."""
    factor = 1.0
    while (node := producer(value, "Mul", "Div")) is not None:
        left, right = node.inputs
        number = scalar(right)
        if number is None and node.op_type == "Mul":
            left, right, number = right, left, scalar(left)
        if number is None or left is None or not math.isfinite(number) or number == 0:
            break
        if not _keeps_rank(left, right):
            break
        factor = factor * number if node.op_type == "Mul" else factor / number
        value = left
    return value, factor


def _keeps_rank(value: ir.Value, number: ir.Value | None) -> bool:
    if value.shape is None or number is None or number.shape is None:
        return False
    return len(number.shape) <= len(value.shape)


def _softmax_obstacle(found: Match) -> str | None:
    softmax = found.named["softmax"]
    scores = found.values["scores"]
    if scores.shape is None or len(scores.shape) != 4:
        return f"the scores {scores.name} are not known to have rank 4"
    flatten = found.named.get("flatten")
    if flatten is not None and ir.attribute(flatten, "axis", 1) not in (3, -1):
        return f"{softmax.name} is not over the keys alone"
    whole = flatten is not None and not {"start", "end"} & set(found.named["shape"].attributes)
    if flatten is not None and not whole:
        return f"{found.named['shape'].name} is not the whole shape of the scores"
    last = (-1, 1) if flatten is not None else (-1, 3)
    return None if ir.attribute(softmax, "axis", -1) in last else f"{softmax.name} is not over the keys alone"


def _scores(value: ir.Value) -> _Scores | str:
    """Reads scale q k^T + mask from the Softmax towards the inputs."""
    value, outer = scaled(value)
    mask: Mask | None = None
    node = producer(value, "Add", "Where", "MatMul")
    if node is not None and node.op_type != "MatMul":
        masked = _masked(node)
        if isinstance(masked, str):
            return masked
        if outer != 1.0:
            return f"the scores are scaled after the mask {masked[1].value.name} is added"
        (value, outer), mask = scaled(masked[0]), masked[1]
    product = producer(value, "MatMul")
    return f"{value.name} is not a product of queries and keys" if product is None else _Scores(product, outer, mask)


def _masked(node: ir.Node) -> tuple[ir.Value, Mask] | str:
    """The scores under a mask, and the mask."""
    operands = [value for value in node.inputs if value is not None]
    if node.op_type == "Add":
        for scores, mask in (operands, operands[::-1]):
            if producer(scaled(scores)[0], "MatMul") is not None and ir.constant_tensor(scores) is None:
                return scores, Mask(mask)
        return f"neither input of {node.name} is a product of queries and keys"
    condition, kept, replaced = operands
    keep = scalar(replaced) is not None
    scores, fill = (kept, scalar(replaced)) if keep else (replaced, scalar(kept))
    if fill is None:
        return f"{node.name} replaces masked scores by no constant"
    if not fill <= NEGLIGIBLE:
        return f"{node.name} sets masked scores to {fill:g}: where a whole row is masked, adding that is not the same"
    return scores, Mask(condition, fill, keep)


def _keys(value: ir.Value) -> tuple[Heads, float, tuple[ir.Node, ...]] | str:
    """The keys that are transposed to [B, N, H, T], their scale, and the nodes that transpose them."""
    value, factor = scaled(value)
    node = producer(value, "Transpose")
    if node is not None and node.inputs[0] is not None:
        first = KEYS_BY_TRANSPOSE.get(permutation(node))
        if first is None:
            return f"{node.name} does not swap the keys' last two axes"
        keys, inner = scaled(node.inputs[0])
        return Heads(keys, first), factor * inner, (node,)
    nodes = _transposed_between_reshapes(value)
    if not nodes or nodes[-1].inputs[0] is None:
        return f"{value.name} are not transposed keys"
    keys, inner = scaled(nodes[-1].inputs[0])
    return Heads(keys), factor * inner, nodes


def _transposed_between_reshapes(value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes of [B, N, T, H] -> [B N, T, H] -> [B N, H, T] -> [B, N, H, T], last first, or none.

    The last two axes are the same before and after, so that both Reshapes only merge and part the first two; and the
    leading one that is known decides the other.
    """
    last = producer(value, "Reshape")
    middle = producer(last.inputs[0], "Transpose") if last is not None else None
    first = producer(middle.inputs[0], "Reshape") if middle is not None else None
    if last is None or middle is None or first is None or permutation(middle) != (0, 2, 1):
        return ()
    shapes = [dims(v, r) for v, r in zip((first.inputs[0], first.outputs[0], value), (4, 3, 4), strict=True) if v]
    if len(shapes) != 3 or any(shape is None for shape in shapes):
        return ()
    before, merged, after = (shape or () for shape in shapes)
    kept = all(map(same, before[2:], merged[1:])) and all(map(same, before[2:], after[:1:-1]))
    return (last, middle, first) if kept and any(map(same, before[:2], after[:2])) else ()


def _obstacle(read: Attention, *, guarded: bool) -> str | None:
    """Why shapes or the guard against NaN keep an attention from being fused, or None."""
    shapes = [heads.shape for heads in (read.query, read.key, read.value)]
    for heads, shape in zip((read.query, read.key, read.value), shapes, strict=True):
        if shape is None or not isinstance(shape[1], int) or not isinstance(shape[3], int):
            return f"the number and size of the heads of {heads.value.name} are not known"
    query, key, value = (tuple(shape or ()) for shape in shapes)
    pairs = (
        ("batch sizes", query[0], key[0], value[0]),
        ("numbers of heads", query[1], key[1], value[1]),
        ("head sizes", query[3], key[3], key[3]),
    )
    lengths = same(key[2], value[2]) or _alike_concatenated(read.key.value, read.value.value)
    names = ", ".join(str(heads.value.name) for heads in (read.query, read.key, read.value))
    alike = _one_projection(read)
    for what, a, b, c in pairs:
        if not alike and not (same(a, b) and same(b, c)):
            return f"the {what} of {names} are not known to be equal"
    if not alike and not lengths:
        return f"the lengths of {names} are not known to be equal"
    if guarded and read.mask is not None and read.mask.low == -math.inf:
        return f"NaN is replaced by 0 after {names}, and the mask is not known to be finite"
    return _mask_obstacle(read)


def _one_projection(read: Attention) -> bool:
    """Whether queries, keys and values are the thirds of one projection, and so of one shape."""
    thirds = [packed_third(heads.value) for heads in (read.query, read.key, read.value) if not heads.sequence_first]
    return len(thirds) == 3 and thirds[0] is not None and all(t is not None and t[0] is thirds[0][0] for t in thirds)


def _alike_concatenated(a: ir.Value, b: ir.Value) -> bool:
    """Whether heads [B, N, T, H] are concatenations of parts of equal lengths: earlier and new keys and values."""
    nodes = [producer(value, "Concat") for value in (a, b)]
    parts: list[list[Dim]] = []
    for node in nodes:
        if node is None or ir.attribute(node, "axis", 0) not in TIME_AXIS:
            return False
        shapes = [dims(value, 4) for value in node.inputs if value is not None]
        parts.append([shape[2] for shape in shapes if shape is not None])
    return len(parts[0]) == len(parts[1]) > 1 and all(map(same, *parts))


def _mask_obstacle(read: Attention) -> str | None:
    """Why a mask is not known to be broadcast to the scores [B, N, S, T] without enlarging them, or None."""
    if read.mask is None:
        return None
    mask = read.mask.value
    batch, queries, keys = read.sizes
    wanted = (batch, read.query.static[0], queries, keys)
    if mask.shape is None or len(mask.shape) > 4:
        return f"the rank of the mask {mask.name} is not known to be at most 4"
    for size, whole in zip(reversed(tuple(mask.shape)), reversed(wanted), strict=False):
        if size != 1 and not same(size, whole):
            return f"the mask {mask.name} of shape {mask.shape} is not known to fit the scores"
    return None


def _ungrouped(read: Attention) -> Attention:
    """Sees through keys and values that are repeated for groups of query heads."""
    key, value = _unrepeated(read.key), _unrepeated(read.value)
    if key is None or value is None or key[0].static[0] != value[0].static[0]:
        return read
    groups = read.query.static[0] // key[0].static[0]
    return replace(read, key=key[0], value=value[0], groups=groups, nodes=(*read.nodes, *key[1], *value[1]))


def _unrepeated(heads: Heads) -> tuple[Heads, tuple[ir.Node, ...]] | None:
    """The heads [B, K, T, H] that Unsqueeze, Expand and Reshape repeat to [B, K G, T, H], and those nodes."""
    reshape = producer(heads.value, "Reshape") if not heads.sequence_first else None
    expand = producer(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if reshape is None or expand is None or unsqueeze is None or unsqueeze.inputs[0] is None:
        return None
    repeated, parted = heads.shape, dims(expand.outputs[0], 5)
    single, source = dims(unsqueeze.outputs[0], 5), dims(unsqueeze.inputs[0], 4)
    if repeated is None or parted is None or single is None or source is None or single[2] != 1:
        return None
    counts = (source[1], parted[2], repeated[1])
    if not isinstance(counts[0], int) or not isinstance(counts[1], int) or counts[0] * counts[1] != counts[2]:
        return None
    kept = (source[0], *source[2:])
    same_rest = all(map(same, kept, (parted[0], *parted[3:]))) and all(map(same, kept, (repeated[0], *repeated[2:])))
    return (Heads(unsqueeze.inputs[0]), (reshape, expand, unsqueeze)) if same_rest and counts[1] > 1 else None
