import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from sardonyx.errors import BackendError
from sardonyx.measure import (
    Machine,
    describe_machine,
    measure_command_peak,
    measure_peak,
    peak_rss,
    tool_versions,
)

MB = 1 << 20


def machine(*features: str) -> Machine:
    return Machine("cpu", "vendor", "x86_64", features, 2, 1, "Linux", "3.11")


def fill(megabytes: int) -> None:
    np.ones(megabytes * MB, np.uint8)


def fail() -> None:
    raise ValueError("no such luck")


def test_describes_this_machine():
    here = describe_machine()
    assert here.cores >= 1
    assert here.memory_bytes == psutil.virtual_memory().total
    assert here.architecture
    assert here.vendor
    assert here.python == sys.version.split()[0]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="compares with what Linux says")
def test_keeps_the_features_of_a_processor_that_has_no_name():
    raw = set(Path("/proc/cpuinfo").read_text().split())
    here = describe_machine()
    for feature in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "asimddp", "i8mm"):
        assert (feature in here.features) == (feature in raw)


@pytest.mark.parametrize(
    ("features", "expected"),
    [(("avx2",), False), (("avx512_vnni",), True), (("avx_vnni",), True), (("asimd", "asimddp"), True)],
)
def test_vnni_is_any_8_bit_dot_product(features, expected):
    assert machine(*features).has_vnni is expected


def test_names_the_tools_that_decide_a_result():
    versions = tool_versions()
    assert {"python", "sardonyx", "onnx", "onnx-ir", "onnxruntime", "numpy"} == set(versions)
    assert versions["numpy"] == np.__version__


def test_peak_is_at_least_what_is_used_now():
    assert peak_rss() >= 0.9 * psutil.Process().memory_info().rss  # pages may be counted a little late


def test_a_function_is_measured_in_its_own_process():
    ballast = np.ones(200 * MB, np.uint8)  # must not count
    base, filled = measure_peak(fill, 0), measure_peak(fill, 100)
    assert 95 * MB < filled - base < 130 * MB
    assert base < ballast.nbytes


def test_a_function_that_raises_says_so():
    with pytest.raises(BackendError, match=r"fail failed in a fresh process.*no such luck"):
        measure_peak(fail)


def test_a_command_is_measured_without_this_process():
    ballast = np.ones(200 * MB, np.uint8)
    peak = measure_command_peak([sys.executable, "-S", "-c", f"bytearray(b'1') * {60 * MB}"])
    assert 60 * MB < peak < 110 * MB
    assert peak < ballast.nbytes


@pytest.mark.parametrize("command", [[sys.executable, "-c", "raise SystemExit('broken')"], ["/no/such/program"]])
def test_a_command_that_fails_says_so(command):
    with pytest.raises(BackendError, match="exit code"):
        measure_command_peak(command)


def test_importing_the_room_imports_no_heavy_module():
    code = (
        "import sys, sardonyx.measure; print([m for m in ('onnxruntime', 'onnx', 'onnx_ir', 'psutil') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
