"""Choosing kernels: what cannot is dropped with its reason, then the request, then priority."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_kernels.backend import Backend, Kernel
from plait_kernels.config import OpConfig
from plait_kernels.device import Device
from plait_kernels.errors import KernelError
from plait_kernels.loader import Failure, LoadedBackends
from plait_kernels.request import KernelRequest
from plait_kernels.selection import choose, explain

if TYPE_CHECKING:
    from plait_kernels.table import Choice

CPU = Device("cpu", name="CPU")
H100 = Device("cuda", (9, 0), "NVIDIA H100")
CONFIG = OpConfig.of("lora", dtype="bfloat16", bucket="decode", max_tokens=8, group="qkv")


def one(name: str, *, automatic: bool = True, probe: Any = None, **fields: Any) -> Backend:
    """A backend with one kernel, for ``lora``."""
    kernel = Kernel("lora", f"{name}:make", **fields)
    extra = {} if probe is None else {"probe": probe}
    return Backend(name, (kernel,), automatic=automatic, **extra)


def chosen(
    *backends: Backend, request: Any = None, device: Device = CPU, config: OpConfig = CONFIG
) -> Choice:
    (choice,) = choose([config], LoadedBackends(backends), KernelRequest.parse(request), device)
    return choice


def name_of(*backends: Backend, request: Any = None, device: Device = CPU) -> str:
    return chosen(*backends, request=request, device=device).chosen.backend.name


def raises(*_: object) -> Any:
    message = "driver too old"
    raise OSError(message)


def not_reasons(source: str, answer: str) -> str:
    return f"{source} returned {answer}, not a tuple of reasons; report this to its makers"


def test_auto_takes_the_highest_priority() -> None:
    assert name_of(one("a"), one("b", priority=2), one("c", priority=1)) == "b"


def test_the_name_breaks_ties() -> None:
    assert name_of(one("c"), one("a"), one("b")) == "a"


def test_auto_never_takes_a_backend_that_is_by_name_only() -> None:
    manual = one("manual", automatic=False, priority=9)
    assert name_of(manual, one("other")) == "other"
    assert name_of(manual, one("other"), request="manual") == "manual"
    with pytest.raises(KernelError, match=r"manual: usable \(priority 9, by name only\)"):
        name_of(manual)


def test_of_one_backends_kernels_the_highest_priority_that_can() -> None:
    old = Kernel("lora", "m:old", devices=("cuda",))
    new = Kernel("lora", "m:new", devices=("cuda",), min_capability=(9, 0), priority=1)
    backend = Backend("b", (old, new))
    assert chosen(backend, device=H100).chosen.kernel is new
    older = Device("cuda", (8, 0))
    assert chosen(backend, device=older, request="b").chosen.kernel is old


@pytest.mark.parametrize(
    ("fields", "device", "reason"),
    [
        ({"devices": ("cuda",)}, CPU, "runs on cuda, not on cpu"),
        ({"dtypes": ("float16", "float32")}, CPU, "takes float16, float32, not bfloat16"),
        ({"min_capability": (10, 0)}, H100, "needs compute capability 10.0 or higher, not 9.0"),
        ({"max_capability": (8, 9)}, H100, "needs compute capability 8.9 or lower, not 9.0"),
        ({"min_capability": (8, 0)}, Device("cuda"), "needs a known compute capability"),
        ({"supports": lambda config: (f"no {config.get('group')}",)}, CPU, "no qkv"),
        ({"supports": raises}, CPU, "its supports() raised OSError: driver too old"),
        ({"probe": lambda device: (f"no library on {device.type}",)}, CPU, "no library on cpu"),
        ({"probe": raises}, CPU, "its probe raised OSError: driver too old"),
        ({"supports": lambda config: "no"}, CPU, not_reasons("its supports()", "'no'")),
        ({"supports": lambda config: True}, CPU, not_reasons("its supports()", "True")),
        ({"supports": lambda config: None}, CPU, not_reasons("its supports()", "None")),
        ({"supports": lambda config: (1,)}, CPU, not_reasons("its supports()", "(1,)")),
        ({"probe": lambda device: False}, CPU, not_reasons("its probe", "False")),
    ],
)
def test_what_cannot_is_dropped_with_its_reason(
    fields: dict[str, Any], device: Device, reason: str
) -> None:
    choice = chosen(one("best", priority=9, **fields), one("plain"), device=device)
    assert choice.chosen.backend.name == "plain"
    (dropped,) = choice.dropped
    assert (dropped.backend.name, dropped.reasons) == ("best", (reason,))


@pytest.mark.parametrize(
    ("low", "high"), [((9, 0), None), (None, (9, 0)), ((9, 0), (9, 0)), ((8, 9), (10, 0))]
)
def test_the_range_of_capability_is_inclusive(low: Any, high: Any) -> None:
    backend = one("b", min_capability=low, max_capability=high)
    assert chosen(backend, device=H100).dropped == ()


def test_capability_means_nothing_on_a_cpu() -> None:
    assert name_of(one("b", min_capability=(9, 0))) == "b"


def test_all_reasons_are_kept() -> None:
    bad = one(
        "bad",
        dtypes=("float32",),
        min_capability=(10, 0),
        probe=lambda device: ("no library",),
        supports=lambda config: ("no", "never"),
    )
    (reasons,) = [c.reasons for c in chosen(bad, one("b"), device=H100).dropped]
    assert reasons == (
        "no library",
        "takes float32, not bfloat16",
        "needs compute capability 10.0 or higher, not 9.0",
        "no",
        "never",
    )


def test_the_probe_runs_once_a_choice() -> None:
    probed = []

    def probe(device: Device) -> tuple[str, ...]:
        probed.append(device)
        return ()

    configs = [
        OpConfig.of("lora", dtype="float32", bucket=bucket, max_tokens=8, group=group)
        for bucket in ("decode", "prefill")
        for group in ("qkv", "o")
    ]
    choose(configs, LoadedBackends((one("b", probe=probe),)), KernelRequest(), CPU)
    assert probed == [CPU]


def test_a_request_takes_the_first_usable() -> None:
    backends = one("a", priority=9), one("cuda", devices=("cuda",)), one("triton"), one("torch")
    assert name_of(*backends, request="lora=cuda,triton;*=torch") == "triton"
    assert name_of(*backends, request="lora=cuda,triton;*=torch", device=H100) == "cuda"
    assert name_of(*backends, request="torch") == "torch"
    assert name_of(*backends, request="linear=torch") == "a"


def test_a_star_at_the_end_falls_back_to_auto_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backends = one("fast", devices=("cuda",)), one("low"), one("high", priority=1)
    with caplog.at_level(logging.INFO):
        assert name_of(*backends, request="fast,*") == "high"
    (record,) = caplog.records
    assert "first choice 'fast' was not usable" in record.getMessage()
    assert "runs on cuda, not on cpu" in record.getMessage()


def test_a_name_alone_means_that_or_an_error_with_every_candidate() -> None:
    backends = (
        one("fast", devices=("cuda",)),
        one("picky", supports=lambda config: ("too small", "too odd")),
        one("torch"),
        Backend("other", (Kernel("linear", "m:f"),)),
    )
    with pytest.raises(KernelError) as caught:
        name_of(*backends, request="lora=other,fast,picky")
    message = str(caught.value)
    assert "no kernel for lora[bfloat16, group=qkv] in decode on cpu (CPU)" in message
    assert "lora=other,fast,picky" in message
    assert "fast: runs on cuda, not on cpu" in message
    assert "picky: too small; too odd" in message
    assert "torch: usable (priority 0)" in message
    assert "other: has no kernel for this op" in message
    assert "kernels='lora=other,fast,picky,*'" in message


def test_no_kernel_at_all_is_an_error() -> None:
    with pytest.raises(KernelError, match=r"install a backend that has this op(.|\n)*none"):
        name_of(Backend("other", (Kernel("linear", "m:f"),)))


def test_an_unknown_backend_names_the_nearest() -> None:
    failure = Failure("broken", "somewhere", "it broke", "mend it")
    loaded = LoadedBackends((one("triton"), one("torch")), (failure,))
    with pytest.raises(
        KernelError, match=r"'tirton' .*did you mean 'triton'\?.* triton, torch"
    ) as e:
        choose([CONFIG], loaded, KernelRequest.parse("lora=tirton"), CPU)
    # It may be the failed one under another name.
    assert "it broke" in str(e.value)


@pytest.mark.parametrize("request_text", ["broken", "torch,broken", "sample=broken,*"])
def test_a_backend_that_failed_to_load_raises_when_asked_for(request_text: str) -> None:
    failure = Failure("broken", "somewhere", "it broke", "mend it")
    loaded = LoadedBackends((one("torch"),), (failure,))
    with pytest.raises(
        KernelError, match=r"'broken' \(somewhere\) was not loaded: it broke; mend it"
    ):
        choose([CONFIG], loaded, KernelRequest.parse(request_text), CPU)
    choose([CONFIG], loaded, KernelRequest(), CPU)


def test_auto_falling_to_torch_on_a_gpu_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    backends = (
        Backend("fast", (Kernel("lora", "m:f", min_capability=(10, 0)),)),
        Backend("torch", tuple(Kernel(op, "m:f") for op in ("lora", "linear"))),
    )
    configs = [
        OpConfig.of(op, dtype="bfloat16", bucket=bucket, max_tokens=8)
        for op in ("lora", "linear")
        for bucket in ("decode", "prefill")
    ]
    with caplog.at_level(logging.WARNING):
        choose(configs, LoadedBackends(backends), KernelRequest(), H100)
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.WARNING
    assert "NVIDIA H100" in message
    assert message.count("fast: needs compute capability 10.0 or higher, not 9.0") == 1
    assert "linear: no other backend has it" in message


@pytest.mark.parametrize(
    ("request_text", "device", "warned"),
    [
        ("", H100, True),
        ("fast,*", H100, True),
        ("torch", H100, False),
        ("fast,torch", H100, False),
        ("", CPU, False),
    ],
)
def test_torch_on_a_gpu_is_no_warning_when_asked_for(
    request_text: str, device: Device, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backends = one("fast", min_capability=(10, 0), devices=("cuda",)), one("torch")
    with caplog.at_level(logging.WARNING):
        assert name_of(*backends, request=request_text, device=device) == "torch"
    assert bool(caplog.records) == warned


def test_explain_lists_everything_and_imports_nothing() -> None:
    backends = one("a", devices=("cuda",)), one("b"), Backend("c", (Kernel("linear", "m:f"),))
    explained = explain([CONFIG], LoadedBackends(backends), CPU)
    assert [(str(c), bool(c.reasons)) for c in explained[CONFIG]] == [
        ("a: runs on cuda, not on cpu", True),
        ("b: usable (priority 0)", False),
    ]


names = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.dictionaries(names, st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), min_size=1),
    st.lists(names, unique=True),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_the_choice_is_what_the_rules_say(
    backends: dict[str, tuple[int, bool, bool]], asked: list[str], star: bool, random: Any
) -> None:
    asked = [name for name in asked if name in backends]
    star = star or not asked
    declared = [
        one(
            name,
            priority=priority,
            automatic=automatic,
            devices=("cpu", "cuda") if usable else ("cuda",),
        )
        for name, (priority, automatic, usable) in backends.items()
    ]
    random.shuffle(declared)
    expected = next((name for name in asked if backends[name][2]), None)
    if expected is None and star:
        auto = [
            (-p, name) for name, (p, automatic, usable) in backends.items() if automatic and usable
        ]
        expected = min(auto)[1] if auto else None
    request = KernelRequest.parse({"lora": [*asked, *("*" * star)]})
    if expected is None:
        with pytest.raises(KernelError, match="no kernel for"):
            name_of(*declared, request=request)
    else:
        assert name_of(*declared, request=request) == expected
