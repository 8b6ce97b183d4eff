"""Rules about operators: which ones TensorRT's parser knows, and forms of them that it or the builder refuses.

`KNOWN` is what the parser of tensorrt-rtx 1.7 answers for standard operators; it says yes to some that then have no
implementation, which have rules of their own.
"""

from collections.abc import Mapping

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.qdq import input_of
from sardonyx.backends.tensorrt.rules.rule import Hit, Rule, Scope, names
from sardonyx.ir import DataType

KNOWN = names(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization "
    "BlackmanWindow Cast CastLike CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv "
    "ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike "
    "Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater "
    "GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If "
    "InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log "
    "LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg "
    "NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal "
    "RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
    "ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink "
    "Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan "
    "Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor"
)
"""Standard operators that the parser knows."""

INTEGER_FORMS = names(
    "QLinearConv QLinearMatMul QLinearAdd QLinearMul QLinearAveragePool QLinearGlobalAveragePool QLinearConcat "
    "QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QLinearReduceMean QLinearWhere QGemm DynamicQuantizeLinear "
    "MatMulInteger ConvInteger MatMulIntegerToFloat DynamicQuantizeMatMul DynamicQuantizeLSTM QAttention "
    "QEmbedLayerNormalization"
)
"""Operators that compute with integers directly."""

_SAME_MEANING = names("QuantizeLinear DequantizeLinear Gelu")
"""Operators of ONNX Runtime's domain that mean what the standard ones of that name do: TensorRT ignores domains."""

_DECOMPOSITIONS: Mapping[str, str] = {
    "FastGelu": "Mul and Tanh, or Gelu with approximate=tanh from opset 20; legalization writes that",
    "BiasGelu": "Add and Gelu; legalization writes that",
    "QuickGelu": "Mul and Sigmoid; legalization writes that",
    "FusedMatMul": "Transpose, MatMul and Mul; legalization writes that",
    "FusedConv": "Conv and the activation; legalization writes that",
    "FusedGemm": "Gemm and the activation; legalization writes that",
    "SkipLayerNormalization": "Add and LayerNormalization; legalization writes that",
    "SkipSimplifiedLayerNormalization": "Add and the nodes of an RMS normalization; legalization writes that",
    "SimplifiedLayerNormalization": "the nodes of an RMS normalization; legalization writes that",
    "EmbedLayerNormalization": "Gather, Add and LayerNormalization; legalization writes that",
    "MatMulNBits": "DequantizeLinear with block_size and MatMul; legalization writes that",
    "MultiHeadAttention": "MatMul, Softmax, MatMul: export without the runtime's own fusions",
    "GroupQueryAttention": "MatMul, Softmax, MatMul: export without the runtime's own fusions",
    "GatherBlockQuantized": "DequantizeLinear and Gather",
    "DFT": "STFT, or MatMul with a constant matrix of sines and cosines",
    "Compress": "Gather with constant indices",
    "Col2Im": "ConvTranspose with constant weights",
    "DeformConv": "GridSample and Conv",
    "AffineGrid": "MatMul with a constant grid",
    "CenterCropPad": "Slice and Pad with constant sizes",
    "MaxUnpool": "ScatterND",
    "MaxRoiPool": "GridSample and MaxPool",
    "CumProd": "Log, CumSum and Exp for positive values",
    "BitShift": "Mul or Div by a power of two",
    "Det": "the sum of products written out",
}
"""What stands for an operator that TensorRT does not know."""

_ANY_SCALE = names("QuantizeLinear DequantizeLinear")
"""Operators whose scales TensorRT takes in FP32 beside FP16, which ONNX does not."""

_RESIZE_REFUSED = frozenset(("tf_crop_and_resize", "half_pixel_symmetric"))


