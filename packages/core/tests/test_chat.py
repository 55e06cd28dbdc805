"""Chat templates against transformers' own tokens, and conversations that cannot be served."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from plait.chat import ChatTemplate, split_conversations
from plait.demo.model import find_demo_model
from plait.tokenizer import load_tokenizer
from plait_kernels.errors import InputError

USER = {"role": "user", "content": "How many are 12 + 7?"}
TALK = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "They are 19."},
    {"role": "user", "content": "Naïve 日本語 <|im_end|> 🙂"},
]
OPEN = [USER, {"role": "assistant", "content": "They are"}]
CUSTOM = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.role not in ('user', 'assistant', 'tool') %}{{ raise_exception('who?') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }} {% endfor %}{{ mood }}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def temperature(city: str) -> float:
    """
    Get the temperature of a city.

    Args:
        city: Its name.
    """
    return float(len(city))


SCHEMA = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(find_demo_model())


@pytest.mark.parametrize("messages", [[USER], TALK, OPEN], ids=["one", "talk", "open"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
        {"chat_template": CUSTOM, "tools": [SCHEMA, temperature]},
        {"tools": [temperature]},
    ],
    ids=["plain", "closed", "continued", "custom with tools", "tools"],
)
def test_tokens_are_those_of_transformers(
    tokenizer: Any, messages: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    if "chat_template" in options:
        messages = [message for message in messages if message["role"] != "system"]
    prompt = ChatTemplate(tokenizer, **options).render(messages)
    expected = tokenizer.apply_chat_template(
        messages, **({"add_generation_prompt": True} | options), tokenize=True, return_dict=False
    )
    assert prompt.token_ids == expected
    assert prompt.text is not None
    assert ("temperature of a city" in prompt.text) == ("chat_template" in options)


def test_variables_of_the_template(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer, CUSTOM, chat_template_kwargs={"mood": "glad"})
    assert str(template.render([USER]).text).endswith("12 + 7? glad[assistant]")
    with pytest.raises(InputError, match="chat_template_kwargs holds 'tokenize'"):
        ChatTemplate(tokenizer, chat_template_kwargs={"tokenize": True})
    ChatTemplate(tokenizer, chat_template_kwargs={"documents": [{"title": "t", "text": "x"}]})


@pytest.mark.parametrize("name", ["chat_template", "chat_template_kwargs", "tools"])
@pytest.mark.parametrize("value", [5, b"text", 10**5000], ids=["int", "bytes", "huge int"])
def test_options_of_another_type(tokenizer: Any, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} must be"):
        ChatTemplate(tokenizer, **{name: value})


def test_parts_of_text_are_joined(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer)
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = {"role": "user", "content": parts}
    plain = template.render([{"role": "user", "content": "one\ntwo"}])
    assert template.render([message]) == plain
    assert message["content"] is parts


def test_special_tokens_are_written_once() -> None:
    rust = Tokenizer(models.WordLevel({"<s>": 0, "hi": 1, "<unk>": 2}, "<unk>"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rust.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>")
    assert tokenizer("hi").input_ids == [0, 1]
    template = "{{ bos_token }} {{ messages[0].content }}"
    prompt = ChatTemplate(tokenizer, template).render([{"role": "user", "content": "hi"}])
    assert prompt.token_ids == [0, 1]


def test_one_conversation_or_several() -> None:
    assert split_conversations([USER]) == [[USER]]
    assert split_conversations([[USER], TALK]) == [[USER], TALK]
    assert split_conversations([]) == [[]]
    for wrong in ("hello", USER, 5, None):
        with pytest.raises(InputError, match="messages is a"):
            split_conversations(wrong)  # type: ignore[arg-type]


BAD: dict[str, tuple[Any, str]] = {
    "empty": ([], "the conversation is empty"),
    "no messages": ("hello", "a conversation is a str"),
    "a text as message": (["hello"], "message 0 is a str"),
    "no role": ([USER, {"content": "x"}], "role of message 1 is None"),
    "a number as role": ([{"role": 1, "content": "x"}], "role of message 0 is 1"),
    "no content": ([{"role": "user"}], r"message 0 \(user\) has no content"),
    "a number as content": ([{"role": "user", "content": 5}], "content of message 0 is a int"),
    "an image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "message 0 has a part of type 'image_url'",
    ),
    "a bare part": ([{"role": "user", "content": ["x"]}], "a part of type 'str'"),
    "a part without text": ([{"role": "user", "content": [{"type": "text"}]}], "of type 'text'"),
    "an unknown role": ([{"role": "judge", "content": "x"}], "TemplateError: who?"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_conversations_are_refused(tokenizer: Any, name: str) -> None:
    conversation, match = BAD[name]
    with pytest.raises(InputError, match=match):
        ChatTemplate(tokenizer, CUSTOM).render(conversation)


def test_bad_templates_are_refused(tokenizer: Any) -> None:
    for template in ("{% for %}", "{{ 1 // 0 }}", "{{ messages[0].content + 1 }}"):
        with pytest.raises(InputError, match="the chat template refuses"):
            ChatTemplate(tokenizer, template).render([USER])
    with pytest.raises(InputError, match="both True"):
        ChatTemplate(tokenizer, continue_final_message=True)
    with pytest.raises(InputError, match="the chat template refuses"):
        ChatTemplate(tokenizer, tools=["no schema"]).render([USER])  # type: ignore[list-item]


def test_a_tokenizer_without_a_template() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"x": 0})))
    with pytest.raises(InputError, match="no chat template"):
        ChatTemplate(tokenizer)
    prompt = ChatTemplate(tokenizer, "{{ messages[0].content }}").render([USER | {"content": "x"}])
    assert prompt.token_ids == [0]


BY_PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
    "{{ '(' ~ part.type ~ ':' ~ part.text ~ ')' }}{% endfor %}{% endfor %}"
)


def test_contents_as_lists_of_parts(tokenizer: Any) -> None:
    two = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": two},
        {"role": "assistant", "content": "three"},
    ]
    prompt = ChatTemplate(tokenizer, BY_PARTS, content_format="openai").render(talk)
    assert prompt.text == "[user](text:one)(text:two)[assistant](text:three)"
    called: list[dict[str, Any]]
    called = [USER, {"role": "assistant", "content": None, "tool_calls": [SCHEMA]}]
    prompt = ChatTemplate(tokenizer, BY_PARTS, content_format="openai").render(called)
    assert prompt.text == "[user](text:How many are 12 + 7?)[assistant]"
    joined = ChatTemplate(tokenizer, "{{ messages[0].content }}", content_format="string")
    assert joined.render(talk).text == "one\ntwo"
    with pytest.raises(InputError, match="must be 'auto', 'string' or 'openai', got 'xml'"):
        ChatTemplate(tokenizer, content_format="xml")
    with pytest.raises(InputError, match="a part of type 'image_url'"):
        ChatTemplate(tokenizer, BY_PARTS, content_format="openai").render(
            [{"role": "user", "content": [{"type": "image_url"}]}]
        )
