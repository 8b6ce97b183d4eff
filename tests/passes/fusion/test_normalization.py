"""Layer, RMS, instance and group normalization in the spellings of exporters."""

import numpy as np
import pytest

from tests import models_for_tests as build
from tests.passes.fusion.forms import Form, check_becomes, check_refused, fuse

MEAN = "m = ReduceMean <axes = [-1]> (x); d = Sub(x, m);"
VARIANCE = "q = Pow(d, two); v = ReduceMean <axes = [-1]> (q); w = Add(v, epsilon);"
UNIT = "s = Sqrt(w); n = Div(d, s);"
AFFINE = "g = Mul(n, scale); y = Add(g, bias)"
SPATIAL = (MEAN + VARIANCE + UNIT).replace("-1", "2, 3")
SQUARES = "q = Pow(x, two); v = ReduceMean(q, last); w = Add(v, epsilon);"
GROUPED = "r = Reshape(x, groups); i = InstanceNormalization <epsilon = 0.001> (r, ones, zeros);"
CONSTANTS = {
    "scale": build.weights(8, seed=1),
    "bias": build.weights(8, seed=2),
    "scale2": build.weights(4, 8, seed=3),
    "row": build.weights(1, 1, 8, seed=4),
    "column": build.weights(4, 1, seed=5),
    "channels": build.weights(4, 1, 1, seed=6),
    "offsets": build.weights(1, 4, 1, 1, seed=7),
    "last": np.array([-1]),
    "last2": np.array([1, 2]),
    "first": np.array([1]),
    "groups": np.array([0, 2, -1]),
    "flat": np.array([1, 4, -1]),
    "thirds": np.array([0, 3, -1]),
    "ones": np.ones(2, np.float32) + build.weights(2, seed=8),
    "zeros": build.weights(2, seed=9),
    "unit": np.ones(3, np.float32),
    "small": np.float64(1e-5),
    "target": np.array([2, 4, 3, 6]),
    "elsewhere": np.array([4, 2, 3, 6]),
    "four": build.weights(4),
}
LAYER, INSTANCE, RMS = ("layer-norm",), ("instance-norm",), ("rms-norm",)
SCALED, SHIFTED = "absorb-norm-scale", "absorb-norm-bias"
IMAGE = ("N", 4, 5, 6)


def form(text: str, operators: str, *rules: str, opset: int = 17, shape: tuple[int | str, ...] = ("N", 4, 8)) -> Form:
    return Form(text, operators, rules, opset, shape, CONSTANTS)


def layer(text: str, *, opset: int = 17) -> Form:
    return form(text, "LayerNormalization", *LAYER, SCALED, SHIFTED, opset=opset)


def rms(text: str) -> Form:
    return form(SQUARES + text, "RMSNormalization", *RMS, SCALED, opset=23)


