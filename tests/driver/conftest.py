import pytest

from tests.timing_for_tests import decree


@pytest.fixture(autouse=True)
def int8_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these small models are in truth, without the chance."""
    decree(monkeypatch, quantized=0.7)
