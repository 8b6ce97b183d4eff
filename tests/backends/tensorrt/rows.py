"""What TensorRT makes of quantized graphs, case by case: what the real builder does, what the rules say of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.backends.tensorrt.nets import MICROSOFT, Net, conv, matmul, packed_projection
from tests.models_for_tests import weights


class Outcome(Enum):
    """What becomes of a row."""

    INT8 = "all products in INT8"
    FLOAT = "builds, products in float"
    BUILDS = "builds"
    REFUSED = "refused by the parser or the builder"
    CRASH = "the builder dies"


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        name: Its id.
        make: Builds the model.
        outcome: What the real builder does with it as it is.
        rule: The rule that tells of it before; None where there is nothing to tell.
        legal: What the builder does with the legalized model; None: legalization refuses it.
        sm: Compute capability to build for.
    """

    name: str
    make: Callable[[], onnx.ModelProto]
    outcome: Outcome
    rule: str | None = None
    legal: Outcome | None = None
    sm: str = "8.6"


INT8, FLOAT, BUILDS, REFUSED, CRASH = Outcome.INT8, Outcome.FLOAT, Outcome.BUILDS, Outcome.REFUSED, Outcome.CRASH


def _float_weight() -> onnx.ModelProto:
    net = Net()
    scale = np.full(16, 0.01, np.float32)
    weight = net.pair(net.const(weights(16, 16, 3, 3)), scale, axis=0)
    return net.model(net.op("Conv", net.pair(net.input((1, 16, 16, 16))), weight))


def _one_side(*, activation: bool) -> onnx.ModelProto:
    net = Net()
    x = net.input((1, 16, 16, 16))
    weight = net.const(weights(16, 16, 3, 3)) if activation else net.weight(16, 16, 3, 3, axis=0)
    return net.model(net.op("Conv", net.pair(x) if activation else x, weight))


def _between(op_type: str, *, perm: bool = False) -> onnx.ModelProto:
    net = Net()
    data = net.pair(net.input((1, 16, 16, 16)))
    moved = net.op(op_type, data, perm=[0, 1, 3, 2]) if perm else net.op(op_type, data)
    return net.model(net.op("Conv", moved, net.weight(16, 16, 3, 3, axis=0)))


def _bias(kind: str) -> onnx.ModelProto:
    net = Net()
    data = net.pair(net.input((1, 16, 16, 16)))
    weight = net.weight(16, 16, 3, 3, axis=0)
    if kind == "int32":
        bias = net.dq(net.const(np.arange(16, dtype=np.int32)), np.full(16, 0.001), 0, np.int32, axis=0)
    elif kind == "int8":
        bias = net.dq(net.const(np.arange(16, dtype=np.int8)), 0.01)
    elif kind == "pair":
        bias = net.pair(net.const(weights(16)), 0.01)
    else:
        bias = net.const(weights(16))
    return net.model(net.op("Conv", data, weight, bias))


def _residual(*, skip: bool, branch: bool) -> onnx.ModelProto:
    net = Net()
    x = net.input((1, 16, 16, 16))
    entry = net.pair(net.op("Relu", net.op("Conv", net.pair(x), net.weight(16, 16, 3, 3, axis=0), pads=[1] * 4)))
    made = net.op("Conv", entry, net.weight(16, 16, 3, 3, axis=0), pads=[1] * 4)
    total = net.op("Add", net.pair(made) if branch else made, entry if skip else net.op("Relu", x))
    return net.model(net.op("Conv", net.pair(net.op("Relu", total)), net.weight(16, 16, 1, 1, axis=0)))


def _pair_before_relu() -> onnx.ModelProto:
    net = Net()
    made = net.op("Conv", net.pair(net.input((1, 16, 16, 16))), net.weight(16, 16, 3, 3, axis=0))
    again = net.pair(net.op("Relu", net.pair(made)))
    return net.model(net.op("Conv", again, net.weight(16, 16, 1, 1, axis=0)))


def _batch_norm() -> onnx.ModelProto:
    net = Net()
    made = net.op("Conv", net.pair(net.input((1, 16, 16, 16))), net.weight(16, 16, 3, 3, axis=0))
    parts = [net.const(np.abs(weights(16, seed=seed)) + 0.5) for seed in range(4)]
    return net.model(net.op("Relu", net.op("BatchNormalization", made, *parts)))


