"""Kernels give what ONNX's reference implementation gives, or nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sardonyx import ir
from sardonyx.ir.kernels import ARITHMETIC, MOVES, run_kernel
from tests import models_for_tests as build

OPSET = 18
INT64_MAX = np.iinfo(np.int64).max
Case = tuple[str, list[Any], dict[str, Any]]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def fill(dtype: int, value: float) -> onnx.TensorProto:
    return helper.make_tensor("value", dtype, [1], [value])


def both(case: Case, opset: int = OPSET) -> tuple[np.ndarray | None, np.ndarray]:
    """What the kernel and what the reference computes."""
    op_type, inputs, attributes = case
    names = ["" if array is None else f"i{index}" for index, array in enumerate(inputs)]
    proto = helper.make_node(op_type, names, ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
        if name
    ]
    graph = helper.make_graph([proto], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    expected = ReferenceEvaluator(model).run(None, {n: a for n, a in zip(names, inputs, strict=True) if n})[0]
    node = next(iter(ir.load(model).model.graph)) if opset >= 17 else _node(proto)
    return run_kernel(node, inputs), np.asarray(expected)


def _node(proto: onnx.NodeProto) -> ir.Node:
    attributes = [ir.AttrInt64s(attr.name, list(attr.ints)) for attr in proto.attribute]
    return ir.Node("", proto.op_type, [ir.Value(name=name) for name in proto.input], attributes)


def same(result: np.ndarray | None, expected: np.ndarray) -> bool:
    if result is None or (result.dtype, result.shape) != (expected.dtype, expected.shape):
        return False
    return np.array_equal(result, expected, equal_nan=expected.dtype.kind == "f")


CUBE = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
A, B = ints(7, -7, 8, -9, 0), ints(2, 2, -3, -4, 5)
FLOATS = np.array([0.5, -1.5, 2.25, 1e30], np.float32)
CASES: list[Case] = [
    ("Identity", [CUBE], {}),
    ("Gather", [CUBE, ints(1, -1)], {"axis": 2}),
    ("Gather", [ints(4, 5, 6), np.array(1, np.int64)], {}),
    ("Slice", [CUBE, ints(1, -3), ints(INT64_MAX, -1), ints(0, 2)], {}),
    ("Slice", [CUBE, ints(-1), ints(-INT64_MAX), ints(1), ints(-2)], {}),
    ("Slice", [CUBE, ints(0, 0), ints(1, 2)], {}),
    ("Concat", [CUBE, CUBE], {"axis": -1}),
    ("Squeeze", [CUBE[:, :1], ints(1)], {}),
    ("Squeeze", [CUBE[:1, :1]], {}),
    ("Unsqueeze", [CUBE, ints(0, -1)], {}),
    ("Reshape", [CUBE, ints(0, -1)], {}),
    ("Reshape", [CUBE[:0], ints(0, 7)], {"allowzero": 1}),
    ("Transpose", [CUBE], {"perm": [2, 0, 1]}),
    ("Transpose", [CUBE], {}),
    ("Expand", [CUBE[:, :1], ints(5, 1, 3, 1)], {}),
    ("Flatten", [CUBE], {"axis": 2}),
    ("Flatten", [CUBE], {"axis": -1}),
    *((op, [A, B], {}) for op in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater", "Min", "Max")),
    *((op, [FLOATS, FLOATS[::-1].copy()], {}) for op in ("Add", "Sub", "Mul", "Div", "Equal", "LessOrEqual")),
    ("GreaterOrEqual", [A, B], {}),
    ("Mod", [A, B], {}),
    ("Mod", [A, B], {"fmod": 1}),
    *((op, [A.astype(np.int32)], {}) for op in ("Neg", "Abs")),
    *((op, [np.abs(FLOATS)], {}) for op in ("Floor", "Ceil", "Sqrt")),
    *((op, [A > 0, B > 0], {}) for op in ("And", "Or")),
    ("Not", [A > 0], {}),
    ("Where", [A > 0, A, ints(1)], {}),
    ("Cast", [A], {"to": TensorProto.FLOAT}),
    ("Cast", [FLOATS[:3]], {"to": TensorProto.INT64}),
    ("Cast", [A], {"to": TensorProto.BOOL}),
    ("Cast", [A > 0], {"to": TensorProto.INT32}),
    ("ReduceSum", [CUBE, ints(0, 2)], {"keepdims": 0}),
    ("ReduceProd", [ints(2, 3, 4)], {}),
    ("ReduceMax", [CUBE, ints(-1)], {}),
    ("ReduceMin", [CUBE], {"keepdims": 0}),
    ("Range", [np.array(9, np.int64), np.array(0, np.int64), np.array(-2, np.int64)], {}),
    ("ConstantOfShape", [ints(2, 3)], {"value": fill(TensorProto.INT64, 7)}),
    ("ConstantOfShape", [ints(0, 3)], {}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_as_the_reference(case: Case) -> None:
    assert same(*both(case))


def test_every_kernel_has_a_case() -> None:
    assert {op_type for op_type, *_ in CASES} == {*MOVES, *ARITHMETIC}


@pytest.mark.parametrize(
    "case",
    [
        ("Gather", [ints(1, 2), ints(2)], {}),  # out of range
        ("Div", [A, B * 0], {}),
        ("Mod", [A, B * 0], {}),
        ("Cast", [FLOATS], {"to": TensorProto.INT64}),  # 1e30
        ("Cast", [FLOATS], {"to": TensorProto.FLOAT16}),
        ("Add", [FLOATS[:3].astype(np.float16)] * 2, {}),
        ("Max", [FLOATS, FLOATS * np.float32(np.nan)], {}),
        ("Range", [np.float32(0), np.float32(1), np.float32(0.1)], {}),
        ("ReduceSum", [FLOATS], {}),  # float sums depend on their order
    ],
    ids=lambda case: case[0],
)
def test_what_is_unsure_is_left(case: Case) -> None:
    op_type, inputs, attributes = case
    source = build.proto([helper.make_node(op_type, ["x"] * len(inputs), ["y"], **attributes)], {"x": [2]}, {"y": None})
    node = ir.Node("", op_type, [None] * len(inputs), [*ir.load(source).model.graph[0].attributes.values()])
    assert run_kernel(node, [np.asarray(array) for array in inputs]) is None


def test_axes_of_older_opsets_are_attributes() -> None:
    assert same(*both(("Unsqueeze", [CUBE], {"axes": [0, 4]}), opset=11))
    assert same(*both(("Squeeze", [CUBE[:1]], {"axes": [0]}), opset=11))
    assert same(*both(("ReduceProd", [CUBE], {"axes": [1]}), opset=11))


SMALL = st.integers(-5, 5)


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    bounds=st.lists(st.tuples(SMALL, SMALL, st.sampled_from([-2, -1, 1, 2])), min_size=1, max_size=3),
)
def test_any_slice(shape: Sequence[int], bounds: Sequence[tuple[int, int, int]]) -> None:
    bounds = bounds[: len(shape)]
    data = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    starts, ends, steps = (ints(*part) for part in zip(*bounds, strict=True))
    assert same(*both(("Slice", [data, starts, ends, ints(*range(len(bounds))), steps], {})))


@given(
    a=st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3),
    b=st.lists(st.integers(-9, 9).filter(bool), min_size=3, max_size=3),
    op_type=st.sampled_from(["Add", "Sub", "Mul", "Mod", "Equal", "Less", "Min", "Max"]),
)
def test_any_arithmetic(a: list[int], b: list[int], op_type: str) -> None:
    assert same(*both((op_type, [ints(*a), ints(*b)], {})))


@given(a=st.integers(-100, 100), b=st.integers(-9, 9).filter(bool))
def test_division_is_towards_zero(a: int, b: int) -> None:
    result = run_kernel(ir.Node("", "Div", [None, None]), [ints(a), ints(b)])
    assert result is not None
    assert result.tolist() == [int(a / b)]
