"""The contract of a backend: a table, and a few verbs around it."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import BackendError, UsageError
from sardonyx.measure import Machine, Session

GROUP = "sardonyx.backends"


@dataclass(frozen=True)
class LegalizeResult:
    """What legalization changed or could not accept.

    Attributes:
        changes: Sentences, each naming the nodes rewritten.
        refusals: Sentences, each naming a node the target will not run, and the remedy.
    """

    changes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


class Backend(ABC):
    """A target. Backends know no pass by name: they publish a table that passes read."""

    name: ClassVar[str]
    summary: ClassVar[str]

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
