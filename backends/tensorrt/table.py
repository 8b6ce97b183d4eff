"""What TensorRT makes of explicit Q/DQ graphs, as data.

Each row was built with the ahead-of-time builder of TensorRT-RTX 1.7, whose layer table shows the types that each layer
reads (tests/backends/test_tensorrt_table.py repeats that). The builder moves a pair over what commutes with it: a
MaxPool or Concat whose result alone is quantized runs on INT8 all the same, so that placement need not put a pair on
both sides. Not listed, because the builder keeps them in float between the pairs or ignores the pairs: ConvTranspose,
AveragePool, normalizations, Softmax, activations, LSTM, GRU.
"""

from sardonyx.capabilities import (
    ActivationScheme,
    BlockSupport,
    Capabilities,
    FloatSupport,
    FusedSupport,
    OpSupport,
    Role,
    WeightSupport,
)
from sardonyx.ir import DataType
from sardonyx.measure import Machine

MIN_OPSET = 13
"""QuantizeLinear and DequantizeLinear take an axis from opset 13."""

NEWEST_OPSET = 25
"""The newest with which networks were parsed and built, by both builders."""

BLOCK_OPSET = 21
"""DequantizeLinear takes blocks, and 4-bit integers, from opset 21."""

COMPUTE = (
    OpSupport(
        "Conv",
        Role.COMPUTE,
        weight=1,
        weight_support=WeightSupport(channel_axis=0),
        bias=2,
        bias_dtype=DataType.FLOAT,
        needs_quantized_output=False,
        note="the parser refuses an INT32 bias behind DequantizeLinear",
    ),
    OpSupport(
        "MatMul",
        Role.COMPUTE,
        weight=1,
        weight_support=WeightSupport(channel_axis=-1, per_channel_ranks=(2,)),
        needs_quantized_output=False,
        note="with scales along the summed axis it falls back to float; products of two activations stay in float, "
        "so that attention is fused",
    ),
    OpSupport(
        "Gemm",
        Role.COMPUTE,
        weight=1,
        weight_support=WeightSupport(channel_axis=1, transposed_axis=0, transpose_attribute="transB"),
        bias=2,
        bias_dtype=DataType.FLOAT,
        needs_quantized_output=False,
        attributes={"alpha": 1.0, "beta": 1.0, "transA": 0},
    ),
)

RESIDUAL = (
    OpSupport(
        "Add",
        Role.RESIDUAL,
        inputs=(0, 1),
        note="a pair on the skip input only: one on the product's result would keep the Add out of its kernel",
    ),
)

_TRANSPARENT_OPERATORS = (
    "DepthToSpace",
    "Flatten",
    "MaxPool",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)

TRANSPARENT = (
    *(OpSupport(op_type, Role.TRANSPARENT, needs_quantized_output=False) for op_type in _TRANSPARENT_OPERATORS),
    OpSupport("Resize", Role.TRANSPARENT, needs_quantized_output=False, attributes={"mode": "nearest"}),
    OpSupport(
        "Concat",
        Role.TRANSPARENT,
        inputs=None,
        needs_quantized_output=False,
        note="with one scale for all inputs nothing is requantized",
    ),
)

BLOCKS = tuple(
    BlockSupport(
        op_type,
        ("", "DequantizeLinear"),
        bits=(4,),
        blocks=(32, 64, 128),
        dtypes=(DataType.FLOAT, DataType.FLOAT16),
        negative_scales=False,
        zero_points=False,
        min_opset=BLOCK_OPSET,
        note="dequantized inside the product's kernel; blocks of INT8 are dequantized before it",
    )
    for op_type in ("MatMul", "Gemm")
)
"""Weights in blocks, with activations in float. Tables of embeddings are not among them: their scales would have to be
looked up too, and the builder dies of scales that are computed."""

FUSED = (
    FusedSupport("Gelu", domain="", opset_version=20, note="fused with its neighbours, as its decomposed forms are"),
    FusedSupport("RMSNormalization", domain="", opset_version=23),
    FusedSupport("RotaryEmbedding", domain="", opset_version=23),
    FusedSupport(
        "Attention",
        domain="",
        opset_version=23,
        dtypes=frozenset({DataType.FLOAT16, DataType.BFLOAT16}),
        masked_rows_as_softmax=False,
        note="no kernel in FLOAT: the build fails",
    ),
)
"""Operators of the standard domain only: the parser takes those of com.microsoft for plugins that are not there."""

_FLOAT_OPERATORS = (
    "Abs Add ArgMax ArgMin Attention AveragePool BatchNormalization Cast Ceil Clip Concat Constant "
    "ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp "
    "Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater "
    "GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf "
    "IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish "
    "Mod Mul Neg PRelu Pad Pow QuantizeLinear RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
    "RotaryEmbedding Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus "
    "Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu "
    "Unsqueeze Where"
)

FLOATS = {
    dtype: FloatSupport(
        frozenset(("", op_type) for op_type in _FLOAT_OPERATORS.split()), wraps_others=False, around_integers=True
    )
    for dtype in (DataType.FLOAT16, DataType.BFLOAT16)
}
"""Networks are strongly typed: an operator computes in the type that the graph gives it."""


def capabilities(machine: Machine) -> Capabilities:
    """Returns the table, which does not depend on the machine: engines are built for GPUs that need not be there."""
    return Capabilities(
        target="tensorrt",
        activation=ActivationScheme(DataType.INT8, symmetric=True, accepted=(DataType.INT8,)),
        weight_dtype=DataType.INT8,
        reduce_range=False,
        min_opset=MIN_OPSET,
        operators={(row.domain, row.op_type): row for row in (*COMPUTE, *RESIDUAL, *TRANSPARENT)},
        floats=FLOATS,
        fused={(row.domain, row.op_type): row for row in FUSED},
        blocks={row.op_type: row for row in BLOCKS},
        needs_both_operands=True,
        newest_opset=NEWEST_OPSET,
    )
