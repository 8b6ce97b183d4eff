"""Finds files inside installed packages without importing them."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sardonyx.errors import UsageError


@dataclass(frozen=True)
class Package:
    """A package that is not a dependency.

    Attributes:
        module: What is imported.
        requirement: What is installed.
        install: The command that installs it with all that the model needs.
    """

    module: str
    requirement: str
    install: str

    def require(self, purpose: str) -> Path:
        """Returns the package's folder.

        Args:
            purpose: What it is needed for, for the message.

        Raises:
            UsageError: If it is not installed.
        """
        spec = find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                f"{purpose} needs the package {self.requirement}, which is not installed.",
                remedy=f"Install it: {self.install}",
            )
        return Path(spec.submodule_search_locations[0])

    def file(self, relative: str, purpose: str) -> Path:
        """Returns a file inside the package.

        Args:
            relative: Path within the package's folder.
            purpose: What it is needed for, for the message.

        Raises:
            UsageError: If the package is not installed, or this version of it has no such file.
        """
        path = self.require(purpose) / relative
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file, needed for {purpose}; another version of the package is installed.",
                remedy=f"Install the version that has it: {self.install}",
            )
        return path
