"""What one walk over a model sees."""

from collections.abc import Callable

import numpy as np
import pytest

from sardonyx import ir

MODEL = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[4] x, bool c) => (float[4] z)
<float[4] w = {1, 2, 3, 4}>
{
  h = Mul(x, w)
  z = If(c) <
    then_branch = t () => (float[4] a) { k = Constant <value = float[4] {5, 6, 7, 8}> () a = Add(h, k) },
    else_branch = e () => (float[4] b) { b = Neg(h) }
  >
}
"""


def _read_another(model: ir.Model) -> None:
    model.graph[0].replace_input_with(1, model.graph.inputs[0])


def _set_weight(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.Tensor(np.ones(4, np.float32), name="w")


def _set_attribute(model: ir.Model) -> None:
    model.graph[0].attributes.add(ir.AttrInt64("more", 1))


def _edit_branch(model: ir.Model) -> None:
    branch = next(ir.node_subgraphs(model.graph[1]))
    branch[1].replace_input_with(1, model.graph[0].outputs[0])


def _rename(model: ir.Model) -> None:
    model.graph[0].outputs[0].name = "renamed"
    model.graph[0].metadata_props["seen"] = "yes"


def test_nodes_and_bytes_of_all_graphs() -> None:
    model = ir.from_text(MODEL)
    seen = ir.survey(model)
    assert (seen.nodes, seen.nbytes) == (5, 32)
    shared = model.graph.initializers["w"].const_value
    assert shared is not None
    ir.add_initializer(model.graph, "again", shared)
    assert ir.survey(model).nbytes == 32, "a shared tensor counts once"


@pytest.mark.parametrize("edit", [_read_another, _set_weight, _set_attribute, _edit_branch])
def test_an_edit_changes_the_structure(edit: Callable[[ir.Model], None]) -> None:
    model = ir.from_text(MODEL)
    before = ir.structure(model)
    assert ir.structure(model) == before
    edit(model)
    assert ir.structure(model) != before


def test_names_of_values_and_metadata_are_no_structure() -> None:
    model = ir.from_text(MODEL)
    before = ir.structure(model)
    _rename(model)
    assert ir.structure(model) == before
    assert ir.structure(ir.clone(model)) != before
