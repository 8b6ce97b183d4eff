"""The compile record: everything needed to reproduce or to dispute a result, as JSON."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from sardonyx.backends import EngineReport
from sardonyx.errors import SpecError
from sardonyx.pipeline.manager import PassRecord, Status
from sardonyx.pipeline.recipe import Recipe

RECORD_VERSION: Final = 1
RECORD_NAME = "record.json"
PLAN_NAME = "plan.json"
REPORT_NAME = "report.html"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileEntry(_Part):
    """A file: `path` as the user gave it, `sha256` of the bytes on disk, `digest` of the graph and weights."""

    path: str | None = None
    sha256: str | None = None
    digest: str | None = None
    nbytes: int | None = None


class Decision(_Part):
    """One decision: what was chosen, where, and why."""

    stage: str
    choice: str
    reason: str
    subjects: list[str] = Field(default_factory=list)


class Accuracy(_Part):
    """The metric of the original and of a candidate; `drop` is (original - candidate) / |original|."""

    metric: str
    original: float
    candidate: float
    drop: float
    samples: int | None = None


class Latency(_Part):
    """Paired latency: `speedup` is the median of original time / candidate time, with its 95 % interval."""

    speedup: float
    low: float
    high: float
    pairs: int
    original_ms: float
    candidate_ms: float
    threads: int


class Candidate(_Part):
    """One model that could have been written, and what was measured of it.

    `integer_nodes` counts the products that its plan computes with integers from quantized activations. `legalized`
    says that the target takes it only rewritten, which changed its results beyond rounding: it is judged by the budget.
    """

    name: str
    nbytes: int
    operators: dict[str, int] = Field(default_factory=dict)
    integer_nodes: int = 0
    legalized: bool = False
    accuracy: Accuracy | None = None
    agreement: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] = Field(default_factory=list)
    latency: Latency | None = None
    rejected: str | None = None


class CompileRecord(_Part):
    """The whole record of one compile."""

    version: Literal[1] = RECORD_VERSION
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    source: FileEntry = Field(default_factory=FileEntry)
    outputs: list[FileEntry] = Field(default_factory=list)
    samples: dict[str, Any] = Field(default_factory=dict)
    recipe: Recipe = Field(default_factory=Recipe)
    pipeline: str = ""
    tools: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    repairs: list[str] = Field(default_factory=list)
    passes: list[PassRecord] = Field(default_factory=list)
    decisions: list[Decision] = Field(default_factory=list)
    candidates: list[Candidate] = Field(default_factory=list)
    engine: EngineReport | None = None
    chosen: str = ""
    met_budget: bool = False

    def decide(self, stage: str, choice: str, reason: str, subjects: tuple[str, ...] = ()) -> None:
        """Adds a decision."""
        self.decisions.append(Decision(stage=stage, choice=choice, reason=reason, subjects=list(subjects)))

    def note_passes(self, passes: Sequence[PassRecord]) -> None:
        """Adds what passes did, and as decisions what they planned, refused or had undone."""
        for done in passes:
            plan = done.details.get("plan")
            if plan is not None:  # kept in a file of its own: its scales are many
                done = replace(done, details={k: v for k, v in done.details.items() if k != "plan"})
                for point in plan["points"]:
                    choice = f"{point['dtype']} {point['kind']}"
                    self.decide("quantize", choice, point.get("reason", ""), (point["value"],))
            self.passes.append(done)
            if done.status is Status.UNDONE:
                self.decide(done.name, "undone", done.reason)
            for refusal in done.refusals:
                self.decide(done.name, f"not {refusal.rule}", refusal.reason, refusal.nodes)

    def candidate(self, name: str) -> Candidate | None:
        """Returns a candidate by name."""
        return next((c for c in self.candidates if c.name == name), None)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the record as indented JSON."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a record.

        Raises:
            SpecError: If the file cannot be read or is no record of this version.
        """
        if not Path(path).is_file():
            raise SpecError(
                f"There is no compile record at {path}.",
                remedy="Name the output folder of a compile, or compile first.",
            )
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # pydantic's and Unicode's errors are ValueErrors
            reason = " ".join(str(error).split())[:200]
            raise SpecError(
                f"{path} is not a compile record that this release reads: {reason}.",
                remedy=f"Pass the {RECORD_NAME} of an output folder, or compile again.",
            ) from error