def _around(op_type: str, *more: object, **attributes: object) -> onnx.ModelProto:
    """Conv, pair, an operator, pair, Conv."""
    net = Net(18 if attributes.pop("opset", 17) == 18 else 17)
    made = net.pair(net.op("Conv", net.pair(net.input((1, 16, 16, 16))), net.weight(16, 16, 3, 3, axis=0)))
    others = [net.const(np.asarray(each)) if each is not None else "" for each in more]
    middle = net.pair(net.op(op_type, made, *others, **attributes))
    return net.model(net.op("Conv", middle, net.weight(16, 16, 1, 1, axis=0)))


def _concat(second: float) -> onnx.ModelProto:
    net = Net()
    x = net.input((1, 16, 16, 16))
    parts = [net.pair(net.op("Conv", net.pair(x), net.weight(16, 16, 1, 1, axis=0)), scale) for scale in (0.05, second)]
    return net.model(net.op("Conv", net.pair(net.op("Concat", *parts, axis=1)), net.weight(8, 32, 1, 1, axis=0)))


def _conv_transpose(axis: int | None) -> onnx.ModelProto:
    net = Net()
    return net.model(
        net.op("ConvTranspose", net.pair(net.input((1, 16, 8, 8))), net.weight(16, 12, 2, 2, axis=axis), strides=[2, 2])
    )


def _gemm(*, transposed: bool) -> onnx.ModelProto:
    net = Net()
    shape, axis = ((24, 32), 0) if transposed else ((32, 24), 1)
    data = net.pair(net.input((8, 32)))
    weight = net.weight(*shape, axis=axis)
    return net.model(net.op("Gemm", data, weight, net.const(weights(24)), transB=int(transposed)))


def _transposed_weight() -> onnx.ModelProto:
    net = Net()
    weight = net.op("Transpose", net.weight(24, 32, axis=0), perm=[1, 0])
    return net.model(net.op("MatMul", net.pair(net.input((8, 32))), weight))


def _attention() -> onnx.ModelProto:
    net = Net()
    q, k, v = (net.input((2, 4, 16, 32), name) for name in "qkv")
    scores = net.op("MatMul", net.pair(q), net.op("Transpose", net.pair(k), perm=[0, 1, 3, 2]))
    shares = net.pair(net.op("Softmax", scores, axis=-1), 1 / 127)
    return net.model(net.op("MatMul", shares, net.pair(v)))


def _einsum() -> onnx.ModelProto:
    net = Net()
    a, b = net.pair(net.input((4, 16, 32), "a")), net.pair(net.input((4, 32, 16), "b"))
    return net.model(net.op("Einsum", a, b, equation="bij,bjk->bik"))


def _embedding() -> onnx.ModelProto:
    net = Net()
    ids = net.input((4, 8), "ids", TensorProto.INT64)
    table = net.weight(100, 32)
    return net.model(net.op("LayerNormalization", net.op("Gather", table, ids), net.const(weights(32)), axis=-1))


def _int4(*, size: int = 32, zero: object = None, dtype: object = ml_dtypes.int4, rows: int = 64) -> onnx.ModelProto:
    net = Net(21)
    return net.model(net.op("MatMul", net.input((8, rows)), net.blocks(rows, 48, size, zero, dtype)))


def _int8_blocks() -> onnx.ModelProto:
    net = Net(21)
    stored = net.const(np.ones((64, 48), np.int8))
    weight = net.dq(stored, np.full((2, 48), 0.1), axis=0, block_size=32)
    return net.model(net.op("MatMul", net.input((8, 64)), weight))


def _integer_input(dtype: int, zero: int) -> onnx.ModelProto:
    net = Net()
    x = net.input((1, 16, 16, 16), dtype=dtype)
    data = net.dq(x, 0.05, zero, np.int8 if dtype == TensorProto.INT8 else np.uint8)
    return net.model(net.op("Conv", net.pair(data), net.weight(16, 16, 3, 3, axis=0)))


def _integer_output(dtype: int) -> onnx.ModelProto:
    net = Net()
    made = net.op("Conv", net.pair(net.input((1, 16, 16, 16))), net.weight(16, 16, 3, 3, axis=0))
    signed = dtype == TensorProto.INT8
    return net.model(net.q(made, 0.05, 0 if signed else 128, np.int8 if signed else np.uint8), dtype=dtype)


