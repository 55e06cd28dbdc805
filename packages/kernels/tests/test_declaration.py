"""What a declaration may not say: refused when it is loaded, and it costs its own backend only."""

from __future__ import annotations

from typing import Any

import pytest

from plait_kernels.backend import Backend, Kernel
from plait_kernels.declaration import Rejected, check_backend


class BadRepr:
    def __repr__(self) -> str:
        raise RuntimeError


def kernel(**fields: Any) -> Kernel:
    fields = {"op": "lora", "factory": "module:make"} | fields
    return Kernel(**fields)


def backend(**fields: Any) -> Backend:
    fields = {"name": "fake", "kernels": (kernel(),)} | fields
    return Backend(**fields)


def rejection(declared: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        check_backend(declared)
    assert len(caught.value.reason) + len(caught.value.remedy) < 1500
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"devices": ("cuda",), "min_capability": (8, 0), "max_capability": (8, 0)},
        {"devices": ("cpu",), "min_capability": (9, 0)},
        {"dtypes": ("bfloat16", "float32"), "priority": -10, "graph_safe": True},
        {"uses": ("torch", "flash-infer.2")},
        {"factory": "package.module_1:Make"},
    ],
)
def test_a_right_declaration_is_taken(fields: dict[str, Any]) -> None:
    declared = backend(kernels=(kernel(**fields), kernel()))
    assert check_backend(declared) is declared


@pytest.mark.parametrize(
    ("fields", "reason", "remedy"),
    [
        ({"dtypes": ("fp32",)}, "dtypes has the unknown 'fp32'", "use some of 'float32', 'bf"),
        (
            {"dtypes": ("float", "bfloat16")},
            "the unknown 'float' (did you mean 'float",
            "or leave dtypes out",
        ),
        ({"dtypes": ("float64",)}, "dtypes has the unknown 'float64'", "'float32', 'bfloat16'"),
        ({"dtypes": "float32"}, "'float32', not a tuple of texts: write ('float32',)", "use"),
        ({"dtypes": "fp32"}, "dtypes is 'fp32', not a tuple of texts", "use some of"),
        ({"dtypes": ["float32"]}, "dtypes is ['float32'], not a tuple", "use some of"),
        ({"dtypes": None}, "dtypes is None", "leave dtypes out for all of them"),
        ({"dtypes": ()}, "dtypes is empty", "leave dtypes out"),
        ({"dtypes": (None,)}, "dtypes has the unknown None", "use some of"),
        ({"dtypes": (float,)}, "dtypes has the unknown <class 'float'>", "use some of"),
        ({"devices": "cpu"}, "'cpu', not a tuple of texts: write ('cpu',)", "'cpu', 'cuda'"),
        ({"devices": ("gpu",)}, "devices has the unknown 'gpu'", "'cpu', 'cuda'"),
        ({"devices": ("cuda:0",)}, "'cuda:0' (did you mean 'cuda'?)", "'cpu', 'cuda'"),
        ({"devices": None}, "devices is None", "leave devices out"),
        ({"devices": ()}, "devices is empty", "leave devices out"),
        ({"devices": {"cpu"}}, "devices is {'cpu'}, not a tuple", "'cpu', 'cuda'"),
        ({"priority": "high"}, "priority is 'high'", "an int"),
        ({"priority": 1.5}, "priority is 1.5", "an int"),
        ({"priority": None}, "priority is None", "an int"),
        ({"priority": True}, "priority is True", "an int"),
        ({"graph_safe": "yes"}, "graph_safe is 'yes'", "True or False"),
        ({"supports": None}, "supports is None", "leave it out"),
        ({"supports": ("no",)}, "supports is ('no',), which cannot be called", "function"),
        ({"min_capability": 8}, "min_capability is 8", "(major, minor)"),
        ({"min_capability": (9,)}, "min_capability is (9,)", "(major, minor)"),
        ({"min_capability": "8.0"}, "min_capability is '8.0'", "(major, minor)"),
        ({"min_capability": [8, 0]}, "min_capability is [8, 0]", "(major, minor)"),
        ({"max_capability": (9, 0.5)}, "max_capability is (9, 0.5)", "(major, minor)"),
        ({"max_capability": (-1, 0)}, "max_capability is (-1, 0)", "(major, minor)"),
        (
            {"min_capability": (9, 0), "max_capability": (8, 0)},
            "min_capability (9, 0) is more than max_capability (8, 0)",
            "exchange",
        ),
        ({"op": "rms_nrom"}, "op 'rms_nrom' (did you mean 'rms_norm'?)", "use one of rms_norm, "),
        ({"op": []}, "unknown op []", "use one of"),
        ({"op": None}, "unknown op None", "use one of"),
        ({"factory": "a.b"}, "for lora the factory is 'a.b'", "'module:function'"),
        ({"factory": "a:"}, "the factory is 'a:'", "'module:function'"),
        ({"factory": ":b"}, "the factory is ':b'", "'module:function'"),
        ({"factory": "a:b:c"}, "the factory is 'a:b:c'", "'module:function'"),
        ({"factory": "a/b.py:make"}, "the factory is 'a/b.py:make'", "'module:function'"),
        ({"factory": len}, "the factory is <built-in function len>", "'module:function'"),
        ({"factory": 7}, "the factory is 7", "'module:function'"),
        ({"uses": "torch"}, "uses is 'torch', not a tuple", "('torch',)"),
        ({"uses": ("a,b",)}, "uses has 'a,b', which names no backend", "('torch',)"),
        ({"uses": ("fake",)}, "uses names its own backend 'fake'", "the other backends"),
        ({"uses": None}, "uses is None", "leave uses out"),
        ({"priority": "x" * 10**7}, "priority is 'xxx", "an int"),
        ({"priority": BadRepr()}, "priority is an object of class BadRepr", "an int"),
    ],
)
def test_a_wrong_kernel_is_named_with_what_is_allowed(
    fields: dict[str, Any], reason: str, remedy: str
) -> None:
    rejected = rejection(backend(kernels=(kernel(), kernel(**fields))))
    assert reason in rejected.reason
    assert remedy in rejected.remedy
    assert rejected.name == "fake"


