"""Relu, Clip, Max and Min: which go, which merge."""

import numpy as np
import pytest

from tests import models_for_tests as build
from tests.passes.fusion.forms import Form, check_becomes, check_refused, fuse

GONE, MERGED, RELU = ("remove-clip",), ("merge-clips",), ("max-to-relu",)

FORMS = {
    "relus of FLOAT16": Form(
        "c = Cast <to = 10> (x); r = Relu(c); s = Relu(r); y = Cast <to = 1> (s)", "Cast Relu Cast", GONE
    ),
    "relu of relu": Form("r = Relu(x); y = Relu(r)", "Relu", GONE),
    "relu of sigmoid": Form("r = Sigmoid(x); y = Relu(r)", "Sigmoid", GONE),
    "relu of a reshaped softmax": Form(
        "r = Softmax(x); t = Transpose <perm = [0, 2, 1]> (r); y = Relu(t)", "Softmax Transpose", GONE
    ),
    "clip of tanh": Form("r = Tanh(x); y = Clip(r, minus_one, one)", "Tanh", GONE),
    "clip of a narrower clip": Form("r = Clip(x, zero, two); y = Clip(r, minus_one, six)", "Clip", GONE),
    "max of exp": Form("r = Exp(x); y = Max(zero, r)", "Exp", GONE),
    "max": Form("y = Max(x, zero)", "Relu", RELU),
    "relu then clip": Form("r = Relu(x); y = Clip(r, minus_one, six)", "Clip", MERGED),
    "clip then relu": Form("c = Clip(x, minus_one, six); y = Relu(c)", "Clip", MERGED),
    "clip then clip": Form("c = Clip(x, minus_one, two); y = Clip(c, zero, six)", "Clip", MERGED),
    "clips without a common point": Form("c = Clip(x, zero, one); y = Clip(c, two, six)", "Clip", MERGED),
    "relu6 by Min and Max": Form("c = Max(x, zero); y = Min(six, c)", "Clip", (*RELU, *MERGED)),
    "min then max": Form("c = Min(x, two); y = Max(c, minus_one)", "Clip", MERGED),
    "min then min": Form("c = Min(x, two); y = Min(c, one)", "Min", MERGED),
    "max then max": Form("c = Max(x, minus_one); y = Max(two, c)", "Max", MERGED),
    "max then relu": Form("c = Max(x, minus_one); y = Relu(c)", "Relu", MERGED),
    "clips from below": Form("c = Clip(x, minus_one); y = Max(c, zero)", "Clip", (*RELU, *MERGED)),
    "clips from above": Form('c = Clip(x, "", two); y = Min(c, one)', "Clip", MERGED),
}

REFUSED = {
    "relu of a double": Form(
        "c = Cast <to = 11> (x); r = Sigmoid(c); s = Relu(r); y = Cast <to = 1> (s)",
        "r is not known to be FLOAT, FLOAT16 or BFLOAT16",
    ),
    "relu of tanh": Form("r = Tanh(x); y = Relu(r)", "r may lie outside [0, inf]"),
    "bounds that are computed": Form(
        "s = ReduceMax <keepdims = 0> (x); c = Clip(x, zero, s); y = Relu(c)", "the bounds of"
    ),
    "bounds in the wrong order": Form(
        "c = Clip(x, six, two); y = Clip(c, zero, one)", "the bounds [6, 2] are in the wrong order"
    ),
    "max of a clip that may widen": Form(
        "r = Sigmoid(x); y = Max(r, wide)", "which may add dimensions to r", constants={"wide": np.zeros((1,) * 4, "f")}
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])


def test_a_bound_goes_although_others_read_the_value() -> None:
    form = Form("r = Relu(x); s = Relu(r); y = Sub(s, r)", "Relu Sub", GONE)
    check_becomes(form)


def test_the_merged_bounds_are_those_of_both() -> None:
    model, _ = fuse(FORMS["clips without a common point"])
    clip = model.graph[0]
    bounds = [float(value.const_value.numpy()) for value in clip.inputs[1:] if value is not None and value.const_value]
    assert bounds == [2.0, 2.0]


def test_infinity_is_what_it_was() -> None:
    feed = {"x": np.array([-np.inf, np.inf, np.nan, 0.5] * 8, np.float32).reshape(1, 4, 8)}
    for case, form in FORMS.items():
        (before,), (after,) = build.run(form.model(), feed), build.run(fuse(form)[0], feed)
        np.testing.assert_array_equal(after, before, err_msg=case)
