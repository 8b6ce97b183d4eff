"""Lists the models, or prints the path of one: python -m sardonyx.models [NAME]."""

import argparse
import sys
from collections.abc import Sequence

from sardonyx.errors import SardonyxError
from sardonyx.models import registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The words after the command; None: those of the process.

    Returns:
        The exit code: 0, or that of the error, whose text goes to stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m sardonyx.models", description=__doc__)
    parser.add_argument("name", nargs="?", help="a model whose path to print; it is exported first if need be")
    name = parser.parse_args(arguments).name
    try:
        text = _listing() if name is None else str(registry.load(name).path)
    except SardonyxError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{text}\n")
    return 0


def _listing() -> str:
    width = max(map(len, registry.names()))
    return "\n".join(f"{name:{width}}  {registry.summary(name)}" for name in registry.names())


if __name__ == "__main__":
    sys.exit(main())
