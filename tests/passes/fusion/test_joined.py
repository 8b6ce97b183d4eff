"""Products of one value with several matrices."""

from collections.abc import Mapping

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from tests import models_for_tests as build
from tests.passes.fusion.forms import Form, check_becomes, check_refused

MATRICES: Mapping[str, np.ndarray] = {
    "q": build.weights(8, 8, seed=1),
    "k": build.weights(8, 8, seed=2),
    "v": build.weights(8, 8, seed=3),
    "wide": build.weights(8, 16, seed=4),
    "stack": build.weights(1, 8, 8, seed=5),
    "tall": build.weights(16, 8, seed=10),
    "large": build.weights(8, 40000, seed=6),
    "bq": build.weights(8, seed=7),
    "bk": build.weights(8, seed=8),
    "rows": build.weights(4, 1, seed=9),
}
SUM = "d = Sub(a, b); y = Sub(d, c)"


def form(text: str, operators: str, *rules: str, opset: int = 17) -> Form:
    return Form(text, operators, rules, opset=opset, constants=MATRICES)


FORMS = {
    "queries, keys and values": form(
        "a = MatMul(x, q); b = MatMul(x, k); c = MatMul(x, v);" + SUM, "MatMul Split Sub Sub", "join-matmuls"
    ),
    "with biases": form(
        "m = MatMul(x, q); a = Add(m, bq); n = MatMul(x, k); b = Add(bk, n); y = Sub(a, b)",
        "MatMul Add Split Sub",
        "join-matmuls",
    ),
    "with a bias and without": form(
        "m = MatMul(x, q); a = Add(m, bq); b = MatMul(x, k); c = MatMul(x, v);" + SUM,
        "MatMul Split MatMul Add Sub Sub",
        "join-matmuls",
    ),
    "of different widths": form(
        "a = MatMul(x, q); w = MatMul(x, wide); b = MatMul(w, tall); y = Sub(a, b)",
        "MatMul Split MatMul Sub",
        "join-matmuls",
    ),
    "used before the last of them": form(
        "a = MatMul(x, q); e = Tanh(a); b = MatMul(x, k); y = Sub(e, b)", "MatMul Split Tanh Sub", "join-matmuls"
    ),
    "with biases that are no rows": form(
        "m = MatMul(x, q); a = Add(m, rows); n = MatMul(x, k); b = Add(n, rows); y = Sub(a, b)",
        "MatMul Split Add Add Sub",
        "join-matmuls",
    ),
}

REFUSED = {
    "a large matrix that others read": form(
        "a = MatMul(x, large); b = MatMul(x, q); n = Neg(large); t = ReduceMax <keepdims = 0> (n);"
        "m = ReduceMax <axes = [-1]> (a); c = Sub(m, t); y = Sub(b, c)",
        "other nodes use large too",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_becomes_what(case: str) -> None:
    check_becomes(FORMS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(REFUSED[case])


@pytest.mark.parametrize(
    "text",
    [
        "a = MatMul(x, q); t = Tanh(x); b = MatMul(t, k); y = Sub(a, b)",
        "a = MatMul(x, q); b = MatMul(x, stack); y = Sub(a, b)",
        "m = MatMul(x, q); a = Add(m, bq); b = MatMul(x, k); y = Sub(a, b)",
    ],
    ids=["of different values", "by a stack of matrices", "one of two with a bias"],
)
def test_products_that_are_no_columns_of_one_stay(text: str) -> None:
    check_becomes(form(text, " ".join(node.op_type for node in form(text, "").model().graph.node)))


def test_a_split_of_an_old_opset_is_refused() -> None:
    model = ir.load(FORMS["queries, keys and values"].model()).model
    model.opset_imports[""] = 12  # a model that could not be raised when it was loaded
    result = Fuse(enable=("join-matmuls",)).apply(model, PassContext())
    assert [refusal.reason for refusal in result.refusals] == ["Split needs opset 13, the model has 12"]
