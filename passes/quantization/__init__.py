"""Quantization: a plan before it is a graph.

`arithmetic` and `scheme` are the numbers, `distribution` and `search` what suits them best. `placement` reads the
target's table and says where; `calibration` runs the samples past observers; `choose` computes scales and zero points;
`plan` is the result as data; `insert` writes it into the graph; `static` is the pass that does it all.
"""
