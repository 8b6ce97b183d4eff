"""Small trained models that come with the compiler, and a catalogue of real ones inside PyPI packages.

>>> from sardonyx import models
>>> entry = models.load("digits_cnn")
>>> entry.path, entry.metric_name
"""

from sardonyx.models.entry import Entry, Feed, Metric, Run
from sardonyx.models.registry import load, names, summary

__all__ = ["Entry", "Feed", "Metric", "Run", "load", "names", "summary"]
