"""What every pass must keep: subclass `PassContract` and say which models to try."""

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext
from sardonyx.pipeline import available_passes, format_pass, parse_pipeline
from tests import models_for_tests as build


class PassContract:
    """Template: the tests of a pass inherit these."""

    instance: Pass
    context = PassContext()
    rtol = 1e-4  # float32 sums of a few dozen products, reassociated
    atol = 1e-5

    def sources(self) -> list[onnx.ModelProto]:
        return [build.cnn(), build.cnn(batch_norm=False)]

    def feed(self) -> dict[str, np.ndarray]:
        return build.images(1)[0]

    def applied(self, source: onnx.ModelProto) -> tuple[ir.Model, bool]:
        model = ir.load(source).model
        result = self.instance.apply(model, self.context)
        return result.model, result.modified

    def test_function_is_kept(self) -> None:
        for source in self.sources():
            model, _ = self.applied(source)
            for before, after in zip(build.run(source, self.feed()), build.run(model, self.feed()), strict=True):
                np.testing.assert_allclose(after, before, rtol=self.rtol, atol=self.atol)

    def test_result_is_valid_and_keeps_the_interface(self) -> None:
        for source in self.sources():
            model, _ = self.applied(source)
            assert ir.verify(model) == ()
            assert [v.name for v in model.graph.inputs] == [v.name for v in source.graph.input]
            assert [v.name for v in model.graph.outputs] == [v.name for v in source.graph.output]

    def test_modified_tells_the_truth(self) -> None:
        for source in self.sources():
            model, modified = self.applied(source)
            same = ir.digest(model) == ir.digest(ir.load(source).model)
            assert modified is not same

    def test_twice_is_once(self) -> None:
        for source in self.sources():
            model, _ = self.applied(source)
            once = ir.digest(model)
            assert not self.instance.apply(model, self.context).modified
            assert ir.digest(model) == once

    def test_prints_as_the_text_that_builds_it(self) -> None:
        assert parse_pipeline(format_pass(self.instance), available_passes()) == (self.instance,)

    def test_options_are_frozen(self) -> None:
        with pytest.raises(AttributeError):
            self.instance.name = "other"  # type: ignore[misc]
