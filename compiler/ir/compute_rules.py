"""How operators that compute across elements (products, windows, reductions, attention) size their outputs."""

from collections.abc import Mapping, Sequence

import onnx_ir as oir

from sardonyx.ir.dims import Dim, add, divide, multiply
from sardonyx.ir.graphs import attribute
from sardonyx.ir.rule_inputs import NO_INTS, Dims, Rule, Sizes, broadcast_dims, input_dims, is_given, known_ints


def _matmul(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    a, b = input_dims(node, sizes), input_dims(node, sizes, 1)
    if a is None or b is None or not a or not b:
        return ()
    batch = broadcast_dims(a[:-2], b[:-2]) or ()
    return ([*batch, *(a[-2:-1]), *(b[-1:] if len(b) > 1 else ())],)


def _gemm(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    a, b = input_dims(node, sizes), input_dims(node, sizes, 1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return ()
    return ([a[1 if attribute(node, "transA", 0) else 0], b[0 if attribute(node, "transB", 0) else 1]],)


def _conv(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    data, weight = input_dims(node, sizes), input_dims(node, sizes, 1)
    if data is None or weight is None:
        return ()
    kernel = [dim if isinstance(dim, int) else None for dim in weight[2:]]
    return ([data[0], weight[0], *_windows(node, data[2:], kernel)],)


def _pool(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    data = input_dims(node, sizes)
    if data is None:
        return ()
    kernel = attribute(node, "kernel_shape", NO_INTS)
    spatial: Sequence[Dim | None] = [None] * (len(data) - 2)
    if not attribute(node, "ceil_mode", 0):
        spatial = _windows(node, data[2:], kernel)
    dims = (*data[:2], *spatial)
    return (dims, dims) if node.op_type == "MaxPool" else (dims,)


def _windows(node: oir.Node, spatial: Sequence[Dim], kernel: Sequence[int | None]) -> list[Dim | None]:
    """floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1, as the Conv operator defines it."""
    rank = len(spatial)
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return [None] * rank
    strides, dilations = (attribute(node, name, NO_INTS) or (1,) * rank for name in ("strides", "dilations"))
    pads = attribute(node, "pads", NO_INTS) or (0,) * (2 * rank)
    result: list[Dim | None] = []
    for axis, (size, window) in enumerate(zip(spatial, kernel, strict=True)):
        if window is None:
            result.append(None)
            continue
        room = add(size, pads[axis] + pads[axis + rank] - dilations[axis] * (window - 1) - 1)
        steps = None if room is None else divide(room, strides[axis])
        result.append(None if steps is None else add(steps, 1))
    return result


def _reduce(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims, axes = input_dims(node, sizes), known_ints(node, sizes, 1, "axes")
    if dims is None or (axes is None and is_given(node, 1, "axes")):
        return ()
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return (dims,)
    return (_without(dims, axes or range(len(dims)), bool(attribute(node, "keepdims", 1))),)


def _arg(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    keep = bool(attribute(node, "keepdims", 1))
    return () if dims is None else (_without(dims, [attribute(node, "axis", 0)], keep),)


def _without(dims: Sequence[Dim], axes: Sequence[int], keep: bool) -> Dims:
    gone = {axis % len(dims) for axis in axes} if dims else set()
    if keep:
        return [1 if axis in gone else dim for axis, dim in enumerate(dims)]
    return [dim for axis, dim in enumerate(dims) if axis not in gone]


def _global_pool(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    return () if dims is None else ([*dims[:2], *(1 for _ in dims[2:])],)


def _fused_matmul(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    """com.microsoft::FusedMatMul: MatMul of operands whose last two axes may be exchanged."""
    a, b = input_dims(node, sizes), input_dims(node, sizes, 1)
    moved = attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0)
    if a is None or b is None or moved or len(a) < 2 or len(b) < 2:
        return ()
    rows = a[-1] if attribute(node, "transA", 0) else a[-2]
    columns = b[-2] if attribute(node, "transB", 0) else b[-1]
    return ([*(broadcast_dims(a[:-2], b[:-2]) or ()), rows, columns],)


def _attention(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    """Attention of opset 23: heads are an axis of inputs of rank 4, and within the last axis of those of rank 3."""
    query, key, value = (input_dims(node, sizes, index) for index in range(3))
    if query is None or key is None or value is None or len({len(query), len(key), len(value)}) != 1:
        return ()
    heads, groups = attribute(node, "q_num_heads", 0), attribute(node, "kv_num_heads", 0)
    packed = len(query) == 3
    if packed and not (heads and groups):
        return ()
    lengths = [dims[1] if packed else dims[2] for dims in (query, key)]
    widths = [divide(dims[2], groups) if packed else dims[3] for dims in (key, value)]
    past = input_dims(node, sizes, 4)
    total = lengths[1] if not is_given(node, 4, "") else (None if past is None else add(past[2], lengths[1]))
    kept = [[key[0], groups if packed else key[1], total, width] for width in widths]
    width = widths[1] if not packed or widths[1] is None else multiply(widths[1], heads)
    scores = [query[0], heads if packed else query[1], lengths[0], total]
    return ([*query[:-1], width], *kept, scores)


def _multi_head_attention(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    """com.microsoft::MultiHeadAttention: (batch, length, hidden size of the values) for a query of rank 3."""
    query, value = input_dims(node, sizes), input_dims(node, sizes, 2)
    if query is None or len(query) != 3:
        return ()
    return ([*query[:2], value[2] if value is not None and len(value) == 3 else None],)


def _skip_norm(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    """com.microsoft::SkipLayerNormalization: the sum that it may give as fourth output has the input's sizes too."""
    dims = input_dims(node, sizes)
    return (dims, None, None, dims)


_REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

COMPUTE_RULES: Mapping[tuple[str, str], Rule] = {
    ("", op_type): rule
    for op_type, rule in {
        **dict.fromkeys((f"Reduce{name}" for name in _REDUCE), _reduce),
        **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
        **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), _pool),
        **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
        "Attention": _attention,
        "MatMul": _matmul,
        "Gemm": _gemm,
        "Conv": _conv,
    }.items()
} | {
    ("com.microsoft", op_type): rule
    for op_type, rule in {
        **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip_norm),
        "FusedMatMul": _fused_matmul,
        "FusedGemm": _gemm,
        "FusedConv": _conv,
        "MultiHeadAttention": _multi_head_attention,
    }.items()
}
"""Rules by domain and operator."""
