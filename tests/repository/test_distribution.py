"""The wheel holds what the tree holds, and works in an empty environment."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "compiler": "sardonyx",
    "passes": "sardonyx/passes",
    "backends": "sardonyx/backends",
    "models": "sardonyx/models",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert tracked.returncode == 0, tracked.stderr
    for name in tracked.stdout.splitlines():  # a copy: building in the tree would leave a build folder there
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def expected_files() -> set[str]:
    found = {"sardonyx/py.typed"}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            found.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    found |= {f"sardonyx/report/templates/{p.name}" for p in (ROOT / "compiler" / "report" / "templates").iterdir()}
    return found | {f"sardonyx/models/data/{p.name}" for p in (ROOT / "models" / "data").iterdir()}


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected_files()


def test_the_wheel_declares_its_command_and_backend(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
    text = archive.read(entry_points).decode()
    assert "sardonyx = sardonyx.cli:main" in text
    assert "onnxruntime = sardonyx.backends.onnxruntime:OnnxRuntimeBackend" in text


@pytest.mark.slow  # downloads and installs all dependencies into a new environment
def test_the_wheel_compiles_a_shipped_model_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True)
    path = subprocess.run(
        [python, "-m", "sardonyx.models", "digits_cnn"], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.strip()
    command = [tmp_path / "env" / "bin" / "sardonyx", "compile", path, "-o", tmp_path / "out"]
    options = ["--data", "sardonyx.models.digits:cnn_samples", "--metric", "sardonyx.models.digits:cnn_accuracy"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx").is_file()
