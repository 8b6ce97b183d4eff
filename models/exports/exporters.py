"""Exports an architecture by one of torch's two exporters, and draws feeds for it."""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sardonyx.models.exports.architecture import Architecture
from sardonyx.models.exports.export import Export, Variant

SEED = 0


def export(architecture: Architecture, variant: Variant, folder: Path) -> Export:
    """Exports an architecture into `folder`/NAME-EXPORTER-OPSET; what is there already is kept.

    A failure of the exporter is a result: its message is kept in `error.txt` beside the feeds.
    """
    name = f"{architecture.name}-{variant}"
    target = folder / name
    failed = target / "error.txt"
    if failed.exists():
        return Export(name, target, failed.read_text(encoding="utf-8"))
    done = Export(name, target)
    if done.model.exists():
        return done
    target.mkdir(parents=True, exist_ok=True)
    for index, sizes in enumerate(architecture.sizes):
        feed: dict[str, Any] = architecture.feed(sizes)
        np.savez(target / f"feeds_{index}.npz", **feed)
    torch.manual_seed(SEED)
    try:
        with _quiet():
            _EXPORTERS[variant.exporter](architecture, variant.opset, done.model)
    except Exception as error:  # kept and shown: what fails in the exporter is part of the corpus
        done.model.unlink(missing_ok=True)
        message = f"{type(error).__name__}: {_cause(error)}"
        failed.write_text(message, encoding="utf-8")
        return Export(name, target, message)
    return done


def _cause(error: BaseException) -> str:
    """Returns in one line what an exporter said, without its advice: the message of the first error behind it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


def _torchscript(architecture: Architecture, opset: int, path: Path) -> None:
    torch.onnx.export(
        architecture.build().eval(),
        _example(architecture),
        str(path),
        input_names=[each.name for each in architecture.inputs],
        dynamic_axes={each.name: each.dynamic() for each in architecture.inputs},
        opset_version=opset,
        dynamo=False,
    )


def _dynamo(architecture: Architecture, opset: int, path: Path) -> None:
    names = dict.fromkeys(size for each in architecture.inputs for size in each.dynamic().values())
    sizes = {name: torch.export.Dim(name) for name in names}
    shapes = [{axis: sizes[name] for axis, name in each.dynamic().items()} for each in architecture.inputs]
    network = architecture.build().eval()
    program = torch.onnx.export(
        network,
        _example(architecture),
        input_names=[each.name for each in architecture.inputs],
        dynamic_shapes=_as_arguments(network, shapes),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    program.save(str(path), external_data=False)


def _as_arguments(network: torch.nn.Module, shapes: Sequence[Any]) -> tuple[Any, ...]:
    """Puts one thing an input into the form of the network's arguments: those of `*names` are one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:named], tuple(shapes[named:]))


_EXPORTERS = {"torchscript": _torchscript, "dynamo": _dynamo}


def _example(architecture: Architecture) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in architecture.feed(architecture.sizes[0]).values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' progress and warnings off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
