"""Imports what a user names as `package.module:name`."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sardonyx.errors import DataError

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_import_path(text: str) -> bool:
    """Returns whether a text has the form `package.module:function`."""
    return _FORM.fullmatch(text) is not None


def import_function(spec: str) -> Callable[..., Any]:
    """Imports a function by its path; during the import the current directory is searched first.

    Args:
        spec: `package.module:function`; the function may be an attribute of a class, as in
            `module:Class.method`.

    Raises:
        DataError: As `import_object`, or if what is found is not callable.
    """
    found = import_object(spec, what="function")
    if not callable(found):
        raise DataError(f"{spec} is of type {type(found).__name__}.", remedy="Name a function instead.")
    return found  # type: ignore[no-any-return]


def import_object(spec: str, *, what: str = "name") -> Any:
    """Imports an attribute of a module by its path; during the import the current directory is searched first.

    Args:
        spec: `package.module:name`.
        what: What it should be, for the messages.

    Raises:
        DataError: If there is no such module or attribute, or the module fails to import; the cause is chained.
    """
    if not is_import_path(spec):
        raise DataError(f"{spec!r} is not a path to a {what}.", remedy=f"Write package.module:{what}.")
    module_name, _, attributes = spec.partition(":")
    found: Any = _import(module_name, spec)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise DataError(
                f"{spec}: {module_name} has no {attribute!r}.",
                remedy=f"Functions in it: {', '.join(_callables(found)) or 'none'}.",
            )
        found = getattr(found, attribute)
    return found


def _import(module_name: str, spec: str) -> Any:
    with _current_directory_first():
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            missing = error.name or module_name
            if module_name == missing or module_name.startswith(f"{missing}."):
                raise DataError(
                    f"{spec}: there is no module {missing!r}.",
                    remedy="Run from the folder that holds it, or add that folder to PYTHONPATH.",
                ) from error
            raise DataError(
                f"{spec}: {module_name} imports {missing!r}, which is not installed.",
                remedy=f"Install {missing!r} in this environment.",
            ) from error
        except Exception as error:
            raise DataError(
                f"{spec}: importing {module_name} raised {type(error).__name__}: {error}",
                remedy=f"Import {module_name} in Python to see where.",
            ) from error


def _callables(found: object) -> list[str]:
    return [
        name
        for name, value in vars(found).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == getattr(found, "__name__", None)
    ]


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """Searches the current directory first, as `python -m` does, and restores `sys.path` afterwards."""
    sys.path.insert(0, "")
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove("")
