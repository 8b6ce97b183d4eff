"""Samples to calibrate and to judge with: streamed, checked, split."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sardonyx.errors import DataError
from sardonyx.measure.feeds import Array, Feed, TensorSpec, check_feed
from sardonyx.measure.importing import import_function, is_import_path
from sardonyx.measure.sample_files import open_folder, open_stack

Source = Callable[[], Iterable[Feed]]
SampleSpec = str | os.PathLike[str] | Iterable[Feed] | Callable[[], Any]


@dataclass(frozen=True)
class Samples:
    """Samples that are iterated anew each time, one in memory at a time.

    Attributes:
        source: Starts a new iteration over the feeds.
        what: Where they come from, for messages.
        len_hint: Their number where it is known without iterating, else None.
        positional: Whether the keys are the input's index ("0", "1") instead of its name, as in folders of
            `input_0.pb`; `named_for` gives the names.
    """

    source: Source
    what: str
    len_hint: int | None = None
    positional: bool = False

    def __iter__(self) -> Iterator[Feed]:
        return iter(self.source())

    def count(self) -> int:
        """Returns the number of samples, by iterating where it is unknown."""
        return self.len_hint if self.len_hint is not None else sum(1 for _ in self)

    def named_for(self, specs: Sequence[TensorSpec]) -> "Samples":
        """Gives positional samples the names of a model's inputs; others are returned as they are.

        Raises:
            DataError: While iterating, if a sample has more arrays than the model has inputs.
        """
        if not self.positional:
            return self
        names = [spec.name for spec in specs]

        def renamed() -> Iterator[Feed]:
            for index, feed in enumerate(self):
                extra = [key for key in feed if int(key) >= len(names)]
                if extra:
                    raise DataError(
                        f"{self.what}: sample {index} has an input number {extra[0]}, "
                        f"but the model has {len(names)} input(s).",
                        remedy="Use the samples made for this model, or name the arrays in .npz files.",
                    )
                yield {names[int(key)]: array for key, array in feed.items()}

        return Samples(renamed, self.what, self.len_hint)

    def checked(self, specs: Sequence[TensorSpec]) -> "Samples":
        """Returns the same samples, each checked against a model's inputs as it streams.

        Raises:
            DataError: While iterating: a sample that does not fit, naming its index and input, or no samples
                at all.
        """
        named = self.named_for(specs)

        def checked() -> Iterator[Feed]:
            index = -1
            for index, feed in enumerate(named):
                check_feed(feed, specs, where=f"{self.what}: sample {index}")
                yield feed
            if index < 0:
                raise _no_samples(self.what)

        return Samples(checked, self.what, self.len_hint)

    def split(self, held_out: float = 0.25) -> "Split":
        """Splits into samples to tune on and samples to judge with.

        One sample of each stretch of 1 / held_out neighbours is held out, at a place drawn with a fixed seed:
        so sorted data and data that repeat with a period are both split fairly, and always in the same way.

        Args:
            held_out: Share of the samples held out, between 0 and 1; at least one is, and at least one is
                not.

        Returns:
            Both parts, which stream. Where the number of samples is unknown they are counted first.

        Raises:
            DataError: If there are no samples, or `held_out` is not between 0 and 1.
        """
        if not 0.0 < held_out < 1.0:
            raise DataError(
                f"A share of {held_out} cannot be held out.",
                remedy="Use a number between 0 and 1, such as 0.25.",
            )
        total = self.count()
        if total == 0:
            raise _no_samples(self.what)
        if total == 1:
            return Split(calibration=self, held_out=self, overlap=True)
        mask = _held_out_mask(total, held_out)
        return Split(self._subset(~mask), self._subset(mask), overlap=False)

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hex, over names, dtypes, shapes and bytes of all samples in order."""
        digest = hashlib.sha256()
        for feed in self:
            digest.update(f"sample {len(feed)}\n".encode())
            for name in sorted(feed):
                array = np.asarray(feed[name])
                digest.update(f"{len(name)} {name} {array.dtype} {array.shape}\n".encode())
                digest.update(_content(array))
        return digest.hexdigest()

    def _subset(self, mask: NDArray[np.bool_]) -> "Samples":
        def subset() -> Iterator[Feed]:
            for kept, feed in zip(mask, self, strict=False):
                if kept:
                    yield feed

        return Samples(subset, self.what, int(mask.sum()), self.positional)


@dataclass(frozen=True)
class Split:
    """Samples to calibrate with and samples to judge with.

    Attributes:
        calibration: What may be tuned on.
        held_out: What the result is judged with.
        overlap: Whether both are the same, because there is only one sample: then nothing was held out.
    """

    calibration: Samples
    held_out: Samples
    overlap: bool


