"""What a build depends on besides the model: the builder, its targets, shapes and limits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sardonyx.backends.tensorrt.worker import MODULES
from sardonyx.errors import UsageError

FULL, AHEAD_OF_TIME = MODULES
"""The builder that needs a GPU, and the one that builds for compute capabilities named to it, without one."""

TARGETS = {"7.5": "SM75", "8.0": "SM80", "8.6": "SM86", "8.9": "SM89", "12.0": "SM120", "12.1": "SM121"}
"""Compute capabilities that the ahead-of-time builder has a target for."""

ALONE = "7.5"
"""Turing: where it is listed beside others, the plan loses the INT8 convolutions of all of them."""

TIMEOUT_SECONDS = 3600.0
"""Large transformers take minutes, full builders with many tactics more; a builder that hangs takes for ever."""

_BYTES = re.compile(r"(\d+)\s*([KMG])?(?:i?B)?", re.IGNORECASE)
_SHAPE = re.compile(r"\d+(x\d+)*")


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that an engine takes at one dynamic input.

    Attributes:
        name: The input's name.
        least: The smallest shape; every dimension of a larger one is at least as large.
        best: The shape that the engine is optimized for.
        most: The largest shape.
    """

    name: str
    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks that the three shapes are in order.

        Raises:
            UsageError: If they differ in rank or are not in order, with the input and the dimension.
        """
        if not len(self.least) == len(self.best) == len(self.most):
            raise UsageError(
                f"The shapes of {self.name} differ in rank: {self}.", remedy="Give each the same number of dimensions."
            )
        for axis, (low, middle, high) in enumerate(zip(self.least, self.best, self.most, strict=True)):
            if not low <= middle <= high:
                raise UsageError(
                    f"Dimension {axis} of {self.name} is {low}:{middle}:{high}, which is not in order.",
                    remedy="Give the smallest, the usual and the largest shape, as NAME=MIN:OPT:MAX.",
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `x=1x3x224x224:8x3x224x224:16x3x224x224`, or `x=8x3x224x224` where all three are the same.

        Raises:
            UsageError: If the text is neither, or the shapes are not in order.
        """
        name, _, shapes = text.rpartition("=")
        parts = shapes.split(":")
        if not name or len(parts) not in (1, 3) or not all(_SHAPE.fullmatch(part) for part in parts):
            raise UsageError(
                f"{text!r} is no range of shapes.",
                remedy="Write NAME=MIN:OPT:MAX, for instance x=1x3x224x224:8x3x224x224:16x3x224x224.",
            )
        dims = [tuple(int(dim) for dim in part.split("x")) for part in parts]
        least, best, most = dims if len(dims) == 3 else dims * 3
        return cls(name, least, best, most)

    def __str__(self) -> str:
        """Returns the text that `parse` reads."""
        shapes = ("x".join(str(dim) for dim in dims) for dims in (self.least, self.best, self.most))
        return f"{self.name}={':'.join(shapes)}"


def parse_targets(texts: Sequence[str]) -> tuple[str, ...]:
    """Checks compute capabilities such as `8.6`, `86` or `sm86`, and returns them as `8.6`, sorted, each once.

    Raises:
        UsageError: If one is unknown, or if 7.5 is listed beside others.
    """
    known = {target.replace(".", ""): target for target in TARGETS}
    found = set()
    for text in texts:
        digits = text.strip().lower().removeprefix("sm").lstrip("_").replace(".", "")
        if digits not in known:
            raise UsageError(
                f"There is no target for compute capability {text.strip()!r} without its GPU.",
                remedy=f"Use some of {', '.join(TARGETS)}; for others build on the GPU with the full tensorrt package.",
            )
        found.add(known[digits])
    if ALONE in found and len(found) > 1:
        raise UsageError(
            f"Compute capability {ALONE} cannot be combined with others: with it in the list the builder runs INT8 "
            "convolutions in float on all of them.",
            remedy=f"Compile for {ALONE} by itself, into a folder of its own.",
        )
    return tuple(sorted(found, key=float))


def parse_bytes(text: str) -> int:
    """Reads a number of bytes such as `2GiB`, `512M` or `1048576`; units are powers of 1024.

    Raises:
        UsageError: If it is none.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{text!r} is no amount of memory.", remedy="Write for instance 512M or 2GiB.")
    return int(match[1]) << (10 * " KMG".index((match[2] or " ").upper()))


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is built.

    Attributes:
        modules: Builders to try, the preferred one first; with compute capabilities only the ahead-of-time one.
        compute_capabilities: Targets such as `8.6`, for the ahead-of-time builder; empty: its default set.
        profile: Shapes of dynamic inputs.
        workspace_bytes: Most memory that a layer may use besides its tensors; None: the builder's default.
        timing_cache: File with timings of tactics to read and update; the ahead-of-time builder has none.
        timeout_seconds: After so long without an answer the builder is stopped.
    """

    modules: tuple[str, ...] = MODULES
    compute_capabilities: tuple[str, ...] = ()
    profile: tuple[ShapeRange, ...] = ()
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    timeout_seconds: float = TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        """Brings the compute capabilities into their normal form and chooses the builder that knows them.

        Raises:
            UsageError: If compute capabilities are unknown or cannot be combined, or an input is named twice.
        """
        object.__setattr__(self, "compute_capabilities", parse_targets(self.compute_capabilities))
        if self.compute_capabilities:
            object.__setattr__(self, "modules", (AHEAD_OF_TIME,))
        names = [each.name for each in self.profile]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"Shapes of {twice[0]} are given twice.", remedy="Give MIN:OPT:MAX once for each input.")
