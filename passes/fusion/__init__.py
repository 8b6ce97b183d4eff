"""Fusion: several nodes that one node computes as well."""
