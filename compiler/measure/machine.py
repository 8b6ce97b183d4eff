"""The machine and the tools that a result was measured with."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

# The features that decide which kernels a runtime picks, by Linux's names.
_FEATURES = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
    "vsx",
)
_INT8_DOT_PRODUCT = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
_TOOLS = ("sardonyx", "onnx", "onnx-ir", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Machine:
    """The machine a result was measured on.

    Attributes:
        cpu: The processor's marketing name, or the empty string.
        vendor: Its vendor as the system names it.
        architecture: Instruction set: x86_64, aarch64, arm64.
        features: The instruction set extensions that matter to kernels.
        cores: Logical processors this process may use.
        memory_bytes: Physical memory.
        os: System name and release.
        python: Version of Python.
    """

    cpu: str
    vendor: str
    architecture: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    os: str
    python: str

    @property
    def has_vnni(self) -> bool:
        """Whether the CPU has 8-bit dot product instructions (VNNI, or Arm's dot product)."""
        return not _INT8_DOT_PRODUCT.isdisjoint(self.features)


def describe_machine() -> Machine:
    """Describes this machine.

    The features are the raw flags of the CPU: archspec's named microarchitecture drops the flags that a CPU
    unknown to it has beyond its generic level, VNNI among them.
    """
    import archspec.cpu
    import archspec.cpu.detect
    import psutil

    detected = archspec.cpu.detect.detected_info()
    architecture = platform.machine()
    flags = set(detected.features)
    if platform.system() == "Darwin" and architecture == "arm64":
        flags |= {"asimd", "asimddp"}  # every Apple chip that runs macOS; sysctl names them differently
    return Machine(
        cpu=archspec.cpu.brand_string() or platform.processor(),
        vendor=detected.vendor,
        architecture=architecture,
        features=tuple(name for name in _FEATURES if name in flags),
        cores=_usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def tool_versions() -> dict[str, str]:
    """Returns the versions of Python and of each installed package that decides a result."""
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _usable_cores() -> int:
    import psutil

    try:
        return len(psutil.Process().cpu_affinity())
    except AttributeError:  # macOS has no affinity
        return psutil.cpu_count() or 1
