"""A child process that runs the worker, and may hang or die without harm."""

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sardonyx.backends.tensorrt import worker
from sardonyx.measure import peak_rss

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total, what) while the builder works."""

_POLL_SECONDS = 0.2
_LAST_WORDS = 400
"""Characters of the child's standard error that are quoted when it died."""


class Stage(StrEnum):
    """How far a build came."""

    START = "start"
    """No builder is usable."""
    PARSE = "parse"
    """The parser refused the model."""
    PROFILE = "profile"
    """The shapes or the targets do not fit."""
    BUILD = "build"
    """The builder refused the network."""
    LOAD = "load"
    """The engine cannot be loaded on a device here."""
    CRASH = "crash"
    """The child process died."""
    TIMEOUT = "timeout"
    """The builder took too long and was stopped."""
    CANCELLED = "cancelled"
    """The caller wanted it no longer."""
    DONE = "done"
    """The engine is built."""


@dataclass(frozen=True)
class Watch:
    """How long to wait for a child, and whom to tell.

    Attributes:
        seconds: After so long without an answer it is stopped.
        progress: Told how far it has come.
        cancel: Stops it when set.
    """

    seconds: float
    progress: Progress | None = None
    cancel: threading.Event | None = None

    def stop_reason(self, started: float) -> tuple[Stage, str] | None:
        """Why to wait no longer, if so."""
        if self.cancel is not None and self.cancel.is_set():
            return Stage.CANCELLED, "The build was cancelled."
        if time.monotonic() - started > self.seconds:
            return Stage.TIMEOUT, f"The builder did not finish within {self.seconds:g} s and was stopped."
        return None


class Child:
    """A running worker.

    Attributes:
        peak_rss_bytes: Largest resident set size of the process up to its last answer, in bytes.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C in the terminal reaches the parent alone, which then stops the child
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.peak_rss_bytes = 0

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def ask(self, job: dict[str, Any], watch: Watch) -> dict[str, Any]:
        """Gives it a job and returns its answer; a child that dies, hangs or is cancelled has one too."""
        started = time.monotonic()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except OSError:  # it died before it read the job
            return _failed(Stage.CRASH, self._last_words())
        while True:
            reason = watch.stop_reason(started)
            if reason is not None:
                self.stop()
                return _failed(*reason)
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                return _failed(Stage.CRASH, self._last_words())
            message = json.loads(line)
            if "result" in message:
                self.peak_rss_bytes = peak_rss(self._process.pid)
                answer: dict[str, Any] = message["result"]
                return answer
            if watch.progress is not None:
                done, total, what = message["progress"]
                watch.progress(done, total or None, f"tensorrt: {what}")

    def stop(self) -> None:
        """Ends it, whatever it is doing, and waits until it is gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._errors.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # a job that it did not read any more
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        """How it died: by which signal or with which exit code, and what it printed last."""
        code = self._process.wait()
        how = f"with exit code {code}"
        if code < 0:
            how = f"with {signal.Signals(-code).name}"
        self._errors.seek(0)
        said = " ".join(self._errors.read().decode("utf-8", "replace").split())
        return f"The builder died {how}." + (f" Its last words: {said[-_LAST_WORDS:]}" if said else "")


def _failed(stage: Stage, message: str) -> dict[str, Any]:
    return {"stage": stage, "errors": [{"message": message}]}
