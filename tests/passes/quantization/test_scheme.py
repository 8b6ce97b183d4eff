"""Schemes: their text, and their arithmetic against ONNX's reference QuantizeLinear and DequantizeLinear."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sardonyx.errors import PassError, SpecError
from sardonyx.ir import DataType
from sardonyx.passes.quantization.arithmetic import (
    FLOAT8_TYPES,
    INTEGER_TYPES,
    SMALLEST_SCALE,
    affine_parameters,
    float8_levels,
    integer_range,
)
from sardonyx.passes.quantization.scheme import Granularity, Parameters, Scheme

STORED = sorted((INTEGER_TYPES | FLOAT8_TYPES) - {DataType.INT32, DataType.INT2, DataType.UINT2})
finite = st.floats(-1e4, 1e4, width=32)
granularities = st.sampled_from([Granularity(), Granularity(0), Granularity(1), Granularity(-1), Granularity(1, 2)])


def reference(tensor: np.ndarray, scheme: Scheme, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX's reference implementation makes of a tensor: quantized, and restored."""
    granularity = scheme.granularity
    attributes = {} if granularity.axis is None else {"axis": granularity.axis}
    attributes |= {"block_size": granularity.block_size} if granularity.block_size else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    zero_point = helper.make_tensor(
        "z", scheme.dtype.value, parameters.zero_point.shape, parameters.zero_point.astype(np.float32).ravel()
    )
    scale = onnx.numpy_helper.from_array(parameters.scale.astype(np.float32), "s")
    outputs = [helper.make_tensor_value_info(n, t, tensor.shape) for n, t in (("q", scheme.dtype.value), ("y", 1))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, tensor.shape)], outputs, [scale, zero_point]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    quantized, restored = ReferenceEvaluator(model).run(None, {"x": tensor})
    return quantized, restored


@given(
    tensor=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([2, 4, 6])), elements=finite),
    dtype=st.sampled_from(STORED),
    symmetric=st.booleans(),
    granularity=granularities,
)
def test_equals_the_reference(tensor: np.ndarray, dtype: DataType, symmetric: bool, granularity: Granularity) -> None:
    scheme = Scheme(dtype, symmetric=symmetric, granularity=granularity)
    parameters = scheme.fit(tensor)
    quantized = scheme.quantize(tensor, parameters)
    expected, restored = reference(tensor, scheme, parameters)
    np.testing.assert_array_equal(quantized.astype(np.float64), np.asarray(expected).astype(np.float64))
    # The reference multiplies in float32, the library once more exactly: a rounding apart.
    np.testing.assert_allclose(scheme.dequantize(quantized, parameters), restored, rtol=3e-7, atol=1e-30)


@given(
    tensor=hnp.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=finite),
    dtype=st.sampled_from(sorted(INTEGER_TYPES - {DataType.INT32})),
    size=st.integers(1, 8),
    axis=st.sampled_from([0, 1, -1]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_blocks_cover_their_own_values(
    tensor: np.ndarray, dtype: DataType, size: int, axis: int, flags: tuple[bool, bool, bool]
) -> None:
    if dtype in (DataType.INT2, DataType.UINT2):
        flags = (flags[0], False, False)  # two bits less one leave nothing to be symmetric with
    scheme = Scheme(dtype, *flags, granularity=Granularity(axis, size))
    parameters = scheme.fit(tensor)
    blocks = list(tensor.shape)
    blocks[axis] = -(-blocks[axis] // size)
    assert parameters.scale.shape == parameters.zero_point.shape == tuple(blocks)
    for index in np.ndindex(tensor.shape):
        block = list(index)
        block[axis] //= size
        sliced = list(index)
        sliced[axis] = slice(block[axis] * size, (block[axis] + 1) * size)
        alone = Scheme(dtype, *flags).fit(tensor[tuple(sliced)])
        assert parameters.scale[tuple(block)] == alone.scale
        assert parameters.zero_point[tuple(block)] == alone.zero_point
    quantized = scheme.quantize(tensor, parameters).astype(np.int64)
    assert quantized.min() >= scheme.integers.low
    assert quantized.max() <= scheme.integers.high
    step = scheme.spread(parameters.scale, tensor.shape)
    error = np.abs(scheme.dequantize(quantized, parameters) - tensor)
    # Half a step of rounding, and half a step more because the zero point is rounded too.
    assert np.all(error <= step * 1.001 + 1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "uint8",
        "int8/symmetric",
        "int8/symmetric/narrow/channel=0",
        "int4/block=32@1",
        "uint4/symmetric/block=128@-1",
        "uint8/reduced",
        "int16/narrow/reduced/channel=-2",
        "float8e4m3fn",
        "float8e5m2/symmetric/channel=1",
    ],
)
def test_text_is_read_and_printed(text: str) -> None:
    assert str(Scheme.parse(text)) == text
    assert Scheme.parse(f" {text.upper()} ") == Scheme.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int3", "names the type 'int3'"),
        ("", "names the type ''"),
        ("int8/chanel=0", "'chanel=0' of the scheme"),
        ("int8/channel", "'channel' of the scheme"),
        ("int8/channel=x", "'channel=x'"),
        ("int8/block=0@1", "'block=0@1'"),
        ("int8/block=32", "'block=32'"),
        ("int8/symmetric=1", "'symmetric=1'"),
        ("int8/narrow/narrow", "there twice"),
        ("int8/channel=0/block=2@0", "there twice"),
        ("float8e5m2/narrow", "no integers to leave out"),
    ],
)
def test_texts_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Scheme.parse(text)


