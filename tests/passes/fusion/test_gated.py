"""Sigmoid, Swish, HardSigmoid, HardSwish, Mish and Softplus in the spellings of exporters."""

import numpy as np
import pytest

from tests.passes.fusion.forms import Form, check_becomes, check_refused, fuse

RELU6 = "a = Add(x, three); c = Clip(a, zero, six);"
MANY = np.linspace(0.5, 2.0, 8, dtype=np.float32)
MIN_MAX = "a = Add(x, three); l = Max(a, zero); c = Min(l, six);"


def hard_swish(text: str, *rules: str) -> Form:
    return Form(text, "HardSwish", rules or ("hard-swish",))


FORMS = {
    "sigmoid by division": Form("n = Neg(x); e = Exp(n); s = Add(e, one); y = Div(one, s)", "Sigmoid", ("sigmoid",)),
    "sigmoid by Reciprocal": Form(
        "n = Mul(x, minus_one); e = Exp(n); s = Add(one, e); y = Reciprocal(s)", "Sigmoid", ("sigmoid",)
    ),
    "silu": Form("s = Sigmoid(x); y = Mul(x, s)", "Swish", ("swish",), opset=24),
    "silu by division": Form("n = Neg(x); e = Exp(n); s = Add(e, one); y = Div(x, s)", "Swish", ("swish",), opset=24),
    "quick gelu": Form("b = Mul(x, gamma); s = Sigmoid(b); y = Mul(x, s)", "Swish", ("swish",), opset=24),
    "hard sigmoid of a line": Form(
        "p = Mul(alpha, x); a = Add(p, half); y = Clip(a, zero, one)", "HardSigmoid", ("hard-sigmoid",)
    ),
    "hard sigmoid of a quotient": Form(
        "p = Div(x, six); a = Add(p, half); y = Clip(a, zero, one)", "HardSigmoid", ("hard-sigmoid",)
    ),
    "hard sigmoid by Relu6": Form(RELU6 + "y = Div(c, six)", "HardSigmoid", ("hard-sigmoid",)),
    "hard sigmoid by Relu6 and product": Form(RELU6 + "y = Mul(c, sixth)", "HardSigmoid", ("hard-sigmoid",)),
    "hard sigmoid by Min and Max": Form(
        MIN_MAX + "y = Mul(c, sixth)", "HardSigmoid", ("hard-sigmoid", "merge-clips", "max-to-relu")
    ),
    "hard swish by HardSigmoid": hard_swish("h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x); y = Mul(h, x)"),
    "hard swish, division last": hard_swish(RELU6 + "m = Mul(x, c); y = Div(m, six)"),
    "hard swish, sixth last": hard_swish(RELU6 + "m = Mul(c, x); y = Mul(m, sixth)"),
    "hard swish, x divided": hard_swish(RELU6 + "m = Div(x, six); y = Mul(m, c)"),
    "hard swish, Relu6 divided": hard_swish(RELU6 + "m = Div(c, six); y = Mul(x, m)", "hard-sigmoid", "hard-swish"),
    "hard swish by Min and Max": hard_swish(
        MIN_MAX + "m = Mul(x, c); y = Mul(m, sixth)", "merge-clips", "max-to-relu", "hard-swish"
    ),
    "mish": Form("s = Softplus(x); t = Tanh(s); y = Mul(x, t)", "Mish", ("mish",), opset=18),
    "mish with its softplus written out": Form(
        "e = Exp(x); s = Add(e, one); l = Log(s); t = Tanh(l); y = Mul(t, x)", "Mish", ("mish", "softplus"), opset=18
    ),
    "softplus with a threshold": Form(
        "e = Exp(x); s = Add(one, e); l = Log(s); p = Greater(x, far); y = Where(p, x, l)",
        "Softplus",
        ("softplus",),
        constants={"far": np.float32(20)},
    ),
    "softplus": Form("e = Exp(x); s = Add(one, e); y = Log(s)", "Softplus", ("softplus",)),
}

REFUSED = {
    "another type": Form(
        "h = Cast <to = 10> (x); s = Softplus(h); t = Tanh(s); m = Mul(h, t); y = Cast <to = 1> (m)",
        "h is not known to be FLOAT",
        opset=18,
    ),
    "swish in an old opset": Form("s = Sigmoid(x); y = Mul(x, s)", "Swish needs opset 24, the model has 23", opset=23),
    "mish in an old opset": Form("s = Softplus(x); t = Tanh(s); y = Mul(x, t)", "Mish needs opset 18"),
    "swish with several alphas": Form(
        "b = Mul(x, many); s = Sigmoid(b); y = Mul(x, s)",
        "the constant many has more than one element",
        opset=24,
        constants={"many": MANY},
    ),
    "hard sigmoid of another range": Form(RELU6 + "y = Mul(c, half)", "the bound 6 times the slope 0.5 is not 1"),
    "hard sigmoid without a slope": Form(
        "p = Div(x, zero); a = Add(p, half); y = Clip(a, zero, one)", "the constant zero is 0"
    ),
    "hard sigmoid with several offsets": Form(
        "p = Mul(alpha, x); a = Add(p, many); y = Clip(a, zero, one)", "many has", constants={"many": MANY}
    ),
    "softplus with a low threshold": Form(
        "s = Softplus(x); p = Greater(x, six); y = Where(p, x, s)", "the threshold six is below 15"
    ),
    "hard swish with another slope": Form("h = HardSigmoid(x); y = Mul(h, x)", "has alpha=0.2 and beta=0.5"),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])


def test_quick_gelu_keeps_its_factor() -> None:
    model, _ = fuse(FORMS["quick gelu"])
    assert model.graph[0].attributes["alpha"].as_float() == pytest.approx(1.7)
