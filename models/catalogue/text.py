"""English sentences as inputs for the models that read text."""

from importlib.resources import files


def sentences() -> list[str]:
    """Returns the sentences of `data/sentences.txt`, written for this project, unlabelled."""
    text = (files("sardonyx.models") / "data" / "sentences.txt").read_text(encoding="utf-8")
    return text.splitlines()
