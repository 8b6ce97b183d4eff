"""Relu, Clip, Max and Min: which go, which merge."""

import numpy as np
import pytest

from tests.passes.fusion.forms import Form, check_becomes, check_refused, fuse

GONE, MERGED, RELU = ("remove-clip",), ("merge-clips",), ("to-relu",)

FORMS = {
    "relu of relu": Form("r = Relu(x); y = Relu(r)", "Relu", GONE),
    "relu of sigmoid": Form("r = Sigmoid(x); y = Relu(r)", "Sigmoid", GONE),
    "relu of a reshaped softmax": Form(
        "r = Softmax(x); t = Transpose <perm = [0, 2, 1]> (r); y = Relu(t)", "Softmax Transpose", GONE
    ),
    "clip of tanh": Form("r = Tanh(x); y = Clip(r, minus_one, one)", "Tanh", GONE),
    "clip of a narrower clip": Form("r = Clip(x, zero, two); y = Clip(r, minus_one, six)", "Clip", GONE),
    "max of exp": Form("r = Exp(x); y = Max(zero, r)", "Exp", GONE),
    "max": Form("y = Max(x, zero)", "Relu", RELU),
    "clip from below": Form("y = Clip(x, zero)", "Relu", RELU),
    "relu then clip": Form("r = Relu(x); y = Clip(r, minus_one, six)", "Clip", MERGED),
    "clip then relu": Form("c = Clip(x, minus_one, six); y = Relu(c)", "Clip", MERGED),
    "clip then clip": Form("c = Clip(x, minus_one, two); y = Clip(c, zero, six)", "Clip", MERGED),
    "clips without a common point": Form("c = Clip(x, zero, one); y = Clip(c, two, six)", "Clip", MERGED),
    "relu6 by Min and Max": Form("c = Max(x, zero); y = Min(six, c)", "Clip", (*RELU, *MERGED)),
    "min then max": Form("c = Min(x, two); y = Max(c, minus_one)", "Clip", MERGED),
    "min then min": Form("c = Min(x, two); y = Min(c, one)", "Clip", MERGED),
    "clips from below": Form("c = Clip(x, minus_one); y = Max(c, zero)", "Relu", (*RELU, *MERGED)),
}

REFUSED = {
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
    "clip from both sides": Form("y = Clip(x, zero, six)", "has an upper bound"),
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
