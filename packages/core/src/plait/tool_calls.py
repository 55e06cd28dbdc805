"""Tool calls in messages: what the OpenAI API carries, as templates expect it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from plait_kernels.errors import InputError
from plait_models.files.opening import shortened


def checked_calls(place: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Give the tool calls of a message with their arguments as objects.

    The OpenAI API carries ``arguments`` as a JSON text; templates write them as JSON themselves, or
    walk through their items.

    Parameters
    ----------
    place : int
        Of the message, for messages of errors.
    message : Mapping[str, Any]

    Returns
    -------
    dict[str, Any]
        ``tool_calls`` or ``function_call`` where the message has them; the message's own objects
        are left alone.

    Raises
    ------
    InputError
        A call has another form, or arguments that are no JSON object.
    """
    found: dict[str, Any] = {}
    calls = message.get("tool_calls")
    if calls is not None and (not isinstance(calls, Sequence) or isinstance(calls, str | bytes)):
        text = (
            f"tool_calls of message {place} is a {type(calls).__name__}; it must be a list of "
            '{"type": "function", "function": {"name": …, "arguments": …}}'
        )
        raise InputError(text)
    if calls:
        found["tool_calls"] = [
            _checked(call, f"tool call {number} of message {place}")
            for number, call in enumerate(calls)
        ]
    # The form before tool calls.
    call = message.get("function_call")
    if call is not None:
        found["function_call"] = _function(call, f"function_call of message {place}")
    return found


def plain(value: Any) -> Any:
    """Give an object of the OpenAI package, a model of pydantic, as a dictionary."""
    dump = None if isinstance(value, Mapping) else getattr(value, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else value


def _checked(call: Any, what: str) -> dict[str, Any]:
    call = plain(call)
    if not isinstance(call, Mapping):
        text = f"{what} is a {type(call).__name__}; it must be an object with 'function'"
        raise InputError(text)
    # Some write the function itself.
    if "function" not in call and "name" in call:
        return _function(call, what)
    return {**call, "function": _function(call.get("function"), what)}


def _function(function: Any, what: str) -> dict[str, Any]:
    function = plain(function)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        text = (
            f"{what} names no function: got {shortened(function)}; it must be "
            '{"name": str, "arguments": object or its JSON text}'
        )
        raise InputError(text)
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        # A function without parameters.
        return {**function, "arguments": {}}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            text = (
                f"arguments of {what} ({shortened(function['name'])}) are not JSON: {error}; got "
                f"{shortened(function['arguments'])}. Pass an object or its JSON text"
            )
            raise InputError(text) from error
    if not isinstance(arguments, Mapping):
        text = (
            f"arguments of {what} ({shortened(function['name'])}) are {shortened(arguments)}; they "
            "must be an object or its JSON text"
        )
        raise InputError(text)
    return {**function, "arguments": dict(arguments)}
