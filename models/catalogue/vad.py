"""Silero VAD, as the package silero-vad carries it, fed with a generated voice."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sardonyx.measure import Session
from sardonyx.models.catalogue.packages import Package
from sardonyx.models.entry import Entry, Feed

# The package only carries the files: what it depends on is not needed.
_SILERO = Package("silero_vad", "silero-vad", "pip install --no-deps silero-vad==6.2.3")

RATE = 16_000
"""Samples a second."""
_CHUNK = 512
_CONTEXT = 64
_SECONDS = 8
_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""First three formants in Hz of a, i, u, e, o: Peterson and Barney (1952), male speakers."""
_BANDWIDTH = 90.0


@dataclass(frozen=True)
class _Stream:
    """The feeds of one stream of audio, each with the state that the model returned for the chunk before."""

    path: Path

    def __iter__(self) -> Iterator[Feed]:
        with Session(self.path) as session:
            state = np.zeros((2, 1, 128), np.float32)
            for chunk in _chunks(voice()):
                feed: dict[str, NDArray[Any]] = {
                    "input": chunk,
                    "state": state,
                    "sr": np.array(RATE, np.int64),
                }
                yield feed
                state = session.run(feed, ["stateN"])[0]


def both_rates() -> Entry:
    """Returns `silero_vad`: the model for 8 and 16 kHz, two networks in the branches of an If.

    Raises:
        UsageError: If silero-vad is not installed.
    """
    return _entry("silero_vad", "silero_vad.onnx", "8 or 16 kHz in the branches of an If; samples are 16 kHz")


def only_16k() -> Entry:
    """Returns `silero_vad_16k`: the model for 16 kHz alone, opset 15.

    Raises:
        UsageError: If silero-vad is not installed.
    """
    return _entry("silero_vad_16k", "silero_vad_16k_op15.onnx", "16 kHz")


def _entry(name: str, file_name: str, rates: str) -> Entry:
    path = _SILERO.file(f"data/{file_name}", name)
    return Entry(
        name=name,
        path=path,
        samples=_Stream(path),
        metric=None,
        metric_name="",
        description=f"Voice activity detector, convolutions and LSTM ({rates}): input float32 [n, 576] (64 "
        "samples of context and 512 new ones), state float32 [2, n, 128], sr int64 [] to the probability of "
        "speech [n, 1] and the next state. Samples are a generated voice with pauses and noise: plausible "
        "inputs, no measure of accuracy.",
        licence="MIT (Silero)",
    )


def voice() -> NDArray[np.float32]:
    """Returns eight seconds of generated voice at 16 kHz: vowels of gliding pitch, pauses, and noise.

    Each vowel is a sum of harmonics weighted by the resonances of its formants.

    Returns:
        float32 [128000], values within -1 to 1.
    """
    random = np.random.default_rng(0)
    audio = random.normal(0, 0.003, RATE * _SECONDS)
    start = RATE // 2
    while start < len(audio) - RATE:
        for _ in range(random.integers(3, 9)):
            length = int(RATE * random.uniform(0.12, 0.3))
            vowel = _VOWELS[random.integers(len(_VOWELS))]
            sound = _vowel(vowel, length, random.uniform(90, 220), random.uniform(0.85, 1.1))
            part = audio[start : start + length]
            part += random.uniform(0.1, 0.5) * sound[: len(part)]
            start += length
        start += int(RATE * random.uniform(0.3, 1.0))
    return np.clip(audio, -1, 1).astype(np.float32)


def _vowel(formants: tuple[int, int, int], length: int, pitch: float, glide: float) -> NDArray[np.float64]:
    """Returns float64 [length], peak 1, whose pitch in Hz moves from `pitch` to `pitch * glide`."""
    phase = 2 * np.pi * np.cumsum(np.linspace(pitch, pitch * glide, length)) / RATE
    sound = np.zeros(length)
    for harmonic in range(1, int(4000 / pitch)):
        offsets = (harmonic * pitch - np.array(formants)) / _BANDWIDTH
        sound += np.sum(1 / (1 + offsets**2)) / harmonic**0.5 * np.sin(harmonic * phase)
    sound *= np.hanning(length) ** 0.5
    return np.asarray(sound / np.abs(sound).max())


def _chunks(audio: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    padded = np.concatenate([np.zeros(_CONTEXT, np.float32), audio])
    for start in range(0, len(audio) - _CHUNK + 1, _CHUNK):
        yield padded[None, start : start + _CONTEXT + _CHUNK]
