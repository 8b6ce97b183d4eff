"""Peak memory of this process, of a function, of a command."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from sardonyx.errors import BackendError

_PROCESSES = Path("/proc")

# Runs a command from a process that is itself small: on Linux a child starts with the peak of the process
# that spawned it, so a command run from a large process would report that one's memory.
_SPAWNER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_rss(process: int | None = None) -> int:
    """Returns the largest resident set size that a process has had, in bytes.

    On Linux that is VmHWM, because `ru_maxrss` also counts the process that spawned this one.

    Args:
        process: Identifier of a running process; None for this one. Of others, systems besides Linux tell only the
            present size.
    """
    status = _PROCESSES / ("self" if process is None else str(process)) / "status"
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if process is not None:
        import psutil

        return int(psutil.Process(process).memory_info().rss)
    import resource

    return _rss_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure_peak(function: Callable[..., object], *args: object) -> int:
    """Calls a function in a fresh Python process and returns that process's peak resident set size.

    Args:
        function: A function that can be pickled: defined at the top level of an importable module.
        *args: Its arguments, which can be pickled.

    Returns:
        Bytes, with the interpreter and all imports: subtract the peak of a function that only imports.

    Raises:
        BackendError: If the function raises or its process dies.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, args), daemon=True)
    process.start()
    sender.close()
    try:
        answer: int | str = receiver.recv()
    except EOFError:
        process.join()
        answer = f"its process ended with exit code {process.exitcode}"
    finally:
        receiver.close()
    process.join()
    if isinstance(answer, str):
        name = getattr(function, "__qualname__", repr(function))
        raise BackendError(f"{name} failed in a fresh process: {answer}", remedy="Call it in this process.")
    return answer


def measure_command_peak(command: Sequence[str]) -> int:
    """Runs a command and returns the peak resident set size of it and its children (the largest one).

    Args:
        command: Program and arguments. Its standard output is discarded.

    Returns:
        Bytes. Less than about 15 MB cannot be told apart: a small helper process runs the command.

    Raises:
        BackendError: If the command cannot be run or its exit code is not zero.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", _SPAWNER, *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        raise BackendError(
            f"{command[0]} ended with exit code {done.returncode}: {last[0]}",
            remedy="Run the command by itself to see all it says.",
        )
    return _rss_bytes(int(done.stdout))


def _call(sender: Connection, function: Callable[..., object], args: tuple[object, ...]) -> None:
    try:
        function(*args)
        sender.send(peak_rss())
    except Exception as error:  # the traceback goes to standard error, the reason to the parent
        sender.send(f"{type(error).__name__}: {error}")
        raise


def _rss_bytes(ru_maxrss: int) -> int:
    """Converts `ru_maxrss`, which is bytes on macOS and kilobytes elsewhere."""
    return ru_maxrss if sys.platform == "darwin" else ru_maxrss * 1024
