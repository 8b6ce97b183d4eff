"""Recipes: everything that decides a compile, as one file in YAML, TOML or JSON."""

import difflib
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sardonyx.errors import SpecError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

OPTIMIZE = (
    "cleanup, fold-constants, choose-branches, unroll-loops, fold-constants, "
    "sink-transposes, raise-opset, fuse, cleanup"
)
"""The exact part of the default pipeline."""

QUANTIZE = "auto"
"""The part of the default pipeline that is judged against the budget: schemes that suit the kind of model."""


class Recipe(BaseModel):
    """What a compile does. The same recipe, model and samples give the same model.

    Attributes:
        target: The backend's name.
        target_options: Options of that backend by name; each backend has its own.
        optimize: Pipeline text of the exact passes.
        quantize: Name of a scheme or pipeline text of the passes that trade accuracy for speed; `auto` for the schemes
            that suit the model, of which the fastest that keeps the budget is taken; empty for none.
        fallback: What runs in float runs as FP32, or as FP16 where the target and the ranges on the samples allow it.
        exclude: Patterns of nodes to keep in float.
        include: Patterns of the only nodes to quantize; empty for all.
        max_drop: Largest relative loss of the metric, for instance 0.01 for 1 %.
        held_out: Share of the samples that judges and is never calibrated with.
        threads: Threads of the target runtime within an operator, for timing and calibration.
        timing_seconds: Wall time of each paired timing, in seconds.
        give_back_seconds: Wall time for measuring how much noise each node of a quantized model adds, once more for
            finding how many of them to give back, and once more for trying which of these may be quantized after all.
        opset: The standard opset to which models too old for per-channel Q/DQ are raised.
        report: Whether to write the page that a person reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = "onnxruntime"
    target_options: dict[str, Any] = Field(default_factory=dict)
    optimize: str = OPTIMIZE
    quantize: str = QUANTIZE
    fallback: Literal["fp32", "fp16"] = "fp32"
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    max_drop: float = Field(0.01, ge=0, lt=1)
    held_out: float = Field(0.25, gt=0, lt=1)
    threads: int = Field(1, ge=1)
    timing_seconds: float = Field(3.0, gt=0)
    give_back_seconds: float = Field(60.0, ge=0)
    opset: int = Field(17, ge=13)
    report: bool = True

    @classmethod
    def from_data(cls, data: Any, *, where: str = "The recipe") -> Self:
        """Builds a recipe from a mapping.

        Raises:
            SpecError: If a key is unknown or a value is out of range.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _unusable(error.errors()[0], cls, where) from error

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a recipe from a .yaml, .yml, .toml or .json file.

        Raises:
            SpecError: If the file is missing, cannot be parsed, or has an unusable entry.
        """
        path = Path(path)
        readers: dict[str, Callable[[str], Any]] = {
            ".yaml": yaml.safe_load,
            ".yml": yaml.safe_load,
            ".toml": tomllib.loads,
            ".json": json.loads,
        }
        if path.suffix not in readers:
            raise SpecError(f"{path} is no recipe file.", remedy=f"Use one of: {', '.join(readers)}.")
        try:
            data = readers[path.suffix](path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SpecError(f"The recipe {path} does not exist.", remedy="Check the path.") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SpecError(
                f"The recipe {path} cannot be read: {' '.join(str(error).split())}.",
                remedy="It holds one `entry: value` a line in YAML; see docs/recipes-and-records.md.",
            ) from error
        return cls.from_data({} if data is None else data, where=str(path))


def _unusable(problem: "ErrorDetails", recipe: type[Recipe], where: str) -> SpecError:
    """Says in our words what pydantic found."""
    entry = ".".join(str(part) for part in problem["loc"])
    known = f"Known entries: {', '.join(recipe.model_fields)}."
    if not entry:
        return SpecError(f"{where} is not a mapping of entries to values.", remedy=known)
    if entry not in recipe.model_fields:
        close = difflib.get_close_matches(entry, recipe.model_fields, n=1)
        remedy = f"Did you mean {close[0]}?" if close else known
        return SpecError(f"{where} has an unknown entry {entry}.", remedy=remedy)
    expected = problem["msg"].removeprefix("Input should be ").partition(",")[0]
    return SpecError(
        f"{where}: {entry} is {problem['input']!r}, which should be {expected}.",
        remedy=f"Its default is {recipe.model_fields[entry].default!r}.",
    )
