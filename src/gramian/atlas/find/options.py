"""The options of an experiment: its keyword arguments, read, converted and documented."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from gramian.atlas.errors import UserError
from gramian.atlas.find.names import resolve


def convert(
    experiment: Callable[..., Any], settings: list[str], *, leave: tuple[str, ...] = (), see: str = "gramian show PAPER"
) -> dict[str, Any]:
    """``["state_sizes=16,64"]`` as keyword arguments of `experiment`, by its annotations.

    Args:
        leave: arguments that are no options; the first never is.
        see: the command that lists the options, for messages.

    Raises:
        UserError: not ``name=value``, an option that does not exist, a value of the wrong type.
    """
    hints = typing.get_type_hints(experiment)
    names = [n for n in list(inspect.signature(experiment).parameters)[1:] if n not in leave]
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting!r} is not of the form name=value")
        if not names:
            raise UserError(f"--set {setting!r}: there are no options")
        name = resolve(name, names, "option", see)
        hint = hints.get(name, str)
        try:
            options[name] = _value(value.strip(), hint)
        except ValueError as error:
            raise UserError(f"--set {name}={value}: {error}; {name} is {_type_name(hint)}") from None
    return options


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, list):
        return f"{_type_name(arguments[0]).removeprefix('a ')}s separated by commas"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in arguments)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "none"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _value(text: str, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, list):
        parts = [p.strip() for p in text.strip("()[]").split(",") if p.strip()]
        if not parts:
            raise ValueError("no value given")
        return origin(_value(p, arguments[0]) for p in parts)
    if origin is typing.Literal:
        for choice in arguments:
            if text == str(choice):
                return choice
        raise ValueError(f"{text!r} is not among the choices")
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        errors = []
        for argument in (a for a in arguments if a is not type(None)):
            try:
                return _value(text, argument)
            except ValueError as error:
                errors.append(error)
        raise errors[-1]
    if hint is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in ("true", "1", "yes")
    if hint is int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
    if hint is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
    return text
