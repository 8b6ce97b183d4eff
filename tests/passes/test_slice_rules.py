"""Rules for slices, concatenations, splits and moves between channels and space."""

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from tests import models_for_tests as build
from tests.passes.rule_cases import RuleCase, check_refused, check_rewritten, ints, node

IMAGE = {"x": (2, 3, 8, 6)}
FAR = 2**63 - 1
SIZES = ({"N": 4}, {"N": 9})
PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))


def cut(x: str, out: str, axis: int, start: int, stop: int, step: int = 1) -> tuple[list, dict]:
    """A Slice of one axis and its constants."""
    numbers = {"starts": start, "ends": stop, "axes": axis, "steps": step}
    names = {part: f"{out}_{part}" for part in numbers}
    return [node("Slice", [x, *names.values()], [out])], {names[part]: ints(n) for part, n in numbers.items()}


def cuts(*parts: tuple, then: list = (), **constants: np.ndarray) -> tuple[list, dict]:
    """Several Slices, and nodes behind them."""
    made = [cut(*part) for part in parts]
    nodes = [inner for nodes, _ in made for inner in nodes] + list(then)
    return nodes, {name: array for _, some in made for name, array in some.items()} | constants


def slices(*taken: tuple[int, ...], to: tuple[str, ...], rule: str = "merge-slices", **kw) -> RuleCase:
    parts = [("x" if i == 0 else f"s{i - 1}", f"s{i}", *numbers) for i, numbers in enumerate(taken)]
    nodes, constants = cuts(*parts, then=[node("Exp", [f"s{len(taken) - 1}"], ["y"])])
    return RuleCase(nodes, constants, (*to, "Exp"), {rule: 1} if rule else {}, **kw)


