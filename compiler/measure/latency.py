"""Which of two models is faster on this machine, and how surely.

A machine's clock drifts by more than the difference one looks for, so two models are never timed one after
the other: they run in alternation, each pair gives one ratio, and the median ratio is what is reported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from sardonyx.measure.feeds import Feed
from sardonyx.measure.session import Session

Run = Callable[[], object]
Progress = Callable[[int, int | None, str], None]

_WARM_UP_RUNS = 5
_WARM_UP_SECONDS = 0.5
_TIMED_SECONDS = 200e-6  # shorter runs are grouped until one timing lasts this long
_MAX_PAIRS = 20_000
_RESAMPLES = 400
_RESAMPLE_CHUNK = 1 << 20  # elements drawn at a time
_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)
class PairedLatency:
    """The latencies of two models, a and b, from interleaved runs.

    The interval is that of this pair of loaded sessions. Where memory happens to lie makes two sessions of
    one and the same model differ by about 0.1 %, so a difference that small says nothing about the models.

    Attributes:
        ratio: Median of time(a) / time(b) over the pairs: above 1, b is faster.
        low: Lower end of the bootstrap 95 % interval of that median.
        high: Upper end.
        pairs: Number of pairs timed.
        a_seconds: Median seconds of one run of a.
        b_seconds: Median seconds of one run of b.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    a_seconds: float
    b_seconds: float

    @property
    def faster(self) -> bool:
        """Whether b is faster than a, at 95 % confidence."""
        return self.low > 1.0

    @property
    def slower(self) -> bool:
        """Whether b is slower than a, at 95 % confidence."""
        return self.high < 1.0


def paired_latency(
    a: Session,
    b: Session,
    feed: Feed,
    *,
    seconds: float = 3.0,
    min_pairs: int = 15,
    progress: Progress | None = None,
) -> PairedLatency:
    """Times two models against each other on one feed.

    Args:
        a: The model to compare with.
        b: The model to judge.
        feed: Arrays by input name, for both.
        seconds: How long to go on timing, after a warm-up.
        min_pairs: Pairs to time at least, however long they take.
        progress: Called as `progress(milliseconds done, of, what)` about ten times a second.

    Returns:
        The median ratio with its interval.

    Raises:
        DataError: If the feed does not fit one of the models.
        BackendError: If one of them fails to run.
    """
    for session in (a, b):
        session.run(feed)
    return paired_timing(a.runner(feed), b.runner(feed), seconds=seconds, min_pairs=min_pairs, progress=progress)


def paired_timing(
    a: Run,
    b: Run,
    *,
    seconds: float = 3.0,
    min_pairs: int = 15,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairedLatency:
    """Times two functions against each other, as `paired_latency` does two models.

    Args:
        a: The function to compare with.
        b: The function to judge.
        seconds: How long to go on timing, after a warm-up.
        min_pairs: Pairs to time at least.
        seed: Seed of the bootstrap.
        progress: As for `paired_latency`.

    Returns:
        The median ratio with its interval. Runs under 0.2 ms are timed in groups, so that neither the timer
        nor the interpreter is what is measured.
    """
    group = max(1, ceil(_TIMED_SECONDS / max(_warm_up(a), _warm_up(b))))
    times: list[tuple[float, float]] = []
    start = reported = perf_counter()
    while len(times) < min_pairs or perf_counter() - start < seconds:
        if len(times) >= max(min_pairs, _MAX_PAIRS):
            break
        if len(times) % 2:
            second = _time(b, group)
            times.append((_time(a, group), second))
        else:
            first = _time(a, group)
            times.append((first, _time(b, group)))
        if progress and perf_counter() - reported > _PROGRESS_SECONDS:
            reported = perf_counter()
            total = ceil(seconds * 1000)
            progress(min(total, round((reported - start) * 1000)), total, "timing")
    table = np.array(times)
    ratios = table[:, 0] / table[:, 1]
    low, high = median_interval(ratios, seed=seed)
    medians = np.median(table, axis=0) / group
    return PairedLatency(float(np.median(ratios)), low, high, len(ratios), float(medians[0]), float(medians[1]))


def median_interval(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """Returns the bootstrap 95 % interval of the median (percentile method, 400 resamples).

    Args:
        values: One-dimensional, at least one element.
        seed: Seed of the resampling.

    Returns:
        (low, high). Memory is bounded, whatever the number of values.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _RESAMPLE_CHUNK // len(values))
    medians = np.concatenate(
        [
            np.median(rng.choice(values, (min(rows, _RESAMPLES - done), len(values))), axis=1)
            for done in range(0, _RESAMPLES, rows)
        ]
    )
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _warm_up(run: Run) -> float:
    """Runs up to five times, at least twice, and returns the seconds of the fastest run."""
    fastest, start = float("inf"), perf_counter()
    for count in range(1, _WARM_UP_RUNS + 1):
        fastest = min(fastest, _time(run, 1))
        if count >= 2 and perf_counter() - start > _WARM_UP_SECONDS:
            break
    return max(fastest, 1e-9)


def _time(run: Run, times: int) -> float:
    start = perf_counter()
    for _ in range(times):
        run()
    return perf_counter() - start
