"""Conversion of FP32 models to FP16 or BF16: decide node by node, choose regions, then write types and Casts.

formats -> what a 16-bit format can represent, and constants converted to it
bounds -> how large values get: measured, or proven from the graph
reasons -> why a node stays in FP32
slots -> types that cross the boundary of If, Loop and Scan bodies
regions -> which connected groups of nodes save more than their Casts cost
rewrite -> types, constants and Casts
convert -> the pass
"""
