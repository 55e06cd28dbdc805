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
from plait_kernels.errors import KernelError, KernelRequestError
from plait_kernels.examination import explain
from plait_kernels.loader import Failure, LoadedBackends
from plait_kernels.ops import OPS
from plait_kernels.request import KernelRequest
from plait_kernels.selection import choose

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


def exits(*_: object) -> Any:
    message = "no driver"
    raise SystemExit(message)


def interrupted(*_: object) -> Any:
    raise KeyboardInterrupt


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
        ({"supports": exits}, CPU, "its supports() raised SystemExit: no driver"),
        ({"probe": exits}, CPU, "its probe raised SystemExit: no driver"),
        ({"uses": ("gone",)}, CPU, "uses 'gone': no such backend is installed"),
    ],
)
def test_what_cannot_is_dropped_with_its_reason(
    fields: dict[str, Any], device: Device, reason: str
) -> None:
    choice = chosen(one("best", priority=9, **fields), one("plain"), device=device)
    assert choice.chosen.backend.name == "plain"
    (dropped,) = choice.dropped
    assert (dropped.backend.name, dropped.reasons) == ("best", (reason,))


@pytest.mark.parametrize("fields", [{"supports": interrupted}, {"probe": interrupted}])
def test_an_interrupt_passes(fields: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        chosen(one("a", **fields))


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


@pytest.mark.parametrize(
    ("request_text", "device", "probed"),
    [
        ("", CPU, "a b"),
        ("b", CPU, "b"),
        ("manual,b", CPU, "manual b"),
        ("manual,*", CPU, "a b manual"),
        ("linear=manual", CPU, "a b"),
        ("lora=b;*=manual", CPU, "b"),
        ("", H100, "a b gpu"),
        ("gpu,b", CPU, "b"),
    ],
)
def test_only_those_that_a_request_means_are_probed(
    request_text: str, device: Device, probed: str
) -> None:
    asked: list[str] = []

    def probing(name: str, **fields: Any) -> Backend:
        return one(name, probe=lambda device: asked.append(name) or (), **fields)

    other = Backend("other", (Kernel("linear", "m:f"),), probe=lambda device: asked.append("other"))
    manual = probing("manual", automatic=False)
    gpu = probing("gpu", devices=("cuda",))
    name_of(probing("a"), probing("b"), manual, gpu, other, request=request_text, device=device)
    assert sorted(asked) == sorted(probed.split())


def test_a_refusal_has_the_reasons_of_backends_that_were_not_asked_for() -> None:
    backends = one("a", probe=lambda device: ("no library",)), one("b", devices=("cuda",))
    with pytest.raises(KernelRequestError, match="a: no library"):
        name_of(*backends, request="b")


def test_a_broken_predicate_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    configs = [
        OpConfig.of("lora", dtype="float32", bucket=bucket, max_tokens=8)
        for bucket in ("decode", "prefill")
    ]
    loaded = LoadedBackends((one("bad", supports=raises), one("b")))
    choose(configs, loaded, KernelRequest(), CPU)
    (record,) = caplog.records
    assert record.getMessage() == "backend 'bad': its supports() raised OSError: driver too old"


def test_a_backend_without_all_ops_is_told_what_to_write() -> None:
    backends = one("acme"), Backend("torch", tuple(Kernel(op, "m:f") for op in OPS))
    configs = [OpConfig.of(op, dtype="float32", bucket="decode", max_tokens=8) for op in OPS]
    loaded = LoadedBackends(backends)
    with pytest.raises(KernelRequestError) as caught:
        choose(configs, loaded, KernelRequest.parse("acme"), CPU)
    message = str(caught.value)
    assert "satisfies kernels='acme'; name a usable one, or write 'acme,*' for auto" in message
    assert "acme: has no kernel for this op" in message
    assert "=acme" not in message.replace("kernels='acme'", ""), "only what the user wrote"
    # What it says to write does what it says.
    choices = choose(configs, loaded, KernelRequest.parse("acme,*"), CPU)
    names = {choice.config.op: choice.chosen.backend.name for choice in choices}
    assert names.pop("lora") == "acme"
    assert set(names.values()) == {"torch"}


@pytest.mark.parametrize(
    ("written", "quoted", "remedy"),
    [
        ({"lora": "fast"}, "kernels={'lora': 'fast'}", "'lora=fast,*'"),
        (" fast ; sample = torch ", "kernels=' fast ; sample = torch '", "'*=fast,*;sample=torch'"),
        (
            "sample=torch;lora=fast",
            "kernels='sample=torch;lora=fast'",
            "'lora=fast,*;sample=torch'",
        ),
        (KernelRequest((("lora", ("fast",)),)), "kernels='lora=fast'", "'lora=fast,*'"),
    ],
)
def test_a_request_is_quoted_as_it_was_written(written: Any, quoted: str, remedy: str) -> None:
    backends = one("fast", devices=("cuda",)), one("torch"), one("a", automatic=False)
    with pytest.raises(KernelRequestError) as caught:
        name_of(*backends, request=written)
    assert f"satisfies {quoted}; " in str(caught.value)
    assert f"or write {remedy} for auto where fast cannot" in str(caught.value)
    assert name_of(*backends, request=remedy.strip("'")) == "torch"


def test_the_variable_is_quoted_by_its_name() -> None:
    request = KernelRequest.resolve(None, "fast")
    with pytest.raises(KernelRequestError, match="satisfies PLAIT_KERNELS='fast';"):
        choose([CONFIG], LoadedBackends((one("fast", devices=("cuda",)),)), request, CPU)


def test_what_auto_cannot_is_no_fault_of_a_request() -> None:
    with pytest.raises(KernelError) as caught:
        name_of(one("fast", devices=("cuda",)))
    assert not isinstance(caught.value, KernelRequestError)
    assert "kernels=" not in str(caught.value)


def test_a_composite_says_what_it_uses() -> None:
    choice = chosen(one("cpu", priority=1, uses=("torch",)), one("torch"))
    assert str(choice).endswith("decode up to 8 tokens: cpu, which uses torch")
    assert str(choice.chosen) == "cpu: usable (priority 1, uses torch)"


def test_a_composite_cannot_where_what_it_uses_cannot() -> None:
    used = one("used", probe=lambda device: ("no library",))
    choice = chosen(one("cpu", priority=1, uses=("used",)), one("torch"), used)
    assert choice.chosen.backend.name == "torch"
    assert "cpu: uses 'used': no library" in str(choice)
    failed = Failure("used", "somewhere", "it broke", "mend it")
    loaded = LoadedBackends((one("cpu", uses=("used",)),), (failed,))
    with pytest.raises(KernelError, match=r"cpu: uses 'used': .* it broke; mend it"):
        choose([CONFIG], loaded, KernelRequest.parse("cpu"), CPU)


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
    assert (
        "write 'lora=other,fast,picky,*' for auto where none of other, fast, picky can" in message
    )


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


@pytest.mark.parametrize("request_text", ["lora", "lora:torch", "torch,lora"])
def test_an_op_in_the_place_of_a_backend_is_told(request_text: str) -> None:
    loaded = LoadedBackends((one("torch"),), ())
    with pytest.raises(KernelError, match="'lora' is an op: write 'lora=BACKEND'"):
        choose([CONFIG], loaded, KernelRequest.parse(request_text), CPU)


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
