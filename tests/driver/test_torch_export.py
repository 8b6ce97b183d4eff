"""torch's exporter hands its program over, and nothing is written in between."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sardonyx
from sardonyx import ir
from sardonyx.pipeline import Recipe

pytestmark = pytest.mark.slow  # imports torch and exports: tens of seconds

QUICK = Recipe(timing_seconds=0.2)


def test_a_program_is_compiled_as_it_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra `train`")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 5),
    ).eval()
    example = torch.randn(1, 3, 32, 32)
    program = torch.onnx.export(net, (example,), input_names=["image"], output_names=["scores"], dynamo=True)
    generator = np.random.default_rng(0)
    samples = [{"image": generator.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(16)]
    before = ir.digest(program.model)
    result = sardonyx.compile(program, data=samples, recipe=QUICK, output=tmp_path / "out")
    assert ir.digest(program.model) == before, "the program itself is left as it was"
    assert any(p.name == "quantize-static" and p.status == "applied" for p in result.record.passes)
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(torch.from_numpy(samples[0]["image"])).numpy()
    actual = session.run(None, samples[0])[0]
    assert np.abs(actual - expected).max() < 0.1 * np.ptp(expected)  # INT8 noise on untrained weights


def test_an_output_named_like_an_inner_value_is_repaired(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra `train`")

    class Embed(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(10, 4)

        def forward(self, ids: object) -> object:
            return self.table(ids).mean(1)

    ids = torch.tensor([[1, 2, 3]])
    net = Embed().eval()
    program = torch.onnx.export(net, (ids,), input_names=["ids"], output_names=["embedding"], dynamo=True)
    result = sardonyx.compile(program, output=tmp_path / "out", recipe=QUICK)
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"ids": ids.numpy()})[0], net(ids).numpy(), rtol=1e-5)
    assert [o.name for o in session.get_outputs()] == ["embedding"]
