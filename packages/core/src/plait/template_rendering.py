"""A conversation through a tokenizer's chat template: as ``apply_chat_template``, within bounds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from plait.template_sandbox import ChatSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jinja2 import Template

    from plait.tokenizer import Tokenizer

_VARIABLES = (
    '{{ {"messages": messages, "tools": tools, "documents": documents, "variables": variables}'
    " | tojson }}"
)
"""A template that writes what transformers gives to templates."""

_OPEN = "CONTINUE_FINAL_MESSAGE_TAG "


class BoundedTemplate:
    """A chat template that is rendered within a budget.

    What a template sees is made by the installed version of transformers (tools become schemas,
    some keys are renamed or dropped); the template itself runs in our sandbox.

    Parameters
    ----------
    tokenizer : Tokenizer
    chat_template : str | None
        A template or the name of one; None: the tokenizer's own.
    tools : Sequence[dict | Callable] | None
    add_generation_prompt, continue_final_message : bool
    variables : Mapping[str, Any]
        More variables, among them maybe ``documents``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str | None,
        *,
        tools: Sequence[dict[str, Any] | Callable[..., Any]] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: Mapping[str, Any],
    ) -> None:
        self._tokenizer = tokenizer
        self._text = chat_template
        self._tools = None if tools is None else list(tools)
        self._add_generation_prompt = add_generation_prompt
        self._continue_final_message = continue_final_message
        self._documents = variables.get("documents")
        self._variables = {name: v for name, v in variables.items() if name != "documents"}
        self._compiled: tuple[ChatSandbox, Template] | None = None

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Write the prompt of a conversation.

        Raises
        ------
        Exception
            Whatever the template makes of the messages; ``TooMuchError`` if it does not end.
        """
        if self._compiled is None:
            sandbox = ChatSandbox()
            text = self._tokenizer.get_chat_template(self._text, self._tools)
            self._compiled = sandbox, sandbox.make(text)
        sandbox, template = self._compiled
        variables = self._see(messages)
        last = _mark_open(variables["messages"][-1]) if self._continue_final_message else None
        written = sandbox.render(
            template, {**variables, "add_generation_prompt": self._add_generation_prompt}
        )
        return written if last is None else _cut_open(written, last)

    def _see(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Make what transformers lets a template see, as plain data."""
        seen = self._tokenizer.apply_chat_template(
            messages,
            tools=self._tools,
            documents=self._documents,
            chat_template=_VARIABLES,
            tokenize=False,
            variables=self._variables,
        )
        variables: dict[str, Any] = json.loads(seen)
        more = variables.pop("variables")
        return {**self._tokenizer.special_tokens_map, **more, **variables}


def _mark_open(message: dict[str, Any]) -> str:
    """Mark the end of the last message, and give what it says."""
    content, holder, key = message.get("content"), message, "content"
    if isinstance(content, list):
        # The last part that is text.
        parts = [part for part in content if isinstance(part, dict) and "text" in part]
        holder, key = (parts[-1], "text") if parts else ({}, "text")
        content = holder.get(key)
    if not isinstance(content, str):
        text = "continue_final_message is True, and the last message has no content to continue"
        raise ValueError(text)
    holder[key] = content + _OPEN
    return content


def _cut_open(written: str, content: str) -> str:
    """Cut a prompt after the content of the last message, as transformers does."""
    place = written.rfind(_OPEN.strip())
    if place < 0 or content.strip() not in written:
        text = (
            "continue_final_message is True, and the template does not write the last message as "
            "it is"
        )
        raise ValueError(text)
    is_whole = written.startswith(_OPEN, place)
    # A template that trims contents has trimmed that of the mark too.
    return written[:place] if is_whole else written[:place].rstrip()
