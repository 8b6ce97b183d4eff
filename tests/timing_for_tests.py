"""Timings without chance: on models of some microseconds, a busy machine decides otherwise from run to run."""

import dataclasses
from collections.abc import Mapping

import pytest

from sardonyx.measure import Feed, PairedLatency, Session, paired_latency


def decree(
    monkeypatch: pytest.MonkeyPatch, *, quantized: float = 1.0, speeds: Mapping[str, float] | None = None
) -> None:
    """Has the driver time for real, briefly, but find these speed-ups: 1 for exact models, and that for quantized.

    `speeds` gives candidates their own; of names that are part of one another, the longer come first.
    """
    named = {"quantized": quantized, "mixed": quantized} if speeds is None else speeds

    def timed(a: Session, b: Session, feed: Feed, *, seconds: float) -> PairedLatency:
        real = paired_latency(a, b, feed, seconds=min(seconds, 0.1))
        ratio = next((speed for name, speed in named.items() if name in b.name), 1.0)
        return dataclasses.replace(real, ratio=ratio, low=ratio, high=ratio)

    monkeypatch.setattr("sardonyx.driver.judge.paired_latency", timed)
