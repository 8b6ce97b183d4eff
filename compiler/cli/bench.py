"""`sardonyx bench`: paired latency of two models."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sardonyx.cli.console import count, progress_bar, say, say_json
from sardonyx.cli.options import Data, Json, Quiet, Threads
from sardonyx.cli.sessions import opened

HELP = """Time two models against each other in interleaved runs and state the median ratio with its 95 % interval."""

Seconds = Annotated[float, typer.Option("--seconds", min=0.1, max=3600, help="Wall time of the timing.")]
First = Annotated[Path, typer.Argument(metavar="A", help="The original model.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="The model compared with it.", show_default=False)]


def command(  # noqa: PLR0913 - one parameter an option is how typer reads a command line
    a: First,
    b: Second,
    data: Data = None,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Times the first sample, or a synthetic one, on both models."""
    from sardonyx.measure import paired_latency, samples_for

    with opened(a, b, threads=threads) as (first, second):
        feed = next(iter(samples_for(data, first)))
        second.check(feed)
        with progress_bar(quiet=quiet or json) as progress:
            result = paired_latency(first, second, feed, seconds=seconds, progress=progress)
    if json:
        say_json(asdict(result) | {"faster": result.faster, "slower": result.slower, "threads": threads})
        return
    verdict = "faster" if result.faster else "slower" if result.slower else "not distinguishable"
    say(f"{b} is {verdict}: {result.ratio:.3f}x, 95 % interval {result.low:.3f} to {result.high:.3f}")
    say(f"  {a}: {result.a_seconds * 1e3:.4f} ms")
    say(f"  {b}: {result.b_seconds * 1e3:.4f} ms")
    say(f"  {result.pairs} interleaved pairs, {count(threads, 'thread')}")
