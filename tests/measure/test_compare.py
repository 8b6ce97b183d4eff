import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sardonyx.measure import ErrorAccumulator, compare

DTYPES = ["float32", "float64", "float16", "int8", "uint8", "int64", "bool"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ANY = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
FINITE = hnp.arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32))


def one(reference, candidate):
    return compare([reference], [candidate], ["y"])[0]


@given(ANY)
def test_an_array_equals_itself(array):
    error = one(array, array.copy())
    assert error.ok
    assert error.equal
    assert error.finite
    assert (error.max_abs, error.max_rel, error.mean_abs) == (0.0, 0.0, 0.0)
    assert error.sqnr_db == math.inf
    assert error.top1_agreement in (None, 1.0)
    if np.isfinite(array).any() and np.nanmax(np.abs(array.astype(float))) < 1e150:  # squares fit float64
        assert error.cosine == pytest.approx(1.0)


@given(FINITE, FINITE)
def test_absolute_errors_cosine_and_agreement_are_symmetric(a, b):
    there, back = one(a, b), one(b, a)
    assert there.equal == back.equal
    assert there.max_abs == back.max_abs
    assert there.mean_abs == back.mean_abs
    assert there.top1_agreement == back.top1_agreement
    assert there.cosine == pytest.approx(back.cosine)


@given(FINITE, FINITE)
def test_agrees_with_the_definitions(a, b):
    r, c = a.astype(np.float64), b.astype(np.float64)
    error = one(a, b)
    assert error.max_abs == np.abs(r - c).max()
    assert error.mean_abs == pytest.approx(np.abs(r - c).mean())
    assert error.top1_agreement == (a.argmax(-1) == b.argmax(-1)).mean()
    noise, signal = ((r - c) ** 2).sum(), (r**2).sum()
    if noise and signal:
        assert error.sqnr_db == pytest.approx(10 * np.log10(signal / noise))


@given(FINITE, st.integers(0, 5), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nan_and_infinity_count_only_where_the_other_side_has_none(array, place, special):
    changed = array.copy()
    changed.flat[place] = special
    for reference, candidate in ((array, changed), (changed, array)):
        error = one(reference, candidate)
        assert not error.ok
        assert not error.finite
        assert "NaN or Inf" in error.reason
    same = one(changed, changed.copy())
    assert same.ok
    assert same.finite
    assert same.max_abs == 0.0


def test_an_infinity_of_the_other_sign_is_a_failure():
    assert not one(np.array([np.inf]), np.array([-np.inf])).finite


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (np.zeros((3, 2), np.float32), "shape (3, 2), expected (2, 3)"),
        (np.zeros((2, 3), np.float16), "dtype float16, expected float32"),
    ],
)
def test_another_shape_or_dtype_is_a_failure_with_its_reason(candidate, reason):
    error = one(np.zeros((2, 3), np.float32), candidate)
    assert not error.ok
    assert not error.equal
    assert reason in error.reason


def test_negative_zero_is_no_difference_but_not_bitwise_equal():
    error = one(np.array([0.0]), np.array([-0.0]))
    assert error.ok
    assert not error.equal
    assert error.sqnr_db == math.inf


def test_strings_and_booleans_count_their_differences():
    strings = one(np.array(["a", "b"], object), np.array(["a", "c"], object))
    booleans = one(np.array([True, True]), np.array([True, False]))
    for error in (strings, booleans):
        assert (error.mean_abs, error.max_abs, error.equal, error.ok) == (0.5, 1.0, False, True)


def test_unsigned_differences_do_not_wrap():
    assert one(np.array([0], np.uint8), np.array([255], np.uint8)).max_abs == 255.0


def test_relative_error_leaves_out_zeros_of_the_reference():
    error = one(np.array([0.0, 2.0]), np.array([5.0, 1.0]))
    assert error.max_rel == 0.5


def test_a_zero_reference_with_noise_has_no_signal():
    error = one(np.zeros(2), np.ones(2))
    assert error.sqnr_db == -math.inf
    assert error.cosine == 0.0


def test_accumulating_samples_equals_comparing_them_at_once():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 700, 1000))  # more than one chunk
    errors = ErrorAccumulator(["y"])
    for start, stop in ((0, 1), (1, 300), (300, 700)):
        errors.update([a[start:stop]], [b[start:stop]])
    (parts,), whole = errors.result(), one(a, b)
    assert parts.samples == 3
    for metric in ("max_abs", "max_rel", "mean_abs", "cosine", "sqnr_db", "top1_agreement"):
        assert getattr(parts, metric) == pytest.approx(getattr(whole, metric))


def test_the_reason_names_the_first_bad_sample():
    errors = ErrorAccumulator(["y"])
    errors.update([np.zeros(2)], [np.zeros(2)])
    errors.update([np.zeros(2)], [np.array([0.0, np.nan])])
    errors.update([np.zeros(2)], [np.zeros(3)])
    assert errors.result()[0].reason.startswith("sample 1: NaN")


def test_a_missing_output_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        compare([np.zeros(1), np.zeros(1)], [np.zeros(1)], ["a", "b"])


def test_elements_whose_reference_is_zero_take_no_part_in_the_relative_error():
    error = one(np.array([0.0, 5e-324, 2.0, 0.0]), np.array([9.0, 5e-324, 3.0, 0.0]))
    assert error.max_rel == 0.5


def test_the_share_of_equal_argmax_is_left_out_on_demand():
    errors = ErrorAccumulator(["y"], top1=False)
    errors.update([np.eye(3, dtype=np.float32)], [np.eye(3, dtype=np.float32)])
    assert errors.result()[0].top1_agreement is None