def test_types_and_blocks_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="Nothing can be quantized to FLOAT"):
        Scheme(DataType.FLOAT)
    with pytest.raises(SpecError, match="has no meaning"):
        Granularity(None, 32)
    with pytest.raises(SpecError, match=r"along axis 2, but the tensor's shape is \(3,\)"):
        Scheme.parse("int8/channel=2").fit(np.zeros(3, np.float32))
    with pytest.raises(PassError, match="has no integers"):
        _ = Scheme.parse("float8e5m2").integers


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("symmetric", [True, False])
def test_degenerate_ranges(dtype: DataType, symmetric: bool) -> None:
    """All-zero, denormal, huge and infinite ranges, one a channel."""
    lows = np.array([0.0, -1e-45, -3e38, -np.inf, -np.inf, 0.0])
    highs = np.array([0.0, 1e-45, 3e38, np.inf, 0.0, np.inf])
    scheme = Scheme(dtype, symmetric=symmetric, granularity=Granularity(0))
    parameters = scheme.parameters(lows, highs)
    assert parameters.scale[0] == 1.0
    assert np.all(np.isfinite(parameters.scale.astype(np.float32)))
    assert np.all(parameters.scale >= SMALLEST_SCALE)
    assert np.all(np.isin(parameters.zero_point, scheme.levels()))
    tensor = np.array([[0.0, 1e-45, -np.inf, np.inf]] * 6, np.float32)
    quantized = scheme.quantize(tensor, parameters).astype(np.float64)
    np.testing.assert_array_equal(quantized[:, 0], parameters.zero_point)
    assert set(np.unique(quantized[:, 2:])) <= {scheme.levels()[0], scheme.levels()[-1]}
    assert np.all(np.isfinite(scheme.dequantize(scheme.quantize(tensor[:, :2], parameters), parameters)))


def test_nan_is_refused() -> None:
    scheme = Scheme.parse("int8")
    nan = np.array([1.0, np.nan], np.float32)
    with pytest.raises(PassError, match="not a number"):
        scheme.fit(nan)
    with pytest.raises(PassError, match="holds NaN"):
        scheme.quantize(nan, scheme.parameters(-1.0, 1.0))
    with pytest.raises(PassError, match="not a number"):
        affine_parameters([0.0, np.nan], [1.0, 1.0], integer_range(DataType.UINT8), symmetric=False)


def test_two_bit_types_round_trip() -> None:
    scheme = Scheme.parse("uint2")
    values = np.array([0.0, 0.5, 1.5, 2.4, 9.0, -1.0], np.float32)
    parameters = Parameters(np.float64(1.0), np.int64(0))
    quantized = scheme.quantize(values, parameters)
    assert quantized.dtype == DataType.UINT2.numpy()
    assert quantized.astype(int).tolist() == [0, 0, 2, 2, 3, 0]


def test_float8_levels_are_the_finite_values() -> None:
    levels = float8_levels(DataType.FLOAT8E4M3FN)
    assert (levels[0], levels[-1], levels.size) == (-448.0, 448.0, 253)
    assert np.count_nonzero(levels == 0) == 1
    assert np.all(np.diff(levels) > 0)


def test_float16_and_float64_tensors() -> None:
    scheme = Scheme.parse("int8/symmetric")
    for dtype in (np.float16, np.float64):
        tensor = np.linspace(-1, 1, 9).astype(dtype)
        restored = scheme.dequantize(scheme.quantize(tensor, scheme.fit(tensor)), scheme.fit(tensor))
        assert restored.dtype == np.float32
        assert np.abs(restored - tensor).max() <= 0.5 / 127 + 1e-7
