"""Which passes there are: the built-in ones, and those that other packages register by entry point."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from sardonyx.errors import PassError
from sardonyx.passes.base import Pass

GROUP = "sardonyx.passes"

_BUILT_IN = {
    "apply-plan": "sardonyx.passes.quantization.apply_plan:ApplyPlan",
    "choose-branches": "sardonyx.passes.folding.branches:ChooseBranches",
    "cleanup": "sardonyx.passes.cleanup.cleanup:Cleanup",
    "convert-float": "sardonyx.passes.precision.convert:ConvertFloat",
    "equalize": "sardonyx.passes.quantization.methods.equalize:Equalize",
    "fold-constants": "sardonyx.passes.folding.constants:FoldConstants",
    "fuse": "sardonyx.passes.fusion.fuse:Fuse",
    "fuse-transformer": "sardonyx.passes.fusion.attention.fuse:FuseTransformer",
    "quantize-dynamic": "sardonyx.passes.quantization.dynamic.quantize:QuantizeDynamic",
    "quantize-static": "sardonyx.passes.quantization.static:QuantizeStatic",
    "quantize-weights": "sardonyx.passes.quantization.weight_only.quantize:QuantizeWeights",
    "rewrite": "sardonyx.passes.rewriting.rewrite:Rewrite",
    "raise-opset": "sardonyx.passes.fusion.raise_opset:RaiseOpset",
    "sink-transposes": "sardonyx.passes.fusion.sink_transposes:SinkTransposes",
    "smooth-quant": "sardonyx.passes.quantization.methods.smooth:SmoothQuant",
    "split-outliers": "sardonyx.passes.quantization.methods.outliers:SplitOutliers",
    "unroll-loops": "sardonyx.passes.folding.loops:UnrollLoops",
    "widen-float": "sardonyx.passes.precision.widen:WidenFloat",
}


def available_passes() -> Mapping[str, type[Pass]]:
    """Returns pass types by name. A third-party pass may not take a built-in pass's name.

    Raises:
        PassError: If a registered pass cannot be imported, is no pass, or has a name that is taken or not its own.
    """
    found: dict[str, type[Pass]] = {}
    for name, location in _BUILT_IN.items():
        module, _, attribute = location.partition(":")
        found[name] = getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP):
        found[entry.name] = _load(entry, taken=entry.name in found)
    return found


def _load(entry: EntryPoint, *, taken: bool) -> type[Pass]:
    what = f"The pass {entry.name!r}, registered by {entry.dist.name if entry.dist else 'a package'} as {entry.value},"
    remedy = "Uninstall or mend the package that registers it."
    if taken:
        raise PassError(f"{what} has a name that is taken.", remedy=remedy)
    try:
        loaded = entry.load()
    except Exception as error:  # whatever a module of others raises on import
        raise PassError(f"{what} cannot be imported: {type(error).__name__}: {error}.", remedy=remedy) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        raise PassError(f"{what} is not a subclass of Pass.", remedy=remedy)
    if loaded.name != entry.name:  # else the pipeline's text in the record would not build it again
        raise PassError(f"{what} calls itself {loaded.name!r}.", remedy=remedy)
    return loaded
