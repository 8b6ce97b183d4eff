"""Shape inference: what it learns, what it leaves alone, and how it fails."""

import numpy as np
from onnx import numpy_helper

from sardonyx import ir


def shapes(model: ir.Model) -> dict[str, str]:
    return {
        output.name or "": f"{output.dtype}{output.shape}"
        for graph in ir.all_graphs(model)
        for node in graph
        for output in node.outputs
    }


def text(body: str, *, inputs: str = "float[N, 4] x", outputs: str = "y", infos: str = "") -> ir.Model:
    return ir.from_text(f"""
        <ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
        g ({inputs}) => ({outputs}) {infos} {{ {body} }}""")


def test_everything_is_inferred_once() -> None:
    model = text("shape = Constant <value_ints = [-1, 2]> () h = Reshape(x, shape) y = Neg(h)")
    report = ir.infer_shapes(model)
    assert (report.changed, report.failures, report.corrected) == (True, (), ())
    assert shapes(model)["shape"] == "INT64[2]"
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert model.graph.outputs[0].shape[1] == 2
    assert not ir.infer_shapes(model).changed


def test_large_weights_take_part_by_shape_only() -> None:
    model = text("y = MatMul(x, w)", infos="<float[4, 900] w>")
    model.graph.initializers.clear()
    data = ir.LazyTensor(_never_read, dtype=ir.DataType.FLOAT, shape=ir.Shape([4, 900]), name="w")
    value = ir.add_initializer(model.graph, "w", data)
    model.graph[0].replace_input_with(1, value)
    ir.infer_shapes(model)
    assert str(model.graph.outputs[0].shape) == "[N,900]"
    assert value.const_value is data


def _never_read() -> ir.TensorProtocol:
    raise AssertionError("the weight was read")


def test_a_proto_of_the_model_saves_serialising_it() -> None:
    model = text(
        """shape = Constant <value_ints = [-1, 2]> () h = Reshape(x, shape)
        y = If(c) <
            then_branch = t () => (float[3, 3, 3] same) { same = Neg(h) },
            else_branch = e () => (square) { square = Mul(h, h) }
        >""",
        inputs="float[N, 4] x, bool c",
        infos="<float[7] h>",
    )
    proto = ir.to_proto(model)
    proto.graph.node[2].attribute[0].g.initializer.append(numpy_helper.from_array(np.zeros(400, np.float32), "large"))
    given = proto.SerializeToString()
    other = ir.load(proto, opset=None).model
    assert ir.infer_shapes(model).corrected == ("h", "same")
    assert shapes(model) == shapes(other)
    assert len(set(shapes(model).values())) == 2
    assert proto.SerializeToString() == given


def test_better_knowledge_stays() -> None:
    model = text("h = Relu(x) y = Neg(h)", outputs="float[batch, 4] y", infos="<float[2, 4] h>")
    report = ir.infer_shapes(model)
    assert report.corrected == ()
    assert shapes(model) == {"h": "FLOAT[2,4]", "y": "FLOAT[batch,4]"}


def test_contradictions_are_corrected() -> None:
    model = text("h = Relu(x) y = Neg(h)", outputs="int64[7] y", infos="<float[N, 5] h>")
    report = ir.infer_shapes(model)
    assert report.corrected == ("h", "y")
    assert shapes(model) == {"h": "FLOAT[N,4]", "y": "FLOAT[N,4]"}


def test_inference_goes_on_behind_custom_operators() -> None:
    model = text("h = custom.Foo(x) k = Relu(h) y = Neg(k)", infos="<float[N, 6] h>")
    assert ir.infer_shapes(model).failures == ()
    assert shapes(model) == {"h": "FLOAT[N,6]", "k": "FLOAT[N,6]", "y": "FLOAT[N,6]"}


def test_failure_is_reported_with_its_cause() -> None:
    model = text("[bad] h = MatMul(x, x) k = Relu(h) y = Neg(k)", inputs="float[3, 4] x")
    report = ir.infer_shapes(model)
    assert len(report.failures) == 1
    assert "node name: bad" in report.failures[0]
    assert "Incompatible dimensions" in report.failures[0]


def test_subgraphs() -> None:
    model = text(
        """y = If(c) <
             then_branch = t () => (a) { p = Shape(x) a = Relu(x) },
             else_branch = e () => (b) { b = Neg(x) }>""",
        inputs="float[N, 4] x, bool c",
    )
    ir.infer_shapes(model)
    assert shapes(model) == {"y": "FLOAT[N,4]", "p": "INT64[2]", "a": "FLOAT[N,4]", "b": "FLOAT[N,4]"}


