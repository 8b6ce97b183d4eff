"""The command line: one thin module a verb."""

from sardonyx.cli.main import main

__all__ = ["main"]
