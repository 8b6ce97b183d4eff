"""Backends: one folder a target. `sardonyx.backends.base` is the contract they fulfil."""

from sardonyx.backends.base import Backend, LegalizeResult, backend, backends

__all__ = ["Backend", "LegalizeResult", "backend", "backends"]