LAYER_NORM = {
    "as torch writes it": layer(MEAN + VARIANCE + UNIT + AFFINE),
    "squares by Mul": layer(MEAN + VARIANCE.replace("Pow(d, two)", "Mul(d, d)") + UNIT + AFFINE),
    "axes as inputs": layer(
        (MEAN + VARIANCE)
        .replace("ReduceMean <axes = [-1]> (x)", "ReduceMean(x, last)")
        .replace("ReduceMean <axes = [-1]> (q)", "ReduceMean(q, last)")
        + UNIT
        + AFFINE,
        opset=18,
    ),
    "axes from the front": layer((MEAN + VARIANCE).replace("[-1]", "[2]") + UNIT + AFFINE),
    "second difference": layer(MEAN + VARIANCE + "k = Sub(x, m); s = Sqrt(w); n = Div(k, s);" + AFFINE),
    "two means": layer(
        MEAN + VARIANCE + "o = ReduceMean <axes = [2]> (x); k = Sub(x, o); s = Sqrt(w); n = Div(k, s);" + AFFINE
    ),
    "by Reciprocal": layer(MEAN + VARIANCE + "s = Sqrt(w); r = Reciprocal(s); n = Mul(r, d);" + AFFINE),
    "by a quotient of one": layer(MEAN + VARIANCE + "s = Sqrt(w); r = Div(one, s); n = Mul(d, r);" + AFFINE),
    "by powers": layer(MEAN + VARIANCE + "r = Pow(w, minus_half); n = Mul(d, r);" + AFFINE),
    "by a root as a power": layer(MEAN + VARIANCE + "s = Pow(w, half); n = Div(d, s);" + AFFINE),
    "parameters first": layer(MEAN + VARIANCE + UNIT + "g = Mul(scale, n); y = Add(bias, g)"),
    "wide parameters": layer(MEAN + VARIANCE + UNIT + "g = Mul(n, row); y = Add(g, row)"),
    "scalar parameters": layer(MEAN + VARIANCE + UNIT + "g = Mul(n, gamma); y = Add(g, alpha)"),
    "without parameters": form(MEAN + VARIANCE + "s = Sqrt(w); y = Div(d, s)", "LayerNormalization", *LAYER),
    "without bias": form(MEAN + VARIANCE + UNIT + "y = Mul(n, scale)", "LayerNormalization", *LAYER, SCALED),
    "without scale": form(MEAN + VARIANCE + UNIT + "y = Add(n, bias)", "LayerNormalization", *LAYER, SHIFTED),
    "two axes": form(
        (MEAN + VARIANCE).replace("-1", "1, 2") + UNIT + "g = Mul(n, scale2); y = Add(g, column)",
        "LayerNormalization",
        *(*LAYER, SCALED, SHIFTED),
    ),
    "two axes behind the channels": form(
        SPATIAL + "y = Mul(n, scale2)", "LayerNormalization", *LAYER, SCALED, shape=("N", 3, 4, 8)
    ),
    "scale along other axes": form(MEAN + VARIANCE + UNIT + "y = Mul(n, column)", "LayerNormalization Mul", *LAYER),
    "casts that change nothing": form(
        "c = Cast <to = 1> (x);" + (MEAN + VARIANCE + UNIT).replace("(x", "(c") + AFFINE,
        "LayerNormalization",
        *("remove-cast", *LAYER, SCALED, SHIFTED),
    ),
    "inside of casts": form(
        "h = Cast <to = 10> (x); c = Cast <to = 1> (h);"
        + (MEAN + VARIANCE + UNIT).replace("(x", "(c")
        + "o = Cast <to = 10> (n); y = Cast <to = 1> (o)",
        "Cast Cast LayerNormalization Cast Cast",
        *LAYER,
    ),
    "as tf.nn.batch_normalization writes it": form(
        MEAN + VARIANCE + "s = Sqrt(w); r = Reciprocal(s); g = Mul(r, scale); k = Mul(x, g); l = Mul(m, g);"
        "o = Sub(bias, l); y = Add(k, o)",
        "LayerNormalization",
        "layer-norm-from-moments",
    ),
}
OTHERS = {
    "rms norm": rms("s = Sqrt(w); n = Div(x, s); y = Mul(n, scale)"),
    "rms norm by Reciprocal": rms("s = Sqrt(w); r = Reciprocal(s); n = Mul(x, r); y = Mul(scale, n)"),
    "rms norm by a quotient of one": rms("s = Sqrt(w); r = Div(one, s); n = Mul(x, r); y = Mul(scale, n)"),
    "rms norm by powers": rms("r = Pow(w, minus_half); n = Mul(r, x); y = Mul(scale, n)"),
    "rms norm with squares by Mul": form(
        SQUARES.replace("Pow(x, two)", "Mul(x, x)") + "s = Sqrt(w); y = Div(x, s)",
        *("RMSNormalization", "rms-norm"),
        opset=23,
    ),
    "instance norm": form(SPATIAL.replace("n =", "y ="), "InstanceNormalization", *INSTANCE, shape=IMAGE),
    "instance norm with parameters": form(
        SPATIAL + "g = Mul(n, channels); y = Add(offsets, g)",
        "InstanceNormalization",
        *(*INSTANCE, SCALED, SHIFTED),
        shape=("N", 4, "N", 6),
    ),
    "instance norm in three dimensions": form(
        SPATIAL.replace("2, 3", "2, 3, 4") + "g = Mul(n, gamma); y = Add(g, alpha)",
        "InstanceNormalization",
        *(*INSTANCE, SCALED, SHIFTED),
        shape=("N", 4, 3, 2, 5),
    ),
    "group norm": Form(
        GROUPED + "t = Shape(x); b = Reshape(i, t); g = Mul(b, channels); y = Add(g, offsets)",
        "GroupNormalization",
        ("group-norm", SCALED, SHIFTED),
        21,
        ("N", 4, "N", 6),
        CONSTANTS,
        sizes=(1, 3),  # the -1 of the groups means nothing where there are no elements
    ),
    "group norm of a static shape": form(
        GROUPED + "y = Reshape(i, target)", "GroupNormalization", "group-norm", opset=21, shape=(2, 4, 3, 6)
    ),
}
FORMS = {**LAYER_NORM, **OTHERS}

