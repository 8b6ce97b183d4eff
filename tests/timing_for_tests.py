"""Timings without chance: on models of some microseconds, a busy machine decides otherwise from run to run."""

import dataclasses

import pytest

from sardonyx.measure import Feed, PairedLatency, Session, paired_latency


def decree(monkeypatch: pytest.MonkeyPatch, *, quantized: float = 1.0) -> None:
    """Has the driver time for real, briefly, but find these speed-ups: 1 for exact models, and that for quantized."""

    def timed(a: Session, b: Session, feed: Feed, *, seconds: float) -> PairedLatency:
        real = paired_latency(a, b, feed, seconds=min(seconds, 0.1))
        ratio = quantized if "quantized" in b.name or "mixed" in b.name else 1.0
        return dataclasses.replace(real, ratio=ratio, low=ratio, high=ratio)

    monkeypatch.setattr("sardonyx.driver.judge.paired_latency", timed)
