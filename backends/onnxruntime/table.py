"""What ONNX Runtime's CPU provider runs as integers, as data.

Each row was tried on the runtime: a node between Q/DQ pairs is given to it, and its optimized graph shows whether an
integer kernel took its place (tests/backends/test_onnxruntime_table.py repeats that for every row). Not listed, because
the runtime keeps them in float between the pairs: Sub, Div, Max, ReduceMean, Tanh, HardSwish, HardSigmoid, PRelu,
LayerNormalization, InstanceNormalization, ConvTranspose, GlobalMaxPool, SpaceToDepth, linear Resize.
"""

from collections.abc import Iterator

from sardonyx.backends.onnxruntime.fused import FUSED
from sardonyx.capabilities import (
    ActivationScheme,
    BlockSupport,
    Capabilities,
    DynamicSupport,
    FloatSupport,
    OpSupport,
    Role,
    WeightSupport,
)
from sardonyx.ir import DataType
from sardonyx.measure import Machine

MIN_OPSET = 13
"""QuantizeLinear and DequantizeLinear take an axis from opset 13."""

NEWEST_OPSET = 22
"""The newest that release 1.22 takes, the oldest release that is supported."""

MICROSOFT = "com.microsoft"
"""The domain of the runtime's own operators."""

DOMAINS = ("", "ai.onnx.ml", MICROSOFT, "com.microsoft.nchwc", "com.microsoft.experimental")
"""Operator domains that the CPU provider has kernels for."""

COMPUTE = (
    OpSupport(
        "Conv",
        Role.COMPUTE,
        weight=1,
        weight_support=WeightSupport(channel_axis=0),
        bias=2,
        note="QLinearConv exists only with a quantized output",
    ),
    OpSupport(
        "MatMul",
        Role.COMPUTE,
        inputs=(0, 1),
        weight=1,
        weight_support=WeightSupport(channel_axis=-1, per_channel_ranks=(2,)),
        needs_quantized_output=False,
        note="QLinearMatMul, or MatMulIntegerToFloat where the output stays in float",
    ),
    OpSupport(
        "Gemm",
        Role.COMPUTE,
        weight=1,
        weight_support=WeightSupport(channel_axis=1, transposed_axis=0, transpose_attribute="transB"),
        bias=2,
        needs_quantized_output=False,
        attributes={"alpha": 1.0, "beta": 1.0, "transA": 0},
        note="QGemm takes alpha = beta = 1 only",
    ),
)

FOLLOWERS = (
    OpSupport("Add", Role.FOLLOWER, inputs=(0, 1)),
    OpSupport("Mul", Role.FOLLOWER, inputs=(0, 1)),
    OpSupport("Concat", Role.FOLLOWER, inputs=None, note="QLinearConcat requantizes inputs of other scales"),
    OpSupport("AveragePool", Role.FOLLOWER),
    OpSupport("GlobalAveragePool", Role.FOLLOWER),
    OpSupport("LeakyRelu", Role.FOLLOWER),
    OpSupport("Sigmoid", Role.FOLLOWER),
)

_TRANSPARENT_OPERATORS = {
    "DepthToSpace": 1,
    "Expand": 1,
    "Flatten": 1,
    "Gather": 1,
    "MaxPool": 12,
    "Reshape": 1,
    "Slice": 1,
    "Squeeze": 1,
    "Tile": 1,
    "Transpose": 1,
    "Unsqueeze": 1,
}
"""Operators whose pairs the runtime drops when input and output share scale and zero point, by first opset."""

TRANSPARENT = (
    *(OpSupport(op, Role.TRANSPARENT, min_opset=opset) for op, opset in _TRANSPARENT_OPERATORS.items()),
    OpSupport("Resize", Role.TRANSPARENT, attributes={"mode": "nearest"}),
    OpSupport(
        "Pad",
        Role.TRANSPARENT,
        attributes={"mode": "constant"},
        zero_inputs=(2,),
        on_integers=True,
        note="the runtime keeps the pairs around Pad, so it is written on integers",
    ),
)

