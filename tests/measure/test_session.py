import numpy as np
import pytest
from onnx import TensorProto, helper

from sardonyx.errors import BackendError, DataError, LoadError
from sardonyx.measure import Session, SessionOptions, TensorSpec
from tests.measure.measure_models import build, scale_model

X = np.array([[1.0, 2.0, -3.0]], np.float32)


def cast_model(to: int) -> bytes:
    return build(
        [
            helper.make_node("Cast", ["x"], ["y"], to=to),
            helper.make_node("Cast", ["x"], ["z"], to=TensorProto.INT64),
        ],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", to, ["N", 3]), ("z", TensorProto.INT64, ["N", 3])],
    )


def test_runs_a_file_and_tells_its_inputs_and_outputs(scale_path):
    with Session(scale_path) as session:
        assert session.inputs == (TensorSpec("x", np.dtype("float32"), ("N", 3)),)
        assert [o.name for o in session.outputs] == ["y"]
        np.testing.assert_array_equal(session.run({"x": X})[0], 2 * X)


@pytest.mark.parametrize("optimization", ["all", "extended", "basic", "disabled"])
def test_runs_a_model_in_memory_with_every_option(optimization):
    options = SessionOptions(threads=2, optimization=optimization, arena=False, prepack=optimization != "all")
    np.testing.assert_array_equal(Session(scale_model(), options=options).run({"x": X})[0], 2 * X)


def test_gives_only_the_outputs_asked_for_in_that_order():
    session = Session(cast_model(TensorProto.FLOAT16))
    z, y = session.run({"x": X}, ["z", "y"])
    assert (z.dtype, y.dtype) == (np.int64, np.float16)
    assert len(session.run({"x": X}, ["z"])) == 1


@pytest.mark.parametrize(
    ("element", "carrier", "expected"),
    [
        (TensorProto.BFLOAT16, "float32", [1, 2, -3]),
        (TensorProto.FLOAT8E4M3FN, "float32", [1, 2, -3]),
        (TensorProto.FLOAT8E5M2, "float32", [1, 2, -3]),
        (TensorProto.INT4, "int8", [1, 2, -3]),
        (TensorProto.UINT4, "uint8", [1, 2, 13]),
        (TensorProto.FLOAT16, "float16", [1, 2, -3]),
        (TensorProto.BOOL, "bool", [True, True, True]),
    ],
)
def test_widens_the_types_that_numpy_lacks(element, carrier, expected):
    session = Session(cast_model(element))
    y, z = session.run({"x": X})
    assert session.outputs[0].dtype == y.dtype == np.dtype(carrier)
    np.testing.assert_array_equal(y, [expected])
    np.testing.assert_array_equal(z, [[1, 2, -3]])


def test_string_outputs_are_arrays_of_objects():
    y, _ = Session(cast_model(TensorProto.STRING)).run({"x": X})
    assert y.tolist() == [["1", "2", "-3"]]


def test_takes_float32_for_a_bfloat16_input_and_rounds_it():
    model = build(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        [("x", TensorProto.BFLOAT16, [2])],
        [("y", TensorProto.FLOAT, [2])],
    )
    session = Session(model)
    assert session.inputs[0].dtype == np.float32
    y = session.run({"x": np.array([1.0, 3.001], np.float32)})[0]
    np.testing.assert_array_equal(y, np.array([1.0, 3.0], np.float32))


def test_a_sequence_output_is_an_array_of_objects():
    model = build(
        [
            helper.make_node("SplitToSequence", ["x"], ["s"], axis=1),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, [1, 3])],
        [("y", TensorProto.FLOAT, [1, 3])],
    )
    import onnx

    proto = onnx.load_from_string(model)
    proto.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    session = Session(proto.SerializeToString())
    parts = session.run({"x": X})[1]
    assert session.outputs[1].dtype is None
    assert [part.shape for part in parts] == [(1, 1)] * 3


def test_a_writer_fills_the_same_arrays_run_after_run(scale_path):
    with Session(scale_path) as session:
        rows = np.zeros((3, 1, 3), np.float32)
        for factor, row in enumerate(rows, 1):
            write = session.writer({"y": row})
            write({"x": factor * X})
            write({"x": np.asfortranarray(factor * X)})
        np.testing.assert_array_equal(rows[:, 0], 2 * X * np.array([[1], [2], [3]]))


def test_a_writer_refuses_other_shapes_and_feeds_that_do_not_fit(scale_path):
    with Session(scale_path) as session:
        write = session.writer({"y": np.zeros((2, 3), np.float32)})
        with pytest.raises(BackendError, match="failed to run"):
            write({"x": X})
        with pytest.raises(DataError, match="'x'"):
            write({"x": X.astype(np.float64)})


def test_types_that_numpy_lacks_cannot_be_written_to_arrays():
    with Session(cast_model(TensorProto.BFLOAT16)) as session:
        assert session.writer({"z": np.zeros((1, 3), np.int64)}) is None


def test_a_missing_file_is_a_load_error(tmp_path):
    with pytest.raises(LoadError, match=r"none\.onnx: no such file"):
        Session(tmp_path / "none.onnx")


def test_a_refused_model_gives_the_reason_in_one_line(tmp_path, capfd):
    path = tmp_path / "broken.onnx"
    path.write_bytes(scale_model()[:-40])
    with pytest.raises(BackendError) as caught:
        Session(path)
    assert "broken.onnx" in caught.value.message
    assert "\n" not in caught.value.message
    assert "[ONNXRuntimeError]" not in caught.value.message
    assert caught.value.remedy
    assert capfd.readouterr().err == ""


def test_a_failing_run_names_the_node_and_is_quiet(capfd):
    model = build(
        [helper.make_node("MatMul", ["x", "x"], ["y"], name="square")],
        [("x", TensorProto.FLOAT, ["N", "M"])],
        [("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(BackendError, match="square"):
        Session(model).run({"x": X})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": X.astype(np.float64)}, "float64, expected float32"),
        ({"X": X}, "no input 'X'"),
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 4), np.float32)}, "4 on axis 1"),
        ({"x": np.zeros(3, np.float32)}, "rank 1"),
        ({"x": [[1.0, 2.0, 3.0]]}, "is of type list"),
        ({"x": np.array([[1.0, np.nan, np.inf]], np.float32)}, "2 NaN or infinite"),
    ],
)
def test_a_feed_that_does_not_fit_is_a_data_error(scale_path, feed, message):
    with pytest.raises(DataError, match=message) as caught:
        Session(scale_path).check(feed)
    assert caught.value.remedy


def test_a_run_that_fails_for_its_feed_says_what_is_wrong_with_it(scale_path):
    with pytest.raises(DataError, match="float64, expected float32"):
        Session(scale_path).run({"x": X.astype(np.float64)})


def test_a_closed_session_does_not_run(scale_path):
    session = Session(scale_path)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run({"x": X})
