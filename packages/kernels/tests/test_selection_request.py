"""Reading a request for kernels."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_kernels import request as request_module
from plait_kernels.errors import KernelError
from plait_kernels.ops import OPS
from plait_kernels.request import KernelRequest


@pytest.mark.parametrize(
    ("value", "op", "backends"),
    [
        ("lora=cuda,triton;*=torch", "lora", ("cuda", "triton")),
        ("lora=cuda,triton;*=torch", "linear", ("torch",)),
        (" lora = cuda , triton ; * = torch ; ", "lora", ("cuda", "triton")),
        ("torch", "sample", ("torch",)),
        ("triton,torch", "sample", ("triton", "torch")),
        ("triton,*", "lora", ("triton", "*")),
        ("lora=triton", "linear", ("*",)),
        ("torch;lora=*", "lora", ("*",)),
        ("*", "lora", ("*",)),
        ("auto", "lora", ("*",)),
        ("triton,auto", "lora", ("triton", "*")),
        ("", "lora", ("*",)),
        (None, "lora", ("*",)),
        ({}, "lora", ("*",)),
        ({"lora": "cuda,triton", "*": "torch"}, "lora", ("cuda", "triton")),
        ({"lora": ["cuda", "triton"], "*": ("torch",)}, "lora", ("cuda", "triton")),
        ({"lora": ["cuda", "triton"], "*": ("torch",)}, "rms_norm", ("torch",)),
    ],
)
def test_parse(value: Any, op: str, backends: tuple[str, ...]) -> None:
    assert KernelRequest.parse(value).backends_for(op) == backends


@given(
    st.dictionaries(
        st.sampled_from([*OPS, "*"]),
        st.tuples(
            st.lists(st.sampled_from(["cuda", "triton", "torch"]), min_size=1, unique=True),
            st.booleans(),
        ).map(lambda drawn: (*drawn[0], *("*" * drawn[1]))),
    )
)
def test_text_and_dict_mean_the_same(choices: dict[str, tuple[str, ...]]) -> None:
    request = KernelRequest.parse(choices)
    text = ";".join(f"{op}={','.join(names)}" for op, names in choices.items())
    assert KernelRequest.parse(text) == request
    assert hash(KernelRequest.parse(text)) == hash(request)
    assert KernelRequest.parse(request) is request
    for op in OPS:
        assert request.backends_for(op) == choices.get(op, choices.get("*", ("*",)))


@pytest.mark.parametrize("text", ["lora=cuda,triton;*=torch", "*=torch", "lora=triton,*"])
def test_str_is_the_text(text: str) -> None:
    assert KernelRequest.parse(str(KernelRequest.parse(text))) == KernelRequest.parse(text)


def test_str_of_nothing_is_auto() -> None:
    assert str(KernelRequest()) == "auto"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("loar=torch", r"unknown op 'loar'.*did you mean 'lora'\?.*rms_norm"),
        ("LORA=torch", r"unknown op 'LORA'.*did you mean 'lora'\?"),
        ("xyzzy=torch", r"unknown op 'xyzzy'.*; use rms_norm"),
        ("=torch", "unknown op ''"),
        ("lora=", "backend for op 'lora' is empty.*write"),
        ("lora=cuda,,torch", "backend for op 'lora' is empty"),
        ("lora=a=b", "unknown op 'lora=a'"),
        ("lora=torch;lora=cuda", "op 'lora' is asked for twice"),
        ("torch;*=cuda", r"op '\*' is asked for twice"),
        ("torch,cuda,torch", "named twice in 'torch,cuda,torch'"),
        ("*,torch", "is not the last"),
        ({"lora": []}, "is empty"),
        ({"lora": 3}, "were 3; a text or a list"),
        ({"lora": [3]}, r"were \[3\]; a text or a list"),
        (3, "was a int; a text, a dict or None"),
        (b"torch", "was a bytes; a text, a dict or None"),
        ({"lora": b"torch"}, "were b'torch'; a text or a list"),
        ({3: "torch"}, "unknown op 3"),
        ("auto,torch", "is not the last"),
        ("auto,*", "named twice"),
    ],
)
def test_a_bad_request_is_refused(value: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message) as caught:
        KernelRequest.parse(value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", ["x" * 10**6 + "=torch", "torch," * 10**5 + "torch"])
def test_a_long_request_is_quoted_in_short(text: str) -> None:
    with pytest.raises(KernelError) as caught:
        KernelRequest.parse(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("argument", "environment", "text"),
    [
        ("torch", "triton", "*=torch"),
        (None, "triton", "*=triton"),
        (None, None, "auto"),
        (None, "  ", "auto"),
        ("", "triton", "auto"),
        ({"lora": "cuda"}, "triton", "lora=cuda"),
    ],
)
def test_argument_over_environment_over_auto(
    argument: Any, environment: str | None, text: str
) -> None:
    assert str(KernelRequest.resolve(argument, environment)) == text


def test_a_bad_request_names_its_source() -> None:
    with pytest.raises(KernelError, match=r"^environment variable PLAIT_KERNELS: unknown op"):
        KernelRequest.resolve(None, "lor=torch")
    with pytest.raises(KernelError, match=r"^kernels=: unknown op"):
        KernelRequest.resolve("lor=torch", "torch")


def test_the_examples_of_the_docstrings_run() -> None:
    results = doctest.testmod(request_module)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_KERNELS", "reference")
    assert KernelRequest.resolve(None, None) == KernelRequest()
