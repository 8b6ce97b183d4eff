import gc
import weakref

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sardonyx.errors import DataError
from sardonyx.measure import TensorSpec, load_samples

SPECS = (TensorSpec("x", np.dtype("float32"), ("N", 3)),)


def feeds(count):
    return [{"x": np.full((1, 3), i, np.float32)} for i in range(count)]


def values(samples, name="x"):
    return [int(feed[name].flat[0]) for feed in samples]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current directory and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="user_samples"):
        (tmp_path / f"{name}.py").write_text("import numpy as np\n" + text)
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
        return name

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_stack_gives_samples_of_one_row_with_scalars_repeated(tmp_path, save):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    save(tmp_path / "s.npz", x=x, f=np.asfortranarray(x), one=np.arange(4), sr=np.array(16000))
    samples = load_samples(tmp_path / "s.npz")
    assert samples.len_hint == 4
    for _ in range(2):
        for i, feed in enumerate(samples):
            assert {k: v.shape for k, v in feed.items()} == {"x": (1, 3), "f": (1, 3), "one": (1,), "sr": ()}
            np.testing.assert_array_equal(feed["x"], x[i : i + 1])
            np.testing.assert_array_equal(feed["f"], x[i : i + 1])
            assert (feed["one"][0], feed["sr"]) == (i, 16000)
    assert i == 3


def test_a_stack_whose_inputs_differ_in_length_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", a=np.zeros((4, 3)), b=np.zeros((5, 3)))
    with pytest.raises(DataError, match="a: 4, b: 5"):
        load_samples(tmp_path / "s.npz")


def test_a_broken_stack_is_a_data_error(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((400, 3)))
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}]))
    for name in ("s.npz", "objects.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load_samples(tmp_path / name)


def test_a_folder_of_npz_is_one_sample_each_in_natural_order(tmp_path):
    for i in (10, 2, 1):
        np.savez(tmp_path / f"sample_{i}.npz", x=np.full((1, i), i))  # shapes may vary
    assert values(load_samples(tmp_path)) == [1, 2, 10]


def test_a_folder_of_npy_is_for_models_with_one_input(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((1, 3), i, np.float32))
    assert values(load_samples(tmp_path).checked(SPECS)) == [0, 1, 2]


def test_onnx_test_data_gets_its_names_from_the_model(tmp_path):
    for i in (0, 1, 10):
        folder = tmp_path / f"test_data_set_{i}"
        folder.mkdir()
        for k in (0, 1):
            onnx.save_tensor(onnx.numpy_helper.from_array(np.full((1, 3), i + k, np.float32)), folder / f"input_{k}.pb")
        onnx.save_tensor(onnx.numpy_helper.from_array(np.zeros(1)), folder / "output_0.pb")
    specs = [TensorSpec(name, np.dtype("float32"), (1, 3)) for name in ("a", "b")]
    for samples in (load_samples(tmp_path).named_for(specs), load_samples(str(tmp_path)).checked(specs)):
        assert (values(samples, "a"), values(samples, "b")) == ([0, 1, 10], [1, 2, 11])
    assert values(load_samples(tmp_path / "test_data_set_10").named_for(specs), "b") == [11]
    with pytest.raises(DataError, match=r"sample 0 has an input number 1.*1 input"):
        list(load_samples(tmp_path).named_for(SPECS))


def test_a_file_that_holds_no_tensor_is_a_data_error(tmp_path):
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    for content in (b"", b"\xff\xff not protobuf"):
        (folder / "input_0.pb").write_bytes(content)
        with pytest.raises(DataError, match=r"input_0\.pb"):
            list(load_samples(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.npz", "no samples at"), ("empty", "holds no samples"), ("a.txt", "not an .npz")],
)
def test_a_path_without_samples_is_a_data_error(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=message) as caught:
        load_samples(tmp_path / name)
    assert caught.value.remedy


ROWS = "[{'x': np.full((1, 3), i, np.float32)} for i in range(3)]"


@pytest.mark.parametrize(
    "text",
    [
        f"def calib():\n    return {ROWS}",
        f"def calib():\n    yield from {ROWS}",
        f"def calib():\n    return lambda: iter({ROWS})",
        f"calib = lambda: tuple({ROWS})",
    ],
)
def test_a_function_by_its_path_can_be_iterated_again(module, text):
    samples = load_samples(f"{module(text)}:calib")
    assert values(samples) == values(samples) == [0, 1, 2]


def test_a_function_that_returns_a_list_is_called_once_and_a_generator_function_each_time(module):
    calls = []

    def as_list():
        calls.append("list")
        return feeds(2)

    def as_generator():
        calls.append("generator")
        yield from feeds(2)

    for function in (as_list, as_generator):
        samples = load_samples(function)
        assert values(samples) == values(samples) == [0, 1]
    assert calls == ["list", "generator", "generator"]


def test_a_function_path_leaves_the_search_path_alone(module):
    import sys

    before = list(sys.path)
    load_samples(f"{module(f'calib = lambda: {ROWS}')}:calib")
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("x = 1", "missing", "has no 'missing'"),
        ("x = 1", "x", "is of type int"),
        ("import not_installed_anywhere", "f", "imports 'not_installed_anywhere'"),
        ("raise KeyError('at import')", "f", "KeyError: 'at import'"),
        ("def f():\n    raise KeyError('at call')", "f", "raised KeyError: 'at call'"),
        ("def f():\n    yield {}\n    raise KeyError('late')", "f", "at sample 1, raised KeyError"),
        ("def f():\n    return 3", "f", "returned int"),
        ("def f():\n    return [np.zeros(3)]", "f", "sample 0 is of type ndarray, not a feed"),
    ],
)
def test_a_bad_function_is_a_data_error_that_names_it(module, text, function, message):
    with pytest.raises(DataError, match=message) as caught:
        list(load_samples(f"{module(text)}:{function}"))
    assert "user_samples" in caught.value.message
    assert caught.value.remedy


