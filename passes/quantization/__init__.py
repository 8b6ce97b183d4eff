"""Quantization: a plan before it is a graph.

`placement` reads the target's table and says where; `calibrate` runs the samples past the `observers`; `choose`
computes scales and zero points; `plan` is the result as data; `insert` writes it into the graph; `static` is the pass
that does it all.
"""
