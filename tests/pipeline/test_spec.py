"""Pipelines as text."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.cleanup.cleanup import STEPS, Cleanup
from sardonyx.passes.folding.constants import FoldConstants
from sardonyx.passes.fusion.fuse import Fuse
from sardonyx.passes.quantization.static import QuantizeStatic
from sardonyx.pipeline import Recipe, available_passes, format_pass, format_pipeline, parse_pipeline

PASSES = st.one_of(
    st.builds(Cleanup, disable=st.lists(st.sampled_from(sorted(STEPS)), unique=True, max_size=3).map(tuple)),
    st.builds(
        FoldConstants, max_input_bytes=st.integers(0, 1 << 40), max_growth_bytes=st.integers(-(1 << 40), 1 << 40)
    ),
    st.just(Fuse()),
    st.builds(
        QuantizeStatic,
        calibrator=st.sampled_from(["minmax", "percentile"]),
        percentile=st.floats(50, 100, exclude_min=True),
    ),
)


@given(passes=st.lists(PASSES, max_size=5))
def test_text_builds_what_printed_it(passes: list[Pass]) -> None:
    assert parse_pipeline(format_pipeline(passes), available_passes()) == tuple(passes)


@dataclass(frozen=True)
class EveryKind(Pass):
    """One option of each kind."""

    name = "every-kind"
    summary = "for tests"

    rate: float
    count: int = 1
    word: str = "word"
    flag: bool = False
    several: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        return PassResult(model, modified=False)


@given(
    instance=st.builds(
        EveryKind,
        rate=st.floats(allow_nan=False, allow_infinity=False),
        count=st.integers(),
        word=st.text() | st.sampled_from(["none", "True", " a", 'say "hi"', "back\\slash", "a,b", "7"]),
        flag=st.booleans(),
        several=st.lists(st.text()).map(tuple),
    )
)
def test_any_value_survives_text(instance: EveryKind) -> None:
    assert parse_pipeline(format_pass(instance), {"every-kind": EveryKind}) == (instance,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("every-kind", "needs the option 'rate'"),
        ("every-kind{rate=1, rate=2}", "gives the option 'rate' twice"),
        ("every-kind{rate=1, count=much}", "is much, not a whole number"),
        ("every-kind{rate=1, flag=1}", "is 1, not true or false"),
        ("every-kind{rate=1, word=7}", "is 7, not a word"),
        ('every-kind{rate=1, word="\\q"}', "cannot be understood near .* .column 25."),
        ("every-kind  §", "near '§' .column 13."),
    ],
)
def test_errors_of_any_pass_say_where(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_pipeline(text, {"every-kind": EveryKind})
    assert caught.value.remedy


def test_the_default_recipe_prints_as_it_is_written() -> None:
    passes = parse_pipeline(Recipe().optimize, available_passes())
    assert format_pipeline(passes) == Recipe().optimize


def test_options_at_their_default_are_left_out() -> None:
    assert format_pass(FoldConstants()) == "fold-constants"
    assert format_pass(FoldConstants(max_growth_bytes=7)) == "fold-constants{max_growth_bytes=7}"
    assert format_pass(Cleanup(disable=("remove-identities",))) == "cleanup{disable=[remove-identities]}"


def test_a_single_value_is_a_list_of_one_and_an_integer_a_float() -> None:
    text = "cleanup{disable=remove-identities}, quantize-static{percentile=99}"
    expected = (Cleanup(("remove-identities",)), QuantizeStatic(percentile=99.0))
    assert parse_pipeline(text, available_passes()) == expected


def test_foreign_passes_print_as_their_class() -> None:
    assert format_pass(ir.common_passes.NameFixPass()) == "NameFixPass"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cleanup fold-constants", "lacks a ',' near 'fold-constants'"),
        ("cleanup,", "ends too early"),
        ("cleanup{disable=", "ends too early"),
        ("cleanup{disable", "lacks a '='"),
        ("cleanup{=1}", "lacks a name"),
        ("clean-up", "no pass 'clean-up'"),
        ("cleanup{all=true}", "no option 'all'"),
        ("fold-constants{max_growth_bytes=much}", "is much, not a whole number"),
        ("fold-constants{max_growth_bytes=true}", "is true, not a whole number"),
        ("§", "cannot be understood near '§' .column 1."),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_pipeline(text, available_passes())
    assert caught.value.remedy