def focus(order: tuple[int, ...] = (0, 1, 2, 3), group: int = 1) -> RuleCase:
    """The first layer of YOLO."""
    parts = []
    for row, column in (PHASES[i] for i in order):
        name = f"p{row}{column}"
        parts += [("x", f"{name}r", 2, row, FAR, 2), (f"{name}r", name, 3, column, FAR, 2)]
    then = [
        node("Concat", [part[1] for part in parts[1::2]], ["c"], axis=1),
        node("Conv", ["c", "w"], ["y"], pads=[1, 1, 1, 1], group=group),
    ]
    weight = build.weights(4, 12 // group, 3, 3, seed=3)
    rules = {"merge-slices": 4, "focus-to-space-to-depth": 1}
    return RuleCase(*cuts(*parts, then=then, w=weight), ("SpaceToDepth", "Conv"), rules, IMAGE)


def blocks(split: tuple[int, ...], perm: tuple[int, ...], end: tuple[int, ...], op: str = "", **kw) -> RuleCase:
    nodes = [
        node("Reshape", ["x", "a"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=perm),
        node("Reshape", ["t", "b"], ["y"]),
    ]
    return RuleCase(nodes, {"a": ints(*split), "b": ints(*end)}, [op], {"move-channels": 1}, **kw)


REWRITTEN = {
    "slices of two axes": slices((2, 2, 99, 2), (-1, 1, -1), to=("Slice",)),
    "slices of one axis": slices((2, 1, 8, 2), (2, 1, FAR, 2), to=("Slice",), inputs={"x": (2, 3, 8)}),
    "slices of one dynamic axis": slices((0, 1, 8), (0, 1, 3), to=("Slice",), inputs={"x": ("N", 3)}, at=SIZES),
    "slices from the back": slices((1, -4, -1), (1, -2, FAR), to=("Slice",), inputs={"x": (2, 7)}),
    "slice of all": slices((2, 0, FAR), to=(), rule="remove-slice", inputs={"x": (2, 3, "N")}, at=SIZES),
    "slice of all that there is": slices((2, -8, 8), to=(), rule="remove-slice", inputs={"x": (2, 3, 8)}),
    "index of a slice": RuleCase(
        *cuts(("x", "s", 1, -1, FAR), then=[node("Squeeze", ["s", "a"], ["y"])], a=ints(1)),
        ["Gather"],
        {"pick-index": 1},
        {"x": (2, "N", 5)},
        SIZES,
    ),
    "index of a gather": RuleCase(
        [node("Gather", ["x", "i"], ["g"], axis=2), node("Squeeze", ["g", "a"], ["y"])],
        {"i": ints(3), "a": ints(-2)},
        ["Gather"],
        {"pick-index": 1},
    ),
    "index put back": RuleCase(
        [node("Gather", ["x", "i"], ["g"], axis=-1), node("Unsqueeze", ["g", "a"], ["y"])],
        {"i": np.array(-2, np.int64), "a": ints(3)},
        ["Slice"],
        {"slice-index": 1},
    ),
    "slices that tile": RuleCase(
        *cuts(("x", "b", 3, 2, FAR), ("x", "a", 3, 0, 2)),
        ["Split"],
        {"slices-to-split": 1},
        outputs=("a", "b"),
    ),
    "parts in order": RuleCase(
        *cuts(("x", "a", 2, 0, 1), ("x", "b", 2, 1, 4), then=[node("Concat", ["x", "a", "b"], ["y"], axis=2)]),
        ["Concat"],
        {"restore-parts": 1},
    ),
    "split and concat": RuleCase(
        [
            node("Split", ["x", "s"], ["a", "b"], axis=1),
            node("Concat", ["a", "b"], ["c"], axis=-2),
            node("Exp", ["c"], ["y"]),
        ],
        {"s": ints(1, 2)},
        ["Exp"],
        {"restore-parts": 1},
        {"x": (2, 3, "N")},
        SIZES,
    ),
    "concat of concat": RuleCase(
        [node("Concat", ["x", "x"], ["c"], axis=1), node("Concat", ["x", "c", "x"], ["y"], axis=-3)],
        {},
        ["Concat"],
        {"merge-concats": 1},
    ),
    "split of which one part is used": RuleCase(
        [node("Split", ["x"], ["a", "b", "c"], axis=1), node("Exp", ["b"], ["y"])],
        {},
        ["Slice", "Exp"],
        {"split-to-slice": 1},
    ),
    "focus": focus(),
    "focus in another order": focus((3, 1, 0, 2)),
    "depth to space DCR": blocks(
        (-1, 2, 2, 3, 4, 5), (0, 3, 4, 1, 5, 2), (-1, 3, 8, 10), "DepthToSpace", inputs={"x": ("N", 12, 4, 5)}, at=SIZES
    ),
    "depth to space CRD": blocks(
        (2, 3, 2, 2, 4, 5), (0, 1, 4, 2, 5, 3), (2, 3, 8, 10), "DepthToSpace", inputs={"x": (2, 12, 4, 5)}
    ),
    "space to depth": blocks(
        (0, 3, 4, 2, 3, 2), (0, 3, 5, 1, 2, 4), (0, 12, 4, 3), "SpaceToDepth", inputs={"x": ("N", 3, 8, 6)}, at=SIZES
    ),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_what_becomes_what(case: str) -> None:
    check_rewritten(REWRITTEN[case])


REFUSED: dict[str, tuple[RuleCase, str, str]] = {
    "slices from the back of a dynamic axis": (
        slices((0, 1, FAR), (0, -2, FAR), to=(), inputs={"x": ("N", 3)}),
        "merge-slices",
        "both slice axis 0, backwards or from the end of an unknown size",
    ),
    "slices that go backwards": (
        slices((1, -1, -99, -1), (1, 0, 2), to=()),
        "merge-slices",
        "both slice axis 1, backwards",
    ),
    "a slice of some": (slices((0, 0, 3), to=(), inputs={"x": ("N", 3)}), "remove-slice", "does not take all, or may"),
    "a computed slice": (
        RuleCase(
            [node("Shape", ["b"], ["e"]), node("Slice", ["x", "s", "e", "s"], ["y"])],
            {"s": ints(0)},
            inputs={"x": (2, 3), "b": ("N",)},
        ),
        "remove-slice",
        "are not constant",
    ),
    "two indices": (
        RuleCase(
            *cuts(("x", "s", 1, 0, 2), then=[node("Squeeze", ["s", "a"], ["y"])], a=ints(0)), inputs={"x": (1, 3)}
        ),
        "pick-index",
        "takes more than one index",
    ),
    "another axis": (
        RuleCase(
            *cuts(("x", "s", 1, 0, 1), then=[node("Squeeze", ["s", "a"], ["y"])], a=ints(0)), inputs={"x": (1, 3)}
        ),
        "pick-index",
        "does not remove just axis 1",
    ),
    "an index that may be out of range": (
        RuleCase(
            [node("Gather", ["x", "i"], ["g"]), node("Unsqueeze", ["g", "a"], ["y"])],
            {"i": np.array(1, np.int64), "a": ints(0)},
            inputs={"x": ("N", 3)},
        ),
        "slice-index",
        "i may be out of the range of axis 0 of x",
    ),
    "slices that overlap": (
        RuleCase(*cuts(("x", "a", 3, 0, 4), ("x", "b", 3, 3, 6), then=[node("Concat", ["a", "b"], ["y"], axis=3)])),
        "slices-to-split",
        "other slices of x do not complete it",
    ),
    "parts in another order": (
        RuleCase(*cuts(("x", "a", 3, 0, 3), ("x", "b", 3, 3, 6), then=[node("Concat", ["b", "a"], ["y"], axis=3)])),
        "restore-parts",
        "are all parts of one value in order",
    ),
    "a concat along another axis": (
        RuleCase([node("Concat", ["x", "x"], ["c"], axis=1), node("Concat", ["c", "c"], ["y"], axis=2)]),
        "merge-concats",
        "reads no Concat along the same axis",
    ),
    "two used parts": (
        RuleCase([node("Split", ["x"], ["a", "b", "c"], axis=1), node("Add", ["a", "b"], ["y"])]),
        "split-to-slice",
        "2 outputs of",
    ),
    "a grouped convolution": (focus(group=2), "focus-to-space-to-depth", "does not read the four phases"),
    "pixels in another order": (
        blocks((2, 3, 4, 2, 3, 2), (0, 1, 3, 5, 2, 4), (2, 12, 4, 3), inputs=IMAGE),
        "move-channels",
        "moves no blocks of channels",
    ),
    "blocks that are not square": (
        blocks((2, 3, 4, 2, 2, 3), (0, 3, 5, 1, 2, 4), (2, 18, 4, 2), inputs=IMAGE),
        "move-channels",
        "moves no blocks of channels",
    ),
    "five axes": (
        blocks((2, 3, 4, 2, 6), (0, 3, 1, 2, 4), (2, 6, 4, 6), inputs=IMAGE),
        "move-channels",
        "is not known to part 4 axes into 6",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(*REFUSED[case])


@pytest.mark.parametrize("case", ["index put back", "split of which one part is used", "depth to space DCR"])
def test_an_old_opset_is_refused(case: str) -> None:
    model = ir.load(REWRITTEN[case].source()).model
    model.opset_imports[""] = 9
    result = Fuse().apply(model, PassContext())
    assert any("the model has 9" in refusal.reason for refusal in result.refusals)
