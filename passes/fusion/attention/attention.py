"""Rules that write attention to one operator.

Sources: ONNX operator Attention-23; MultiHeadAttention and GroupQueryAttention of com.microsoft, as ONNX Runtime's
contrib operators document them. All add a mask to the scores before Softmax, so that every additive mask keeps its
meaning, whether it masks by -10000, by the lowest float or by -inf.
"""

from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.attention.cache import Cache, read_cache
from sardonyx.passes.fusion.attention.heads import SWAP_HEADS
from sardonyx.passes.fusion.attention.rule import (
    Dim,
    FusedRule,
    dimension,
    known_dims,
    permutation,
    reshaped,
    same,
    shaped,
    transposed,
)
from sardonyx.passes.fusion.attention.scores import ATTENTION, NEGLIGIBLE, Attention, read_attention, scaled
from sardonyx.passes.rewriting.pattern import Match, Op
from sardonyx.passes.rewriting.rule import Editor

GROUPED_SIZE = 8
"""GroupQueryAttention takes heads of multiples of this size."""
_MERGED = Op("Transpose", ATTENTION)
"""Attention whose heads are brought behind the sequence again."""


class _AttentionRule(FusedRule):
    """What rules for attention have in common.

    Attributes:
        grouped: Whether the operator takes fewer heads of keys and values than of queries.
    """

    grouped: ClassVar[bool] = True

    def read(self, found: Match) -> Attention:
        """Reads a match that the check has let through."""
        read = read_attention(found, grouped=self.grouped)
        assert isinstance(read, Attention), "the check refuses what cannot be read"
        return read

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses what is not read as attention, other types, and what the operator cannot express."""
        read = read_attention(found, grouped=self.grouped)
        if isinstance(read, str):
            return read
        values = [read.query.value, read.key.value, read.value.value]
        if read.mask is not None and read.mask.fill is None:
            values.append(read.mask.value)
        return self.dtype_obstacle(*values) or self.limit(read, found)

    def limit(self, read: Attention, found: Match) -> str | None:
        """Returns what the operator cannot express, or None."""
        return None


class StandardAttention(_AttentionRule):
    """Attention-23 on heads as they are: [B, N, S, H]."""

    name = "attention"
    summary = "scaled dot product attention becomes Attention (opset 23)"
    op_type = "Attention"
    domain = ""
    since = 23
    pattern: ClassVar[Op] = ATTENTION

    def limit(self, read: Attention, found: Match) -> str | None:
        """Refuses masks that may mask a whole row, where the kernel is not known to give what Softmax gives."""
        if read.mask is None or self.support.masked_rows_as_softmax or read.mask.low > NEGLIGIBLE:
            return None
        return f"a row that {read.mask.value.name} masks everywhere may give zeros instead of what Softmax gives"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds Attention, with past and present where keys and values are concatenated before it."""
        read = self.read(found)
        cache = read_cache(read, found)
        bias = additive_mask(read, cache, editor)
        attributes = [ir.AttrFloat32("scale", read.scale)]
        query = read.query.heads_first(editor)
        if cache is None:
            inputs = [query, *(heads.heads_first(editor) for heads in (read.key, read.value)), bias]
            return self.make(editor, inputs if bias is not None else inputs[:3], attributes)[0]
        new = [heads.value for heads in cache.new]
        result, key, value = self.make(editor, [query, *new, bias, *cache.past], attributes, outputs=3)
        cache.replace_present(key, value)
        return result