def _unknown(node: ir.Node, scope: Scope) -> Hit | None:
    if node.op_type in KNOWN or node.op_type in INTEGER_FORMS or node.op_type in _ALONE:
        return None
    if any(key[:2] == (node.domain, node.op_type) for key in scope.model.functions):
        return None
    instead = _DECOMPOSITIONS.get(node.op_type)
    remedy = f"Write {instead}." if instead else "Write it as standard operators, or run this part elsewhere."
    return Hit(detail="", remedy=remedy)


def _taken_for_another(node: ir.Node, scope: Scope) -> Hit | None:
    local = any(key[:2] == (node.domain, node.op_type) for key in scope.model.functions)
    if not node.domain or local or node.op_type not in KNOWN or node.op_type in _SAME_MEANING:
        return None
    return Hit(detail=node.op_type)


def _any(node: ir.Node, scope: Scope) -> Hit | None:
    return Hit()


def _attention(node: ir.Node, scope: Scope) -> Hit | None:
    query = input_of(node, 0)
    wrong = not node.domain and query is not None and query.dtype is DataType.FLOAT
    return Hit(query.name or "") if wrong and query is not None else None


def _resize(node: ir.Node, scope: Scope) -> Hit | None:
    coordinates = ir.attribute(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates in _RESIZE_REFUSED:
        return Hit(detail=f"coordinate_transformation_mode={coordinates}")
    return Hit(detail="antialias=1") if ir.attribute(node, "antialias", 0) else None


def _strings(node: ir.Node, scope: Scope) -> Hit | None:
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is DataType.STRING:
            return Hit(value.name or "")
    return None


def _mixed(node: ir.Node, scope: Scope) -> Hit | None:
    """Inputs that share a type variable in the operator's schema and differ in type."""
    types = ir.formal_types(node, scope.model.opset_imports)
    if types is None or node.op_type in _ANY_SCALE:
        return None
    seen: dict[str, ir.Value] = {}
    for value, formal in zip(node.inputs, types.inputs, strict=True):
        if value is None or value.dtype is None or formal.variable.startswith("tensor("):
            continue
        first = seen.setdefault(formal.variable, value)
        if first.dtype != value.dtype and first.dtype is not None and len(formal.dtypes) and _homogeneous(node):
            return Hit(value.name or "", f"{value.dtype.name}, and {first.name!r} is {first.dtype.name}")
    return None


def _homogeneous(node: ir.Node) -> bool:
    """Whether variadic inputs of an operator share one type: bodies' inputs need not."""
    return not any(True for _ in ir.node_subgraphs(node))


def _channels(node: ir.Node, scope: Scope) -> Hit | None:
    data, weight = input_of(node, 0), input_of(node, 1)
    if data is None or weight is None or data.shape is None or weight.shape is None:
        return None
    if min(len(data.shape), len(weight.shape)) < 2:
        return None
    given, taken, groups = data.shape[1], weight.shape[1], ir.attribute(node, "group", 1)
    if not isinstance(given, int) or not isinstance(taken, int) or given == taken * groups:
        return None
    return Hit(data.name or "", f"{given} channels, and its weights take {taken * groups}")


def _double(node: ir.Node, scope: Scope) -> Hit | None:
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is DataType.DOUBLE:
            return Hit(value.name or "")
    return None


def unset_condition(loop: ir.Node) -> ir.Value | None:
    """Returns the condition that a Loop's body reads although the Loop gives it none; None where all is well."""
    body = next(iter(ir.node_subgraphs(loop)), None)
    if input_of(loop, 1) is not None or body is None or len(body.inputs) < 2:
        return None
    condition = body.inputs[1]
    return condition if condition.uses() or condition.is_graph_output() else None


def _loop_condition(node: ir.Node, scope: Scope) -> Hit | None:
    condition = unset_condition(node)
    return None if condition is None else Hit(condition.name or "")


def _bfloat16(node: ir.Node, scope: Scope) -> Hit | None:
    data = input_of(node, 0)
    old = data is not None and data.dtype is DataType.BFLOAT16 and "7.5" in scope.targets
    return Hit(data.name or "") if old and data is not None else None


_ALONE = names("Unique")

RULES = (
    Rule(
        "integer-operator",
        Severity.REFUSED,
        "{op} {node} computes with integers directly; TensorRT takes INT8 as Q/DQ pairs around float operators only.",
        "Quantize with QuantFormat.QDQ. Legalization writes Q/DQ pairs, and float for dynamic quantization.",
        _any,
        INTEGER_FORMS,
    ),
    Rule(
        "unknown-operator",
        Severity.REFUSED,
        "{op} {node} is an operator that TensorRT has no importer for (Plugin not found).",
        "Write it as standard operators, or run this part elsewhere.",
        _unknown,
    ),
    Rule(
        "other-meaning",
        Severity.WRONG_NUMBERS,
        "{op} {node}: TensorRT ignores domains and takes it for the standard {detail}, which means something else.",
        "Export without the runtime's own fusions, or write it as standard operators.",
        _taken_for_another,
    ),
    Rule(
        "attention-fp32",
        Severity.REFUSED,
        "{op} {node}: {tensor} is FP32, for which TensorRT's builder has no attention kernel.",
        "Write MatMul, Softmax, MatMul, or Cast its inputs to FP16, where it fuses.",
        _attention,
        names("Attention"),
    ),
    Rule(
        "non-max-suppression",
        Severity.REFUSED,
        "{op} {node} parses and then has no implementation in the builder.",
        "Cut the model before it and select boxes outside the engine.",
        _any,
        names("NonMaxSuppression"),
    ),
    Rule(
        "missing-plugin",
        Severity.REFUSED,
        "{op} {node} is a plugin that TensorRT does not find.",
        "NonZero: use Where or TopK with a fixed size. RoiAlign: GridSample. Or cut the model before it.",
        _any,
        names("NonZero RoiAlign"),
    ),
    Rule(
        "unique",
        Severity.REFUSED,
        "{op} {node} has an output whose size depends on values, and TensorRT has no importer for it.",
        "Cut the model before it, or use TopK and comparisons of neighbours.",
        _any,
        _ALONE,
    ),
    Rule(
        "string-tensor",
        Severity.REFUSED,
        "{op} {node}: {tensor} holds strings, which TensorRT does not have.",
        "Turn text into numbers outside the model.",
        _strings,
    ),
    Rule(
        "resize-mode",
        Severity.REFUSED,
        "{op} {node} has {detail}, which TensorRT does not compute.",
        "Use half_pixel, align_corners, asymmetric or pytorch_half_pixel without antialias.",
        _resize,
        names("Resize"),
    ),
    Rule(
        "mixed-types",
        Severity.REFUSED,
        "{op} {node}: {tensor} is {detail}; networks are strongly typed.",
        "Insert a Cast, so that all inputs of a node have one type.",
        _mixed,
    ),
    Rule(
        "conv-channels",
        Severity.REFUSED,
        "{op} {node}: {tensor} has {detail}.",
        "Export the model again: a runtime that checks refuses this too.",
        _channels,
        names("Conv"),
    ),
    Rule(
        "loop-condition",
        Severity.REFUSED,
        "{op} {node} has no condition, and its body reads {tensor}, which TensorRT then does not find.",
        "Give the Loop a condition that is true, as legalization does.",
        _loop_condition,
        names("Loop"),
    ),
    Rule(
        "double",
        Severity.NOTE,
        "{op} {node}: {tensor} is DOUBLE, which TensorRT computes and binds as FLOAT.",
        "Cast it to FLOAT in the model, so that judged and built numbers agree.",
        _double,
    ),
    Rule(
        "bf16-sm75",
        Severity.REFUSED,
        "{op} {node}: {tensor} is BFLOAT16, which compute capability 7.5 does not have.",
        "Build for 8.0 and newer, or use FP16.",
        _bfloat16,
    ),
)
"""What TensorRT takes of operators."""
