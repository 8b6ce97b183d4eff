"""Random models: a hypothesis strategy made of makers, one module a topic.

A maker takes a `Scope` and adds nodes to it; `strategy.MAKERS` lists them all. To add one, write a function that takes
values of a kind from the scope and ends in `scope.give(kind, name)`, and put it into its module's `MAKERS`.
"""
