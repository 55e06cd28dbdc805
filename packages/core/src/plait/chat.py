"""Chats: conversations checked, and turned into prompts by the tokenizer's chat template."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from plait.prompts import ParsedPrompt
from plait.template_rendering import BoundedTemplate
from plait.text_encoder import encode
from plait.tool_calls import checked_calls, plain
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError
from plait_models.files.opening import shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.tokenizer import Tokenizer

Message: TypeAlias = Mapping[str, Any]
"""``role``, ``content`` (a text, or a list of text parts), and whatever else the template knows."""

Conversation: TypeAlias = Sequence[Message]
"""Messages in their order."""

_FORMS = 'a list of {"role": …, "content": …}, or a list of such lists'


class ChatTemplate:
    """A tokenizer's chat template with its options.

    Parameters
    ----------
    tokenizer : Tokenizer
    chat_template : str | None
        A Jinja template, or the name of one of the tokenizer's; None: the tokenizer's own.
    add_generation_prompt : bool
        End with the head of the assistant's answer.
    continue_final_message : bool
        Leave the last message open, to be continued.
    tools : Sequence[dict | Callable] | None
        What the model may call, as JSON schemas or as functions with annotations and docstring.
    chat_template_kwargs : Mapping[str, Any] | None
        More variables for the template.
    content_format : str
        What the template sees of a content: "string", and "auto", a text; "openai" a list of parts.

    Raises
    ------
    InputError
        If there is no template, or options contradict each other.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any] | Callable[..., Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        content_format: str = "auto",
    ) -> None:
        if content_format not in ("auto", "string", "openai"):
            text = (
                "chat_template_content_format must be 'auto', 'string' or 'openai', got "
                f"{shown(content_format)}"
            )
            raise InputError(text)
        if add_generation_prompt and continue_final_message:
            text = (
                "add_generation_prompt and continue_final_message are both True: a prompt ends "
                "either with the head of a new answer or with an open message. Pass "
                "add_generation_prompt=False to continue the last message"
            )
            raise InputError(text)
        if chat_template is None and not tokenizer.chat_template:
            text = (
                "the tokenizer has no chat template; models that are made for chats bring one. "
                "Pass chat_template=…, or write the prompt as the model expects it and use generate"
            )
            raise InputError(text)
        if not isinstance(chat_template_kwargs, Mapping | None):
            text = f"chat_template_kwargs must be a dict or None, got {shown(chat_template_kwargs)}"
            raise InputError(text)
        if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence | None):
            text = (
                f"tools must be a list of JSON schemas and functions, or None, got {shown(tools)}"
            )
            raise InputError(text)
        if not isinstance(chat_template, str | None):
            text = f"chat_template must be a str or None, got {shown(chat_template)}"
            raise InputError(text)
        variables = dict(chat_template_kwargs or {})
        known = inspect.signature(tokenizer.apply_chat_template).parameters
        taken = [key for key in variables if key in known and key not in ("documents", "kwargs")]
        if taken:
            text = (
                f"chat_template_kwargs holds {taken[0]!r}, which is no variable of a template; "
                "leave it out (keywords of chat: chat_template, add_generation_prompt, "
                "continue_final_message, tools)"
            )
            raise InputError(text)
        self._in_parts = content_format == "openai"
        self._tokenizer = tokenizer
        self._template = BoundedTemplate(
            tokenizer,
            chat_template,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    def render(self, conversation: Conversation) -> ParsedPrompt:
        """Make the prompt of one conversation: what the template writes, and its tokens.

        Raises
        ------
        InputError
            If the conversation is empty, a message has another form, or the template refuses it.
        """
        messages = _checked(conversation)
        if self._in_parts:
            contents = [plain(message).get("content") for message in conversation]
            messages = [
                message | _parts(place, content)
                for place, (message, content) in enumerate(zip(messages, contents, strict=True))
            ]
        # Templates know what is missing, and would write "None"; as in transformers since 5.24.
        messages = [{k: v for k, v in m.items() if v is not None} for m in messages]
        try:
            text = self._template.render(messages)
        except Exception as error:  # whatever a template makes of messages that anybody wrote
            message = (
                "the chat template refuses the conversation: "
                f"{type(error).__name__}: {str(error)[:500]}. "
                "Allowed are the roles and their order that the template knows; pass another one "
                "with chat_template=…"
            )
            raise InputError(message) from error
        # The template has written every special token itself.
        return ParsedPrompt(text, encode(self._tokenizer, text, add_special_tokens=False))


def split_conversations(messages: Conversation | Sequence[Conversation]) -> list[Any]:
    """Tell one conversation from several, without looking into the messages.

    Raises
    ------
    InputError
        If ``messages`` is neither.
    """
    if not _is_list(messages):
        text = f"messages is a {type(messages).__name__}; pass {_FORMS}"
        raise InputError(text)
    # An empty list is one conversation, which is refused: somebody forgot the messages.
    return list(messages) if messages and _is_list(messages[0]) else [messages]


def _checked(conversation: Any) -> list[dict[str, Any]]:
    if not _is_list(conversation):
        text = f"a conversation is a {type(conversation).__name__}; pass {_FORMS}"
        raise InputError(text)
    if not conversation:
        text = "the conversation is empty: got no messages, allowed: at least one. Write something"
        raise InputError(text)
    return [_checked_message(place, message) for place, message in enumerate(conversation)]


def _checked_message(place: int, message: Any) -> dict[str, Any]:
    message = plain(message)
    if not isinstance(message, Mapping):
        text = f"message {place} is a {type(message).__name__}; pass {_FORMS}"
        raise InputError(text)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        text = f"role of message {place} is {shortened(role)}; it must be a str such as 'user'"
        raise InputError(text)
    content = message.get("content")
    calls = checked_calls(place, message)
    if content is None and not calls:
        text = f"message {place} ({role}) has no content; write a str or a list of text parts"
        raise InputError(text)
    if content is None or isinstance(content, str):
        return {**message, **calls}
    if not _is_list(content):
        text = (
            f"content of message {place} is a {type(content).__name__}; it must be a str or a list "
            'of {"type": "text", "text": …}'
        )
        raise InputError(text)
    joined = "\n".join(_part(place, part) for part in content)
    return {**message, **calls, "content": joined}


_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and under which key it stands: OpenAI's forms."""


def _part(place: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    key = _TEXTS.get(kind) if isinstance(part, Mapping) and isinstance(kind, str) else None
    if key is None or not isinstance(part.get(key), str):
        text = (
            f"message {place} has a part of type {shortened(kind)} that is not served; allowed: "
            '{"type": "text", "text": str}. plait serves text models only'
        )
        raise InputError(text)
    return str(part[key])


def _parts(place: int, content: Any) -> dict[str, Any]:
    """Return a content that was checked as a list of parts."""
    if content is None:
        return {}
    texts = [content] if isinstance(content, str) else [_part(place, p) for p in content]
    return {"content": [{"type": "text", "text": text} for text in texts]}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
