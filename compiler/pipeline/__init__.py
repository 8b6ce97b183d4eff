"""The pipeline: passes as transactions, pipelines as text, recipes in, records out."""

from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.pipeline.manager import Hook, PassManager, PassRecord, PipelineResult, Status
from sardonyx.pipeline.recipe import Recipe
from sardonyx.pipeline.record import Accuracy, Candidate, CompileRecord, Decision, FileEntry, Latency
from sardonyx.pipeline.registry import available_passes
from sardonyx.pipeline.schemes import (
    AUTO,
    QuantizationScheme,
    available_schemes,
    default_schemes,
    fitted_scheme,
    pipeline_text,
    recipe_schemes,
    scheme_named,
    with_half_precision,
    with_selection,
)
from sardonyx.pipeline.spec import format_pass, format_pipeline, parse_pipeline

__all__ = [
    "AUTO",
    "Accuracy",
    "Candidate",
    "CompileRecord",
    "Decision",
    "FileEntry",
    "Hook",
    "Latency",
    "Pass",
    "PassContext",
    "PassManager",
    "PassRecord",
    "PassResult",
    "PipelineResult",
    "QuantizationScheme",
    "Recipe",
    "Refusal",
    "Status",
    "available_passes",
    "available_schemes",
    "default_schemes",
    "fitted_scheme",
    "format_pass",
    "format_pipeline",
    "parse_pipeline",
    "pipeline_text",
    "recipe_schemes",
    "scheme_named",
    "with_half_precision",
    "with_selection",
]
