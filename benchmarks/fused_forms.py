"""Is a fused form ever slower than its decomposition? Every golden form, timed in pairs, on this machine's CPU.

    python -m benchmarks.fused_forms [--seconds SECONDS] [--threads THREADS] [TEXT ...]

Run it from the repository's root. Each form of tests/passes/fusion is built at a realistic size, as it is and as the
rules leave it, candidates included. ONNX Runtime optimizes both as it does by default, and both run in alternation in
this process. A ratio above 1 means that the fused form is faster; TEXT chooses forms whose name contains it. A rule
with a form below 0.97 must be a candidate.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from sardonyx import ir
from sardonyx.measure import Session, SessionOptions, describe_machine, paired_latency
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import RULES, Fuse
from tests.passes.fusion.forms import CANDIDATES, Form
from tests.passes.fusion.golden import TOPICS

HARMLESS = 0.97
GROWN = {8: 384, 4: 128, 5: 28, 6: 28, 3: 14, 2: 14}
"""Sizes of a realistic model for the small ones of the tests: a transformer's width, channels, and image sides."""


def grown(form: Form) -> Form:
    """The form at a realistic size: constants that belong to a size are tiled along with it."""
    shape = (1, *(28 if dim == "N" else dim for dim in form.shape[1:]))
    rank = len(shape)
    target = tuple(GROWN.get(int(dim), int(dim)) for dim in shape)
    constants = dict(form.constants)
    for name, array in constants.items():
        if array.dtype != np.float32 or array.ndim > rank:
            continue
        aligned = list(zip(array.shape, shape[rank - array.ndim :], target[rank - array.ndim :], strict=True))
        if all(size in (1, dim) for size, dim, _ in aligned):
            constants[name] = np.tile(array, [new // dim if size == dim else 1 for size, dim, new in aligned])
    if "target" in constants:
        constants["target"] = np.array(target)
    return Form(form.text, form.operators, form.rules, form.opset, target, constants)


def measured(chosen: list[str], seconds: float, threads: int) -> Iterator[tuple[str, str, float, float, float]]:
    """Yields, for each form: topic and name, rules, ratio, its interval."""
    options = SessionOptions(threads=threads)
    for topic, forms in TOPICS.items():
        for name, form in forms.items():
            label = f"{topic}: {name}"
            if chosen and not any(text in label for text in chosen):
                continue
            large = grown(form)
            source = large.model()
            model = ir.load(source).model
            Fuse(enable=CANDIDATES).apply(model, PassContext())
            feed = large.feed(1)
            with (
                Session(source.SerializeToString(), options=options) as before,
                Session(ir.serialize(model), options=options) as after,
            ):
                timed = paired_latency(before, after, feed, seconds=seconds)
            yield label, ", ".join(form.rules), timed.ratio, timed.low, timed.high


def main() -> None:
    """Prints one line a form, and the rules that should be candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(describe_machine())
    candidates = {rule.name for rule in RULES if rule.candidate}
    slow: list[str] = []
    for label, rules, ratio, low, high in measured(arguments.text, arguments.seconds, arguments.threads):
        print(f"{label:60} {ratio:6.2f} [{low:5.2f}, {high:5.2f}]  {rules}", flush=True)
        if high < HARMLESS and candidates.isdisjoint(rules.split(", ")):
            slow.append(f"{label} ({ratio:.2f})")
    print("slower though not a candidate:", "; ".join(slow) or "none")


if __name__ == "__main__":
    main()
