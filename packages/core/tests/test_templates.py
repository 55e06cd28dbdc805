"""Chat templates: equal to transformers where they are honest, ended where they are not."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import datetime
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plait.chat import ChatTemplate
from plait_kernels.errors import InputError

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Get the "weather" & <more>',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "ein Ort: Köln"},
                "days": {"type": ["integer", "null"]},
                "near": {"anyOf": [{"type": "array", "items": {"type": "number"}}]},
            },
            "required": ["city"],
        },
    },
}


def multiply(a: float, b: float = 2.0) -> float:
    """
    Multiply two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a * b


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": 'Köln "Süd"', "days": 2}},
}
USER = {"role": "user", "content": "  How warm <is> it? 🙂\n"}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call_1", "content": '{"t": 21.5}'},
    {"role": "assistant", "content": "<think>Hm.</think>It is 21.5 degrees. "},
    {"role": "user", "content": "Thanks\tand bye"},
]

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not
        (message.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
            {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}<think></think>{%- endif %}
{%- endif %}"""

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start|>system\\nToday Date: " + date_string + "\\n" + system_message + "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- tool_call.name + ".call(" }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' ~ arg_val ~ '"' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}{{- ")" }}
    {%- else %}{{- '{"output": ' }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- for t in tools or [] %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}"""

MACROS = """{%- macro json_to_python_type(spec) %}
    {%- set basic = {"string": "str", "number": "float", "integer": "int"} %}
    {%- if basic[spec.type] is defined %}{{- basic[spec.type] }}
    {%- elif spec.type == "array" %}{{- "list[" + json_to_python_type(spec|items_of) + "]" }}
    {%- elif spec.type is iterable and spec.type is not string %}
        {{- "Union[" }}{%- for t in spec.type %}{{- json_to_python_type({"type": t}) }}
        {%- if not loop.last %}{{- "," }}{%- endif %}{%- endfor %}{{- "]" }}
    {%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{%- for tool in tools or [] %}
    {%- set f = tool.function %}
def {{ f.name }}({% for name, spec in f.parameters.properties.items() %}
{{ name }}: {{ json_to_python_type(spec) }}{{ ", " if not loop.last }}{% endfor %})
    {{ f.description | replace('"', "'") | indent(4) }}
{%- endfor %}
{% for m in messages %}
  {% if m.role == 'system' %}{% continue %}{% endif %}
  {% if loop.index > 5 %}{% break %}{% endif %}
[{{ loop.index }}/{{ loop.length }} {{ m.role | upper }}] {{ m.content | default('-', true) }}
{% else %}nothing{% endfor %}""".replace("spec|items_of", "spec['items']")

GENERATION = """{% for message in messages %}
{% if message.role == 'assistant' %}{% generation %}{% set x = 1 %}{{ message.content }}
{% endgeneration %}{{ x is defined }}{% else %}{{ message.content }}
{% endif %}{% endfor %}
{% set body %}{% for i in range(3) %}{{ i }},{% endfor %}{% endset %}{{ body | length }}{{ body }}
{% filter upper %}abc{{ bos_token }}{% endfilter %}{% call(x) wrap() %}{{ x }}{% endcall %}"""
GENERATION = "{% macro wrap() %}<{{ caller('y') }}>{% endmacro %}" + GENERATION

ODDS = """{{ [1, 2.5, none, true, 'é"'] }} {{ {'a': [1, (2, 3)]} }} {{ messages[0] | length }}
{{ '%s|%05.1f|%d' % ('x', 2.25, 7) }} {{ '{}-{:>6}'.format(1, 'ab') }} {{ 7 // 2 * 3 ** 2 % 5 }}
{{ 'a,b,c'.split(',') | join(';') }} {{ 'ab' * 3 }} {{ [0] * 3 + [1] }} {{ 1 ~ 'x' ~ none }}
{{ [3, 1, 2] | sort | join }} {{ messages | map(attribute='role') | unique | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ undefined_name }}
{{ messages | groupby('role') | map(attribute='grouper') | join(', ') }} {{ '<b>' | escape }}
{{ 'x' | center(9) }}| {{ 'text of words' | wordwrap(7) }} {{ [[1, 2], [3]] | sum(start=[]) }}
{% for a, b in {'k': 1, 'l': 2}.items() if b > 1 %}{{ a }}{{ loop.first }}{% endfor %}
{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}
{% else %}{{ x }}{% endif %}{% endfor %}{{ messages[-1].content[2:5] }} {{ ' '.join(['p', 'q']) }}
{{ 'aXbX'.replace('X', '--') }}
{{ dict(a=1, b=[2]) | tojson }} {{ {'b': 1, 'a': [1, {}]} | tojson(indent=2, sort_keys=true) }}
{{ cycler('odd', 'even').next() }} {{ namespace(n=4).n }} {{ documents | length if documents }}
{{ mood }} {{ 'abc'[::-1] }} {{ not messages }} {{ 'user' in messages[0].role }}
{{ range(4) | list }}"""

TEMPLATES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "macros": MACROS,
    "generation": GENERATION,
    "odds": ODDS,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    rust = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, "<unk>"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tools": [TOOL, multiply]},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
        {"chat_template_kwargs": {"mood": "glad", "enable_thinking": False, "date_string": "d"}},
        {"chat_template_kwargs": {"documents": [{"title": "t", "text": "x"}]}},
    ],
    ids=["plain", "tools", "closed", "continued", "variables", "documents"],
)
def test_text_is_that_of_transformers(name: str, options: dict[str, Any], tokenizer: Any) -> None:
    keywords = {
        "chat_template": TEMPLATES[name],
        "add_generation_prompt": True,
        "tokenize": False,
        **{key: value for key, value in options.items() if key != "chat_template_kwargs"},
        **options.get("chat_template_kwargs", {}),
    }
    template = ChatTemplate(tokenizer, TEMPLATES[name], **options)
    for talk in (TALK, [USER], TALK[1:5]):
        before = deepcopy(talk)
        try:
            expected = tokenizer.apply_chat_template(deepcopy(talk), **keywords)
        except ValueError:
            # The template does not write the message that is to be continued.
            with pytest.raises(InputError, match="continue_final_message"):
                template.render(talk)
            continue
        assert template.render(talk).text == expected
        assert talk == before


