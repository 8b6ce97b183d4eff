"""How long each node takes that ONNX Runtime runs, and which values of the model as written it computes.

The runtime fuses, renames and inserts nodes before it runs a model. A node is known by the values it computes: the
runtime's graph keeps the names of values that survive, and kernels that it made for another layout or type are named
after the node or value they were made for. What can be traced to nothing, such as a change of layout, is shown as such.
"""

import json
import os
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sardonyx import ir
from sardonyx.errors import BackendError
from sardonyx.measure.feeds import Feed
from sardonyx.measure.session import GRAPH_NAME, Session, SessionOptions

_KERNEL_SUFFIX = "_kernel_time"
_MADE_SUFFIX = re.compile(r"(_nchwc|_nhwc|_quant|_q|_dq|_token_\d+)+$")
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
        seconds: Median over runs of the sum over the nodes; a run takes longer by what the runtime does around them.
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
        outputs: Names of the outputs of each node of its main graph, by the node's name.
    """

    path: str | os.PathLike[str]
    feed: Feed
    outputs: Mapping[str, Sequence[str]]


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
    with ir.TemporaryFolder() as folder:
        first, second = (_Side(side, folder / key, threads) for side, key in ((a, "a"), (b, "b")))
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
        calls = _calls_by_run(_events(path))
        outputs = ir.node_outputs(self._folder / GRAPH_NAME)
        written = self._source.outputs
        values = {value for made in written.values() for value in made}
        nodes, totals = [], [0.0] * runs
        for (name, op_type), seconds in calls.items():
            if name not in outputs:  # in a body: its time is in that of the node around it
                continue
            original = original_name(name)
            known = tuple(value for value in outputs[name] if value in values)
            traced = known or tuple(written.get(original, ())) or ((original,) if original in values else ())
            nodes.append(NodeTime(name, op_type, median(seconds[-runs:]), traced))
            totals = [total + one for total, one in zip(totals, seconds[-runs:], strict=True)]
        return Profile(tuple(nodes), median(totals), runs)


def original_name(name: str) -> str:
    """Returns the name of what the runtime made a node from, without the ends that it appends.

    Layouts of its own (`_nchwc`, `_nhwc`), integer kernels (`_quant`), quantizers that it puts behind operators (`_q`,
    `_dq`), and numbers (`_token_N`).
    """
    return _MADE_SUFFIX.sub("", name)


def _events(path: Path) -> list[Event]:
    try:
        events: list[Event] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"The runtime's profile {path.name} cannot be read: {error}.",
            remedy="Free some disk space in the folder of temporary files and measure again.",
        ) from error
    return events


def _calls_by_run(events: Sequence[Event]) -> Mapping[tuple[str, str], list[float]]:
    """Returns the seconds of each node in each run, by name and operator."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    calls: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(starts))
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL_SUFFIX) and event["ts"] >= starts[0]:
            key = event["name"].removesuffix(_KERNEL_SUFFIX), event["args"].get("op_name", "")
            calls[key][bisect_right(starts, event["ts"]) - 1] += event["dur"] / 1e6
    return calls
