"""The models and tests that the onnx package carries: node tests, small models, exports of old, and architectures."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SETS = ("simple", "pytorch-converted", "pytorch-operator")
FILLED = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
"""Architectures that are also tried with random weights; the others are chains of the same few operators with hundreds
of megabytes of them."""

RANDOM = frozenset(
    {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}
)


@dataclass(frozen=True)
class Case:
    """A model and what to feed it with.

    Attributes:
        name: Its name in the corpus.
        model: The model.
        feed: By input name: arrays, lists of arrays, or None for an optional without value.
    """

    name: str
    model: onnx.ModelProto
    feed: Mapping[str, Any]

    @property
    def random(self) -> str:
        """The operator that draws other numbers in each run; empty where there is none."""
        for node in (*self.model.graph.node, *(n for function in self.model.functions for n in function.node)):
            if node.op_type in RANDOM and not any(attribute.name == "seed" for attribute in node.attribute):
                return node.op_type
        return ""


@cache
def node_tests() -> tuple[Case, ...]:
    """The node tests of this version of onnx: about 1,900."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = node_cases.collect_testcases(None)
    return tuple(Case(case.name, case.model, _named(case.model, case.data_sets[0][0])) for case in found)


def data_set(kind: str) -> Iterator[Case]:
    """Yields the models of one of `SETS`, each with its first data set."""
    for folder in sorted((DATA / kind).iterdir()):
        if (folder / "model.onnx").exists():
            model = onnx.load(folder / "model.onnx")
            files = sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
            types = [value.type for value in model.graph.input]
            values = [_read(file, kind) for file, kind in zip(files, types, strict=False)]
            yield Case(folder.name, model, _named(model, values))


def architectures() -> Iterator[Case]:
    """Yields the image networks of the onnx package as they are, with constant weights made when they run."""
    for path in sorted((DATA / "light").glob("light_*.onnx")):
        model = onnx.load(path)
        yield Case(path.stem, model, _image(model))


def filled_architecture(name: str) -> Case:
    """Returns one of `FILLED` with random weights."""
    model = onnx.load(DATA / "light" / f"light_{name}.onnx")
    _fill(model)
    return Case(f"filled_{name}", model, _image(model))


def _named(model: onnx.ModelProto, values: list[Any]) -> dict[str, Any]:
    return dict(zip((value.name for value in model.graph.input), map(_as_fed, values), strict=False))


def _as_fed(value: Any) -> Any:
    """Turns what the data sets hold into arrays, lists of arrays, or None for an optional without value."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, list):
        return [_as_fed(part) for part in value]
    return None if value is None else np.asarray(value)


def _read(file: Path, kind: onnx.TypeProto) -> Any:
    message = onnx.SequenceProto if kind.HasField("sequence_type") else onnx.TensorProto
    return message.FromString(file.read_bytes())


def _image(model: onnx.ModelProto) -> dict[str, Any]:
    given = {tensor.name for tensor in model.graph.initializer}
    generator = np.random.default_rng(0)
    return {
        value.name: generator.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in model.graph.input
        if value.name not in given
    }


def _fill(model: onnx.ModelProto) -> None:
    """Puts random weights in the place of each ConstantOfShape: positive ones where they may be a variance."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    generator = np.random.default_rng(0)
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = shapes[node.input[0]].tolist()
        if len(shape) < 2:
            array = generator.uniform(0.5, 1.5, shape)
        else:
            array = generator.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # from then on initializers need not be inputs
