"""Engines: what some targets make of a model ahead of time, and the proof of what they run in which type."""

from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total, what); total is None where it is unknown."""


@dataclass(frozen=True)
class EngineRequest:
    """What a build needs to know besides the model.

    Attributes:
        planned: Names of the nodes that the quantization plan meant to run as integers.
        progress: Told about the builder's phases.
    """

    planned: tuple[str, ...]
    progress: Progress


@dataclass(frozen=True)
class Miss:
    """A node that was meant to run as integers and does not.

    Attributes:
        node: Its name.
        op_type: Its operator.
        precision: The type that it runs in, as the builder names it; empty where no layer names the node.
        reason: Why, as a sentence.
    """

    node: str
    op_type: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Proof:
    """What runs in which type, read from the builder's layer table.

    Attributes:
        nodes: Number of Conv, MatMul, Gemm and ConvTranspose nodes by the type that they run in.
        layers: Number of layers by type of layer and the type that it runs in, as `correlation Int8`.
        planned: Number of nodes that were meant to run as integers.
        integer: How many of them do.
        misses: Those that do not.
        weight_bytes: Bytes of constants by type.
    """

    nodes: dict[str, int]
    layers: dict[str, int]
    planned: int
    integer: int
    misses: tuple[Miss, ...]
    weight_bytes: dict[str, int]

    @property
    def share(self) -> float:
        """Share of the planned nodes that run as integers; 1 where none was planned."""
        return self.integer / self.planned if self.planned else 1.0


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine, in the builder's words.

    Attributes:
        name: Its name.
        kind: Its type.
        precision: The type that it computes in; empty where that is not known.
        inputs: Type, dimensions and format of what it reads besides constants.
        outputs: The same of what it writes.
        tactic: The kernel that computes it; empty where none was named.
        nodes: Names of the ONNX nodes that it computes.
    """

    name: str
    kind: str
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class EngineReport:
    """What became of a build.

    Attributes:
        stage: `done`, or how far the build came.
        file: Name of the engine in the output folder; empty where none was built.
        builder: The Python module that built it.
        version: Its version.
        targets: Compute capabilities that it was built for; empty for the builder's default.
        shapes: Ranges of shapes of its dynamic inputs, as text.
        nbytes: Bytes of the engine.
        weights_bytes: Bytes of its weights, as the builder states them.
        seconds: Wall time of parsing and building.
        peak_rss_bytes: Largest resident set size of the building process, in bytes.
        proof: What runs in which type; None where nothing was built.
        problems: Why there is no engine, as sentences.
        warnings: What the builder warned of.
        commands: Command lines that build the engine elsewhere from the written model.
        unmet: Which demand on the engine was not met, as a sentence; empty where all were.
        layers: Its layers in order of execution.
        layers_source: Where the layers are from, and why not from the engine loaded on a device, as a sentence.
    """

    stage: str
    file: str = ""
    builder: str = ""
    version: str = ""
    targets: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    nbytes: int = 0
    weights_bytes: int = 0
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    proof: Proof | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    commands: dict[str, str] = field(default_factory=dict)
    unmet: str = ""
    layers: tuple[EngineLayer, ...] = ()
    layers_source: str = ""

    @property
    def built(self) -> bool:
        """Whether there is an engine."""
        return bool(self.file)

    @property
    def failed(self) -> bool:
        """Whether a builder was there and did not take the model; without a builder nothing failed."""
        return not self.built and self.stage != "start"
