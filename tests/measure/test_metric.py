import numpy as np
import pytest

from sardonyx.errors import BackendError, DataError
from sardonyx.measure import Session, load_metric
from tests.measure.measure_models import scale_model


def test_a_metric_runs_the_model():
    run = Session(scale_model(3.0)).run
    metric = load_metric(lambda run: run({"x": np.ones((1, 3), np.float32)})[0].mean())
    value = metric(run)
    assert value == 3.0
    assert type(value) is float


def test_a_metric_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "user_metric.py").write_text("def rate(run):\n    return run({})[0]\n")
    monkeypatch.chdir(tmp_path)
    assert load_metric("user_metric:rate")(lambda feed: [np.array(0.5)]) == 0.5


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda run: float("nan"), "returned nan"),
        (lambda run: float("inf"), "returned inf"),
        (lambda run: None, "returned NoneType"),
        (lambda run: np.zeros(2), "returned ndarray"),
        (lambda run: {}["k"], "raised KeyError: 'k'"),
        (lambda: 1.0, "raised TypeError"),
    ],
)
def test_a_metric_without_a_finite_number_is_a_data_error(function, message):
    with pytest.raises(DataError, match=message) as caught:
        load_metric(function)(lambda feed: [])
    assert caught.value.remedy


def test_an_error_of_the_run_passes_through():
    def run(feed):
        raise BackendError("refused")

    with pytest.raises(BackendError, match="refused"):
        load_metric(lambda run: run({}))(run)


@pytest.mark.parametrize("spec", ["no colon", "os:name", 3])
def test_what_is_no_function_is_refused(spec):
    with pytest.raises(DataError):
        load_metric(spec)