def _integer_move() -> onnx.ModelProto:
    net = Net()
    made = net.op("MaxPool", net.q(net.input((1, 16, 16, 16))), kernel_shape=[2, 2])
    return net.model(net.op("Conv", net.dq(made), net.weight(16, 16, 3, 3, axis=0)))


def _int4_unblocked() -> onnx.ModelProto:
    net = Net(21)
    stored = net.const(np.random.default_rng(0).integers(-8, 8, (64, 48)).astype(ml_dtypes.int4))
    return net.model(net.op("MatMul", net.input((8, 64)), net.dq(stored, np.full(48, 0.02), 0, ml_dtypes.int4, axis=1)))


def _int4_conv() -> onnx.ModelProto:
    net = Net(21)
    stored = net.const(np.random.default_rng(0).integers(-8, 8, (16, 16, 3, 3)).astype(ml_dtypes.int4))
    weight = net.dq(stored, np.full(16, 0.02), 0, ml_dtypes.int4, axis=0)
    return net.model(net.op("Conv", net.input((1, 16, 16, 16)), weight))


def _float8(dtype: object = ml_dtypes.float8_e4m3fn) -> onnx.ModelProto:
    net = Net(19)
    stored = net.const(weights(32, 24).astype(dtype))
    weight = net.dq(stored, 0.05, 0, dtype)
    return net.model(net.op("MatMul", net.pair(net.input((8, 32)), 0.05, 0, ml_dtypes.float8_e4m3fn), weight))


def _half(scale_type: object) -> onnx.ModelProto:
    net = Net(19)
    x = net.input((1, 16, 16, 16), dtype=TensorProto.FLOAT16)
    data = net.pair(x, scale_type=scale_type)
    stored = net.const(np.rint(weights(16, 16, 3, 3) * 100).astype(np.int8))
    weight = net.dq(stored, 0.01, scale_type=scale_type)
    dtype = TensorProto.FLOAT16 if scale_type is np.float16 else TensorProto.FLOAT
    return net.model(net.op("Conv", data, weight), dtype=dtype)


def _mixed() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Conv", net.input((1, 16, 16, 16)), net.const(weights(16, 16, 3, 3).astype(np.float16))))


def _runtime_scale() -> onnx.ModelProto:
    net = Net()
    x, scale = net.input((1, 16, 16, 16)), net.input((), "scale")
    zero = net.const(np.int8(0))
    data = net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)
    return net.model(net.op("Conv", data, net.weight(16, 16, 3, 3, axis=0)))


def _runtime_zero_point() -> onnx.ModelProto:
    net = Net()
    x, zero, scale = net.input((1, 16, 16, 16)), net.input((), "zero", TensorProto.INT8), net.const(np.float32(0.05))
    data = net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)
    return net.model(net.op("Conv", data, net.weight(16, 16, 3, 3, axis=0)))


def _no_elements(scale: object) -> onnx.ModelProto:
    net = Net()
    weight = net.dq(net.const(np.zeros((8, 0), np.int8)), scale, axis=1)
    return net.model(net.op("MatMul", net.pair(net.input((4, 8))), weight))


def _bfloat16() -> onnx.ModelProto:
    net = Net()
    return net.model(
        net.op("Relu", net.input((4, 8), dtype=TensorProto.BFLOAT16)),
        dtype=TensorProto.BFLOAT16,
    )


def _no_producer() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Add", net.input((4,)), "nothing"))


def _lengths() -> onnx.ModelProto:
    net = Net()
    stored = net.const(np.rint(weights(16, 16, 3, 3) * 100).astype(np.int8))
    weight = net.dq(stored, np.full(16, 0.01), np.zeros((), np.int8)[None], np.int8, axis=0)
    return net.model(net.op("Conv", net.pair(net.input((1, 16, 16, 16))), weight))


def _one(op_type: str, *shapes: tuple[int, ...], opset: int = 17, **attributes: object) -> onnx.ModelProto:
    """A single node on float inputs; extra constants come by attribute `constants`."""
    constants = attributes.pop("constants", ())
    dtype = attributes.pop("dtype", TensorProto.FLOAT)
    net = Net(opset)
    inputs = [net.input(shape, f"x{index}", dtype) for index, shape in enumerate(shapes)]
    more = [net.const(each) if each is not None else "" for each in constants]
    return net.model(net.op(op_type, *inputs, *more, **attributes), dtype=dtype)


