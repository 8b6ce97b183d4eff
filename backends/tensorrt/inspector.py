"""What the inspector of a loaded engine tells of its layers, as JSON.

TensorRT 10 writes a type within `Format/Datatype`, TensorRT 11 and TensorRT for RTX write `Datatype` and `Format`
(https://docs.nvidia.com/deeplearning/tensorrt/11.3.0/api/migration/tensorrt-10x-to-11x-IEngineInspector.html). Engines
that were built with less than detailed profiling verbosity have the names of their layers alone, as plain strings
(https://docs.nvidia.com/deeplearning/tensorrt/10.16.1/inference-library/engine-tools.html).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sardonyx.backends.engine import EngineLayer
from sardonyx.backends.tensorrt.child import Child, Stage, Watch
from sardonyx.backends.tensorrt.layers import Layer, LayerTensor, known_dtype, make_layer

SECTIONS = ("Inputs", "Constants", "Outputs")
"""Where a layer's tensors are listed."""

NO_DEVICE = "there is no NVIDIA device here that the engine was built for"

TIMEOUT_SECONDS = 300.0
"""Loading compiles the kernels for the device, which takes seconds; an engine that hangs then is left alone."""


@dataclass(frozen=True)
class Inspection:
    """What became of loading an engine to look into it.

    Attributes:
        text: What its inspector told, as JSON; empty where it told nothing.
        layers: Its layers; empty where they are not known.
        problem: Why they are not, as a sentence without its point.
    """

    text: str = ""
    layers: tuple[Layer, ...] = ()
    problem: str = ""


def inspect_engine(engine: Path, module: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Inspection:
    """Loads an engine in a child process, which takes a GPU that it was built for, and asks its inspector.

    Args:
        engine: The engine's file.
        module: The Python module that built it: another does not load it.
        timeout_seconds: After so long without an answer the child is stopped.
    """
    child = Child()
    try:
        job = {"work": "inspect", "modules": [module], "engine": str(engine)}
        answer = child.ask(job, Watch(timeout_seconds))
    finally:
        child.stop()
    if answer["stage"] != Stage.DONE:
        said = "; ".join(dict.fromkeys(error["message"] for error in answer["errors"]))
        return Inspection(problem=said.removesuffix(".") or NO_DEVICE)
    text: str = answer["information"]
    try:
        return Inspection(text, parse_information(text))
    except ValueError as error:
        return Inspection(text, problem=f"what its inspector tells cannot be read: {error}")


def shown_layers(logged: tuple[Layer, ...], inspection: Inspection | None) -> tuple[tuple[EngineLayer, ...], str]:
    """Returns the layers to show, and where they are from.

    Args:
        logged: Those that the builder logged.
        inspection: What became of asking the engine, which knows the kernels that were chosen for the device; None
            where there is no engine.
    """
    if inspection is not None and any(layer.kind for layer in inspection.layers):
        source = "These are the layers that the inspector of the engine tells, loaded on the device."
        return tuple(_shown(layer) for layer in inspection.layers), source
    why = f" The engine's inspector told none: {inspection.problem}." if inspection and inspection.problem else ""
    source = f"These are the layers that the builder logged.{why}" if logged else ""
    return tuple(_shown(layer) for layer in logged), source


def _shown(layer: Layer) -> EngineLayer:
    return EngineLayer(
        layer.name,
        layer.kind,
        layer.precision,
        tuple(str(each) for each in layer.inputs),
        tuple(str(each) for each in layer.outputs),
        layer.tactic,
        layer.nodes,
    )


def parse_information(text: str) -> tuple[Layer, ...]:
    """Reads what `IEngineInspector.getEngineInformation` gives as JSON.

    Args:
        text: The JSON text. Control characters in its strings, such as the separators between ONNX layers, are taken;
            keys that are not known are passed over, and so is what has another type than it should.

    Returns:
        The layers in order of execution.

    Raises:
        ValueError: If the text is not JSON, or holds no list of layers.
    """
    information = json.loads(text, strict=False)
    layers = information.get("Layers") if isinstance(information, Mapping) else None
    if not isinstance(layers, list):
        raise ValueError("it holds no list of layers")  # noqa: TRY004 - the text is at fault, no argument's type
    return tuple(_layer(each) for each in layers if isinstance(each, str | Mapping))


def _layer(told: str | Mapping[str, Any]) -> Layer:
    if isinstance(told, str):
        return Layer(told, "", (), (), (), ())
    sections = {name: tuple(_tensors(told[name])) for name in SECTIONS if name in told}
    tactic = _text(told, "TacticName") or _text(told, "TacticValue")
    return make_layer(
        _text(told, "Name"), _text(told, "LayerType"), sections, metadata=_text(told, "Metadata"), tactic=tactic
    )


def _tensors(listed: object) -> Iterable[LayerTensor]:
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping):
            layout = _text(each, "Format/Datatype") or _text(each, "Format")
            dtype = _text(each, "Datatype") or _text(each, "DataType")
            yield LayerTensor(_text(each, "Name"), _dims(each), known_dtype(dtype or layout) or dtype, layout)


def _dims(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    dims = tensor.get("Dimensions")
    return tuple(dim for dim in dims if isinstance(dim, int)) if isinstance(dims, list) else ()


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key, "")
    return value if isinstance(value, str) else ""
