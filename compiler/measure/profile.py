"""How long each node of a model takes in ONNX Runtime, by the nodes of the model as it was written.

The runtime fuses, renames and inserts nodes before it runs a model. A node that runs is known by the values that it
computes: the optimized graph keeps the names of values, and what the runtime renames (layout and quantized kernels) it
names after the node or value that it came from. What can be traced to nothing is shown as such.
"""

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sardonyx import ir
from sardonyx.errors import BackendError
from sardonyx.measure.feeds import Feed
from sardonyx.measure.session import Session, SessionOptions

_KERNEL_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """The time of one node that the runtime ran.

    Attributes:
        name: Its name in the runtime's graph.
        op_type: Its operator there.
        seconds: Median over runs, of the sum of its calls in one run.
        values: Names of the values of the model that it computes; empty where none of them is known there.
        sources: Names of the nodes of the model that compute these values; empty where untraced.
    """

    name: str
    op_type: str
    seconds: float
    values: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """The times of a model's nodes.

    Attributes:
        nodes: In the order in which they ran first.
        seconds: Median of whole runs; more than the sum of the nodes by what the runtime does around them.
        runs: Number of runs timed.
    """

    nodes: tuple[NodeTime, ...]
    seconds: float
    runs: int

    @property
    def untraced(self) -> float:
        """Seconds of nodes that could not be traced to a node of the model."""
        return sum(node.seconds for node in self.nodes if not node.sources)
