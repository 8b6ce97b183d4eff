"""Fetching inner values: which ones together, from what model, and past the observers while the next sample runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from sardonyx import ir
from sardonyx.measure import Feed, Session
from sardonyx.passes.quantization.calibration.bank import ObserverBank
from sardonyx.passes.quantization.calibration.fetching import BATCH_SAMPLES, Batch, Fetcher
from sardonyx.passes.quantization.calibration.lifting import Lifter
from sardonyx.passes.quantization.scopes import named_values


def tapped_model(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Returns a copy of a model whose outputs are the named values, or its own where none are; weights are shared.

    What these values do not need is left out. Values of bodies come as `Lifter` brings them out.
    """
    copy = ir.clone(model)
    values = named_values(copy.graph)
    lifter = Lifter(copy)
    copy.graph.outputs[:] = [lifter.in_main_graph(values[name]) for name in names] or copy.graph.outputs[:]
    if names:
        ir.common_passes.RemoveUnusedNodesPass()(copy)
    return copy


def group_values(model: ir.Model, values: Sequence[str], feed: Feed, budget: int) -> list[tuple[str, ...]]:
    """Splits values into groups of which one sample's arrays take at most `budget` bytes, or a single value more.

    Args:
        model: The model, with shapes.
        values: Names of values of its main graph and of bodies.
        feed: A sample, which gives symbolic dimensions their sizes. Where a dimension stays unknown, the value is taken
            to be as large as the largest known one.
        budget: Bytes.
    """
    by_name = named_values(model.graph)
    symbols = _symbols(model, feed)
    sizes = {name: _nbytes(by_name[name], symbols) for name in values}
    largest = max((size for size in sizes.values() if size is not None), default=0)
    groups: list[list[str]] = []
    used = 0
    for name in values:
        size = sizes[name]
        used += largest if size is None else size
        if not groups or used > budget:
            groups.append([])
            used = largest if size is None else size
        groups[-1].append(name)
    return [tuple(group) for group in groups]


def observe_samples(
    session: Session,
    bank: ObserverBank,
    tapped: Sequence[str],
    feeds: Iterable[tuple[int, Feed]],
    on_done: Callable[[Sequence[int]], None],
    most: int = BATCH_SAMPLES,
) -> int:
    """Runs samples and shows them to observers, some samples while the next ones run.

    Samples that are small are gathered to batches of `BATCH_BYTES`. At most two batches are alive at a time, or two
    samples where they are larger.

    Args:
        session: The tapped model.
        bank: The observers; their values are outputs of the session or its inputs.
        tapped: Those that are outputs.
        feeds: Samples with their indices.
        on_done: Called with samples' indices when the bank has seen them, and no others since, and is at rest.
        most: Samples in a batch at most.

    Returns:
        The number of samples.
    """
    count = 0
    fetcher = Fetcher(session, tapped, bank.values, most)
    running: tuple[Batch, Future[None]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="observe") as pool:
        for index, feed in feeds:
            fetcher.fetch(index, feed)
            count += 1
            if fetcher.full:
                _finish(running, on_done)
                batch = fetcher.take()
                running = batch, pool.submit(bank.observe, batch.runs)
        _finish(running, on_done)
        batch = fetcher.take()
        if batch.samples:
            _finish((batch, pool.submit(bank.observe, batch.runs)), on_done)
    return count


def take_samples(samples: Iterable[Feed], start: int, stop: int) -> Iterator[tuple[int, Feed]]:
    """Yields the samples of an index range with their indices."""
    yield from islice(enumerate(samples), start, stop)


def _finish(running: tuple[Batch, "Future[None]"] | None, on_done: Callable[[Sequence[int]], None]) -> None:
    if running is not None:
        batch, future = running
        future.result()
        on_done(batch.samples)


def _symbols(model: ir.Model, feed: Feed) -> dict[str, int]:
    """Sizes of symbolic dimensions, by name, as far as the inputs' shapes have them."""
    return {
        str(dim): int(size)
        for value in model.graph.inputs
        if value.shape is not None and value.name is not None and value.name in feed
        for dim, size in zip(value.shape, np.shape(feed[value.name]), strict=False)
        if not isinstance(dim, int)
    }


def _nbytes(value: ir.Value, symbols: Mapping[str, int]) -> int | None:
    if value.shape is None or value.dtype is None:
        return None
    dims = [dim if isinstance(dim, int) else symbols.get(str(dim)) for dim in value.shape]
    if any(dim is None for dim in dims):
        return None
    return int(np.prod([dim for dim in dims if dim is not None], dtype=np.int64) * value.dtype.itemsize)