def test_invented_symbols_stay_inside() -> None:
    model = text("h = NonZero(x) y = Neg(h)")
    ir.infer_shapes(model)
    assert np.array_equal(
        [dim if isinstance(dim, int) else dim.value for dim in model.graph.outputs[0].shape], [2, None]
    )


def test_sizes_of_a_computed_reshape_are_known() -> None:
    model = text(
        """s = Shape(x) n = Gather<axis = 0>(s, first) t = Concat<axis = 0>(n, rest) h = Reshape(x, t)
           y = Transpose<perm = [0, 2, 1]>(h)""",
        infos="<int64[1] first = {0}, int64[2] rest = {2, 2}>",
    )
    ir.infer_shapes(model)
    assert shapes(model)["y"] == "FLOAT[N,2,2]"
    assert not ir.infer_shapes(model).changed


def contributed(body: str, infos: str) -> dict[str, str]:
    model = ir.from_text(f"""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N, S, 8] x) => (y) {infos} {{ {body} }}""")
    assert ir.infer_shapes(model).failures == ()
    return shapes(model)


def test_contributed_operators_pass_sizes_on() -> None:
    found = contributed(
        """g = com.microsoft.Gelu(x) q = com.microsoft.QuickGelu(g) b = com.microsoft.BiasGelu(q, bias)
           n, m, v, k = com.microsoft.SkipLayerNormalization(b, x, bias, bias) r = Relu(n)
           a = com.microsoft.MultiHeadAttention<num_heads = 2>(r, r, r)
           f = com.microsoft.FusedMatMul<transB = 1>(a, w) h = Neg(f) z = Shape(k) y = Exp(h)""",
        "<float[8] bias, float[5, 8] w>",
    )
    assert {found[name] for name in "gqbnkra"} == {"FLOAT[N,S,8]"}
    assert {found[name] for name in "fhy"} == {"FLOAT[N,S,5]"}
    assert found["z"] == "INT64[3]"


def test_attention_with_symbolic_sizes() -> None:
    model = ir.from_text("""
        <ir_version: 11, opset_import: ["" : 23]>
        g (float[N, L, 8] q, float[N, T, 4] k, float[N, T, 6] v) => (y) {
            y = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v) }""")
    ir.infer_shapes(model)
    assert shapes(model) == {"y": "FLOAT[N,L,12]"}


def _append_neg(model: ir.Model, *, known: bool) -> ir.Value:
    """Reads the model's output once more."""
    output = model.graph.outputs[0]
    node = ir.Node("", "Neg", [output], name="again")
    node.outputs[0].name = "z"
    if known:
        node.outputs[0].type, node.outputs[0].shape = output.type, ir.Shape(output.shape)
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]
    return node.outputs[0]


def test_an_edit_that_leaves_a_value_unknown_is_inferred() -> None:
    model = text("y = Neg(x)")
    ir.ensure_shapes(model)
    value = _append_neg(model, known=False)
    assert ir.ensure_shapes(model).changed
    assert str(value.shape) == "[N,4]"


def test_a_name_that_no_input_has_is_not_known() -> None:
    model = text("y = Reshape(x, shape)", inputs="float[N, 4] x, int64[1] shape", infos="<float[made_up] y>")
    ir.ensure_shapes(model)
    model.graph.inputs.remove(model.graph.inputs[1])
    shape = ir.add_initializer(model.graph, "fixed", np.array([8]))
    model.graph[0].replace_input_with(1, shape)
    assert ir.ensure_shapes(model).changed
    assert str(model.graph.outputs[0].shape) == "[8]"


def test_other_inputs_are_inferred_anew() -> None:
    model = text("y = Neg(x)", inputs="float[2, 4] x")
    ir.ensure_shapes(model)
    model.graph.inputs[0].shape = ir.Shape([3, 4])
    assert ir.ensure_shapes(model).corrected == ("y",)
    assert str(model.graph.outputs[0].shape) == "[3,4]"


def test_an_edit_that_changes_a_size_is_seen_though_all_sizes_were_known() -> None:
    model = text("y = Reshape(x, shape)", inputs="float[2, 6] x, int64[2] shape")
    model.graph.inputs.remove(model.graph.inputs[1])
    for sizes, name in (([3, 4], "first"), ([12, 1], "second")):
        model.graph[0].replace_input_with(1, ir.add_initializer(model.graph, name, np.array(sizes)))
        ir.ensure_shapes(model)
        assert model.graph.outputs[0].shape is not None
        assert tuple(model.graph.outputs[0].shape) == tuple(sizes)
