"""Folding: what can be computed once, at compile time."""
