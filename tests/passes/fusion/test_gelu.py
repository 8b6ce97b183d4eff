"""Gelu in the spellings of torch's exporters, tf2onnx and Hugging Face models."""

import numpy as np
import pytest

from tests.passes.fusion.forms import Form, check_becomes, check_refused

ERF = "s = Div(x, root2); e = Erf(s); t = Add(e, one);"
TANH = "c = Pow(x, three); k = Mul(c, cubic); a = Add(x, k); s = Mul(a, slope); e = Tanh(s); t = Add(one, e);"
LAST = "m = Mul(x, t); y = Mul(m, half)"


def gelu(text: str, rule: str = "gelu-erf") -> Form:
    return Form(text, "Gelu", (rule,), opset=20)


def tanh(argument: str) -> Form:
    return gelu(f"{argument}; e = Tanh(s); t = Add(e, one); {LAST}", "gelu-tanh")


FORMS = {
    "erf, half last": gelu(ERF + LAST),
    "erf, half last as a division": gelu(ERF + "m = Mul(x, t); y = Div(m, two)"),
    "erf, half first": gelu(ERF + "h = Mul(half, x); y = Mul(h, t)"),
    "erf, halved by division": gelu(ERF + "h = Div(x, two); y = Mul(t, h)"),
    "erf, half at the sum": gelu(ERF + "h = Mul(t, half); y = Mul(x, h)"),
    "erf, product with the root": gelu("s = Mul(x, root_half); e = Erf(s); t = Add(one, e);" + LAST),
    "tanh by Pow": gelu(TANH + LAST, "gelu-tanh"),
    "tanh, half first": gelu(TANH + "h = Mul(half, x); y = Mul(h, t)", "gelu-tanh"),
    "tanh, half at the sum": gelu(TANH + "h = Mul(half, t); y = Mul(h, x)", "gelu-tanh"),
    "tanh by products": tanh("q = Mul(x, x); c = Mul(x, q); k = Mul(cubic, c); a = Add(x, k); s = Mul(slope, a)"),
    "tanh by square and product": tanh(
        "q = Pow(x, two); c = Mul(q, x); k = Mul(cubic, c); a = Add(x, k); s = Mul(a, slope)"
    ),
    "tanh by left products": tanh("p = Mul(cubic, x); q = Mul(p, x); k = Mul(q, x); a = Add(k, x); s = Mul(a, slope)"),
    "tanh with x taken out": tanh(
        "p = Mul(x, slope); q = Mul(x, cubic); r = Mul(q, x); a = Add(r, one); s = Mul(p, a)"
    ),
    "tanh with x taken out, slope last": tanh(
        "q = Mul(x, x); r = Mul(q, cubic); a = Add(one, r); p = Mul(x, a); s = Mul(p, slope)"
    ),
}

REFUSED = {
    "old opset": Form(ERF + LAST, "Gelu needs opset 20, the model has 19", opset=19),
    "constant that widens": Form(
        ERF.replace("root2", "wide") + LAST,
        "the constant wide has shape [1, 1, 1, 1], which may add dimensions to x",
        opset=20,
        constants={"wide": np.full((1, 1, 1, 1), np.sqrt(2), np.float32)},
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])
