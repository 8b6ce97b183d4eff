"""Command lines that build an engine elsewhere: where no builder is installed, and for those who want their own."""

import shlex

from sardonyx.backends.tensorrt.settings import BuildSettings, ShapeRange

ENGINE = "model.engine"
_MIB = 2**20


def build_commands(model: str, settings: BuildSettings) -> dict[str, str]:
    """Returns command lines by tool.

    Args:
        model: Name of the model file, in the folder in which the command is to run.
        settings: How to build. Without compute capabilities there are commands for the full builder, too.
    """
    commands = {"polygraphy, TensorRT for RTX": _polygraphy(model, settings)}
    if not settings.compute_capabilities:
        base = [
            "trtexec",
            f"--onnx={model}",
            f"--saveEngine={ENGINE}",
            "--profilingVerbosity=detailed",
            *_trtexec_shapes(settings.profile),
        ]
        if settings.workspace_bytes is not None:
            base.append(f"--memPoolSize=workspace:{settings.workspace_bytes / _MIB:g}M")
        if settings.timing_cache is not None:
            base.append(f"--timingCacheFile={settings.timing_cache}")
        commands["trtexec, TensorRT 11"] = shlex.join(base)
        commands["trtexec, TensorRT 10"] = shlex.join([*base, "--stronglyTyped"])
    return commands


def _polygraphy(model: str, settings: BuildSettings) -> str:
    words = ["polygraphy", "convert", model, "--convert-to", "trt", "-o", ENGINE]
    if settings.compute_capabilities:
        words += ["--compute-capabilities", *settings.compute_capabilities]
    if settings.workspace_bytes is not None:
        words += ["--pool-limit", f"workspace:{settings.workspace_bytes}"]
    for which, dims in (("min", "least"), ("opt", "best"), ("max", "most")):
        if settings.profile:
            words.append(f"--trt-{which}-shapes")
            words += [f"{each.name}:[{','.join(map(str, getattr(each, dims)))}]" for each in settings.profile]
    return f"POLYGRAPHY_USE_TENSORRT_RTX=1 {shlex.join(words)}"


def _trtexec_shapes(profile: tuple[ShapeRange, ...]) -> list[str]:
    options = []
    for which, dims in (("min", "least"), ("opt", "best"), ("max", "most")):
        shapes = ",".join(f"{each.name}:{'x'.join(map(str, getattr(each, dims)))}" for each in profile)
        if shapes:
            options.append(f"--{which}Shapes={shapes}")
    return options