def test_a_long_conversation_has_room(tokenizer: Any) -> None:
    talk = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"{i} " + "word " * 400}
        for i in range(600)
    ]
    expected = tokenizer.apply_chat_template(
        talk, chat_template=CHATML, tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(tokenizer, CHATML).render(talk).text == expected
    many = [TOOL] * 300
    expected = tokenizer.apply_chat_template(
        TALK, chat_template=CHATML, tokenize=False, add_generation_prompt=True, tools=many
    )
    assert ChatTemplate(tokenizer, CHATML, tools=many).render(TALK).text == expected


def test_now_is_now(tokenizer: Any) -> None:
    text = ChatTemplate(tokenizer, "{{ strftime_now('%Y-%m-%d') }}").render([USER]).text
    assert text == datetime.now().strftime("%Y-%m-%d")


DOUBLING = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}"
HOSTILE = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "filtered loops": (
        "{% for a in range(9999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}"
    ),
    "loops that write": "{% for a in range(99999) %}{% for b in range(99) %}xxxxxxxxxxxxxxxxxxxxx"
    "{% endfor %}{% endfor %}",
    "loops in a macro": "{% macro m() %}{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}"
    "{% endmacro %}{{ m() | length }}",
    "recursive loops": "{% for a in range(9999) recursive %}{{ loop(range(9999)) }}{% endfor %}",
    "recursive macros": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "mutual macros": (
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}"
    ),
    "a long text": "{{ 'a' * 10**10 }}",
    "a long text, turned round": "{{ 10**10 * 'a' }}",
    "a long list": "{{ ([0] * 10**10) | length }}",
    "a long tuple": "{{ ((0,) * 10**10) | length }}",
    "a constant": "{% set x = 'a' * 10**10 %}",
    "a large number": "{{ 10**(10**8) }}",
    "a product": "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}"
    "{% endfor %}",
    "doubled by +": DOUBLING % ("'a'", "ns.x + ns.x") + "{% endfor %}",
    "doubled by ~": DOUBLING % ("'a'", "ns.x ~ ns.x") + "{% endfor %}",
    "doubled by *": DOUBLING % ("'a'", "ns.x * 2") + "{% endfor %}",
    "doubled by %": DOUBLING % ("'a'", "'%s%s' % (ns.x, ns.x)") + "{% endfor %}",
    "doubled by format": DOUBLING % ("'a'", "'{0}{0}'.format(ns.x)") + "{% endfor %}",
    "doubled by the filter": DOUBLING % ("'a'", "'%s%s' | format(ns.x, ns.x)") + "{% endfor %}",
    "doubled by replace": DOUBLING % ("'a'", "ns.x.replace('a', 'aa')") + "{% endfor %}",
    "doubled by the filter replace": DOUBLING % ("'a'", "ns.x | replace('a', 'aa')")
    + "{% endfor %}",
    "doubled by join": DOUBLING % ("'a'", "[ns.x, ns.x] | join") + "{% endfor %}",
    "doubled by a method": DOUBLING % ("'a'", "''.join([ns.x, ns.x])") + "{% endfor %}",
    "doubled by a block": "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubled lists": DOUBLING % ("[1]", "ns.x + ns.x") + "{% endfor %}",
    "a tree of lists": DOUBLING % ("[1]", "[ns.x, ns.x]") + "{% endfor %}{{ ns.x }}",
    "a tree of tuples": DOUBLING % ("[1]", "(ns.x, ns.x)") + "{% endfor %}{{ ns.x | tojson }}",
    "a tree of dictionaries": DOUBLING % ("[1]", "{'a': ns.x, 'b': ns.x}") + "{% endfor %}",
    "a tree by a call": DOUBLING % ("[1]", "dict(a=ns.x, b=ns.x)") + "{% endfor %}{{ ns.x }}",
    "a tree of namespaces": DOUBLING % ("1", "namespace(a=ns.x, b=ns.x)")
    + "{% endfor %}{{ ns.x }}",
    "two trees compared": DOUBLING % ("[1]", "[ns.x, ns.x]") + "{% endfor %}{{ ns.x == ns.x }}",
    "centred": "{{ 'a' | center(10**10) }}",
    "centred by a method": "{{ 'a'.center(10**10) }}",
    "filled": "{{ 'a'.zfill(10**10) }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(60000) }}",
    "indented": "{{ ('a\n' * 99999) | indent(60000) }}",
    "indented by a text": "{{ ('a\n' * 9999) | indent('x' * 99999) }}",
    "bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "a width": "{{ '%10000000000d' % 1 }}",
    "a computed width": "{{ '%*d' % (10**10, 1) }}",
    "a width of format": "{{ '{:10000000000}'.format(1) }}",
    "a nested width": "{{ '{:{}}'.format(1, 10**10) }}",
    "a width of the filter": "{{ '%10000000000d' | format(1) }}",
    "batches": "{{ [1] | batch(10**9, 'x') | list }}",
    "slices": "{{ [1] | slice(10**9) | list }}",
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
    "lists of lists": "{{ (([[1]] * 99999) | sum(start=[])) }}",
    "generators": "{% for i in range(99999) %}{{ range(99999) | map('string') | sum }}{% endfor %}",
    "JSON with an indent": "{{ [[[[1]]]] | tojson(indent=10**10) }}",
    "a date": "{{ strftime_now('%1000000000Y') }}",
    "translated": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "a long text that is compiled": "{{ 1 }}" * 50000,
    "long comparisons": "{% set a = 'x' * 4000000 %}{% set b = 'x' * 3999999 ~ 'y' %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% if a[1:] == b[1:] %}{% endif %}"
    "{% endfor %}{% endfor %}",
    "a long word": "{{ ('a' * 3000000) | wordwrap(1) }}",
    "comments": "{{ ('<!---->' * 400000) | striptags }}",
    "comments of a method": "{{ (('<!---->' * 400000) | safe).striptags() }}",
    "links": "{{ ('www.a.b ' * 400000) | urlize }}",
    "a slow codec": "{{ ('ü' * 3000000).encode('punycode') }}",
    "a slow codec by name": "{{ ('ü' * 3000000).encode(encoding='idna') }}",
    "a number from a text": "{{ ('f' * 3000000) | int(0, 16) // 3 }}",
    "pretty": "{{ (range(99999) | list) | pprint }}",
    "a long template": "x" * 10**6,
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_templates_that_do_not_end_are_refused(name: str, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="the chat template refuses") as caught:
        ChatTemplate(tokenizer, HOSTILE[name]).render([USER])
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ namespace(__init__=1) }}",
        "{{ (''|attr('__class__')).mro() }}",
        "{% include 'x' %}",
    ],
)
def test_the_sandbox_holds(text: str, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="refuses"):
        ChatTemplate(tokenizer, text).render([USER])


