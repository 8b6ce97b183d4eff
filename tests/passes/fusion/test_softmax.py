"""Softmax and LogSoftmax in decomposed forms."""

import numpy as np
import pytest

from tests.passes.fusion.forms import Form, check_becomes, check_refused

SHIFTED = "m = ReduceMax <axes = [-1]> (x); d = Sub(x, m);"
OVER = "e = Exp(d); s = ReduceSum(e, last);"
LAST = {"last": [-1], "middle": [1], "both": [1, 2]}
CONSTANTS = {name: np.array(axes, "int64") for name, axes in LAST.items()}


def form(text: str, operators: str, *rules: str, opset: int = 17) -> Form:
    return Form(text, operators, rules, opset=opset, constants=CONSTANTS)


FORMS = {
    "softmax": form(SHIFTED + OVER + "y = Div(e, s)", "Softmax", "softmax"),
    "softmax by Reciprocal": form(SHIFTED + OVER + "r = Reciprocal(s); y = Mul(e, r)", "Softmax", "softmax"),
    "softmax over another axis": form(
        "m = ReduceMax(x, middle); d = Sub(x, m); e = Exp(d); s = ReduceSum(e, middle); y = Div(e, s)",
        "Softmax",
        "softmax",
        opset=18,
    ),
    "softmax without a maximum": form(
        "e = Exp(x); s = ReduceSum(e, last); y = Div(e, s)", "Softmax", "softmax-unshifted"
    ),
    "log softmax": form(SHIFTED + OVER + "l = Log(s); y = Sub(d, l)", "LogSoftmax", "log-softmax"),
    "log softmax by the logarithm of the sum": form(
        SHIFTED + OVER + "l = Log(s); a = Add(m, l); y = Sub(x, a)", "LogSoftmax", "log-softmax"
    ),
    "log softmax by ReduceLogSumExp": form(
        "l = ReduceLogSumExp <axes = [2]> (x); y = Sub(x, l)", "LogSoftmax", "log-softmax"
    ),
    "log of softmax": form("s = Softmax(x); y = Log(s)", "LogSoftmax", "log-of-softmax"),
}

REFUSED = {
    "several axes": form(
        "m = ReduceMax(x, both); d = Sub(x, m); e = Exp(d); s = ReduceSum(e, both); y = Div(e, s)",
        "it is over the axes [1, 2], not over one",
        opset=18,
    ),
    "different axes": form(
        SHIFTED + "e = Exp(d); s = ReduceSum(e, middle); l = Log(s); y = Sub(d, l)",
        "the reductions are over different axes",
    ),
    "no axes": form("e = Exp(x); s = ReduceSum(e); y = Div(e, s)", "names no axes"),
    "dropped dimensions": form(
        "l = ReduceLogSumExp <axes = [0], keepdims = 0> (x); y = Sub(x, l)", "drops the dimensions that it reduces"
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])
