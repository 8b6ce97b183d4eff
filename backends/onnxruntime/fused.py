"""Fused operators of ONNX Runtime's CPU provider, as data.

`benchmarks/attention.py` times each against the nodes it replaces, which the runtime fuses as far as it does by itself;
a row is a default only where it was never below 0.98 times as fast.
"""

from sardonyx.capabilities import FusedSupport

FUSED = (
    FusedSupport("MultiHeadAttention"),
    FusedSupport("Attention"),
    FusedSupport("GroupQueryAttention"),
    FusedSupport(
        "Attention",
        domain="",
        opset_version=23,
        masked_rows_as_softmax=False,
        note="a row masked by -inf or the lowest float gives zeros",
    ),
    FusedSupport("RotaryEmbedding"),
    FusedSupport("RotaryEmbedding", domain="", opset_version=23),
    FusedSupport("SkipLayerNormalization"),
    FusedSupport("SkipSimplifiedLayerNormalization"),
    FusedSupport("EmbedLayerNormalization", note="takes no negative indices, which Gather does"),
    FusedSupport("Gelu"),
    FusedSupport("FastGelu"),
    FusedSupport("QuickGelu"),
    FusedSupport("BiasGelu"),
)
