"""A small builder of quantized networks, so that each row of the tests reads as what it is about."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.models_for_tests import weights

Array = np.ndarray[Any, np.dtype[Any]]
Shape = Sequence[int | str]

MICROSOFT = "com.microsoft"


class Net:
    """Nodes, constants and inputs of a network that is being written down."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def input(self, shape: Shape, name: str = "x", dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, array: Any, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 0, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or the names where `outputs` says how many."""
        self.count += 1
        names = [f"v{self.count}_{index}" for index in range(outputs or 1)]
        name = attributes.pop("name", f"{op_type}_{self.count}")
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return names if outputs else names[0]

    def q(self, value: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attributes: Any) -> str:
        attributes.setdefault("scale_type", np.float32)
        scale = np.asarray(scale, attributes.pop("scale_type"))
        return str(self.op("QuantizeLinear", value, self.const(scale), *self._zero(scale, zero, dtype), **attributes))

    def dq(self, value: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attributes: Any) -> str:
        attributes.setdefault("scale_type", np.float32)
        scale = np.asarray(scale, attributes.pop("scale_type"))
        return str(self.op("DequantizeLinear", value, self.const(scale), *self._zero(scale, zero, dtype), **attributes))

    def _zero(self, scale: Array, zero: Any, dtype: Any) -> list[str]:
        if zero is None:
            return []
        same = np.ndim(zero) == 0
        return [self.const(np.full(scale.shape, zero, dtype) if same else np.asarray(zero, dtype))]

    def pair(self, value: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attributes: Any) -> str:
        return self.dq(self.q(value, scale, zero, dtype, **attributes), scale, zero, dtype, **attributes)

    def weight(
        self, *shape: int, axis: int | None = None, zero: int = 0, dtype: Any = np.int8, **attributes: Any
    ) -> str:
        """An integer constant behind DequantizeLinear, with a scale for each index of `axis`."""
        values = weights(*shape, seed=sum(shape))
        others = tuple(each for each in range(len(shape)) if each != axis)
        scale = np.abs(values).max(axis=others, keepdims=axis is not None) / 127
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        stored = self.const(
            np.clip(np.rint(values / scale) + zero, low, high).astype(dtype), attributes.pop("name", "")
        )
        if axis is not None:
            attributes["axis"] = axis
        return self.dq(stored, scale.ravel() if axis is not None else scale, zero, dtype, **attributes)

    def blocks(self, rows: int, columns: int, size: int, zero: Any = None, dtype: Any = ml_dtypes.int4) -> str:
        """A blocked constant [rows, columns] behind DequantizeLinear, blocks along axis 0."""
        rng = np.random.default_rng(rows)
        low, high = (0, 15) if dtype == ml_dtypes.uint4 else (-8, 7)
        stored = self.const(rng.integers(low, high + 1, (rows, columns)).astype(dtype))
        scale = np.full((rows // size, columns), 0.02, np.float32)
        return self.dq(stored, scale, zero, dtype, axis=0, block_size=size)

    def model(self, *outputs: str, dtype: int = TensorProto.FLOAT, ir_version: int = 10) -> onnx.ModelProto:
        domains = sorted({node.domain for node in self.nodes if node.domain})
        graph = helper.make_graph(
            self.nodes,
            "row",
            self.inputs,
            [helper.make_tensor_value_info(output, dtype, None) for output in outputs],
            self.constants,
        )
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def conv(
    *,
    activation: dict[str, Any] | None = None,
    weight: dict[str, Any] | None = None,
    shape: tuple[int, ...] = (16, 16, 3, 3),
    size: tuple[int | str, ...] = (1, 16, 16, 16),
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """One Conv between Q/DQ pairs; `activation` and `weight` change how its two inputs are quantized."""
    net = Net(opset)
    data = net.pair(net.input(size), **(activation or {}))
    made = net.op("Conv", data, net.weight(*shape, **({"axis": 0} if weight is None else weight)), **attributes)
    return net.model(made)


def matmul(
    *, axis: int | None = 1, batch: tuple[int | str, ...] = (8,), rows: int = 32, columns: int = 24
) -> onnx.ModelProto:
    """One MatMul of a quantized activation [batch, rows] and weight [rows, columns]."""
    net = Net()
    data = net.pair(net.input((*batch, rows)))
    return net.model(net.op("MatMul", data, net.weight(rows, columns, axis=axis)))


def packed_projection(
    how: str = "split",
    *,
    parts: Sequence[int] = (64, 64, 64),
    width: int | None = 16,
    bias: bool = True,
    steps: int | str = 32,
    attention: bool = False,
) -> onnx.ModelProto:
    """One product of x [1, steps, 64] with its columns in parts, each laid out as heads of `width`, or None.

    Args:
        how: `split`, `slice` or `gather` (from an axis of parts) of a MatMul's result; `rows` and `gemm`: a product of
            x [steps, 64], whose result is laid out as [1, steps, columns].
        parts: Columns of the parts.
        width: Columns of a head.
        bias: Whether a bias is added.
        steps: Rows of x.
        attention: Whether the parts are the queries, keys and values of attention, whose result is the output.
    """
    net = Net()
    flat, columns = how in ("rows", "gemm"), sum(parts)
    data = net.pair(net.input((steps, 64) if flat else (1, steps, 64)))
    if how == "gemm":
        made = net.op("Gemm", data, net.weight(columns, 64, axis=0), net.const(weights(columns)), transB=1)
    else:
        made = net.op("MatMul", data, net.weight(64, columns, axis=1))
        made = net.op("Add", made, net.const(weights(columns))) if bias else made
    if flat:
        made = net.op("Reshape", made, net.const(np.array([1, -1, columns])))
    if how == "gather":
        shape = net.const(np.array([1, -1, len(parts), parts[0] // (width or 1), width or 1]))
        moved = net.op("Transpose", net.op("Reshape", made, shape), perm=[2, 0, 3, 1, 4])
        heads = [net.op("Gather", moved, net.const(np.int64(i)), axis=0) for i in range(len(parts))]
    else:
        outputs = (_slices if how == "slice" else _split)(net, made, parts)
        heads = [_heads(net, each, width) if width else net.op("Relu", each) for each in outputs]
    return net.model(*(_attention(net, *heads) if attention else heads))


def _attention(net: Net, query: str, key: str, value: str) -> list[str]:
    weights_of = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2])))
    return [net.op("MatMul", weights_of, value)]


def _split(net: Net, value: str, parts: Sequence[int]) -> list[str]:
    return list(net.op("Split", value, net.const(np.array(parts)), outputs=len(parts), axis=-1))


def _slices(net: Net, value: str, parts: Sequence[int]) -> list[str]:
    ends = np.cumsum(parts)
    bounds = [
        [net.const(np.array([bound])) for bound in (end - part, end, 2)] for part, end in zip(parts, ends, strict=True)
    ]
    return [net.op("Slice", value, *each) for each in bounds]


def _heads(net: Net, value: str, width: int) -> str:
    """[1, steps, heads * width] as [1, heads, steps, width], with the number of steps read from it."""
    batch, rows = (net.op("Slice", net.op("Shape", value), *map(net.const, ([i], [i + 1]))) for i in (0, 1))
    shape = net.op("Concat", batch, rows, net.const([-1]), net.const([width]), axis=0)
    return str(net.op("Transpose", net.op("Reshape", value, shape), perm=[0, 2, 1, 3]))