BLOCKS = (
    *(
        BlockSupport(
            op_type,
            (MICROSOFT, "MatMulNBits"),
            attributes={"accuracy_level": 4},
            float_bits=(4,),
            note="accuracy_level 4 multiplies in INT8: several times as fast as FP32 for single rows; "
            "without it 8 bits are dequantized for each call, 17 times as slow as FP32",
        )
        for op_type in ("MatMul", "Gemm")
    ),
    BlockSupport("Gather", (MICROSOFT, "GatherBlockQuantized")),
)
"""Weights in blocks, with activations in float."""

ACTIVATIONS = (OpSupport("Relu", Role.ACTIVATION), OpSupport("Clip", Role.ACTIVATION))

DYNAMIC = (
    DynamicSupport("MatMul", weight_support=WeightSupport(channel_axis=-1), note="DynamicQuantizeMatMul"),
    DynamicSupport(
        "Gemm",
        weight_support=WeightSupport(channel_axis=1, transposed_axis=0, transpose_attribute="transB"),
        attributes={"transA": 0},
        note="DynamicQuantizeMatMul; alpha and beta go into scales and bias",
    ),
    DynamicSupport("LSTM", weights=(1, 2), attributes={"layout": 0}, note="DynamicQuantizeLSTM"),
)
"""What the runtime makes of the dynamically quantized forms. It has no such kernel for GRU and RNN, and computes
ConvInteger without the fusions of QLinearConv (tests/backends/test_onnxruntime_dynamic.py tries every row)."""


_MOVES_ANY_FLOAT = (
    "Concat Flatten Gather GatherElements GatherND Identity IsInf IsNaN LayerNormalization Reshape ScatterND "
    "Shape Sign Slice Split Squeeze Transpose Unsqueeze"
)
_MOVES_FLOAT16 = "Clip Expand Max Min Mod QuantizeLinear Round"


def _float_kernels(names: str) -> frozenset[tuple[str, str]]:
    return frozenset(("", name) for name in names.split())


FLOATS = {
    DataType.FLOAT16: FloatSupport(_float_kernels(f"{_MOVES_ANY_FLOAT} {_MOVES_FLOAT16}"), wraps_others=True),
    DataType.BFLOAT16: FloatSupport(_float_kernels(_MOVES_ANY_FLOAT), wraps_others=False),
}
"""Kernels on x86 processors, which compute nothing but LayerNormalization in 16 bits: the runtime puts Casts to FLOAT
around Conv, MatMul and the like in FLOAT16, and has no implementation of them in BFLOAT16."""


def _rows() -> Iterator[OpSupport]:
    for group in (COMPUTE, FOLLOWERS, TRANSPARENT, ACTIVATIONS):
        yield from group


def capabilities(machine: Machine) -> Capabilities:
    """Returns the table for a machine's processor.

    UINT8 activations with INT8 weights (U8S8) are what x86 dot-product instructions (VNNI) multiply. Without them,
    the AVX2 and AVX-512 kernels add pairs of products in 16 bits, which saturate (255 * 127 * 2 > 32767); weights then
    keep to 7 bits, which cannot. ARM processors have signed dot products: there both are INT8.
    """
    arm = machine.architecture in ("aarch64", "arm64")
    saturates = not arm and not machine.has_vnni
    warnings: tuple[str, ...] = ()
    if saturates:
        warnings = (
            f"{machine.cpu} has no VNNI: INT8 products are summed in 16 bits there. Weights keep to 7 bits so that "
            "the sums cannot saturate, at a small loss of accuracy. A machine with VNNI would not need that.",
        )
    return Capabilities(
        target="onnxruntime",
        activation=ActivationScheme(DataType.INT8 if arm else DataType.UINT8),
        weight_dtype=DataType.INT8,
        reduce_range=saturates,
        min_opset=MIN_OPSET,
        operators={(row.domain, row.op_type): row for row in _rows()},
        warnings=warnings,
        floats=FLOATS,
        dynamic={(row.domain, row.op_type): row for row in DYNAMIC},
        fused=FUSED,
        blocks={row.op_type: row for row in BLOCKS},
        newest_opset=NEWEST_OPSET,
    )
