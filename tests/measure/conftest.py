from pathlib import Path

import pytest

from tests.measure.measure_models import scale_model


@pytest.fixture
def scale_path(tmp_path: Path) -> Path:
    path = tmp_path / "scale.onnx"
    path.write_bytes(scale_model())
    return path