def test_the_cause_of_a_failing_function_is_chained(module):
    with pytest.raises(DataError) as caught:
        list(load_samples(f"{module('def f(): return 1 / 0')}:f"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_module_is_a_data_error(module):
    with pytest.raises(DataError, match="no module 'nowhere_to_be_found'"):
        load_samples("nowhere_to_be_found.part:f")


def test_a_one_shot_generator_is_refused():
    with pytest.raises(DataError, match="only once"):
        load_samples(feed for feed in feeds(2))


def test_what_is_no_samples_is_refused():
    with pytest.raises(DataError, match="type int"):
        load_samples(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"X": np.zeros((1, 3), np.float32)}, "sample 1: the model has no input 'X'"),
        ({}, "sample 1: input 'x' is missing"),
        ({"x": np.zeros((1, 3))}, "sample 1: input 'x' is float64, expected float32"),
        ({"x": np.zeros((1, 4), np.float32)}, "sample 1: input 'x' has 4 on axis 1"),
        ({"x": np.zeros(3, np.float32)}, "sample 1: input 'x' has rank 1"),
        ({"x": np.full((1, 3), np.inf, np.float32)}, "sample 1: input 'x' has 3 NaN or infinite"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(feed, message):
    with pytest.raises(DataError, match=message) as caught:
        list(load_samples([*feeds(1), feed]).checked(SPECS))
    assert caught.value.remedy


def test_a_misspelt_name_suggests_the_right_one():
    spec = TensorSpec("input_ids", np.dtype("int64"), (1,))
    with pytest.raises(DataError) as caught:
        list(load_samples([{"inputs_id": np.zeros(1, np.int64)}]).checked([spec]))
    assert "'input_ids'" in caught.value.remedy


def test_no_samples_at_all_is_a_data_error():
    with pytest.raises(DataError, match="no samples"):
        list(load_samples([]).checked(SPECS))
    with pytest.raises(DataError, match="no samples"):
        load_samples(lambda: iter(())).split()


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.booleans())
def test_a_split_loses_no_sample_and_has_none_twice(count, share, known):
    split = load_samples(feeds(count) if known else lambda: iter(feeds(count))).split(share)
    kept, held = values(split.calibration), values(split.held_out)
    assert sorted(kept + held) == list(range(count))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert kept
    assert held
    assert not split.overlap
    assert len(held) == split.held_out.len_hint == min(max(round(count * share), 1), count - 1)
    assert values(load_samples(feeds(count)).split(share).held_out) == held


@given(st.integers(4, 100))
def test_a_split_takes_from_every_stretch_of_sorted_data(count):
    held = values(load_samples(feeds(count)).split(0.25).held_out)
    assert max(np.diff([-1, *held, count])) <= 12


def test_a_split_of_periodic_data_has_every_class():
    held = values(load_samples(feeds(80)).split(0.25).held_out)
    assert {i % 4 for i in held} == {0, 1, 2, 3}


def test_with_one_sample_nothing_is_held_out():
    split = load_samples(feeds(1)).split()
    assert split.overlap
    assert values(split.calibration) == values(split.held_out) == [0]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_cannot_be_held_out_is_refused(share):
    with pytest.raises(DataError, match="cannot be held out"):
        load_samples(feeds(4)).split(share)


def test_the_fingerprint_depends_on_names_dtypes_shapes_bytes_and_order():
    x = np.arange(4, dtype=np.float32)
    base = load_samples([{"x": x, "y": x}])
    assert base.fingerprint() == base.fingerprint() == load_samples([{"y": x, "x": x}]).fingerprint()
    others = [
        [{"x": x, "z": x}],
        [{"x": x, "y": x.view(np.int32)}],
        [{"x": x, "y": x.reshape(2, 2)}],
        [{"x": x, "y": x + 1}],
        [{"x": x}, {"y": x}],
        [{"x": np.array(["a", "b"], object)}],
        [{"x": np.array(["a", "c"], object)}],
    ]
    prints = {load_samples(other).fingerprint() for other in others} | {base.fingerprint()}
    assert len(prints) == len(others) + 1


def test_streaming_holds_one_sample_at_a_time():
    alive = weakref.WeakSet()
    most = 0

    class Tracked(np.ndarray):
        __hash__ = object.__hash__

    def generate():
        for i in range(200):
            array = np.full((1, 3), i, np.float32).view(Tracked)
            alive.add(array)
            yield {"x": array}
            del array

    split = load_samples(generate).checked(SPECS).split()
    gc.collect()
    for part in split.calibration, split.held_out:
        for feed in part:
            assert feed["x"].shape == (1, 3)
            most = max(most, len(alive))
    assert most <= 4  # the one in use, and those just handed over
    assert split.calibration.count() + split.held_out.count() == 200
