"""Every error that Sardonyx raises on purpose.

Each message says what is wrong and where (file, node or tensor); each `remedy` says what to do next.
`exit_code` is what the command line returns: 2 for bad usage or input, 3 for a tool or runtime that failed.
"""

from typing import ClassVar


class SardonyxError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong and where: the file, node or tensor.
        remedy: What to do next, as a sentence.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        ended = self.message if self.message.endswith((".", "!", "?", ":")) else f"{self.message}."
        return f"{ended} {self.remedy}" if self.remedy else self.message


class UsageError(SardonyxError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class LoadError(UsageError):
    """A model that cannot be read: missing, not ONNX, truncated, or its external data is unusable."""


class DataError(UsageError):
    """Samples that do not fit the model: wrong name, dtype or shape, NaN, or none at all."""


class SpecError(UsageError):
    """A recipe, pipeline or plan text that cannot be understood."""


class SaveError(UsageError):
    """An output that cannot be written where it was asked for."""


class VerifyError(SardonyxError):
    """A model that breaks a structural rule which the compiler cannot repair."""

    exit_code = 2


class PassError(SardonyxError):
    """A pass that could not do its work; the manager undoes it and goes on."""


class BackendError(SardonyxError):
    """A target runtime that refused or failed to run a model."""