def _qlinear_conv() -> onnx.ModelProto:
    net = Net()
    x = net.input((1, 16, 16, 16))
    scale, zero = net.const(np.float32(0.05)), net.const(np.uint8(128))
    weight = net.const(np.rint(weights(16, 16, 3, 3) * 100).astype(np.int8))
    quantized = net.op("QuantizeLinear", x, scale, zero)
    weight_scale, weight_zero = net.const(np.full(16, 0.01, np.float32)), net.const(np.zeros(16, np.int8))
    bias = net.const(np.arange(16, dtype=np.int32))
    made = net.op("QLinearConv", quantized, scale, zero, weight, weight_scale, weight_zero, scale, zero, bias)
    return net.model(net.op("DequantizeLinear", made, scale, zero))


def _dynamic_matmul() -> onnx.ModelProto:
    net = Net()
    quantized, scale, zero = net.op("DynamicQuantizeLinear", net.input((8, 32)), outputs=3)
    weight = net.const(np.rint(weights(32, 24) * 100).astype(np.int8))
    product = net.op("MatMulInteger", quantized, weight, zero, net.const(np.int8(0)))
    real = net.op("Cast", product, to=TensorProto.FLOAT)
    return net.model(net.op("Mul", real, net.op("Mul", scale, net.const(np.float32(0.01)))))


def _microsoft_pair() -> onnx.ModelProto:
    net = Net()
    data = net.pair(net.input((1, 16, 16, 16)), domain=MICROSOFT)
    return net.model(net.op("Conv", data, net.weight(16, 16, 3, 3, axis=0, domain=MICROSOFT)))


def _skip_layer_norm() -> onnx.ModelProto:
    net = Net()
    x, skip = net.input((2, 8, 32)), net.input((2, 8, 32), "skip")
    parts = [net.const(weights(32, seed=seed)) for seed in range(3)]
    return net.model(net.op("SkipLayerNormalization", x, skip, *parts, domain=MICROSOFT, epsilon=1e-5))


def _nms() -> onnx.ModelProto:
    net = Net()
    boxes, scores = net.input((1, 20, 4), "boxes"), net.input((1, 2, 20), "scores")
    limits = [net.const(np.array([5], np.int64)), *(net.const(np.array([0.5], np.float32)) for _ in range(2))]
    return net.model(net.op("NonMaxSuppression", boxes, scores, *limits), dtype=TensorProto.INT64)


def _roi_align() -> onnx.ModelProto:
    net = Net()
    x, rois = net.input((1, 4, 16, 16)), net.input((3, 4), "rois")
    indices = net.const(np.zeros(3, np.int64))
    return net.model(net.op("RoiAlign", x, rois, indices, output_height=2, output_width=2))


def _unique() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Unique", net.input((8,))))


def _nonzero() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("NonZero", net.input((8,))), dtype=TensorProto.INT64)


def _strings() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Identity", net.input((4,), dtype=TensorProto.STRING)), dtype=TensorProto.STRING)


def _resize(**attributes: object) -> onnx.ModelProto:
    net = Net(19)
    sizes = net.const(np.array([1, 4, 6, 6], np.int64))
    roi = net.const(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32))
    return net.model(net.op("Resize", net.input((1, 4, 12, 12)), roi, "", sizes, mode="linear", **attributes))


def _sequence(op_type: str) -> onnx.ModelProto:
    net = Net()
    gates = {"LSTM": 4, "GRU": 3}[op_type]
    w, r = (net.const(weights(1, gates * 8, size)) for size in (16, 8))
    made = net.op(op_type, net.input((5, 2, 16)), w, r, hidden_size=8, outputs=1)
    return net.model(made[0])


def _if() -> onnx.ModelProto:
    net = Net()
    x, flag = net.input((4,)), net.input((), "flag", TensorProto.BOOL)
    branches = [
        helper.make_graph(
            [helper.make_node(op, [x], [f"{op}_out"], name=f"{op}_node")],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, [4])],
        )
        for op in ("Relu", "Neg")
    ]
    return net.model(net.op("If", flag, then_branch=branches[0], else_branch=branches[1]))


