"""Calibration of whole models: streaming, groups of values, stored state, split work."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.errors import BackendError, DataError, PassError, SaveError, SpecError
from sardonyx.measure import Samples, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration import (
    CALIBRATORS,
    OBSERVERS,
    CalibrationOptions,
    CalibrationResult,
    calibrate,
)
from sardonyx.passes.quantization.calibration.coverage import Coverage
from sardonyx.passes.quantization.calibration.taps import group_values
from sardonyx.passes.quantization.scheme import Scheme
from tests import models_for_tests as build

COUNT = 12
VALUES = ("x", "h", "r", "y")
UINT8 = Scheme.parse("uint8")


def source() -> onnx.ModelProto:
    return build.proto(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"]),
        ],
        {"x": ["rows", 8]},
        {"y": ["rows", 4]},
        {"w": build.weights(8, 64), "v": build.weights(64, 4, seed=1)},
    )


def feeds(count: int = COUNT) -> list[dict[str, np.ndarray]]:
    """Samples of varying shape and range."""
    return [{"x": build.weights(3 + index % 5, 8, seed=index, scale=1 + index % 3)} for index in range(count)]


def observe(
    samples: object = None,
    *,
    values: tuple[str, ...] = VALUES,
    progress: Callable[[int, int | None, str], None] = lambda done, total, what: None,
    **options: object,
) -> CalibrationResult:
    context = PassContext(samples=load_samples(feeds() if samples is None else samples), progress=progress)
    model = ir.load(source()).model
    return calibrate(model, values, list(CALIBRATORS), context, CalibrationOptions(**options))


def state(result: CalibrationResult) -> dict[str, bytes]:
    """Everything that was observed, to the bit."""
    return {
        f"{value}/{kind}/{name}": array.tobytes()
        for value, kinds in sorted(result.observers.items())
        for kind, observer in kinds.items()
        for name, array in observer.state().items()
    }


@pytest.fixture
def threads() -> Iterator[None]:
    """Shares run in threads of this process: quicker than processes where those are not the point."""
    import joblib

    with joblib.parallel_config(backend="threading"):
        yield


class TestAlone:
    def test_one_look_serves_all_calibrators(self) -> None:
        iterations = []

        def counted() -> Iterator[dict[str, np.ndarray]]:
            iterations.append(1)
            yield from feeds()

        result = observe(counted)
        assert result.samples == COUNT
        assert len(iterations) == 2, "one for the first sample's shapes, one for all"
        for method in CALIBRATORS:
            ranges = result.ranges(method, UINT8)
            assert set(ranges) == set(VALUES)
            assert ranges["r"].low == 0.0 < ranges["r"].high

    def test_extremes_are_those_of_the_model(self) -> None:
        outputs = np.concatenate([build.run(source(), feed)[0].ravel() for feed in feeds()])
        seen = observe().ranges("minmax", UINT8)["y"]
        assert (seen.low, seen.high) == pytest.approx((outputs.min(), outputs.max()), rel=1e-6)

    def test_groups_within_a_budget_of_bytes_see_the_same(self) -> None:
        model, first = ir.load(source()).model, feeds()[0]
        ir.ensure_shapes(model)
        rows = first["x"].shape[0]
        assert group_values(model, VALUES, first, 4 * rows * 72) == [("x", "h"), ("r", "y")]
        assert group_values(model, VALUES, first, 1) == [("x",), ("h",), ("r",), ("y",)]
        assert group_values(model, VALUES, first, 1 << 30) == [VALUES]
        assert state(observe(tap_bytes=1)) == state(observe())

    def test_a_value_of_unknown_size_counts_as_the_largest(self) -> None:
        model, first = ir.load(source()).model, feeds()[0]
        ir.ensure_shapes(model)
        next(node for node in model.graph if node.op_type == "Relu").outputs[0].shape = None
        rows = first["x"].shape[0]
        assert group_values(model, VALUES, first, 4 * rows * 128) == [("x", "h"), ("r", "y")]

    def test_large_samples_are_observed_while_the_next_one_runs(self) -> None:
        large = [{"x": np.tile(feed["x"], (2000, 1))} for feed in feeds(4)]
        done: list[int] = []
        result = observe(large, progress=lambda count, total, what: done.append(count))
        outputs = np.concatenate([build.run(source(), feed)[0].ravel() for feed in large])
        assert result.ranges("minmax", UINT8)["y"].high == pytest.approx(outputs.max(), rel=1e-6)
        assert done == [1, 2, 3, 4]

    def test_feeds_may_use_the_same_memory_again(self) -> None:
        def reusing() -> Iterator[dict[str, np.ndarray]]:
            memory = np.empty((40_000, 8), np.float32)
            for scale in range(1, 5):
                memory[:] = scale
                yield {"x": memory}
                memory[:] = np.nan

        assert observe(reusing).ranges("minmax", UINT8)["x"].high == 4.0

    def test_half_precision_models(self) -> None:
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "x"], ["y"])],
            "half",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N"])],
        )
        model = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).model
        samples = load_samples([{"x": np.linspace(-2, 2, 9).astype(np.float16)}])
        result = calibrate(model, ("x", "y"), ["minmax", "mse"], PassContext(samples=samples))
        assert result.ranges("minmax", UINT8)["y"].high == 4.0

    def test_what_cannot_be_asked(self) -> None:
        model = ir.load(source()).model
        with pytest.raises(PassError, match="needs samples"):
            calibrate(model, VALUES, ["mse"], PassContext())
        with pytest.raises(DataError, match="zero calibration samples"):
            calibrate(model, VALUES, ["mse"], PassContext(samples=load_samples([])))
        with pytest.raises(SpecError, match="no calibrator 'best'"):
            calibrate(model, VALUES, ["best"], PassContext(samples=load_samples(feeds())))
        result = calibrate(model, VALUES, ["minmax"], PassContext(samples=load_samples(feeds())))
        with pytest.raises(PassError, match="entropy was not asked for"):
            result.ranges("entropy", UINT8)
        with pytest.raises(SpecError, match="workers=0"):
            CalibrationOptions(workers=0)


class TestStoredState:
    def test_a_second_run_takes_it_as_it_is(self, tmp_path: Path) -> None:
        runs: list[int] = []
        first = observe(state=tmp_path / "state", every=5)
        second = observe(state=tmp_path / "state", progress=lambda done, total, what: runs.append(done))
        assert state(second) == state(first)
        assert (second.samples, runs) == (COUNT, [])

    @pytest.mark.parametrize(("workers", "tap_bytes"), [(4, 1 << 28), (1, 1)])
    def test_goes_on_after_sigkill(self, tmp_path: Path, threads: None, workers: int, tap_bytes: int) -> None:
        """The process dies in the middle of the data; the next one reads what was saved and gives the same."""
        script = (
            "from tests.passes.quantization import test_calibrate as t\n"
            f"folder = t.Path({str(tmp_path / 'state')!r})\n"
            f"t.observe(state=folder, every=3, tap_bytes={tap_bytes}, progress=t.die_at_8)\n"
        )
        killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        (stored,) = (tmp_path / "state").glob("*.npz")
        with np.load(stored) as arrays:
            assert arrays["done"].tolist() == [[0, 6]]
        seen: list[int] = []
        resumed = observe(
            state=tmp_path / "state",
            workers=workers,
            tap_bytes=tap_bytes,
            progress=lambda done, total, what: seen.append(done),
        )
        assert min(seen[: COUNT - 6]) > 6, "the first six samples are not run again"
        assert state(resumed) == state(observe())
        assert resumed.ranges("joint", UINT8) == observe().ranges("joint", UINT8)

    def test_other_data_and_other_models_are_refused(self, tmp_path: Path) -> None:
        observe(state=tmp_path / "state")
        with pytest.raises(DataError, match="was made with other data"):
            observe(feeds(COUNT - 1), state=tmp_path / "state")
        other = ir.load(source()).model
        next(iter(other.graph)).outputs[0].name = "renamed"
        context = PassContext(samples=load_samples(feeds()))
        with pytest.raises(DataError, match="was made with another model"):
            calibrate(other, ("y",), ["mse"], context, CalibrationOptions(state=tmp_path / "state"))

    def test_other_values_and_calibrators_have_states_of_their_own(self, tmp_path: Path) -> None:
        observe(state=tmp_path / "state", values=("x", "h"))
        assert state(observe(state=tmp_path / "state")) == state(observe())
        assert len(list((tmp_path / "state").glob("*.npz"))) == 2

    def test_damaged_states_are_named(self, tmp_path: Path) -> None:
        observe(state=tmp_path / "state")
        (stored,) = (tmp_path / "state").glob("*.npz")
        stored.write_bytes(stored.read_bytes()[:500])
        with pytest.raises(DataError, match=f"{stored.stem}.npz cannot be read"):
            observe(state=tmp_path / "state")
        (tmp_path / "state" / "calibration.json").write_text("{")
        with pytest.raises(DataError, match=r"calibration\.json cannot be read"):
            observe(state=tmp_path / "state")
        (tmp_path / "state" / "calibration.json").write_text(json.dumps({"version": 0}))
        with pytest.raises(DataError, match="another"):
            observe(state=tmp_path / "state")

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SaveError, match="cannot be written"):
            observe(state=tmp_path / "file" / "state")

    def test_nothing_is_left_beside_the_states(self, tmp_path: Path) -> None:
        observe(state=tmp_path / "state", every=1)
        assert sorted(path.suffix for path in (tmp_path / "state").iterdir()) == [".json", ".npz"]


class TestSplit:
    def test_four_processes_see_the_same(self) -> None:
        done: list[int] = []
        result = observe(workers=4, progress=lambda count, total, what: done.append(count))
        assert state(result) == state(observe())
        assert result.samples == COUNT
        assert done == [3, 6, 9, 12]

    def test_a_worker_that_dies_loses_nothing(self, tmp_path: Path) -> None:
        result = observe(dying(7, once=tmp_path / "died"), workers=4)
        assert (tmp_path / "died").exists()
        assert state(result) == state(observe())

    def test_shares_are_as_short_as_the_state_is_saved(self, tmp_path: Path, threads: None) -> None:
        done: list[int] = []
        folder = tmp_path / "state"
        result = observe(workers=2, every=2, state=folder, progress=lambda count, total, what: done.append(count))
        assert state(result) == state(observe())
        assert done == [2, 4, 6, 8, 10, 12]

    @pytest.mark.parametrize("death", [BrokenProcessPool, CancelledError])
    def test_workers_that_always_die_are_given_up(self, threads: None, death: type[Exception]) -> None:
        attempts: list[int] = []

        def generate() -> Iterator[dict[str, np.ndarray]]:
            attempts.append(1)
            yield feeds()[0]
            if len(attempts) > 1:  # the first iteration is the one for shapes
                raise death("a worker died")

        with pytest.raises(BackendError, match="died 3 times in a row"):
            observe(Samples(generate, "samples", COUNT), workers=2)

    def test_errors_of_the_samples_come_through(self, threads: None) -> None:
        bad = [*feeds(COUNT - 1), {"x": np.zeros((2, 5), np.float32)}]
        with pytest.raises(DataError, match="'x'"):
            observe(bad, workers=2)

    def test_samples_that_cannot_be_sent_are_named(self) -> None:
        lock = threading.Lock()

        def generate() -> Iterator[dict[str, np.ndarray]]:
            with lock:
                yield from feeds()

        with pytest.raises(DataError, match="cannot be sent to other processes"):
            observe(generate, workers=2)

    def test_fewer_samples_than_counted_are_noticed(self, threads: None) -> None:
        samples = dataclasses.replace(load_samples(feeds()), len_hint=COUNT + 3)
        with pytest.raises(DataError, match=f"only {COUNT} samples where {COUNT + 3} were counted"):
            observe(samples, workers=2)

    @pytest.mark.slow
    def test_a_dask_cluster_with_one_worker_killed_midway(self, tmp_path: Path) -> None:
        distributed = pytest.importorskip("distributed", reason="the dev group has it; a bare install does not")
        import joblib

        with (
            distributed.LocalCluster(
                n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None
            ) as local,
            distributed.Client(local),
            joblib.parallel_config(backend="dask"),
        ):
            result = observe(dying(7, once=tmp_path / "died"), workers=6)
        assert (tmp_path / "died").exists()
        assert state(result) == state(observe())

    @pytest.mark.slow
    def test_ray_with_one_worker_killed_midway(self, tmp_path: Path) -> None:
        ray = pytest.importorskip("ray", reason="not in the dev group, for its size: pip install ray")
        import joblib
        from ray.util.joblib import register_ray

        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
        register_ray()
        try:
            with joblib.parallel_config(backend="ray"):
                result = observe(dying(7, once=tmp_path / "died"), workers=3)
        finally:
            ray.shutdown()
        assert (tmp_path / "died").exists()
        assert state(result) == state(observe())


def die_at_8(done: int, total: int | None, what: str) -> None:
    """A progress callback that kills its process."""
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)


def dying(at: int, once: Path) -> Samples:
    """The samples of `feeds`, of which one kills the process that reads it, the first time."""

    def generate() -> Iterator[dict[str, np.ndarray]]:
        for index, feed in enumerate(feeds()):
            if index == at and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield feed

    return Samples(generate, "dying samples", COUNT)


class TestCoverage:
    def test_ranges_are_joined_and_gaps_are_found(self) -> None:
        covered = Coverage.of([(5, 7), (0, 2), (2, 3), (6, 9), (4, 4)])
        assert covered.ranges == ((0, 3), (5, 9))
        assert (len(covered), 2 in covered, 3 in covered) == (7, True, False)
        assert covered.missing(12, 2) == [(3, 5), (9, 11), (11, 12)]
        assert covered.missing(4, 10) == [(3, 4)]
        assert covered.with_ranges([(3, 5)]).ranges == ((0, 9),)
        assert Coverage().missing(0, 4) == []


def test_observers_are_named_by_calibrators() -> None:
    assert {known.observer for known in CALIBRATORS.values()} == set(OBSERVERS)
