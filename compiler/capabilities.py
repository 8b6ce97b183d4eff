"""What a target runs as integers: plain data that backends publish and passes read.

A backend fills in a `Capabilities` table; placement, fusion and legalization read it and never ask for
a target's name. An operator is in one of three states: not listed (it runs in float), listed as
`Role.TRANSPARENT` (it moves data, so it carries its input's quantization unchanged), or listed as an
operator with integer kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sardonyx.ir import DataType


class Role(StrEnum):
    """How an operator takes part in an integer region."""

    COMPUTE = "compute"
    """Has an integer kernel that pays by itself: it starts a region (Conv, MatMul, Gemm)."""
    FOLLOWER = "follower"
    """Has an integer kernel that pays only between quantized neighbours (Add, AveragePool, Concat)."""
    TRANSPARENT = "transparent"
    """Moves data without arithmetic: inputs and output have one scale and zero point (Reshape, MaxPool)."""
    RESIDUAL = "residual"
    """Computes in float, fused into the kernel of the integer node that makes one operand; reads the other as integers
    where it is quantized for other nodes anyway or made by an integer node (the Add of a residual block)."""
    ACTIVATION = "activation"
    """Clamps: vanishes into the quantization of its output where the range covers it (Relu, Clip)."""


@dataclass(frozen=True)
class WeightSupport:
    """How a constant weight operand may be quantized.

    Attributes:
        channel_axis: Axis of the per-channel scales; negative counts from the back; None: per-tensor only.
        transposed_axis: The axis instead, where the operator's attribute `transpose_attribute` is 1.
        transpose_attribute: For instance `transB` of Gemm.
        per_channel_ranks: Ranks of the weight for which per-channel scales are right; None: any. Weights of
            other ranks are quantized per tensor.
    """

    channel_axis: int | None = None
    transposed_axis: int | None = None
    transpose_attribute: str | None = None
    per_channel_ranks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class OpSupport:
    """One row of the table: one operator on one target.

    Attributes:
        op_type: Operator name.
        role: How it takes part in an integer region.
        domain: Operator domain; the empty string is the standard one.
        inputs: Indices of the inputs that carry quantized activations; None: all of them. Those of a transparent
            operator share one scale.
        weight: Index of the input that, where constant, is a weight. The input may still be an activation.
        weight_support: How that weight may be quantized.
        bias: Index of the bias input, if the operator has one.
        bias_dtype: INT32 for a bias quantized with scale S_x * S_w; FLOAT for one that stays as it is, which then need
            not be a constant.
        needs_quantized_output: Whether the integer kernel exists only with a quantized output.
        fixed_output_range: (low, high) where the target wants a fixed output range, as for Softmax.
        on_integers: For a transparent operator: the target does not drop the Q/DQ pairs around it by itself, but
            runs it on integer tensors when written so.
        attributes: Attribute values the kernel requires, by name; an absent attribute counts as this value.
        zero_inputs: Inputs that must be absent or a constant 0.
        ranks: Accepted ranks of the first input; None: any.
        min_opset: First opset of the standard domain from which the target does this.
        note: Why, for people who read the record.
    """

    op_type: str
    role: Role
    domain: str = ""
    inputs: tuple[int, ...] | None = (0,)
    weight: int | None = None
    weight_support: WeightSupport | None = None
    bias: int | None = None
    bias_dtype: DataType = DataType.INT32
    needs_quantized_output: bool = True
    fixed_output_range: tuple[float, float] | None = None
    on_integers: bool = False
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)
    zero_inputs: tuple[int, ...] = ()
    ranks: tuple[int, ...] | None = None
    min_opset: int = 1
    note: str = ""


@dataclass(frozen=True)
class DynamicSupport:
    """One operator that a target runs with integer weights and activations quantized while it runs.

    The activation's scale and zero point come from each tensor's own extremes, so that no samples are needed.

    Attributes:
        op_type: Operator name.
        domain: Operator domain; the empty string is the standard one.
        weights: Indices of the inputs that must be constant and become integers.
        weight_support: How the first weight may be quantized, where the operator is a matrix product.
        attributes: Attribute values it requires, by name; an absent attribute counts as this value.
        note: Why, for people who read the record.
    """

    op_type: str
    domain: str = ""
    weights: tuple[int, ...] = (1,)
    weight_support: WeightSupport | None = None
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ActivationScheme:
    """How activations are quantized: their type and whether the zero point may differ from zero.

    Attributes:
        dtype: Integer type of activations.
        symmetric: Whether the zero point is fixed at zero (signed types) for this target.
        accepted: Types that may be asked for instead of the preferred one, that one among them.
    """

    dtype: DataType
    symmetric: bool = False
    accepted: tuple[DataType, ...] = (DataType.UINT8, DataType.INT8)


@dataclass(frozen=True)
class FloatSupport:
    """What a target runs in a 16-bit floating-point type.

    Attributes:
        native: Operators, by (domain, op_type), with kernels of their own.
        wraps_others: Whether the target runs the other operators in FLOAT, between Casts that it inserts itself;
            if not, it refuses a model that has them in this type.
        around_integers: Whether Q/DQ nodes, and the integer nodes between them, may be of this type; if not, they stay
            FLOAT, because the target's integer kernels are found only so.
    """

    native: frozenset[tuple[str, str]]
    wraps_others: bool
    around_integers: bool = False

    def loads(self, domain: str, op_type: str) -> bool:
        """Whether a model with this operator in the type loads."""
        return self.wraps_others or (domain, op_type) in self.native


@dataclass(frozen=True)
class FusedSupport:
    """A fused operator of a target: one that computes what several standard nodes compute.

    Attributes:
        op_type: Operator name.
        domain: Operator domain; the empty string is the standard one.
        opset_version: First version of that domain in which the target runs it.
        dtypes: Types of its activations that the target has a kernel for.
        default: Whether it was measured never to be slower than the nodes it replaces, so that it is made wherever it
            fits. Others are choices: a fused form that can lose is made only where it is asked for.
        masked_rows_as_softmax: For attention: whether a row of scores that is masked everywhere gives what Softmax
            gives (NaN, or the mean of the values); kernels that give zeros there fit fewer models.
        note: Why, for people who read the record.
    """

    op_type: str
    domain: str = "com.microsoft"
    opset_version: int = 1
    dtypes: frozenset[DataType] = frozenset({DataType.FLOAT})
    default: bool = False
    masked_rows_as_softmax: bool = True
    note: str = ""


@dataclass(frozen=True)
class BlockSupport:
    """One operator whose constant weight the target takes as small integers in blocks, its activations in float.

    Attributes:
        op_type: The standard operator: MatMul, Gemm or Gather.
        kernel: What runs it: an operator that takes the packed weight, as domain and name, or
            ("", "DequantizeLinear") where the target wants the standard operator behind a blocked DequantizeLinear.
        bits: Bits of an integer that the target takes.
        blocks: Block sizes that it takes.
        dtypes: Types of activations and scales that it takes.
        negative_scales: Whether scales may be negative.
        zero_points: Whether blocks may have zero points; if not, they are symmetric.
        attributes: Attributes of the kernel with which it is fastest because it rounds activations to 8 bits; without
            them it computes in float.
        float_bits: Bits for which the kernel is about as fast as a float product where it computes in float; for others
            it is slower by an order of magnitude then.
        min_opset: First opset of the standard domain from which the target does this.
        note: Why, for people who read the record.
    """

    op_type: str
    kernel: tuple[str, str]
    bits: tuple[int, ...] = (4, 8)
    blocks: tuple[int, ...] = (16, 32, 64, 128, 256)
    dtypes: tuple[DataType, ...] = (DataType.FLOAT,)
    negative_scales: bool = True
    zero_points: bool = True
    attributes: Mapping[str, int] = field(default_factory=dict)
    float_bits: tuple[int, ...] = (4, 8)
    min_opset: int = 1
    note: str = ""


@dataclass(frozen=True)
class Capabilities:
    """The whole table of one target on one machine.

    Attributes:
        target: The target's name, for records and messages; no pass may branch on it.
        activation: The preferred scheme of activations on this machine.
        weight_dtype: The preferred type of weights on this machine.
        reduce_range: Whether weights must stay within 7 bits, because the machine's kernels saturate.
        needs_both_operands: Whether a product must have all its operands quantized or none: with one of them it falls
            back to float, in silence.
        min_opset: The oldest standard opset in which the target takes Q/DQ with per-channel scales.
        operators: Rows, by (domain, op_type).
        warnings: What a user of this machine must know, as sentences.
        floats: What the target runs in 16-bit floating-point types, by type; a type that is absent is not known.
        dynamic: What it runs with activations quantized while it runs, by (domain, op_type).
        fused: Fused operators it runs, by (domain, op_type).
        blocks: Operators whose weights may be integers in blocks, by name of the standard operator.
        newest_opset: The newest standard opset that every supported release of the target takes; None: not known.
    """

    target: str
    activation: ActivationScheme
    weight_dtype: DataType
    reduce_range: bool
    min_opset: int
    operators: Mapping[tuple[str, str], OpSupport]
    warnings: tuple[str, ...] = ()
    floats: Mapping[DataType, FloatSupport] = field(default_factory=dict)
    dynamic: Mapping[tuple[str, str], DynamicSupport] = field(default_factory=dict)
    fused: Mapping[tuple[str, str], FusedSupport] = field(default_factory=dict)
    blocks: Mapping[str, BlockSupport] = field(default_factory=dict)
    needs_both_operands: bool = False
    newest_opset: int | None = None

    def support(self, domain: str, op_type: str) -> OpSupport | None:
        """Returns the row of an operator, or None where the target runs it in float only."""
        return self.operators.get((domain, op_type))