ARGUMENTS = {"city": 'Köln "Süd"', "days": 2}


@pytest.mark.parametrize("name", ["chatml", "llama"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_arguments_as_text_are_those_as_objects(
    name: str, ensure_ascii: bool, tokenizer: Any
) -> None:
    text = json.dumps(ARGUMENTS, ensure_ascii=ensure_ascii)
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": text}}
    talk: list[dict[str, Any]]
    talk = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    plain = deepcopy(talk)
    plain[1]["tool_calls"][0]["function"]["arguments"] = ARGUMENTS
    expected = tokenizer.apply_chat_template(
        plain, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(tokenizer, TEMPLATES[name]).render(talk).text == expected
    assert talk[1]["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [("", {}), (None, {}), ("{}", {}), (' {"a": [1]} ', {"a": [1]}), ({"a": 1}, {"a": 1})],
)
def test_forms_of_arguments(arguments: Any, wanted: dict[str, Any], tokenizer: Any) -> None:
    template = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    prompt = ChatTemplate(tokenizer, template).render([{"role": "assistant", "tool_calls": [call]}])
    assert json.loads(str(prompt.text)) == wanted


def test_the_older_form_of_a_call(tokenizer: Any) -> None:
    template = "{{ messages[0].function_call.arguments.a }}"
    call = {"name": "f", "arguments": '{"a": 7}'}
    message = {"role": "assistant", "content": None, "function_call": call}
    assert ChatTemplate(tokenizer, template).render([message]).text == "7"


BAD_CALLS: dict[str, tuple[Any, str]] = {
    "bad JSON": (
        [{"function": {"name": "f", "arguments": '{"a": '}}],
        r"arguments of tool call 0 of message 1 \('f'\) are not JSON",
    ),
    "a text": ([{"function": {"name": "f", "arguments": '"x"'}}], "must be an object or its JSON"),
    "a list": ([{"function": {"name": "f", "arguments": [1]}}], "must be an object or its JSON"),
    "a number": ([{"function": {"name": "f", "arguments": 5}}], "must be an object or its JSON"),
    "long": ([{"function": {"name": "f", "arguments": "x" * 10**6}}], "are not JSON"),
    "deep": ([{"function": {"name": "f", "arguments": "[" * 10**5}}], "are not JSON"),
    "no name": ([{"function": {"arguments": "{}"}}], "names no function"),
    "no function": ([{"id": "1"}], "names no function"),
    "no object": (["f()"], "tool call 0 of message 1 is a str"),
    "no list": ({"function": {}}, "tool_calls of message 1 is a dict"),
    "a bare text": ("f()", "tool_calls of message 1 is a str"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_refused(name: str, tokenizer: Any) -> None:
    calls, words = BAD_CALLS[name]
    talk = [USER, {"role": "assistant", "content": "x", "tool_calls": calls}]
    with pytest.raises(InputError, match=words) as caught:
        ChatTemplate(tokenizer, CHATML).render(talk)
    assert len(str(caught.value)) < 1000


def test_forms_of_text_parts(tokenizer: Any) -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "b"},
        {"type": "output_text", "text": "c"},
        {"type": "refusal", "refusal": "d"},
    ]
    template = ChatTemplate(tokenizer, "{{ messages[0].content }}")
    assert template.render([{"role": "assistant", "content": parts}]).text == "a\nb\nc\nd"


def test_a_message_in_parts_is_continued(tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "It is"}]
    talk = [USER | {"content": [{"type": "text", "text": "x"}]}]
    talk.append({"role": "assistant", "content": parts})
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    expected = tokenizer.apply_chat_template(
        deepcopy(talk), chat_template=template, tokenize=False, **options
    )
    made = ChatTemplate(tokenizer, template, content_format="openai", **options)
    assert made.render(talk).text == expected == "<x><a><It is"


class Dumped:
    """An object as the OpenAI package gives it: it can say what it holds."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def model_dump(self, exclude_none: bool = False) -> dict[str, Any]:
        return {k: v for k, v in self._fields.items() if v is not None or not exclude_none}


def test_objects_of_the_openai_package_are_messages(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    plain = {"role": "assistant", "content": "x", "tool_calls": [call]}
    objects: list[Any] = [
        Dumped(**plain, audio=None),
        plain | {"tool_calls": [Dumped(**call)]},
        plain | {"tool_calls": [call | {"function": Dumped(**call["function"])}]},  # type: ignore[arg-type]
    ]
    template = ChatTemplate(tokenizer, "{{ messages | tojson }}")
    expected = template.render([plain]).text
    assert '"arguments": {"a": 1}' in str(expected)
    for message in objects:
        assert template.render([message]).text == expected
    in_parts = ChatTemplate(tokenizer, "{{ messages[0].content[0].text }}", content_format="openai")
    assert in_parts.render([objects[0]]).text == "x"


def test_what_is_none_is_missing(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer, "{{ messages[0].content }}{{ messages[0] | length }}")
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "name": None, "tool_calls": [call]}
    assert template.render([message]).text == "2"
