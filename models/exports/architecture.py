"""What is exported: a network, what it is fed with, and which of its dimensions are dynamic."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["normal", "tokens", "mask"]
Sizes = Mapping[str, int]
"""A size for each dynamic dimension."""


@dataclass(frozen=True)
class Input:
    """An input of a network.

    Attributes:
        name: Its name in the exported model.
        shape: Sizes; a string names a dynamic dimension.
        kind: `normal` is float32, standard normal; `tokens` is int64 below `vocabulary`; `mask` is int64, one for what
            is kept and zero for the last quarter of the last dimension.
        vocabulary: The number of different tokens.
    """

    name: str
    shape: tuple[int | str, ...]
    kind: Kind = "normal"
    vocabulary: int = 2

    def dynamic(self) -> dict[int, str]:
        """Returns the names of the dynamic dimensions by axis."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}

    def draw(self, sizes: Sizes, generator: np.random.Generator) -> npt.NDArray[Any]:
        """Draws an array of this input at some sizes of its dynamic dimensions."""
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)
        if self.kind == "normal":
            return generator.standard_normal(shape).astype(np.float32)
        if self.kind == "tokens":
            return generator.integers(0, self.vocabulary, shape, dtype=np.int64)
        mask = np.ones(shape, np.int64)
        mask[..., shape[-1] - shape[-1] // 4 :] = 0
        return mask


@dataclass(frozen=True)
class Architecture:
    """A network to export.

    Attributes:
        name: Its name in kebab-case.
        build: Makes the network (a `torch.nn.Module`) with random weights.
        inputs: What it is called with, in order.
        sizes: The sizes it is run at; it is traced at the first. Each names all dynamic dimensions.
    """

    name: str
    build: Callable[[], Any]
    inputs: tuple[Input, ...]
    sizes: tuple[Sizes, ...] = ({"batch": 2}, {"batch": 1}, {"batch": 3})

    def feed(self, sizes: Sizes) -> dict[str, npt.NDArray[Any]]:
        """Draws arrays for all inputs at some sizes; the same sizes give the same arrays."""
        generator = np.random.default_rng(zlib.crc32(repr((self.name, sorted(sizes.items()))).encode()))
        return {each.name: each.draw(sizes, generator) for each in self.inputs}


SEQUENCES: tuple[Sizes, ...] = (
    {"batch": 2, "length": 10},
    {"batch": 1, "length": 7},
    {"batch": 3, "length": 16},
)
"""Sizes of a network with dynamic batch and length."""


def image(side: int, channels: int = 3) -> tuple[Input, ...]:
    """Returns the one input of an image network: [batch, channels, side, side]."""
    return (Input("image", ("batch", channels, side, side)),)
