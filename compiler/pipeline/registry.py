"""Which passes there are: the built-in ones, and those that other packages register by entry point."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from sardonyx.errors import PassError
from sardonyx.passes.base import Pass

GROUP = "sardonyx.passes"

_BUILT_IN = {
    "cleanup": "sardonyx.passes.cleanup.cleanup:Cleanup",
    "fold-constants": "sardonyx.passes.folding.constants:FoldConstants",
    "fuse": "sardonyx.passes.fusion.fuse:Fuse",
    "quantize-static": "sardonyx.passes.quantization.static:QuantizeStatic",
}


def available_passes() -> Mapping[str, type[Pass]]:
    """Returns pass types by name. A third-party pass may not take a built-in pass's name.

    Raises:
        PassError: If a registered pass cannot be imported, is no pass, or takes a name that is taken.
    """
    found: dict[str, type[Pass]] = {}
    for name, location in _BUILT_IN.items():
        module, _, attribute = location.partition(":")
        found[name] = getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP):
        found[entry.name] = _load(entry.name, entry.value, taken=entry.name in found)
    return found


def _load(name: str, location: str, *, taken: bool) -> type[Pass]:
    remedy = "Uninstall or mend the package that registers it."
    if taken:
        raise PassError(f"{location} registers a pass under the name {name!r}, which is taken.", remedy=remedy)
    module, _, attribute = location.partition(":")
    try:
        loaded = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PassError(f"The pass {name!r} ({location}) cannot be imported: {error}.", remedy=remedy) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        raise PassError(f"{location}, registered as pass {name!r}, is not a subclass of Pass.", remedy=remedy)
    return loaded
