"""Property: whatever the model, quantized for TensorRT and legalized it computes the same, and the builder takes it."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.backends.tensorrt.build import BuildJob, BuildResult, build_all
from sardonyx.backends.tensorrt.legalization import legalize
from sardonyx.backends.tensorrt.profiles import make_profile
from sardonyx.backends.tensorrt.settings import BuildSettings
from sardonyx.errors import BackendError, DataError
from sardonyx.measure import Session, SessionOptions, describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline
from tests.random_graphs.strategy import Drawn, models

PASSES = f"{Recipe().optimize}, quantize-static{{calibrator=minmax,methods=[]}}"
AS_WRITTEN = SessionOptions(optimization="disabled")


def quantized(drawn: Drawn) -> ir.Model | None:
    """Quantizes by TensorRT's table; None where the runtime does not run the model."""
    try:
        with Session(drawn.model.SerializeToString(), options=AS_WRITTEN) as session:
            for feed in drawn.feeds():
                session.run(feed)
    except (BackendError, DataError):
        return None
    table = backend("tensorrt").capabilities(describe_machine())
    context = PassContext(table, load_samples(drawn.feeds()))
    manager = PassManager(parse_pipeline(PASSES, available_passes()), context=context)
    return manager.run(ir.load(drawn.model).model).model


def assert_same(before: ir.Model, after: ir.Model, feeds: list[dict[str, object]]) -> None:
    """Compares on all feeds. Legalization moves integers and constants, so that nothing but rounding may differ."""
    with (
        Session(ir.serialize(before), options=AS_WRITTEN) as old,
        Session(ir.serialize(after), options=AS_WRITTEN) as new,
    ):
        for feed in feeds:
            for expected, array in zip(old.run(feed), new.run(feed), strict=True):
                np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


def drawn_jobs(folder: Path, opset: int, examples: int) -> list[tuple[BuildJob, tuple[str, ...]]]:
    """Draws models, compares each before and after legalization, and returns what to build, with the refusals."""
    jobs: list[tuple[BuildJob, tuple[str, ...]]] = []

    @settings(
        suppress_health_check=[HealthCheck.too_slow],
        deadline=None,
        max_examples=examples,
        phases=(Phase.generate, Phase.shrink),
        derandomize=True,
    )
    @given(drawn=models(opset, np.float32))
    def check(drawn: Drawn) -> None:
        before = quantized(drawn)
        if before is None:
            return
        after = ir.clone(before)
        profile = make_profile(after, (), load_samples(drawn.feeds()))
        refusals = legalize(after, profile=profile, compute_capabilities=("8.6",)).refusals
        assert_same(before, after, drawn.feeds())
        path = folder / f"{len(jobs)}.onnx"
        ir.save(after, path)
        jobs.append((BuildJob(path, BuildSettings(compute_capabilities=("8.6",), profile=profile)), refusals))

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    check()
    return jobs


def assert_answered(result: BuildResult, job: BuildJob, refusals: tuple[str, ...]) -> None:
    """A builder builds all that pre-flight lets pass, and says why where it refuses the rest."""
    assert result.done or refusals, f"{result.why()}\n{ir.to_text(ir.load(job.model).model)}"
    assert result.done or result.errors


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_random_models_are_legalized_and_answered_by_the_builder(opset: int, examples: int, tmp_path: Path) -> None:
    jobs = drawn_jobs(tmp_path, opset, examples)
    results = build_all([job for job, _ in jobs])
    assert len(results) == len(jobs) > examples // 2
    for result, (job, refusals) in zip(results, jobs, strict=True):
        assert_answered(result, job, refusals)
