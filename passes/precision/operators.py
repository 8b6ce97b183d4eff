"""What the conversion knows of single operators, as tables."""

from collections.abc import Mapping


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVEMENT = _names(
    "Cast DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad Reshape ReverseSequence "
    "ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Concat Where Compress "
    "CenterCropPad Trilu"
)
"""Operators that move values without arithmetic: a region of nothing else has nothing to compute."""

VIEWS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that touch no element, or are Casts themselves: nothing is saved by running them in 16 bits."""

POINTWISE = _names("Abs Add Ceil Clip Cos Div Exp Floor Mod Max Min Mul Neg Not Pow Reciprocal Round Sign Sin Sqrt Sub")
"""Arithmetic that computes positions, lengths and masks from integers."""

AGNOSTIC = frozenset({"Shape", "Size"})
"""Operators that do not look at the values: they read whichever type is there, without a Cast."""

INFLEXIBLE: Mapping[str, str] = {
    "BitCast": "it looks at the bits of its input",
    "MeanVarianceNormalization": "its definition holds FLOAT constants",
}
"""Operators whose schema accepts 16-bit types, but which compute something else or nothing with them."""

RANDOM = _names("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike")
"""Operators that draw other numbers when their type changes."""

PERIODIC = frozenset({"Cos", "Sin", "Tan"})
"""Operators whose result depends on the absolute error of their argument."""

PERIODIC_LIMIT = 8.0
"""Arguments up to this keep an absolute error of at most 2^-9 in FP16."""

CAUTIOUS: Mapping[str, str] = {
    "CumSum": "sums grow with the length",
    "Cosh": "it grows exponentially",
    "DFT": "sums grow with the length",
    "Det": "products of elements grow",
    "Exp": "it exceeds 65504 beyond an argument of 11",
    "GlobalLpPool": "it sums powers",
    "LRN": "it squares its input",
    "Log": "an argument that underflows to 0 becomes -inf",
    "LpNormalization": "it sums powers",
    "LpPool": "it sums powers",
    "Reciprocal": "a small argument overflows or becomes infinite",
    "ReduceL1": "sums grow with the size",
    "ReduceL2": "it sums squares",
    "ReduceLogSum": "sums grow with the size",
    "ReduceLogSumExp": "it sums exponentials",
    "ReduceProd": "products grow with the size",
    "ReduceSum": "sums grow with the size",
    "ReduceSumSquare": "it sums squares",
    "STFT": "sums grow with the length",
    "Sinh": "it grows exponentially",
}
"""Operators that stay in FP32 where no samples show how large their values get, and why."""

SQUARING = _names(
    "GroupNormalization InstanceNormalization LRN LpNormalization MeanVarianceNormalization ReduceL2 GlobalLpPool "
    "LpPool"
)
"""Operators that square their input inside, where no measurement of inputs and outputs sees it."""

PRECISE_INPUTS = frozenset(
    {("BatchNormalization", 4), ("Div", 1), ("QuantizeLinear", 1), ("DequantizeLinear", 1), ("Pow", 1)}
)
"""Constant operands of which each element counts by itself: divisors, scales, exponents."""

ADDED_INPUTS = frozenset(
    {("Add", 0), ("Add", 1), ("Sub", 0), ("Sub", 1), ("Conv", 2), ("ConvTranspose", 2), ("Gemm", 2)}
)
"""Operands that are added: as vectors they are biases, of which elements below 2^-25 may vanish beside the sum."""

PINNED_INPUTS = frozenset({("Resize", 1)})
"""Inputs that stay in FP32 although the schema lets them follow: kernels read the region of interest as FP32."""

TYPE_ATTRIBUTES: Mapping[str, str] = {"Cast": "to", "ConstantOfShape": "value", "DequantizeLinear": "output_dtype"}
"""Attributes that state the type of the output."""

BOUNDED: Mapping[str, tuple[float, float]] = {
    "Cos": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Hardmax": (0.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "Sign": (-1.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
"""Operators whose results lie in a fixed interval."""