def _loop(*, condition: bool) -> onnx.ModelProto:
    """A Loop whose body hands its condition on."""
    net = Net()
    declare = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"], name="same"),
            helper.make_node("Tanh", ["carried"], ["next"], name="tanh"),
        ],
        "body",
        [
            declare("index", TensorProto.INT64, []),
            declare("going", TensorProto.BOOL, []),
            declare("carried", TensorProto.FLOAT, [4]),
        ],
        [declare("goes_on", TensorProto.BOOL, []), declare("next", TensorProto.FLOAT, [4])],
    )
    given = net.const(np.bool_(True)) if condition else ""
    return net.model(net.op("Loop", net.const(np.int64(3)), given, net.input((4,)), body=body))


def _attention_operator(dtype: int) -> onnx.ModelProto:
    net = Net(23)
    q, k, v = (net.input((1, 4, 16, 32), name, dtype) for name in "qkv")
    return net.model(net.op("Attention", q, k, v), dtype=dtype)


def _duplicate_names() -> onnx.ModelProto:
    net = Net()
    x = net.input((1, 16, 16, 16))
    return net.model(net.op("Conv", net.pair(x, name="same"), net.weight(16, 16, 3, 3, axis=0)))


ACCEPTED = (
    Row("loop", lambda: _loop(condition=True), BUILDS, legal=BUILDS),
    Row("bf16", _bfloat16, BUILDS, legal=BUILDS),
    Row("no-elements", lambda: _no_elements(0.05), BUILDS, legal=BUILDS),
    Row("conv-per-channel", conv, INT8, legal=INT8),
    Row("conv-per-tensor", lambda: conv(weight={}), INT8, legal=INT8),
    Row("conv-1d", lambda: conv(shape=(16, 16, 3), size=(1, 16, 32)), INT8, legal=INT8),
    Row("conv-3d", lambda: conv(shape=(16, 16, 3, 3, 3), size=(1, 16, 8, 8, 8)), INT8, legal=INT8),
    Row("conv-dilated", lambda: conv(dilations=[2, 2]), INT8, legal=INT8),
    Row("conv-asymmetric-pads", lambda: conv(pads=[0, 1, 1, 2]), INT8, legal=INT8),
    Row("conv-auto-pad", lambda: conv(auto_pad="SAME_UPPER"), INT8, legal=INT8),
    Row("conv-grouped", lambda: conv(shape=(16, 8, 3, 3), group=2), INT8, legal=INT8),
    Row("conv-odd-channels", lambda: conv(shape=(7, 5, 3, 3), size=(1, 5, 16, 16)), INT8, legal=INT8),
    Row("conv-three-channels", lambda: conv(shape=(16, 3, 3, 3), size=(1, 3, 16, 16)), INT8, legal=INT8),
    Row("conv-depthwise", lambda: conv(shape=(16, 1, 3, 3), group=16), INT8, "depthwise", INT8),
    Row("transpose-between", lambda: _between("Transpose", perm=True), INT8, legal=INT8),
    Row("float-weight-pair", _float_weight, INT8, "quantized-constant", INT8),
    Row("bias-float", lambda: _bias("float"), INT8, legal=INT8),
    Row("bias-int8", lambda: _bias("int8"), INT8, "quantized-bias", INT8),
    Row("bias-pair", lambda: _bias("pair"), INT8, "quantized-bias", INT8),
    Row("residual-skip", lambda: _residual(skip=True, branch=False), INT8, legal=INT8),
    Row("residual-both", lambda: _residual(skip=True, branch=True), INT8, "residual-both-quantized", INT8),
    Row("residual-none", lambda: _residual(skip=False, branch=False), INT8, legal=INT8),
    Row("pair-before-relu", _pair_before_relu, INT8, "pair-before-activation", INT8),
    Row("batch-norm", _batch_norm, INT8, legal=INT8),
    Row("max-pool", lambda: _around("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), INT8, legal=INT8),
    Row("average-pool", lambda: _around("AveragePool", kernel_shape=[2, 2]), INT8, "average-pool", INT8),
    Row("global-average-pool", lambda: _around("GlobalAveragePool"), INT8, "average-pool", INT8),
    Row("concat-one-scale", lambda: _concat(0.05), INT8, legal=INT8),
    Row("concat-two-scales", lambda: _concat(0.07), INT8, "concat-scales", INT8),
    Row("resize-nearest", lambda: _around("Resize", None, np.float32([1, 1, 2, 2]), mode="nearest"), INT8, legal=INT8),
    Row(
        "resize-linear",
        lambda: _around("Resize", None, np.float32([1, 1, 2, 2]), mode="linear"),
        INT8,
        "linear-resize",
        INT8,
    ),
    Row("pad-reflect", lambda: _around("Pad", np.int64([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect"), INT8, legal=INT8),
    Row("hard-swish", lambda: _around("HardSwish"), INT8, legal=INT8),
    Row("clip6", lambda: _around("Clip", np.float32(0), np.float32(6)), INT8, legal=INT8),
    Row("sigmoid", lambda: _around("Sigmoid"), INT8, legal=INT8),
    Row("matmul-columns", matmul, INT8, legal=INT8),
    Row("matmul-per-tensor", lambda: matmul(axis=None), INT8, legal=INT8),
    Row("matmul-odd", lambda: matmul(rows=33, columns=27), INT8, legal=INT8),
    Row("matmul-3d", lambda: matmul(batch=(2, 8)), INT8, legal=INT8),
    Row("gemm-transposed", lambda: _gemm(transposed=True), INT8, legal=INT8),
    Row("gemm", lambda: _gemm(transposed=False), INT8, legal=INT8),
    Row("matmul-transposed-weight", _transposed_weight, INT8, legal=INT8),
    Row("attention-pairs", _attention, INT8, "int8-attention", INT8),
    Row("einsum", _einsum, INT8, "int8-attention", INT8),
    Row("embedding", _embedding, BUILDS, legal=BUILDS),
    Row("lstm", lambda: _sequence("LSTM"), BUILDS, legal=BUILDS),
    Row("gru", lambda: _sequence("GRU"), BUILDS, legal=BUILDS),
    Row("if", _if, BUILDS, legal=BUILDS),
    Row("int8-input", lambda: _integer_input(TensorProto.INT8, 0), INT8, legal=INT8),
    Row("int8-output", lambda: _integer_output(TensorProto.INT8), INT8, legal=INT8),
    Row("int4-blocks-16", lambda: _int4(size=16), FLOAT, legal=FLOAT),
    Row("int4-blocks-32", _int4, FLOAT, legal=FLOAT),
    Row("int4-blocks-64", lambda: _int4(size=64), FLOAT, legal=FLOAT),
    Row("fp8-e4m3", _float8, BUILDS, legal=BUILDS, sm="8.9"),
    Row("packed-two", lambda: packed_projection("split", parts=(64, 64)), INT8, legal=INT8),
    Row("packed-four", lambda: packed_projection("split", parts=(64,) * 4), INT8, legal=INT8),
    Row("packed-unequal", lambda: packed_projection("split", parts=(64, 32, 32)), INT8, legal=INT8),
    Row("packed-without-heads", lambda: packed_projection("split", width=None), INT8, legal=INT8),
    Row("fp16-scales", lambda: _half(np.float16), INT8, legal=INT8),
    Row("fp32-scales-in-fp16", lambda: _half(np.float32), INT8, "fp32-scale-in-fp16", INT8),
    Row("microsoft-pairs", _microsoft_pair, INT8, legal=INT8),
    Row("microsoft-gelu", lambda: _one("Gelu", (4, 8), domain=MICROSOFT), BUILDS, legal=BUILDS),
    Row("double", lambda: _one("Relu", (4, 8), dtype=TensorProto.DOUBLE), BUILDS, "double", BUILDS),
    Row("attention-fp16", lambda: _attention_operator(TensorProto.FLOAT16), BUILDS, legal=BUILDS),
    Row("opset-10", lambda: conv(opset=10, weight={}), INT8, legal=INT8),
    Row("opset-13", lambda: conv(opset=13), INT8, legal=INT8),
    Row("opset-21", lambda: conv(opset=21), INT8, legal=INT8),
    Row("opset-23", lambda: conv(opset=23), INT8, legal=INT8),
)
"""What builds as it is written."""

SILENT = (
    *(
        Row(f"packed-projection-{how}", lambda how=how: packed_projection(how), FLOAT, "packed-projection", INT8)
        for how in ("split", "slice", "rows", "gemm")
    ),
    Row(
        "packed-projection-gather",
        lambda: packed_projection("gather", attention=True),
        FLOAT,
        "packed-projection",
        BUILDS,
    ),
    Row("conv-weight-axis", lambda: conv(weight={"axis": 1}), FLOAT, "conv-weight-axis", INT8),
    Row(
        "activation-per-channel",
        lambda: conv(activation={"scale": np.full(16, 0.05), "axis": 1}),
        FLOAT,
        "activation-per-channel",
        FLOAT,
    ),
    Row("weight-only", lambda: _one_side(activation=False), FLOAT, "weight-only", FLOAT),
    Row("activation-only", lambda: _one_side(activation=True), FLOAT, "activation-only", FLOAT),
    Row("relu-between", lambda: _between("Relu"), FLOAT, "operator-between", FLOAT),
    Row("matmul-rows", lambda: matmul(axis=0), FLOAT, "matmul-weight-axis", INT8),
    Row("conv-transpose-axis-1", lambda: _conv_transpose(1), FLOAT, "conv-transpose", FLOAT),
    Row("conv-transpose-per-tensor", lambda: _conv_transpose(None), FLOAT, "conv-transpose", FLOAT),
    Row("int4-unblocked", _int4_unblocked, FLOAT, "int4-unblocked", FLOAT),
    Row("int4-blocks-256", lambda: _int4(size=256, rows=256), FLOAT, "int4-block-size", FLOAT),
    Row("int8-blocks", _int8_blocks, FLOAT, "int8-blocks", FLOAT),
    Row("int4-conv", _int4_conv, FLOAT, "int4-conv", FLOAT),
    Row("uint8-zero-point-0", lambda: conv(activation={"dtype": np.uint8}), INT8, "uint8-activation", INT8),
    Row("zero-point-omitted", lambda: conv(activation={"zero": None}), INT8, "uint8-activation", INT8),
    Row("integer-max-pool", _integer_move, INT8, "integer-arithmetic", INT8),
    Row("scale-infinite", lambda: conv(activation={"scale": np.inf}), BUILDS, "scale-finite", None),
    Row("sm75-conv", conv, FLOAT, "sm75-conv", FLOAT, sm="7.5"),
)
"""What builds, and runs otherwise than written."""

REFUSALS = (
    Row("int8-zero-point", lambda: conv(activation={"zero": 3}), REFUSED, "zero-point", INT8),
    Row("int8-weight-zero-point", lambda: conv(weight={"zero": 3}), REFUSED, "zero-point", INT8),
    Row("uint8-zero-point-128", lambda: conv(activation={"zero": 128, "dtype": np.uint8}), REFUSED, "zero-point", INT8),
    Row("uint8-weights", lambda: conv(weight={"zero": 128, "dtype": np.uint8}), REFUSED, "uint8-weights", INT8),
    Row("int16", lambda: conv(activation={"dtype": np.int16}, opset=21), REFUSED, "int16", FLOAT),
    Row("uint8-input", lambda: _integer_input(TensorProto.UINT8, 128), REFUSED, "unpaired-dequantize", INT8),
    Row("uint8-output", lambda: _integer_output(TensorProto.UINT8), REFUSED, "zero-point", INT8),
    Row("scale-zero", lambda: conv(activation={"scale": 0.0}), REFUSED, "scale-positive", None),
    Row("scale-negative", lambda: conv(activation={"scale": -0.1}), REFUSED, "scale-positive", None),
    Row("zero-point-runtime", _runtime_zero_point, REFUSED, "zero-point-runtime", None),
    Row("scale-empty", lambda: _no_elements(np.zeros(0)), REFUSED, "empty-quantized", None),
    Row("scale-length", _lengths, REFUSED, "scale-length", INT8),
    Row("bias-int32", lambda: _bias("int32"), REFUSED, "int32-dequantized", INT8),
    Row("int4-zero-point", lambda: _int4(zero=2), REFUSED, "int4-zero-point", FLOAT),
    Row("uint4", lambda: _int4(zero=8, dtype=ml_dtypes.uint4), REFUSED, "uint4", FLOAT),
    Row("int4-sm75", _int4, REFUSED, "int4-sm75", None, sm="7.5"),
    Row("fp8-sm86", _float8, REFUSED, "fp8-compute-capability", None),
    Row("fp8-e5m2", lambda: _float8(ml_dtypes.float8_e5m2), REFUSED, "fp8-e5m2", None, sm="8.9"),
    Row("fp32-with-fp16", _mixed, REFUSED, "mixed-types", None),
    Row("bf16-sm75", _bfloat16, REFUSED, "bf16-sm75", None, sm="7.5"),
    Row("input-not-produced", _no_producer, REFUSED, "input-not-produced", None),
    Row("loop-condition", lambda: _loop(condition=False), REFUSED, "loop-condition", BUILDS),
    Row("sm75-gemm", lambda: matmul(), REFUSED, "sm75-gemm", None, sm="7.5"),
    Row("qlinear-conv", _qlinear_conv, REFUSED, "integer-operator", INT8),
    Row("dynamic-matmul", _dynamic_matmul, REFUSED, "integer-operator", FLOAT),
    Row("fast-gelu", lambda: _one("FastGelu", (4, 8), domain=MICROSOFT), REFUSED, "unknown-operator", BUILDS),
    Row(
        "bias-gelu",
        lambda: _one("BiasGelu", (4, 8), domain=MICROSOFT, constants=[weights(8)]),
        REFUSED,
        "unknown-operator",
        BUILDS,
    ),
    Row("quick-gelu", lambda: _one("QuickGelu", (4, 8), domain=MICROSOFT), REFUSED, "unknown-operator", BUILDS),
    Row(
        "fused-matmul",
        lambda: _one("FusedMatMul", (4, 8), (5, 8), domain=MICROSOFT, transB=1, alpha=0.5),
        REFUSED,
        "unknown-operator",
        BUILDS,
    ),
    Row("skip-layer-norm", _skip_layer_norm, REFUSED, "unknown-operator", BUILDS),
    Row("unknown-operator", lambda: _one("Sparkle", (4,), domain="com.example"), REFUSED, "unknown-operator", None),
    Row("attention-fp32", lambda: _attention_operator(TensorProto.FLOAT), REFUSED, "attention-fp32", None),
    Row("non-max-suppression", _nms, REFUSED, "non-max-suppression", None),
    Row("nonzero", _nonzero, REFUSED, "missing-plugin", None),
    Row("roi-align", _roi_align, REFUSED, "missing-plugin", None),
    Row("unique", _unique, REFUSED, "unique", None),
    Row("strings", _strings, REFUSED, "string-tensor", None),
    Row(
        "resize-crop",
        lambda: _resize(coordinate_transformation_mode="tf_crop_and_resize"),
        REFUSED,
        "resize-mode",
        None,
    ),
    Row(
        "resize-symmetric",
        lambda: _resize(coordinate_transformation_mode="half_pixel_symmetric"),
        REFUSED,
        "resize-mode",
        None,
    ),
    Row("resize-antialias", lambda: _resize(antialias=1), REFUSED, "resize-mode", None),
    Row("duplicate-node-names", _duplicate_names, REFUSED, "duplicate-node-name", INT8),
)
"""What the parser or the builder refuses."""

CRASHES = (Row("scale-runtime", _runtime_scale, CRASH, "scale-runtime", None),)
"""What the builder dies of."""

_PLAIN = {
    "RMSNormalization": lambda: _one("RMSNormalization", (4, 8), opset=23, constants=[weights(8)]),
    "InstanceNormalization": lambda: _one("InstanceNormalization", (1, 4, 8, 8), constants=[weights(4), weights(4)]),
    "GroupNormalization": lambda: _one(
        "GroupNormalization", (1, 4, 8, 8), opset=21, constants=[weights(4), weights(4)], num_groups=2
    ),
    "Mish": lambda: _one("Mish", (4, 8), opset=18),
    "GridSample": lambda: _one("GridSample", (1, 2, 8, 8), (1, 4, 4, 2)),
    "CumSum": lambda: _one("CumSum", (4, 8), constants=[np.int64(1)]),
    "Trilu": lambda: _one("Trilu", (4, 8)),
    "Gelu": lambda: _one("Gelu", (4, 8), opset=20),
    "Erf": lambda: _one("Erf", (4, 8)),
    "DepthToSpace": lambda: _one("DepthToSpace", (1, 8, 4, 4), blocksize=2),
}

PLAIN = tuple(Row(f"plain-{name}", make, BUILDS, legal=BUILDS) for name, make in _PLAIN.items())
"""Operators that build in float."""

ROWS = (*ACCEPTED, *SILENT, *REFUSALS, *PLAIN)
"""All but those that the builder dies of."""
