"""Elu, Celu, Selu, LeakyRelu, PRelu and ThresholdedRelu in the spellings of exporters."""

import numpy as np
import pytest

from tests import models_for_tests as build
from tests.passes.fusion.forms import Form, check_becomes, check_refused, fuse

EXPM1 = "e = Exp(x); d = Sub(e, one);"
CHANNELS = np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1)
THRESHOLDED = ("thresholded-relu",)


def leaky(text: str) -> Form:
    return Form(text, "LeakyRelu", ("leaky-relu",))


def prelu(text: str, slopes: np.ndarray = CHANNELS) -> Form:
    return Form(text, "PRelu", ("prelu",), constants={"slopes": slopes})


FORMS = {
    "elu": Form(EXPM1 + "n = Mul(alpha, d); p = Greater(x, zero); y = Where(p, x, n)", "Elu", ("elu",)),
    "elu with alpha 1": Form(EXPM1 + "p = GreaterOrEqual(x, zero); y = Where(p, x, d)", "Elu", ("elu",)),
    "elu by Less": Form("e = Exp(x); d = Add(e, minus_one); p = Less(x, zero); y = Where(p, d, x)", "Elu", ("elu",)),
    "elu by Relu and Min": Form(
        "r = Relu(x); m = Min(x, zero); e = Exp(m); d = Sub(e, one); n = Mul(d, alpha); y = Add(r, n)", "Elu", ("elu",)
    ),
    "elu by Relu and Clip": Form(
        'r = Relu(x); m = Clip(x, "", zero); e = Exp(m); d = Sub(e, one); y = Add(d, r)', "Elu", ("elu",)
    ),
    "celu": Form(
        "i = Div(x, alpha); e = Exp(i); d = Sub(e, one); n = Mul(alpha, d); m = Min(zero, n); r = Max(x, zero);"
        "y = Add(r, m)",
        "Celu",
        ("celu", "max-to-relu"),
    ),
    "celu by Where": Form(
        "i = Div(x, alpha); e = Exp(i); d = Sub(e, one); n = Mul(alpha, d); p = Greater(x, zero); y = Where(p, x, n)",
        "Celu",
        ("celu",),
    ),
    "selu by Elu": Form("e = Elu <alpha = 1.67326> (x); y = Mul(gamma, e)", "Selu", ("selu",)),
    "selu by Where": Form(
        EXPM1 + "n = Mul(d, six); q = Mul(x, gamma); p = Greater(x, zero); y = Where(p, q, n)",
        "Selu",
        ("selu-from-where",),
    ),
    "leaky relu by Where": leaky("n = Mul(x, alpha); p = Greater(x, zero); y = Where(p, x, n)"),
    "leaky relu by Less": leaky("n = Mul(x, gamma); p = LessOrEqual(x, zero); y = Where(p, n, x)"),
    "leaky relu by Max": leaky("n = Mul(alpha, x); y = Max(n, x)"),
    "leaky relu by two Relus": leaky("r = Relu(x); n = Neg(x); s = Relu(n); m = Mul(s, alpha); y = Sub(r, m)"),
    "leaky relu by Relu and Min": leaky("r = Relu(x); n = Min(x, zero); m = Mul(alpha, n); y = Add(r, m)"),
    "prelu by Where": prelu("n = Mul(x, slopes); p = Greater(x, zero); y = Where(p, x, n)"),
    "prelu by Max": prelu("n = Mul(x, slopes); y = Max(x, n)"),
    "prelu as Keras writes it": prelu(
        "r = Relu(x); n = Neg(x); s = Relu(n); m = Mul(slopes, s); y = Add(r, m)", -CHANNELS
    ),
    "thresholded relu": Form("p = Greater(x, alpha); y = Where(p, x, zero)", "ThresholdedRelu", THRESHOLDED),
}
REFUSED = {
    "elu with a negative alpha": Form(
        EXPM1 + "n = Mul(minus_one, d); p = Greater(x, zero); y = Where(p, x, n)", "minus_one is not above 0"
    ),
    "celu with two factors": Form(
        "i = Div(x, six); e = Exp(i); d = Sub(e, one); n = Mul(alpha, d); p = Greater(x, zero); y = Where(p, x, n)",
        "six and alpha do not cancel",
    ),
    "selu of a negative factor": Form("e = Elu(x); y = Mul(minus_one, e)", "minus_one is not above 0"),
    "elu of a value clipped on both sides": Form(
        "r = Relu(x); m = Clip(x, minus_one, zero); e = Exp(m); d = Sub(e, one); y = Add(d, r)",
        "does not clip at 0 from above alone",
    ),
    "a larger slope by Max": Form("n = Mul(x, gamma); y = Max(x, n)", "another slope than above 0 and up to 1: gamma"),
    "slopes that widen": Form(
        "n = Mul(x, slopes); p = Greater(x, zero); y = Where(p, x, n)",
        "the slopes of shape [2, 1, 1, 1] may add to the shape of x",
        constants={"slopes": np.ones((2, 1, 1, 1), np.float32)},
    ),
    "slopes for an unknown size": Form(
        "n = Mul(x, slopes); p = Greater(x, zero); y = Where(p, x, n)",
        "the slopes of shape [4] may add to the shape of x",
        shape=(4, "N"),
        constants={"slopes": np.ones(4, np.float32)},
    ),
    "several thresholds": Form(
        "p = Greater(x, many); y = Where(p, x, zero)", "many has more", constants={"many": build.weights(8)}
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])


def test_a_value_that_is_not_a_number_stays_one() -> None:
    for case, form in FORMS.items():
        feed = {"x": np.array([np.nan, -0.0, 0.0, 1.0] * 8, np.float32).reshape(1, 4, 8)}
        (before,), (after,) = build.run(form.model(), feed), build.run(fuse(form)[0], feed)
        np.testing.assert_array_equal(np.isnan(after), np.isnan(before), err_msg=case)
