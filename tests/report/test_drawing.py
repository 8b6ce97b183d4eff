"""Runs of equal nodes: folding them never makes a cycle, and what differs is never folded."""

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, ValueInfoProto, helper

from sardonyx.report import model_drawings
from sardonyx.report.drawing import MOST_NODES, DrawnGraph, DrawnNode, draw, drawn_graph, runs
from sardonyx.report.graphs import drawings
from tests import models_for_tests as build
from tests.report.pages import branching, compared, evidence


@st.composite
def graphs(draw_: st.DrawFn) -> list[DrawnNode]:
    count = draw_(st.integers(1, 40))
    nodes = []
    for index in range(count):
        sources = draw_(st.sets(st.integers(max(0, index - 6), index - 1), max_size=3)) if index else set()
        state = draw_(st.sampled_from(["equal", "equal", "equal", "changed", "interface"]))
        nodes.append(DrawnNode(f"n{index}", "Op", tuple(sorted(sources)), state))
    return nodes


@given(graphs())
def test_folding_makes_no_cycle_and_hides_no_change(nodes: list[DrawnNode]) -> None:
    folds = runs(nodes)
    owner = {index: f"run {n}" for n, fold in enumerate(folds) for index in fold}
    folded = nx.DiGraph()
    for index, node in enumerate(nodes):
        target = owner.get(index, index)
        folded.add_node(target)
        folded.add_edges_from(
            (owner.get(source, source), target) for source in node.inputs if owner.get(source, source) != target
        )
    assert nx.is_directed_acyclic_graph(folded)
    assert all(nodes[index].state == "equal" for fold in folds for index in fold)
    assert all(len(fold) >= 3 for fold in folds)
    assert len(owner) == sum(map(len, folds)), "no node is in two runs"


def test_a_path_through_a_change_ends_a_run() -> None:
    equal = [DrawnNode("a", "Op"), DrawnNode("b", "Op", (0,)), DrawnNode("c", "Op", (1,))]
    around = [*equal, DrawnNode("x", "Op", (2,), "changed"), DrawnNode("d", "Op", (2, 3))]
    assert runs(around) == [[0, 1, 2]]
    assert runs([*equal, DrawnNode("d", "Op", (2,))]) == [[0, 1, 2, 3]]


def tensor(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def test_constants_are_not_drawn_and_captured_values_are_inputs() -> None:
    then = helper.make_graph([helper.make_node("Neg", ["h"], ["t"])], "then", [], [tensor("t")])
    other = helper.make_graph([helper.make_node("Abs", ["h"], ["e"])], "else", [], [tensor("e")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=1.0, name="const"),
        helper.make_node("Neg", ["c"], ["negative"], name="of_constants"),
        helper.make_node("Add", ["x", "negative"], ["h"], name="add"),
        helper.make_node("Cast", ["p"], ["q"], to=TensorProto.BOOL, name="cast"),
        helper.make_node("If", ["q"], ["y"], then_branch=then, else_branch=other, name="if"),
    ]
    model = build.model(nodes, {"x": [2], "p": []}, {"y": [2]})
    graph, places = drawn_graph(model.graph, "g")
    assert [(node.name, node.op, node.inputs) for node in graph.nodes] == [
        ("x", "input", ()), ("p", "input", ()), ("add", "Add", (0,)), ("cast", "Cast", (1,)),
        ("if", "If", (3, 2)), ("y", "output", (4,)),
    ]  # fmt: skip
    assert places == {2: 2, 3: 3, 4: 4}


def test_what_differs_is_marked_and_what_is_equal_folds() -> None:
    compared = evidence().comparison
    assert compared is not None
    (drawn,) = drawings(compared)
    before, after = drawn.data["sides"]
    assert before["states"] == ["interface", *["equal"] * 5, "fused", "interface"]
    assert after["ops"][6] == "Neg"
    assert before["folds"] == after["folds"] == [[1, 2, 3, 4, 5]]
    assert set(drawn.data["links"]) >= {(index, index) for index in range(8)}
    assert after["notes"][6].startswith("replaced")


def test_graphs_beyond_what_a_page_holds_are_not_drawn() -> None:
    assert draw([DrawnGraph("g", (DrawnNode("n", "Op"),) * (MOST_NODES + 1))]) is None


def test_bodies_are_drawn_beside_those_they_belong_to() -> None:
    main, *inner = drawings(compared(branching("choose"), branching("pick", last="Exp")))
    assert [(each.title, each.extent) for each in inner] == [
        ("choose.else_branch → pick.else_branch", "2 nodes, equal"),
        ("choose.then_branch → pick.then_branch", "1 nodes, 2 of both sides changed"),
        ("function tests::Twice", "1 nodes, equal"),
    ]
    then = inner[1].data["sides"]
    assert then[0]["ops"] == ["outer value", "Neg", "output"]
    assert then[1]["ops"] == ["outer value", "Exp", "output"]
    assert (0, 0) in inner[1].data["links"], "what both capture is linked"
    assert (1, 1) in inner[1].data["links"]
    place = main.data["sides"][0]["ops"].index("If")
    assert main.data["sides"][0]["states"][place] == "changed"
    assert main.data["sides"][0]["notes"][place].startswith("in its body, Neg")
    assert main.data["sides"][0]["bodies"][place] == (
        ("choose.else_branch", inner[0].anchor),
        ("choose.then_branch", inner[1].anchor),
    )
    call = main.data["sides"][0]["ops"].index("tests.Twice")
    assert main.data["sides"][0]["bodies"][call] == (("function tests::Twice", inner[2].anchor),)


def test_a_body_of_one_model_alone_is_drawn_alone() -> None:
    drawn = drawings(compared(branching("choose"), branching(None)))
    assert [(each.title, len(each.data["sides"])) for each in drawn[1:3]] == [
        ("choose.else_branch", 1),
        ("choose.then_branch", 1),
    ]
    assert drawn[2].data["sides"][0]["states"] == ["interface", "removed", "interface"]


def test_a_weight_that_differs_marks_who_reads_it_in_a_body() -> None:
    main, _, then, *_ = drawings(compared(branching("choose", last="Add"), branching("choose", last="Add", weight=2.0)))
    assert then.data["sides"][1]["states"] == ["interface", "changed", "interface"]
    assert "its weight w: values" in then.data["sides"][1]["notes"][1]
    assert "changed" in main.data["sides"][1]["states"]


def test_the_graphs_of_one_model() -> None:
    main, *inner = model_drawings(branching("choose"))
    assert [each.title for each in inner] == ["choose.else_branch", "choose.then_branch", "function tests::Twice"]
    assert main.anchor == ""
    assert all(each.anchor for each in inner)
