"""Backends: one folder a target. `sardonyx.backends.base` is the contract they fulfil."""

from sardonyx.backends.base import Backend, LegalizeResult, backend, backends
from sardonyx.backends.engine import EngineLayer, EngineReport, EngineRequest, Miss, Proof

__all__ = [
    "Backend",
    "EngineLayer",
    "EngineReport",
    "EngineRequest",
    "LegalizeResult",
    "Miss",
    "Proof",
    "backend",
    "backends",
]
