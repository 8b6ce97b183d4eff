"""Pipelines as text: `cleanup, fold-constants{max_growth_bytes=1024}, fuse` and back.

Every pass prints as the text that builds it, so a record's pipeline line reproduces the run.

    pipeline := pass ("," pass)*        pass := name [ "{" option ("," option)* "}" ]
    option   := field "=" value         value := number | true | false | none | word | text | list
    list     := "[" [value ("," value)*] "]"    text := a word between double quotes, escaped as in JSON
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass

_TOKEN = re.compile(
    r"""\s*(?:
        ([A-Za-z_][\w.\-/*:]*)                                  # a name or word
      | (-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)                # a number
      | ("(?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")         # quoted as in JSON
      | ([{}\[\],=])                                            # a symbol
    )""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "none": None}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: "a list"}


def format_pass(instance: ir.PassBase) -> str:
    """Returns the text that builds a pass; options at their default are left out.

    A pass of onnx_ir that is not one of ours prints as its class name.
    """
    if not isinstance(instance, Pass):
        return type(instance).__name__
    fields = dataclasses.fields(instance)  # type: ignore[arg-type]
    options = {f.name: getattr(instance, f.name) for f in fields if getattr(instance, f.name) != f.default}
    text = ", ".join(f"{name}={_format_value(value)}" for name, value in options.items())
    return f"{instance.name}{{{text}}}" if text else instance.name


def format_pipeline(passes: Sequence[ir.PassBase]) -> str:
    """Returns the text that builds a pipeline."""
    return ", ".join(format_pass(p) for p in passes)


def parse_pipeline(text: str, available: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """Builds the passes that a text names.

    Args:
        text: For instance `cleanup, fold-constants{max_growth_bytes=0}`.
        available: Pass types by name.

    Raises:
        SpecError: On a syntax error, an unknown pass or option, or a value of the wrong type.
    """
    reader = _Reader(text)
    passes: list[Pass] = []
    while not reader.at_end():
        if passes:
            reader.expect(",")
        passes.append(_build(reader.word(), reader.options(), available))
    return tuple(passes)


def _build(name: str, options: Mapping[str, Any], available: Mapping[str, type[Pass]]) -> Pass:
    pass_type = available.get(name)
    if pass_type is None:
        raise SpecError(f"There is no pass {name!r}.", remedy=f"Passes: {', '.join(sorted(available))}.")
    fields = {f.name: f for f in dataclasses.fields(pass_type)}  # type: ignore[arg-type]
    values = {}
    for option, value in options.items():
        if option not in fields:
            known = ", ".join(fields) or "none"
            raise SpecError(f"The pass {name!r} has no option {option!r}.", remedy=f"Its options: {known}.")
        values[option] = _coerce(name, option, value, fields[option].default)
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    absent = [option for option in required if option not in values]
    if absent:
        raise SpecError(
            f"The pass {name!r} needs the option {absent[0]!r}.", remedy=f"Write {name}{{{absent[0]}=...}}."
        )
    return pass_type(**values)


def _coerce(name: str, option: str, value: Any, default: Any) -> Any:
    """Fits a parsed value to the type of the option's default."""
    if isinstance(default, tuple):
        value = value if isinstance(value, tuple) else (value,)
    elif isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not dataclasses.MISSING and default is not None and type(value) is not type(default):
        kind = _KINDS.get(type(default), type(default).__name__)
        raise SpecError(
            f"The option {option!r} of pass {name!r} is {_format_value(value)}, not {kind}.",
            remedy=f"Its default is {_format_value(default)}.",
        )
    return value


def _format_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(_format_value(v) for v in value)}]"
    if isinstance(value, str):
        match = _TOKEN.fullmatch(value)
        bare = match is not None and match.group(1) == value and value.lower() not in _WORDS
        return value if bare else json.dumps(value)
    return repr(value)


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def at_end(self) -> bool:
        return not self.text[self.position :].strip()

    def _match(self) -> re.Match[str]:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            raise self._error("ends too early" if self.at_end() else "cannot be understood")
        return match

    def _error(self, what: str) -> SpecError:
        rest = self.text[self.position :].lstrip()
        column = len(self.text) - len(rest) + 1
        return SpecError(
            f"The pipeline text {what} near {rest[:20].rstrip() or 'the end'!r} (column {column}).",
            remedy="It reads like: cleanup, fold-constants{max_growth_bytes=1024}, fuse",
        )

    def peek(self, symbol: str) -> bool:
        return not self.at_end() and self._match().group(4) == symbol

    def expect(self, symbol: str) -> None:
        if not self.peek(symbol):
            raise self._error(f"lacks a {symbol!r}")
        self.position = self._match().end()

    def word(self) -> str:
        match = self._match()
        if match.group(1) is None:
            raise self._error("lacks a name")
        self.position = match.end()
        return match.group(1)

    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if not self.peek("{"):
            return found
        self.expect("{")
        while not self.peek("}"):
            if found:
                self.expect(",")
            name = self.word()
            if name in found:
                raise SpecError(f"The pipeline text gives the option {name!r} twice.", remedy="Leave one of them out.")
            self.expect("=")
            found[name] = self.value()
        self.expect("}")
        return found

    def value(self) -> Any:
        if self.peek("["):
            return self._list()
        match = self._match()
        word, number, quoted, _ = match.groups()
        if word is None and number is None and quoted is None:
            raise self._error("lacks a value")
        self.position = match.end()
        if number is not None:
            return float(number) if any(c in number for c in ".eE") else int(number)
        return json.loads(quoted, strict=False) if quoted is not None else _WORDS.get(word.lower(), word)

    def _list(self) -> tuple[Any, ...]:
        self.expect("[")
        items: list[Any] = []
        while not self.peek("]"):
            if items:
                self.expect(",")
            items.append(self.value())
        self.expect("]")
        return tuple(items)
