"""Passes: one folder a family. `sardonyx.passes.base` is the contract they fulfil."""