REFUSED = {
    "another type": form(
        "c = Cast <to = 11> (x);"
        + (MEAN + VARIANCE).replace("(x", "(c").replace("epsilon", "small")
        + "s = Sqrt(w); n = Div(d, s); y = Cast <to = 1> (n)",
        "c is not known to be FLOAT",
    ),
    "unknown rank": form(
        "u = Squeeze(x);" + (MEAN + VARIANCE).replace("(x", "(u") + "s = Sqrt(w); y = Div(d, s)",
        "the rank of the input of",
    ),
    "layer norm in an old opset": form(
        MEAN + VARIANCE + "s = Sqrt(w); y = Div(d, s)", "LayerNormalization needs opset 17, the model has 16", opset=16
    ),
    "rms norm in an old opset": form(
        SQUARES + "s = Sqrt(w); y = Div(x, s)", "RMSNormalization needs opset 23", opset=22
    ),
    "group norm in an old opset": form(
        GROUPED + "y = Reshape(i, target)", "GroupNormalization needs opset 21", shape=(2, 4, 3, 6)
    ),
    "first axis": form(
        (MEAN + VARIANCE).replace("-1", "1") + "s = Sqrt(w); y = Div(d, s)", "the axes [1] of x are not its last ones"
    ),
    "different axes": form(
        MEAN + VARIANCE.replace("-1", "1") + "s = Sqrt(w); y = Div(d, s)", "the reductions are over different axes"
    ),
    "second mean over other axes": form(
        MEAN + VARIANCE + "o = ReduceMean <axes = [1]> (x); k = Sub(x, o); s = Sqrt(w); y = Div(k, s)",
        "the reductions are over different axes",
    ),
    "unknown size": form(
        MEAN + VARIANCE + "s = Sqrt(w); y = Div(d, s)",
        "the sizes of the axes [2] of x are not known",
        shape=(4, 4, "N"),
    ),
    "epsilon below zero": form(
        MEAN + VARIANCE.replace("epsilon", "minus_one") + "s = Sqrt(w); y = Div(d, s)", "minus_one is -1, below 0"
    ),
    "epsilon for each row": form(
        MEAN + VARIANCE.replace("epsilon", "column") + "s = Sqrt(w); y = Div(d, s)", "column has more than one element"
    ),
    "channels of an unknown number": form(
        SPATIAL.replace("n =", "y ="), "the sizes of the axes [1] of x are not known", shape=(1, "N", 5, 6)
    ),
    "groups that are not whole": form(
        GROUPED.replace("groups", "thirds").replace("ones", "unit").replace("zeros", "unit") + "y = Reshape(i, target)",
        "4 channels are not 3 whole groups",
        opset=21,
        shape=(2, 4, 3, 6),
    ),
    "reshape to elsewhere": form(
        GROUPED + "y = Reshape(i, elsewhere)",
        "the target elsewhere is not the shape of x",
        opset=21,
        shape=(2, 4, 3, 6),
    ),
    "moments with parameters along other axes": form(
        MEAN + VARIANCE + "s = Sqrt(w); r = Reciprocal(s); g = Mul(r, column); k = Mul(x, g); l = Mul(m, g);"
        "o = Sub(bias, l); y = Add(k, o)",
        "column of shape [4, 1] does not vary along the normalized axes [8] alone",
    ),
    "factor along other axes": form(
        "n = LayerNormalization(x, scale); y = Mul(n, column)", "column of shape [4, 1] does not vary"
    ),
    "factor for each position": form(
        "n = InstanceNormalization(x, four, four); y = Mul(n, scale)", "is not one element for each channel"
    ),
    "factor behind a scalar scale": form(
        "n = LayerNormalization(x, gamma); y = Mul(n, scale)", "scale of shape [8] does not vary"
    ),
    "groups without the batch": form(
        GROUPED.replace("groups", "flat").replace("ones", "four").replace("zeros", "four") + "y = Reshape(i, target)",
        "flat does not keep the batch and make groups",
        opset=21,
        shape=(2, 4, 3, 6),
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])


def test_weights_that_are_the_whole_parameter_stay_shared() -> None:
    model, _ = fuse(FORMS["as torch writes it"])
    assert [value.name for value in model.graph[0].inputs if value is not None] == ["x", "scale", "bias"]


def test_a_large_mean_is_normalized_at_least_as_well() -> None:
    form = FORMS["as tf.nn.batch_normalization writes it"]
    x = build.weights(2, 4, 8, seed=1, scale=1.0) + np.float32(1000)
    exact = (x - x.mean(-1, keepdims=True, dtype=np.float64)).astype(np.float64)
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5) * CONSTANTS["scale"] + CONSTANTS["bias"]
    (before,), (after,) = build.run(form.model(), {"x": x}), build.run(fuse(form)[0], {"x": x})
    assert np.abs(after - exact).max() <= np.abs(before - exact).max() + 1e-6
