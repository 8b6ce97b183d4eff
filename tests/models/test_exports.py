"""The corpus of torch exports, as far as it needs no torch."""

from pathlib import Path

import numpy as np

from sardonyx.models.exports.architecture import SEQUENCES, Architecture, Input
from sardonyx.models.exports.export import Export, exports_in

TEXT = (Input("tokens", ("batch", "length"), "tokens", 7), Input("mask", ("batch", "length"), "mask"))


def test_inputs_are_drawn_at_the_sizes_asked_for() -> None:
    feed = Architecture("text", object, TEXT, SEQUENCES).feed({"batch": 3, "length": 8})
    assert {name: (array.dtype.name, array.shape) for name, array in feed.items()} == {
        "tokens": ("int64", (3, 8)),
        "mask": ("int64", (3, 8)),
    }
    assert feed["tokens"].max() < 7
    assert feed["mask"].tolist() == [[1] * 6 + [0] * 2] * 3
    assert TEXT[0].dynamic() == {0: "batch", 1: "length"}


def test_the_same_sizes_give_the_same_feed() -> None:
    image = Architecture("image", object, (Input("image", ("batch", 3, 4, 4)),))
    first, again, other = (image.feed({"batch": batch})["image"] for batch in (2, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert other.shape == (1, 3, 4, 4)


def test_a_folder_tells_exports_from_failures(tmp_path: Path) -> None:
    for name, file in {"a-dynamo-18": "model.onnx", "b-dynamo-18": "error.txt", "notes": "other.txt"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("ValueError: no")
    np.savez(tmp_path / "a-dynamo-18" / "feeds_0.npz", x=np.ones(2, np.float32))
    assert list(exports_in(tmp_path)) == [
        Export("a-dynamo-18", tmp_path / "a-dynamo-18"),
        Export("b-dynamo-18", tmp_path / "b-dynamo-18", "ValueError: no"),
    ]
    assert [list(feed) for feed in Export("a", tmp_path / "a-dynamo-18").feeds()] == [["x"]]
