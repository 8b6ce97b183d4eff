"""How long each node takes that ONNX Runtime runs, and which values of the model as written it computes.

The runtime fuses, renames and inserts nodes before it runs a model. A node is known by the values it computes: the
runtime's graph keeps the names of values that survive, and kernels for another layout are named after the value they
were made for. What can be traced to nothing, such as a change of layout, is shown as such.
"""

import json
import os
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sardonyx import ir
from sardonyx.errors import BackendError
from sardonyx.measure.feeds import Feed
from sardonyx.measure.session import GRAPH_NAME, Session, SessionOptions

_KERNEL_SUFFIX = "_kernel_time"
_LAYOUT_SUFFIX = "_nchwc"
_WARM_UP_RUNS = 2
Event = Mapping[str, Any]


@dataclass(frozen=True)
class NodeTime:
    """The time of one node that the runtime ran.

    Attributes:
        name: Its name in the runtime's graph.
        op_type: Its operator there.
        seconds: Median over runs of the sum of its calls in one run, those of nodes in its bodies included.
        values: Names of the model's values that it computes; empty where none is known.
    """

    name: str
    op_type: str
    seconds: float
    values: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """The times of a model's nodes.

    Attributes:
        nodes: In the order in which they ran first; those in bodies count in the node of the main graph around them.
        seconds: Median time of a whole run; more than the sum over the nodes by what the runtime does around them.
        runs: Number of runs timed.
    """

    nodes: tuple[NodeTime, ...]
    seconds: float
    runs: int


@dataclass(frozen=True)
class ProfileInput:
    """A model to profile.

    Attributes:
        path: Its file.
        feed: Arrays by input name.
        values: Names of the values of its main graph.
    """

    path: str | os.PathLike[str]
    feed: Feed
    values: Collection[str]


def profile_pair(a: ProfileInput, b: ProfileInput, *, runs: int = 20, threads: int = 1) -> tuple[Profile, Profile]:
    """Times every node of two models, whose runs alternate.

    Args:
        a: The first model.
        b: The second model.
        runs: Runs of each that are timed, after two that are not.
        threads: Threads within an operator.

    Raises:
        DataError: If a feed does not fit.
        BackendError: If the runtime refuses or fails to run a model, or its profile cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="sardonyx-") as name:
        first, second = (_Side(side, Path(name) / key, threads) for side, key in ((a, "a"), (b, "b")))
        for turn in range(_WARM_UP_RUNS + runs):
            for side in (first, second) if turn % 2 else (second, first):
                side.run()
        return first.profile(runs), second.profile(runs)


class _Side:
    """One of the two models."""

    def __init__(self, source: ProfileInput, folder: Path, threads: int) -> None:
        folder.mkdir()
        self._source, self._folder = source, folder
        self._session = Session(source.path, options=SessionOptions(threads=threads, profile=folder))

    def run(self) -> None:
        self._session.run(self._source.feed)

    def profile(self, runs: int) -> Profile:
        """Ends the profile; each node's time is its median over the last runs."""
        path = self._session.end_profile()
        self._session.close()
        events = _events(path)
        calls, totals = _calls_by_run(events)
        outputs = ir.node_outputs(self._folder / GRAPH_NAME)
        nodes = []
        for (name, op_type), seconds in calls.items():
            if name in outputs:  # others are in bodies, and their time is in that of the node around them
                values = _traced(name, outputs[name], self._source.values)
                nodes.append(NodeTime(name, op_type, median(seconds[-runs:]), values))
        return Profile(tuple(nodes), median(totals[-runs:]), runs)


def _traced(name: str, outputs: tuple[str, ...], values: Collection[str]) -> tuple[str, ...]:
    known = tuple(output for output in outputs if output in values)
    original = name.removesuffix(_LAYOUT_SUFFIX)
    return known or ((original,) if original != name and original in values else ())


def _events(path: Path) -> list[Event]:
    try:
        events: list[Event] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"The runtime's profile {path.name} cannot be read: {error}.",
            remedy="Free some disk space in the folder of temporary files and measure again.",
        ) from error
    return events


def _calls_by_run(events: list[Event]) -> tuple[dict[tuple[str, str], list[float]], list[float]]:
    """Returns the seconds of each node in each run, by name and operator, and the seconds of the runs."""
    runs = sorted((event["ts"], event["dur"]) for event in events if event["name"] == "model_run")
    starts = [start for start, _ in runs]
    calls: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(runs))
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL_SUFFIX) and event["ts"] >= starts[0]:
            key = event["name"].removesuffix(_KERNEL_SUFFIX), event["args"].get("op_name", "")
            calls[key][bisect_right(starts, event["ts"]) - 1] += event["dur"] / 1e6
    return calls, [duration / 1e6 for _, duration in runs]