class MultiHeadAttention(_AttentionRule):
    """MultiHeadAttention on projections [B, S, N H]; on heads [B, N, T, H] for keys and values that are none."""

    name = "multi-head-attention"
    summary = "scaled dot product attention between split and merged heads becomes MultiHeadAttention"
    op_type = "MultiHeadAttention"
    grouped = False
    pattern: ClassVar[Op] = _MERGED

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds MultiHeadAttention."""
        read = self.read(found)
        cache = read_cache(read, found)
        if cache is not None and not all(heads.is_merged_free() for heads in cache.new):
            cache = None  # the operator takes them concatenated, as they are
        bias = additive_mask(read, cache, editor)
        query, factor = scaled(read.query.merged(editor))
        count, size = read.value.static
        attributes = [ir.AttrInt64("num_heads", count), ir.AttrFloat32("scale", read.scale * factor)]
        if cache is not None:
            new = [heads.merged(editor) for heads in cache.new]
            inputs = [query, *new, None, None, bias, *cache.past]
            result, key, value = self.make(editor, inputs, attributes, outputs=3)
            cache.replace_present(key, value)
        else:
            pair = (read.key, read.value)
            merged = all(heads.is_merged_free() for heads in pair) or read.query.static[1] != size
            keys = [heads.merged(editor) if merged else heads.heads_first(editor) for heads in pair]
            inputs = [query, *keys, None, None, bias] if bias is not None else [query, *keys]
            result = self.make(editor, inputs, attributes)[0]
        return _placed(result, read, found, editor)


class GroupQueryAttention(_AttentionRule):
    """GroupQueryAttention on projections [B, S, N H] and [B, S, K H], causal = 0: the mask says what is seen.

    Source of the limits: the operator takes keys as long as queries, and a past only with one sequence or one step.
    """

    name = "group-query-attention"
    summary = "attention with repeated keys and values becomes GroupQueryAttention"
    op_type = "GroupQueryAttention"
    pattern: ClassVar[Op] = _MERGED

    def limit(self, read: Attention, found: Match) -> str | None:
        """Refuses heads that are not shared, values of another size, and lengths that the operator does not take."""
        if read.groups == 1:
            return "keys and values are not repeated for groups of heads"
        sizes = {read.query.static[1], read.value.static[1]}
        if len(sizes) != 1 or any(size % GROUPED_SIZE for size in sizes):
            return f"the sizes of the heads, {sorted(sizes)}, are not one multiple of {GROUPED_SIZE}"
        batch, queries, keys = read.sizes
        cache = read_cache(read, found)
        if cache is not None and 1 not in (batch, queries):
            return "with earlier keys it takes one sequence or one step at a time, which is not known"
        if cache is None and not same(queries, keys):
            return "the keys are not known to be as many as the queries"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds GroupQueryAttention, with past and present where keys and values are concatenated before it."""
        read = self.read(found)
        cache = read_cache(read, found)
        bias = additive_mask(read, cache, editor)
        query, factor = scaled(read.query.merged(editor))
        batch, _, keys = read.sizes
        total = editor.op("Cast", [_key_length(read, cache, editor)], [ir.AttrInt64("to", ir.DataType.INT32.value)])
        total.dtype, total.shape = ir.DataType.INT32, ir.Shape([1])
        one = editor.constant("one", np.ones(1, np.int32))
        lengths = editor.op("Expand", [editor.op("Sub", [total, one]), dimension(editor, query, 0)])
        scalar_total = reshaped(editor, total, (), ())
        attributes = [
            ir.AttrInt64("num_heads", read.query.static[0]),
            ir.AttrInt64("kv_num_heads", read.key.static[0]),
            ir.AttrFloat32("scale", read.scale * factor),
            ir.AttrInt64("causal", 0),
        ]
        pair, past = ((read.key, read.value), (None, None)) if cache is None else (cache.new, cache.past)
        merged = [heads.merged(editor) for heads in pair]
        rest = [] if bias is None else [None, None, None, bias]
        inputs = [query, *merged, *past, lengths, scalar_total, *rest]
        result, key, value = self.make(editor, inputs, attributes, outputs=3)
        for present, heads in ((key, read.key), (value, read.value)):
            shaped(present, heads.value, (batch, heads.static[0], keys, heads.static[1]))
        if cache is not None:
            cache.replace_present(key, value)
        return _placed(result, read, found, editor)


def _key_length(read: Attention, cache: Cache | None, editor: Editor) -> ir.Value:
    """The number of keys as INT64 of shape [1]; with a cache not that of the concatenation, which goes."""
    if cache is None:
        return dimension(editor, read.key.value, 1 if read.key.sequence_first else 2)
    return editor.op("Add", [dimension(editor, part, 2) for part in (cache.past[0], cache.new[0].value)])


def _placed(merged: ir.Value, read: Attention, found: Match, editor: Editor) -> ir.Value:
    """What the root, a Transpose of heads [B, N, S, H], gave, from the fused operator's [B, S, N H]."""
    batch, queries, _ = read.sizes
    count, size = read.query.static[0], read.value.static[1]
    shaped(merged, read.value.value, (batch, queries, count * size))
    parted = reshaped(editor, merged, (0, 0, count, size), (batch, queries, count, size))
    perm = [SWAP_HEADS[axis] for axis in permutation(found.root) or (3, 2, 1, 0)]
    return parted if perm == [0, 1, 2, 3] else transposed(editor, parted, perm)


def additive_mask(read: Attention, cache: Cache | None, editor: Editor) -> ir.Value | None:
    """Returns the mask as something to add, of shape [B or 1, N or 1, S, T]: kernels broadcast no lengths."""
    if read.mask is None:
        return None
    mask, query = read.mask, read.query.value
    value = mask.value
    if mask.fill is not None:
        dtype = query.dtype or ir.DataType.FLOAT
        keep, fill = (editor.constant("mask_value", np.array(x, dtype.numpy())) for x in (0.0, mask.fill))
        value = editor.op("Where", [value, keep, fill] if mask.keep else [value, fill, keep])
        shaped(value, query, known_dims(mask.value))
    _, queries, keys = read.sizes
    shape = (1,) * (4 - len(known_dims(value))) + known_dims(value)
    wanted = (shape[0], shape[1], queries, keys)
    if len(known_dims(value)) == 4 and all(map(same, shape, wanted)):
        return value
    one = editor.constant("one", np.ones(2, np.int64))
    rows = _own_length(editor, value, queries) or dimension(editor, query, 2)
    columns = _own_length(editor, value, keys) or _key_length(read, cache, editor)
    target = editor.op("Concat", [one, rows, columns], [ir.AttrInt64("axis", 0)])
    return shaped(editor.op("Expand", [value, target]), query, wanted)


def _own_length(editor: Editor, mask: ir.Value, wanted: Dim) -> ir.Value | None:
    """A length from the mask where it has that length itself: then layers that share a mask share its expansion."""
    if isinstance(wanted, int):
        return editor.constant("length", np.array([wanted], np.int64))
    axis = next((axis for axis, size in enumerate(known_dims(mask)) if same(size, wanted)), None)
    return None if axis is None else dimension(editor, mask, axis)


RULES = (StandardAttention, GroupQueryAttention, MultiHeadAttention)
