"""Fused operators of ONNX Runtime's CPU provider, as data.

`benchmarks/attention.py` times each against the nodes it replaces, as far as the runtime does not fuse those itself; a
row is a default only where it was never below 0.98 times as fast. The activations are what the runtime makes of some
decomposed forms when it loads them (tests/backends/test_onnxruntime_fused.py looks), and faster than the others.
Attention was faster at most shapes and slower in some whole models, so it is a choice.
"""

from collections.abc import Mapping

from sardonyx.capabilities import FusedSupport

ATTENTION = (
    FusedSupport("MultiHeadAttention", note="0.99 to 1.09 times as fast alone, 0.92 to 1.02 in whole encoders"),
    FusedSupport("Attention", note="1.01 to 1.09 times as fast alone"),
    FusedSupport("GroupQueryAttention", note="0.98 to 1.04 times as fast alone"),
    FusedSupport(
        "Attention",
        domain="",
        opset_version=23,
        masked_rows_as_softmax=False,
        note="1.00 to 1.17 times as fast alone; a row masked by -inf or the lowest float gives zeros",
    ),
)

ROTARY = (
    FusedSupport("RotaryEmbedding", default=True, note="1.6 to 2.4 times as fast"),
    FusedSupport(
        "RotaryEmbedding",
        domain="",
        opset_version=23,
        default=True,
        note="1.4 to 2.4 times as fast",
    ),
)

NORMALIZATION = (
    FusedSupport("SkipLayerNormalization", note="0.65 to 0.81 times as fast as Add and LayerNormalization"),
    FusedSupport("SkipSimplifiedLayerNormalization", note="0.95 to 0.98 times as fast as Add and RMSNormalization"),
    FusedSupport("EmbedLayerNormalization", note="0.49 to 0.68 times as fast; takes no negative indices"),
)

ACTIVATIONS = tuple(
    FusedSupport(op_type, default=True, note="what the runtime makes of some decomposed forms itself")
    for op_type in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu")
)

FUSED: Mapping[tuple[str, str], FusedSupport] = {
    (row.domain, row.op_type): row for row in (*ATTENTION, *ROTARY, *NORMALIZATION, *ACTIVATIONS)
}
