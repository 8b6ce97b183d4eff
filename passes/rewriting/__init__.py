"""Rewriting: declarative rules, and the driver that applies them.

`pattern` says what to look for, `rule` what a rule is, `driver` applies many rules to a graph.
"""
