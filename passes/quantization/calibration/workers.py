"""Calibration split over processes: each observes a range of samples, and what they know is merged.

joblib runs the shares: on its own processes by default, on Dask or Ray inside `joblib.parallel_config(backend=...)`.
Because observers merge exactly, the result does not depend on who observed what. A share whose worker died is run
again.
"""

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import numpy.typing as npt

from sardonyx.errors import BackendError, DataError
from sardonyx.measure import Samples, Session, SessionOptions
from sardonyx.passes.quantization.calibration.bank import BankState, ObserverBank
from sardonyx.passes.quantization.calibration.coverage import IndexRange
from sardonyx.passes.quantization.calibration.taps import observe_samples, take_samples

LOST_WORKER = (BrokenProcessPool, CancelledError)
"""How a worker's death shows: in joblib's own pools, and in Dask where what was sent to that worker is gone with it."""
MOST_FAILURES = 3
"""Times in a row that workers may die without any share being finished."""


@dataclass(frozen=True)
class Job:
    """What all shares have in common.

    Attributes:
        model: The tapped model: serialized, or a path that the workers can read.
        options: How to run it.
        samples: All samples.
        values: Names of the observed values.
        tapped: Those of them that are outputs of the model.
        kinds: Kinds of observers.
        thinning: One element in so many is counted.
    """

    model: bytes | str
    options: SessionOptions
    samples: Samples
    values: tuple[str, ...]
    tapped: tuple[str, ...]
    kinds: tuple[str, ...]
    thinning: int

    def bank(self) -> ObserverBank:
        """Returns observers that have seen nothing yet."""
        return ObserverBank(self.values, self.kinds, self.thinning)


def observe_shares(
    job: Job, shares: Sequence[IndexRange], workers: int, on_result: Callable[[IndexRange, ObserverBank], None]
) -> None:
    """Observes shares of the samples in other processes.

    Args:
        job: What to observe.
        shares: Ranges of sample indices.
        workers: Number of processes; under another backend, of shares that run at a time.
        on_result: Called in this process with each finished share and its observers, in any order.

    Raises:
        DataError: If the samples cannot be sent to another process, or do not fit the model.
        BackendError: If workers die again and again.
    """
    payload = _payload(job)
    waiting = list(shares)
    failures = 0
    while waiting:
        before = len(waiting)
        try:
            for share, state in _results(payload, tuple(waiting), workers):
                on_result(share, job.bank().restore(state))
                waiting.remove(share)
        except _lost_worker() as error:
            failures = failures + 1 if len(waiting) == before else 0
            if failures == MOST_FAILURES:
                raise BackendError(
                    f"Workers that calibrate died {failures} times in a row, at samples {waiting[0][0]} and later.",
                    remedy="They may be out of memory: use fewer workers.",
                ) from error


def _lost_worker() -> tuple[type[BaseException], ...]:
    """How a worker's death shows, under Ray too where its backend has been registered."""
    if "ray" not in sys.modules:
        return LOST_WORKER
    return (*LOST_WORKER, import_module("ray.exceptions").RayActorError)


def _results(
    payload: npt.NDArray[np.uint8], shares: Sequence[IndexRange], workers: int
) -> Iterator[tuple[IndexRange, BankState]]:
    """Yields what workers found, each share as it ends; as many at a time as there are workers where a backend waits.

    Ray's backend gives results only when all are there.
    """
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    streams = get_active_backend()[0].supports_return_generator
    step = len(shares) if streams else workers
    parallel = Parallel(n_jobs=workers, return_as="generator_unordered" if streams else "list")
    for start in range(0, len(shares), step):
        yield from parallel(delayed(_observe_share)(payload, share) for share in shares[start : start + step])


def _payload(job: Job) -> npt.NDArray[np.uint8]:
    """The job as one array, which joblib sends once, not with each share (on one machine it maps a file)."""
    import cloudpickle

    try:
        return np.frombuffer(cloudpickle.dumps(job), np.uint8)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise DataError(
            f"{job.samples.what}: the samples cannot be sent to other processes: {error}",
            remedy="Give a path or package.module:function, or use one worker.",
        ) from error


def _observe_share(payload: npt.NDArray[np.uint8], share: IndexRange) -> tuple[IndexRange, BankState]:
    """What a worker does: observes a range of samples and returns its observers' state."""
    job: Job = pickle.loads(payload.data)
    bank = job.bank()
    with Session(job.model, options=job.options) as session:
        feeds = take_samples(job.samples, *share)
        done = observe_samples(session, bank, job.tapped, feeds, lambda indices: None)
    if done != share[1] - share[0]:
        raise DataError(
            f"{job.samples.what}: there are only {share[0] + done} samples where {share[1]} were counted.",
            remedy="Samples must be the same each time they are iterated.",
        )
    return share, bank.state()