def load_samples(spec: SampleSpec) -> Samples:
    """Opens samples.

    Args:
        spec: One of

            - a path of an .npz of stacked inputs: keys are input names, the first axis runs over the samples,
              and each sample gets arrays of shape (1, ...); a scalar goes with every sample;
            - a folder of .npz files, one sample each, keys are input names;
            - a folder of the ONNX project's `test_data_set_*` folders, or one of these: `input_0.pb` and so
              on, in the order of the model's inputs;
            - a folder of .npy files, one sample each, for models with one input;
            - `package.module:function`, where the function yields feeds or returns a list of feeds (or a
              function that does); the current directory is searched first;
            - such a function, or any collection of feeds that can be iterated more than once.

    Returns:
        The samples; nothing but file headers is read yet.

    Raises:
        DataError: If there is nothing there, or a one-shot generator is given.
    """
    if isinstance(spec, str) and is_import_path(spec) and not Path(spec).exists():
        return Samples(_Calls(import_function(spec), spec), spec)
    if isinstance(spec, str | os.PathLike):
        return _open_path(Path(spec))
    if isinstance(spec, Samples):
        return spec
    if isinstance(spec, Iterator):
        raise DataError(
            f"The samples are of type {type(spec).__name__}, which can be iterated only once.",
            remedy="Pass the generator function itself, without calling it, or a list.",
        )
    if isinstance(spec, Iterable):
        length = len(spec) if isinstance(spec, Sequence) else None
        return Samples(lambda: _guarded(spec, "The samples"), "The samples", length)
    if callable(spec):
        name = getattr(spec, "__qualname__", type(spec).__name__)
        return Samples(_Calls(spec, name), name)
    raise DataError(
        f"Samples cannot come from the type {type(spec).__name__}.",
        remedy="Pass a path, a function or a list of feeds.",
    )


class _Calls:
    """Samples from a user's function: called for each iteration, unless it returns a collection to keep."""

    def __init__(self, function: Callable[[], Any], what: str) -> None:
        self._function = function
        self._what = what
        self._kept: Iterable[Feed] | None = None

    def __call__(self) -> Iterator[Feed]:
        if self._kept is None:
            result = self._call(self._function)
            if callable(result) and not isinstance(result, Iterable):
                result = self._call(result)
            if not isinstance(result, Iterable):
                raise DataError(
                    f"{self._what} returned {type(result).__name__}, not samples.",
                    remedy="Yield feeds (arrays by input name), or return a list of them.",
                )
            if isinstance(result, Iterator):
                return _guarded(result, self._what)
            self._kept = result
        return _guarded(self._kept, self._what)

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            raise _raised(self._what, error) from error


def _guarded(feeds: Iterable[Any], what: str) -> Iterator[Feed]:
    """Yields feeds, turning what the user's code raises into a DataError that names the sample."""
    iterator = iter(feeds)
    for index in count():
        try:
            feed = next(iterator)
        except StopIteration:
            return
        except DataError:
            raise
        except Exception as error:
            raise _raised(f"{what}, at sample {index},", error) from error
        if not hasattr(feed, "keys"):
            raise DataError(
                f"{what}: sample {index} is of type {type(feed).__name__}, not a feed.",
                remedy="Each sample is a dict of arrays by input name.",
            )
        yield feed


def _open_path(path: Path) -> Samples:
    if path.is_dir():
        return Samples(*open_folder(path))
    if not path.exists():
        raise DataError(
            f"There are no samples at {path}.",
            remedy="Give an .npz file, a folder of samples, or package.module:function.",
        )
    if path.suffix != ".npz":
        raise DataError(f"{path} is not an .npz file.", remedy="Stack the inputs: numpy.savez(path, input_name=array).")
    return Samples(*open_stack(path))


def _raised(what: str, error: Exception) -> DataError:
    return DataError(
        f"{what} raised {type(error).__name__}: {error}", remedy="Call it in Python to see where it fails."
    )


def _no_samples(what: str) -> DataError:
    return DataError(f"{what}: there are no samples.", remedy="Provide at least one; 50 to 300 are usual.")


def _held_out_mask(total: int, share: float) -> NDArray[np.bool_]:
    """Marks one sample, at random, of each of `share * total` equal stretches."""
    held = min(max(round(total * share), 1), total - 1)
    edges = np.arange(held + 1) * total // held
    mask = np.zeros(total, np.bool_)
    mask[np.random.default_rng(0).integers(edges[:-1], edges[1:])] = True
    return mask


def _content(array: Array) -> bytes:
    if array.dtype.kind == "O":  # strings: the object array itself holds addresses
        return b"".join(f"{len(str(item))} {item}".encode() for item in array.flat)
    return np.ascontiguousarray(array).tobytes()