@pytest.mark.parametrize(
    ("fields", "reason", "remedy"),
    [
        ({"name": 7}, "its name 7 cannot be written", "choose a name"),
        ({"name": ""}, "its name '' cannot be written", "choose a name"),
        ({"name": "a,b"}, "'a,b' cannot be written", "A-Z a-z 0-9"),
        ({"name": "*"}, "'*' cannot be written", "choose a name"),
        ({"name": "auto"}, "'auto' cannot be written", "other than 'auto'"),
        ({"name": " a"}, "' a' cannot be written", "choose a name"),
        ({"name": "a\nb"}, r"'a\nb' cannot be written", "choose a name"),
        ({"name": "a b"}, "'a b' cannot be written", "choose a name"),
        ({"name": "-a"}, "'-a' cannot be written", "choose a name"),
        ({"name": "x" * 10**7}, "cannot be written", "1 to 64"),
        ({"kernels": ()}, "it declares no kernels", "at least one"),
        ({"kernels": None}, "of type NoneType, not a tuple", "a tuple of Kernel"),
        ({"kernels": [kernel()]}, "of type list, not a tuple", "a tuple of Kernel"),
        ({"kernels": kernel()}, "of type Kernel, not a tuple", "a tuple of Kernel"),
        ({"kernels": (k for k in (kernel(),))}, "of type generator", "a tuple of Kernel"),
        ({"kernels": ("rms_norm",)}, "its kernels hold str", "a tuple of Kernel"),
        ({"api_version": 99}, "API version 99", "upgrade plait-kernels"),
        ({"api_version": 0}, "API version 0", "upgrade the backend"),
        ({"api_version": "1"}, "its api_version is '1'", "the number"),
        ({"api_version": None}, "its api_version is None", "the number"),
        ({"api_version": True}, "its api_version is True", "the number"),
        ({"probe": None}, "its probe is None", "leave it out"),
        ({"probe": ("no",)}, "its probe is ('no',), which cannot be called", "a function"),
        ({"automatic": "no"}, "its automatic is 'no'", "True or False"),
    ],
)
def test_a_wrong_backend_is_named_with_what_is_allowed(
    fields: dict[str, Any], reason: str, remedy: str
) -> None:
    rejected = rejection(backend(**fields))
    assert reason in rejected.reason
    assert remedy in rejected.remedy
    assert rejected.name == (None if "name" in fields else "fake")


@pytest.mark.parametrize("returned", [None, {"name": "fake"}, [backend()], backend, "fake"])
def test_what_is_no_backend_is_refused(returned: object) -> None:
    assert f"returned {type(returned).__name__}, not a plait_" in rejection(returned).reason
