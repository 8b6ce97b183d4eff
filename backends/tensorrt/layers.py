"""The layer table of a built engine: what runs in which type, and which ONNX nodes it computes."""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

BITS: Mapping[str, int] = MappingProxyType(
    {
        "Float": 32,
        "Half": 16,
        "BFloat16": 16,
        "FP8": 8,
        "Int8": 8,
        "UInt8": 8,
        "Bool": 8,
        "Int4": 4,
        "FP4": 4,
        "Int32": 32,
        "Int64": 64,
    }
)
"""Bits of an element, by the name that the builder uses."""

PRODUCTS = ("correlation", "gemm", "deconv", "runtime_fusion", "convolution")
"""Beginnings and ends of the types of layers that compute sums of products, in lower case."""

DEQUANTIZING = ("runtime_fusion",)
"""Those that turn the integers they read into floats before they multiply."""

_WORDS = {name.lower(): name for name in BITS} | {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"}
"""Types by the words that stand for them, also within the name of a format: `Channel major FP16 format`."""

_LAYER = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>Inputs: .*)")
_SECTION = re.compile(r"(Inputs|Constants|Outputs): \[(\s*\{.*?\}\s*|\s*)\]")
_TENSOR = re.compile(
    r"\{ Name: (.*?), .*?Dimensions: \[([-\d,]*)\].*?(?:(?<!/)Datatype: ([^,}]*), Format|Format/Datatype): ([^}]*)"
)
_TACTIC = re.compile(r"\], .*?\bTacticName: (.*?), StreamId: ")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\s*(?:[\[\x1e]|$))")
_CONSTANT = re.compile(r"__mye\w*const")
"""How the names of constants begin that older builders list among the inputs."""


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer reads or writes.

    Attributes:
        name: The builder's name of it.
        dims: Its dimensions; -1 where they are dynamic.
        dtype: The builder's name of its type: Float, Half, Int8; empty where it tells none.
        layout: How its elements lie in memory, in the builder's words.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    layout: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor; 0 where a dimension is dynamic or the type is unknown."""
        return max(0, math.prod(self.dims)) * BITS.get(self.dtype, 0) // 8

    def __str__(self) -> str:
        """Returns for instance `Int8 1x8x16x16, (NHWC) Channel major format`."""
        dims = "x".join("?" if dim < 0 else str(dim) for dim in self.dims)
        return ", ".join(filter(None, (" ".join(filter(None, (self.dtype, dims))), self.layout)))


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: The builder's name of it.
        kind: Its type: `correlation` (convolution), `gemm`, `kgen` (fused elementwise work), and others.
        inputs: What it reads, besides constants.
        constants: The constants it reads, weights among them.
        outputs: What it writes.
        nodes: Names of the ONNX nodes that it computes.
        tactic: The kernel that computes it, where one was chosen.
    """

    name: str
    kind: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    nodes: tuple[str, ...]
    tactic: str = ""

    @property
    def computes_products(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        kind = self.kind.lower()
        return any(kind.startswith(product) or kind.endswith(product) for product in PRODUCTS)

    @property
    def precision(self) -> str:
        """The type that it computes in: that of the widest operand, where operands are its inputs and its weight.

        A layer that dequantizes first computes in the widest type of all that it touches, its scales included. A type
        that is not known counts as the widest: nothing is claimed of such a layer.
        """
        operands = [each.dtype for each in self.inputs]
        if self.kind in DEQUANTIZING:
            operands += [each.dtype for each in (*self.constants, *self.outputs)]
        elif len(operands) < 2 and self.constants:  # its scales have at most as many elements, and come after it
            operands.append(max(self.constants, key=lambda constant: math.prod(constant.dims)).dtype)
        return max(operands, key=lambda dtype: BITS.get(dtype, sys.maxsize), default="")


def parse_layers(text: str) -> tuple[Layer, ...]:
    """Reads the message `Layers:` that a builder logs with detailed profiling verbosity.

    Args:
        text: The message; the empty string gives no layers.

    Returns:
        The layers in order of execution.
    """
    # full builders put the ASCII record separator between ONNX layers, at which splitlines would break
    return tuple(_layer(match) for line in text.split("\n") if (match := _LAYER.match(line.strip())))


def _layer(match: re.Match[str]) -> Layer:
    rest, _, metadata = match["rest"].partition("Metadata: ")
    sections = {name: tuple(_tensors(body)) for name, body in _SECTION.findall(rest)}
    tactic = _TACTIC.search(rest)
    return make_layer(
        match["name"], match["kind"], sections, metadata=metadata, tactic="" if tactic is None else tactic[1]
    )


def _tensors(body: str) -> Iterator[LayerTensor]:
    for name, dims, dtype, layout in _TENSOR.findall(body):
        sizes = tuple(int(dim) for dim in dims.split(",") if dim)
        yield LayerTensor(name, sizes, known_dtype(dtype or layout) or dtype.strip(), layout.strip())


def make_layer(
    name: str, kind: str, sections: Mapping[str, tuple[LayerTensor, ...]], *, metadata: str, tactic: str
) -> Layer:
    """Returns a layer of what a builder or an inspector says of it.

    Args:
        name: Its name.
        kind: Its type.
        sections: The tensors under `Inputs`, `Constants` and `Outputs`. Where there are no `Constants`, as in
            TensorRT 10, those that the builder's names show to be constants are moved there.
        metadata: The text that names its ONNX nodes.
        tactic: The name of its kernel.
    """
    inputs, constants = sections.get("Inputs", ()), sections.get("Constants", ())
    if "Constants" not in sections:
        constants = tuple(each for each in inputs if _CONSTANT.match(each.name))
        inputs = tuple(each for each in inputs if each not in constants)
    nodes = tuple(dict.fromkeys(_NODE.findall(metadata)))
    return Layer(name, kind, inputs, constants, sections.get("Outputs", ()), nodes, tactic)


def known_dtype(text: str) -> str:
    """Returns the builder's name of the type in a text such as `Half` or `Row major INT8 format`, or nothing."""
    return next((_WORDS[word] for word in re.findall(r"\w+", text.lower()) if word in _WORDS), "")


def weight_bytes(layers: tuple[Layer, ...]) -> dict[str, int]:
    """Returns the bytes of constants by type, each constant once."""
    constants = {each.name: each for layer in layers for each in layer.constants}
    total: Counter[str] = Counter()
    for each in constants.values():
        total[each.dtype] += each.nbytes
    return dict(total)
