"""Writes the corpus: python -m sardonyx.models.exports FOLDER [ARCHITECTURE ...]."""

import sys
import time
from pathlib import Path

from sardonyx.models.exports.corpus import corpus


def main() -> None:
    """Prints one line an export."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    start = time.perf_counter()
    for done in corpus(Path(sys.argv[1]), sys.argv[2:]):
        size = "" if done.error else f"{done.model.stat().st_size / 1e6:.2f} MB"
        print(f"{done.name:36s} {time.perf_counter() - start:6.1f} s  {size or done.error}", flush=True)
        start = time.perf_counter()


if __name__ == "__main__":
    main()
