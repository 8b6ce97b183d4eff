"""The contract of a backend: a table, and a few verbs around it."""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self

from sardonyx import ir
from sardonyx.backends.engine import EngineReport, EngineRequest
from sardonyx.capabilities import Capabilities
from sardonyx.errors import BackendError, SpecError, UsageError
from sardonyx.measure import Machine, Samples, Session

GROUP = "sardonyx.backends"


@dataclass(frozen=True)
class LegalizeResult:
    """What legalization changed or could not accept.

    Attributes:
        changes: Sentences, each naming the nodes rewritten.
        refusals: Sentences, each naming a node the target will not run, and the remedy.
        exact: Whether the model computes what it did, but for the rounding of floats.
    """

    changes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    exact: bool = True


class Backend(ABC):
    """A target. Backends know no pass by name: they publish a table that passes read.

    A backend with options is a frozen dataclass whose fields are its options.

    Attributes:
        name: What `--target` takes.
        summary: What it is, in a line.
        files: Patterns of the names that it writes into an output folder.
        untimed: Why timing what `load` returns says nothing about the target; empty where it does.
        refusals_are_final: Whether a model that legalization refuses is not worth compiling.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    untimed: ClassVar[str] = ""
    refusals_are_final: ClassVar[bool] = False

    def configured(self, options: Mapping[str, Any]) -> Self:
        """Returns the backend with some of its options given.

        Raises:
            SpecError: If it has no such option.
            UsageError: If a value cannot be used.
        """
        known = list(getattr(self, "__dataclass_fields__", {}))
        for name in options:
            if name not in known:
                remedy = f"Its options: {', '.join(known)}." if known else "It has no options."
                raise SpecError(f"The target {self.name} has no option {name!r}.", remedy=remedy)
        return dataclasses.replace(self, **options) if options else self  # type: ignore[type-var]

    def prepared(self, model: ir.Model, samples: Samples | None) -> Self:
        """Returns the backend with what its options leave open decided for a model, before the work begins.

        Raises:
            UsageError: If an option does not fit the model, or is missing.
        """
        return self

    def status(self) -> tuple[str, ...]:
        """Returns what is installed and usable on this machine, as sentences."""
        return ()

    def preflight(self, model: ir.Model) -> tuple[str, ...]:
        """Returns what the target would refuse, change or run otherwise than written, as sentences."""
        return ()

    def build_engine(self, model: ir.Model, path: Path, request: EngineRequest) -> EngineReport | None:
        """Builds what is deployed from a model that `emit` wrote to `path`, into the same folder.

        Returns:
            What became of it; None for targets that run the model as it is.
        """
        return None

    @abstractmethod
    def capabilities(self, machine: Machine) -> Capabilities:
        """Returns the target's table for a machine."""

    @abstractmethod
    def legalize(self, model: ir.Model) -> LegalizeResult:
        """Rewrites a model in place to what the target accepts."""

    @abstractmethod
    def load(self, source: str | os.PathLike[str] | bytes, *, threads: int = 1) -> Session:
        """Loads a model in the real runtime.

        Raises:
            BackendError: If the runtime refuses the model, with its reason.
        """

    @abstractmethod
    def emit(self, model: ir.Model, folder: Path, *, check: bool = True) -> Path:
        """Writes the artefact into an existing folder, loads it back if `check`, and returns its path.

        Raises:
            SaveError: If the folder cannot be written.
            BackendError: If the runtime does not load what was written.
        """


def backends() -> dict[str, type[Backend]]:
    """Returns all installed backends by name, third parties' included.

    Raises:
        BackendError: If an installed backend cannot be imported.
    """
    found: dict[str, type[Backend]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            found[entry.name] = entry.load()
        except ImportError as error:
            raise BackendError(
                f"The backend {entry.name!r} ({entry.value}) cannot be imported: {error}.",
                remedy="Install what it needs, or uninstall the package that registers it.",
            ) from error
    return found


def backend(name: str) -> Backend:
    """Returns a backend by name.

    Raises:
        UsageError: If no such backend is installed.
    """
    available = backends()
    if name not in available:
        raise UsageError(f"There is no target {name!r}.", remedy=f"Installed targets: {', '.join(available)}.")
    return available[name]()
