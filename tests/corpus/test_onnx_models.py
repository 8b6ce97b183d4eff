"""All models that the onnx package carries: load, optimize, run, compare. About 2,050, with every operator."""

import logging
from collections.abc import Iterable

import pytest

from tests.corpus import cases
from tests.corpus.cases import Case
from tests.corpus.report import EXCLUDED, Tally

SHARDS = 8


def check(found: Iterable[Case]) -> Tally:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    tally = Tally()
    for case in found:
        tally.add(case)
    assert tally.failures == []
    assert tally.undone == []
    return tally


@pytest.mark.parametrize("shard", range(SHARDS))
def test_node_tests(shard: int) -> None:
    tally = check(cases.node_tests()[shard::SHARDS])
    assert tally.counts["equal"] > 220


@pytest.mark.parametrize("kind", cases.SETS)
def test_data_sets(kind: str) -> None:
    check(cases.data_set(kind))


@pytest.mark.parametrize(
    "name",
    [
        "shufflenet",
        "squeezenet",
        *(pytest.param(n, marks=pytest.mark.slow) for n in cases.FILLED if n not in ("shufflenet", "squeezenet")),
    ],
)
def test_architectures_with_weights(name: str) -> None:
    tally = check([cases.filled_architecture(name)])
    assert tally.counts["changed"] == 1


@pytest.mark.slow  # hundreds of megabytes of constant weights
def test_architectures() -> None:
    tally = check(cases.architectures())
    assert tally.counts["equal"] == tally.counts["changed"] == 9


def test_exclusions_are_of_cases_that_exist() -> None:
    names = {case.name for kind in cases.SETS for case in cases.data_set(kind)} | {c.name for c in cases.node_tests()}
    assert set(EXCLUDED) <= names
