"""Cases of the rules for linear operators: what becomes what, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from tests import models_for_tests as build

node = helper.make_node
Constants = Mapping[str, np.ndarray]
NORM = ("gamma", "beta", "mean", "variance")
IMAGE = {"x": ["N", 4, "H", 9]}
ROWS = {"x": ["N", 6]}
TOKENS = {"x": ["N", "L", 6]}


def norm(channels: int, prefix: str = "") -> dict[str, np.ndarray]:
    """Constants of a BatchNormalization."""
    values = [build.weights(channels, seed=seed) for seed in range(1, 5)]
    values[0] = 1 + values[0]
    values[3] = np.abs(values[3]) + 0.5
    return {prefix + name: value for name, value in zip(NORM, values, strict=True)}


def bn(x: str, y: str, prefix: str = "", **attributes: float) -> onnx.NodeProto:
    return node("BatchNormalization", [x, *(prefix + name for name in NORM)], [y], **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """A small model and what the rules make of it.

    Attributes:
        nodes: The nodes; they compute y from x.
        inputs: Shapes of the inputs; symbols are tried at several sizes.
        constants: The initializers.
        expected: Operators afterwards.
        rules: How often each rule is applied.
    """

    nodes: Sequence[onnx.NodeProto]
    inputs: Mapping[str, Sequence[int | str]]
    constants: Constants
    expected: Sequence[str] = ()
    rules: Mapping[str, int] = field(default_factory=dict)

    def proto(self) -> onnx.ModelProto:
        return build.proto(self.nodes, self.inputs, {"y": None}, self.constants)


W33 = build.weights(6, 4, 3, 3)
CONV, GEMM, MATMUL = (
    node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
    node("Gemm", ["x", "w", "b"], ["c"], alpha=0.5, beta=2.0),
    node("MatMul", ["x", "w"], ["c"]),
)
GROUPED = {"w": build.weights(6, 2, 3, 3), "b": build.weights(6, seed=7)}
GROUPED_TRANSPOSED = {"w": build.weights(4, 3, 2, 2), "b": build.weights(6, seed=7)}
MATRIX = {"w": build.weights(6, 5), "b": build.weights(5, seed=7)}
PER_CHANNEL = build.weights(6, 1, 1, seed=9) + 2

AFTER = {
    "grouped conv": Case(
        [node("Conv", ["x", "w", "b"], ["c"], group=2), bn("c", "y")],
        IMAGE,
        {**GROUPED, **norm(6)},
        ["Conv"],
        {"fuse-batch-norm": 1},
    ),
    "grouped transposed conv": Case(
        [node("ConvTranspose", ["x", "w", "b"], ["c"], group=2), bn("c", "y")],
        IMAGE,
        {**GROUPED_TRANSPOSED, **norm(6)},
        ["ConvTranspose"],
        {"fuse-batch-norm": 1},
    ),
    "gemm, flattened batch norm": Case(
        [GEMM, node("Unsqueeze", ["c", "axes"], ["u"]), bn("u", "y")],
        ROWS,
        {**MATRIX, **norm(5), "axes": ints(2)},
        ["Gemm", "Unsqueeze"],
        {"fuse-batch-norm": 1, "fold-gemm-factors": 1},
    ),
    "conv1d as conv2d": Case(
        [
            node("Unsqueeze", ["x", "axes"], ["u"]),
            node("Conv", ["u", "w"], ["c"]),
            node("Squeeze", ["c", "axes"], ["s"]),
            bn("s", "y"),
        ],
        {"x": ["N", 4, "L"]},
        {"w": build.weights(6, 4, 1, 3), "axes": ints(2), **norm(6)},
        ["Unsqueeze", "Conv", "Squeeze"],
        {"fuse-batch-norm": 1},
    ),
    "conv, flatten, batch norm": Case(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Conv", ["g", "v"], ["d"]),
            node("Flatten", ["d"], ["f"]),
            bn("f", "y"),
        ],
        IMAGE,
        {"w": W33, "v": build.weights(5, 6, 1, 1), **norm(5)},
        ["Conv", "GlobalAveragePool", "Conv", "Flatten"],
        {"fuse-batch-norm": 1},
    ),
    "matmul, transpose, batch norm": Case(
        [node("MatMul", ["x", "w"], ["m"]), node("Transpose", ["m"], ["t"], perm=[0, 2, 1]), bn("t", "y")],
        TOKENS,
        {"w": MATRIX["w"], **norm(5)},
        ["MatMul", "Add", "Transpose"],
        {"fuse-batch-norm": 1},
    ),
    "matmul of rows, batch norm": Case(
        [MATMUL, bn("c", "y")], ROWS, {**MATRIX, **norm(5)}, ["Gemm"], {"fuse-batch-norm": 1, "matmul-add-to-gemm": 1}
    ),
    "two batch norms": Case(
        [bn("x", "b"), bn("b", "y", "second_")],
        IMAGE,
        {**norm(4), **norm(4, "second_")},
        ["BatchNormalization"],
        {"fuse-batch-norm": 1},
    ),
    "batch norm, mul, sub": Case(
        [bn("x", "b"), node("Mul", ["b", "k"], ["m"]), node("Sub", ["m", "k"], ["y"])],
        IMAGE,
        {**norm(4), "k": build.weights(1, 4, 1, 1)},
        ["BatchNormalization"],
        {"fuse-channelwise": 2},
    ),
    "scaled query": Case(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Add", ["b", "m"], ["a"]),
            node("Reshape", ["a", "heads"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
            node("Div", ["t", "eight"], ["y"]),
        ],
        TOKENS,
        {"w": build.weights(6, 8), "b": build.weights(8), "heads": ints(0, 0, 2, 4), "eight": np.float32(8)},
        ["MatMul", "Add", "Reshape", "Transpose"],
        {"fuse-channelwise": 1},
    ),
    "matmul, mul": Case(
        [MATMUL, node("Mul", ["k", "c"], ["y"])],
        TOKENS,
        {**MATRIX, "k": build.weights(1, 5)},
        ["MatMul"],
        {"scale-matmul": 1},
    ),
    "constant minus conv": Case(
        [CONV, node("Sub", ["k", "c"], ["y"])], IMAGE, {"w": W33, "k": PER_CHANNEL}, ["Conv"], {"fuse-difference": 1}
    ),
    "double precision": Case(
        [
            node("Cast", ["x"], ["d"], to=11),
            node("MatMul", ["d", "w"], ["c"]),
            node("Mul", ["c", "k"], ["m"]),
            node("Cast", ["m"], ["y"], to=1),
        ],
        TOKENS,
        {"w": MATRIX["w"].astype(np.float64), "k": np.float64(0.3)},
        ["Cast", "MatMul", "Cast"],
        {"scale-matmul": 1},
    ),
}

BEFORE = {
    "batch norm, grouped conv": Case(
        [bn("x", "b"), node("Conv", ["b", "w", "b2"], ["y"], group=2)],
        IMAGE,
        {"w": GROUPED["w"], "b2": GROUPED["b"], **norm(4)},
        ["Conv"],
        {"fold-input-map": 1},
    ),
    "image scaled and shifted, conv": Case(
        [
            node("Sub", ["x", "m"], ["s"]),
            node("Div", ["s", "d"], ["n"]),
            node("Conv", ["n", "w"], ["y"]),
        ],
        IMAGE,
        {"m": build.weights(4, 1, 1), "d": build.weights(1, 4, 1, 1) + 2, "w": W33},
        ["Conv"],
        {"fold-input-map": 2},
    ),
    "mul, padded grouped transposed conv": Case(
        [node("Mul", ["x", "k"], ["m"]), node("ConvTranspose", ["m", "w"], ["y"], group=2, pads=[1, 1, 0, 0])],
        IMAGE,
        {"w": GROUPED_TRANSPOSED["w"], "k": build.weights(4, 1, 1)},
        ["ConvTranspose"],
        {"fold-input-map": 1},
    ),
    "one minus image, conv": Case(
        [node("Sub", ["one", "x"], ["s"]), node("Conv", ["s", "w"], ["y"])],
        IMAGE,
        {"one": np.float32(1), "w": W33},
        ["Conv"],
        {"fold-input-map": 1},
    ),
    "batch norm, flatten, gemm": Case(
        [bn("x", "b"), node("Flatten", ["b"], ["f"]), node("Gemm", ["f", "w", "c"], ["y"], transB=1, alpha=0.5)],
        {"x": ["N", 4, 3, 2]},
        {"w": build.weights(5, 24), "c": build.weights(5), **norm(4)},
        ["Flatten", "Gemm"],
        {"fold-input-map": 1, "fold-gemm-factors": 1},
    ),
    "batch norm, reshape, matmul": Case(
        [bn("x", "b"), node("Reshape", ["b", "s"], ["r"]), node("MatMul", ["r", "w"], ["y"])],
        {"x": ["N", 4, 3, 2]},
        {"w": build.weights(24, 5), "s": ints(-1, 24), **norm(4)},
        ["Reshape", "Gemm"],
        {"fold-input-map": 1, "matmul-add-to-gemm": 1},
    ),
    "mul, matmul": Case(
        [node("Mul", ["x", "k"], ["m"]), node("MatMul", ["m", "w"], ["y"])],
        TOKENS,
        {"w": MATRIX["w"], "k": build.weights(6)},
        ["MatMul"],
        {"fold-input-map": 1},
    ),
    "add, matmul with bias": Case(
        [node("Add", ["x", "k"], ["m"]), node("MatMul", ["m", "w"], ["p"]), node("Add", ["p", "b"], ["y"])],
        TOKENS,
        {**MATRIX, "k": build.weights(6)},
        ["MatMul", "Add"],
        {"fold-input-map-with-bias": 1},
    ),
}

PADDING = {
    "average pool": Case(
        [node("Pad", ["x", "p"], ["q"]), node("AveragePool", ["q"], ["y"], kernel_shape=[3, 3], strides=[2, 2])],
        IMAGE,
        {"p": ints(0, 0, 1, 0, 0, 0, 2, 1)},
        ["AveragePool"],
        {"fuse-pad-into-average-pool": 1},
    ),
    "average pool that counts its padding": Case(
        [
            node("Pad", ["x", "p"], ["q"]),
            node("AveragePool", ["q"], ["y"], kernel_shape=[3, 3], pads=[1, 0, 0, 0], count_include_pad=1),
        ],
        IMAGE,
        {"p": ints(0, 0, 1, 0, 0, 0, 2, 1)},
        ["AveragePool"],
        {"fuse-pad-into-average-pool": 1},
    ),
    "max pool behind relu": Case(
        [
            node("Relu", ["x"], ["r"]),
            node("Pad", ["r", "p"], ["q"]),
            node("MaxPool", ["q"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
        ],
        IMAGE,
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        ["Relu", "MaxPool"],
        {"fuse-pad-into-max-pool": 1},
    ),
    "max pool of minus infinity": Case(
        [node("Pad", ["x", "p", "v"], ["q"]), node("MaxPool", ["q"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 1, 0])],
        IMAGE,
        {"p": ints(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(-np.inf)},
        ["MaxPool"],
        {"fuse-pad-into-max-pool": 1},
    ),
}

PRODUCTS = {
    "matmul, add": Case([MATMUL, node("Add", ["b", "c"], ["y"])], ROWS, MATRIX, ["Gemm"], {"matmul-add-to-gemm": 1}),
    "matmul, sub": Case([MATMUL, node("Sub", ["c", "b"], ["y"])], ROWS, MATRIX, ["Gemm"], {"matmul-add-to-gemm": 1}),
    "gemm with factors": Case(
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)], ROWS, MATRIX, ["Gemm"], {"fold-gemm-factors": 1}
    ),
    "transposed left": Case(
        [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("Gemm", ["t", "w"], ["y"])],
        {"x": [6, "N"]},
        MATRIX,
        ["Gemm"],
        {"transpose-into-gemm": 1},
    ),
    "transposed right": Case(
        [node("Transpose", ["z"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])],
        {"x": ["N", 6], "z": [5, 6]},
        {},
        ["Gemm"],
        {"transpose-into-gemm": 1},
    ),
    "gemm between reshapes": Case(
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("Gemm", ["f", "v", "b"], ["g"], transB=1),
            node("Reshape", ["g", "full"], ["y"]),
        ],
        {"x": ["N", 3, 6]},
        {"v": build.weights(5, 6), "b": MATRIX["b"], "flat": ints(-1, 6), "full": ints(-1, 3, 5)},
        ["MatMul", "Add"],
        {"gemm-between-reshapes": 1},
    ),
    "matmuls that shrink": Case(
        [MATMUL, node("MatMul", ["c", "v"], ["y"])],
        TOKENS,
        {"w": build.weights(6, 9), "v": build.weights(9, 4, seed=3)},
        ["MatMul"],
        {"merge-matmuls": 1},
    ),
    "add, sub": Case(
        [node("Add", ["x", "k"], ["a"]), node("Sub", ["a", "c"], ["y"])],
        IMAGE,
        {"k": build.weights(4, 1, 1), "c": np.float32(3)},
        ["Add"],
        {"merge-constants": 1},
    ),
    "div, mul": Case(
        [node("Div", ["x", "k"], ["a"]), node("Mul", ["c", "a"], ["y"])],
        IMAGE,
        {"k": build.weights(4, 1, 1) + 2, "c": build.weights(1, 4, 1, 1)},
        ["Mul"],
        {"merge-constants": 1},
    ),
}

GOLDEN = {**AFTER, **BEFORE, **PADDING, **PRODUCTS}

HALF = node("Cast", ["x"], ["h"], to=10)
MATMUL_OF_R, ADD = node("MatMul", ["r", "w"], ["c"]), node("Add", ["c", "b"], ["y"])
PADDED = node("Pad", ["x", "p"], ["q"])
REFUSED: dict[str, tuple[Case, str]] = {
    "end of a gelu": (
        Case(
            [
                node("Erf", ["x"], ["e"]),
                node("Add", ["e", "one"], ["gate"]),
                node("Mul", ["x", "gate"], ["double"]),
                node("Mul", ["double", "half"], ["gelu"]),
                node("MatMul", ["gelu", "w"], ["y"]),
            ],
            TOKENS,
            {"one": np.float32(1), "half": np.float32(0.5), "w": build.weights(6, 6)},
        ),
        "ends a normalization or Gelu, which runtimes compute as a whole",
    ),
    "end of a normalization": (
        Case(
            [
                node("Mul", ["x", "x"], ["square"]),
                node("Sqrt", ["square"], ["root"]),
                node("Div", ["x", "root"], ["unit"]),
                node("Mul", ["unit", "k"], ["scaled"]),
                node("MatMul", ["scaled", "w"], ["y"]),
            ],
            TOKENS,
            {"k": build.weights(6), "w": build.weights(6, 6)},
        ),
        "ends a normalization or Gelu, which runtimes compute as a whole",
    ),
    "training": (
        Case([CONV, bn("c", "y", training_mode=1)], IMAGE, {"w": W33, **norm(6)}),
        "is in training mode",
    ),
    "negative variance": (
        Case([CONV, bn("c", "y")], IMAGE, {"w": W33, **norm(6), "variance": np.full(6, -1, np.float32)}),
        "is not finite",
    ),
    "infinite constant": (
        Case([CONV, node("Add", ["c", "k"], ["y"])], IMAGE, {"w": W33, "k": np.float32(np.inf)}),
        "k is not finite",
    ),
    "huge factor": (
        Case([CONV, node("Mul", ["c", "k"], ["y"])], IMAGE, {"w": W33, "k": np.float32(1e30)}),
        "more than 2^60",
    ),
    "weight that is computed": (
        Case([node("Gemm", ["x", "x"], ["m"]), node("Mul", ["m", "k"], ["y"])], {"x": [6, 6]}, {"k": np.float32(2)}),
        "x is not constant",
    ),
    "half precision": (
        Case(
            [HALF, node("Conv", ["h", "w"], ["c"]), node("Mul", ["c", "k"], ["m"]), node("Cast", ["m"], ["y"], to=1)],
            IMAGE,
            {"w": W33.astype(np.float16), "k": np.float16(2)},
        ),
        "is FLOAT16, not FLOAT or DOUBLE",
    ),
    "constant of higher rank": (
        Case([MATMUL, node("Mul", ["c", "k"], ["y"])], ROWS, {**MATRIX, "k": np.ones((1, 1, 5), np.float32)}),
        "not one per channel",
    ),
    "wider than the channels": (
        Case([CONV, node("Mul", ["c", "k"], ["y"])], IMAGE, {"w": W33[:1], "k": PER_CHANNEL}),
        "has 6 channels, ",
    ),
    "batch norm of tokens": (
        Case([MATMUL, bn("c", "y")], {"x": ["N", 5, 6]}, {**MATRIX, **norm(5)}),
        "varies over axis 1, the channels are axis 2",
    ),
    "reshape that mixes channels": (
        Case(
            [CONV, node("Reshape", ["c", "s"], ["r"]), node("Mul", ["r", "k"], ["y"])],
            {"x": [1, 4, 6, 6]},
            {"w": W33, "s": ints(1, 36, 6), "k": build.weights(36, 1)},
        ),
        "does not keep the channels together",
    ),
    "unsqueezed channel axis": (
        Case(
            [CONV, node("Unsqueeze", ["c", "a"], ["u"]), node("Mul", ["u", "k"], ["y"])],
            {"x": [1, 4, 6, 6]},
            {"w": W33, "a": ints(1), "k": build.weights(2, 1, 1, 1)},
        ),
        "inserts the axis of the constant",
    ),
    "gemm with a bias per row": (
        Case(
            [node("Gemm", ["x", "w", "b"], ["g"]), node("Mul", ["g", "k"], ["y"])],
            {"x": [5, 6]},
            {"w": MATRIX["w"], "b": build.weights(5, 1), "k": build.weights(5)},
        ),
        "the bias b of",
    ),
    "bias that adds an axis": (
        Case(
            [MATMUL, node("Add", ["c", "b"], ["a"]), node("Mul", ["a", "k"], ["y"])],
            {"x": [6]},
            {"w": MATRIX["w"], "b": build.weights(1, 5), "k": np.float32(2)},
        ),
        "the bias b of",
    ),
    "large shared weight": (
        Case(
            [MATMUL, node("Mul", ["c", "k"], ["m"]), node("MatMul", ["x", "w"], ["d"]), node("Add", ["m", "d"], ["y"])],
            {"x": ["N", 600]},
            {"w": build.weights(600, 600), "k": np.float32(2)},
        ),
        "a scaled copy would add 1440000 bytes",
    ),
    "offset before padding": (
        Case(
            [node("Add", ["x", "k"], ["a"]), node("Conv", ["a", "w"], ["y"], pads=[1] * 4)],
            IMAGE,
            {"w": W33, "k": np.float32(1)},
        ),
        "pads with zeros",
    ),
    "offset before automatic padding": (
        Case(
            [node("Add", ["x", "k"], ["a"]), node("Conv", ["a", "w"], ["y"], auto_pad="SAME_UPPER")],
            IMAGE,
            {"w": W33, "k": np.float32(1)},
        ),
        "pads with zeros",
    ),
    "offset before transposed conv": (
        Case([bn("x", "b"), node("ConvTranspose", ["b", "w"], ["y"])], IMAGE, {"w": W33[:4], **norm(4)}),
        "acts less at its border",
    ),
    "offset before matmul without bias": (
        Case(
            [node("Add", ["x", "k"], ["a"]), node("MatMul", ["a", "w"], ["y"])],
            TOKENS,
            {**MATRIX, "k": np.ones(6, np.float32)},
        ),
        "has no bias that could take the offset",
    ),
    "constant that widens the input": (
        Case(
            [node("Mul", ["x", "k"], ["m"]), node("Conv", ["m", "w"], ["y"])],
            {"x": ["N", 1, 6, 6]},
            {"w": W33, "k": build.weights(4, 1, 1)},
        ),
        "x is not known to have 4 channels",
    ),
    "transposed input": (
        Case(
            [node("Mul", ["x", "k"], ["m"]), node("Gemm", ["m", "w"], ["y"], transA=1)],
            {"x": [6, "N"]},
            {**MATRIX, "k": np.float32(2)},
        ),
        "is transposed",
    ),
    "max pool of anything": (
        Case([PADDED, node("MaxPool", ["q"], ["y"], kernel_shape=[3, 3])], IMAGE, {"p": ints(0, 0, 1, 0, 0, 0, 0, 0)}),
        "may be the maximum",
    ),
    "average of ones": (
        Case(
            [node("Pad", ["x", "p", "v"], ["q"]), node("AveragePool", ["q"], ["y"], kernel_shape=[3, 3])],
            IMAGE,
            {"p": ints(0, 0, 1, 0, 0, 0, 0, 0), "v": np.float32(1)},
        ),
        "is not 0",
    ),
    "average pool that leaves its padding out": (
        Case(
            [PADDED, node("AveragePool", ["q"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)],
            IMAGE,
            {"p": ints(0, 0, 1, 0, 0, 0, 0, 0)},
        ),
        "but not its own",
    ),
    "pool that rounds up": (
        Case(
            [PADDED, node("AveragePool", ["q"], ["y"], kernel_shape=[3, 3], ceil_mode=1)],
            IMAGE,
            {"p": ints(0, 0, 1, 0, 0, 0, 0, 0)},
        ),
        "rounds up or is dilated",
    ),
    "padding as large as the window": (
        Case(
            [PADDED, node("AveragePool", ["q"], ["y"], kernel_shape=[2, 2])], IMAGE, {"p": ints(0, 0, 2, 0, 0, 0, 0, 0)}
        ),
        "as large as the window",
    ),
    "matrix of unknown rank": (
        Case(
            [node("Cast", ["s"], ["i"], to=7), node("Reshape", ["x", "i"], ["r"]), MATMUL_OF_R, ADD],
            {"x": ["N", "L", 6], "s": ["R"]},
            MATRIX,
        ),
        "r is not known to be a matrix",
    ),
    "bias that widens": (
        Case([MATMUL, node("Add", ["c", "b"], ["y"])], ROWS, {"w": MATRIX["w"], "b": build.weights(3, 1, 5)}),
        "is not one per column",
    ),
    "reshapes to other axes": (
        Case(
            [
                node("Reshape", ["x", "flat"], ["f"]),
                node("Gemm", ["f", "w", "b"], ["g"]),
                node("Reshape", ["g", "full"], ["y"]),
            ],
            {"x": ["N", 4, 6]},
            {**MATRIX, "flat": ints(-1, 6), "full": ints(-1, 2, 5)},
        ),
        "leading axes",
    ),
    "matmuls that would grow": (
        Case([MATMUL, node("MatMul", ["c", "v"], ["y"])], TOKENS, {"w": build.weights(6, 2), "v": build.weights(2, 8)}),
        "would take 192 bytes, no fewer than both",
    ),
    "matmuls whose matrix others use": (
        Case(
            [
                node("MatMul", ["x", "w"], ["c"]),
                node("MatMul", ["c", "v"], ["d"]),
                node("ReduceSum", ["v"], ["s"], keepdims=0),
                node("Add", ["d", "s"], ["y"]),
            ],
            TOKENS,
            {"w": build.weights(6, 3), "v": np.eye(3, dtype=np.float32)},
        ),
        "other nodes use",
    ),
    "matmuls above the budget": (
        Case(
            [MATMUL, node("MatMul", ["c", "v"], ["y"])],
            {"x": ["N", 1100]},
            {"w": np.zeros((1100, 1100), np.float32), "v": np.zeros((1100, 1100), np.float32)},
        ),
        "above the budget",
    ),
    "row and column": (
        Case(
            [node("Add", ["x", "k"], ["a"]), node("Add", ["a", "c"], ["y"])],
            IMAGE,
            {"k": build.weights(4, 1, 1), "c": build.weights(9)},
        ),
        "together are larger than each",
    ),
    "masks": (
        Case([node("Add", ["x", "k"], ["a"]), node("Add", ["a", "k"], ["y"])], IMAGE, {"k": np.float32(-3e38)}),
        "leave the range of FLOAT",
    ),
}
