"""The output processor: text, stop strings, logprobs and what is let out when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plait.messages import CoreEvents, CoreOutput, ErrorInfo
from plait.output_processor import OutputProcessor
from plait_kernels.errors import AdapterError, InputError
from plait_sampling.params import RequestOutputKind, SamplingParams
from plait_sampling.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.outputs import RequestOutput

PROMPT = [1, 2]
EOS = 259


def make_tokenizer() -> Any:
    """Bytes, and pieces of one to three letters of "ab"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "ab", "ba", "aba"]
    rust = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, []))
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>")


TOKENIZER = make_tokenizer()
PIECES = ["a", "b", "ab", "ba", "aba"]
IDS = TOKENIZER.convert_tokens_to_ids(PIECES)


def ids_of(*pieces: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.convert_tokens_to_ids(list(pieces)))


def logprobs_of(ids: Sequence[int], k: int) -> TokenLogprobs:
    """Logprob -i/8 of id i; the k best are 0, 1, …"""
    table = np.array([[i, *range(k)] for i in ids], np.int32).reshape(len(ids), k + 1)
    return TokenLogprobs(
        table, (-table / 8).astype(np.float32), np.array([i + 1 for i in ids], np.int32)
    )


@dataclass(frozen=True)
class Step:
    request_outputs: list[RequestOutput]
    aborts: list[str]


class Front(OutputProcessor):
    """Counts tokens as the core does, and takes each step's outputs."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.told: Counter[str] = Counter()

    def admit(self, *request: Any) -> None:
        self.add(self.make(*request))

    def step(self, outputs: Sequence[CoreOutput]) -> Step:
        numbered = [replace(output, start=self.told[output.request_id]) for output in outputs]
        aborts = self.process(numbered)
        for output in outputs:
            self.told[output.request_id] += len(output.new_token_ids)
        self.let_out()
        return Step(self.take(), aborts)


@pytest.fixture
def processor() -> Front:
    return Front(TOKENIZER)


def add(processor: Front, request_id: str = "r", **keywords: Any) -> list[str]:
    params = SamplingParams(**keywords)
    children = [request_id]
    if params.n > 1:
        children = [f"{i}_{request_id}" for i in range(params.n)]
    processor.admit(request_id, children, "prompt", PROMPT, params, None, 5.0)
    return children


def one(processor: Front, *ids: int, child: str = "r", **fields: Any) -> RequestOutput:
    """Process one output that leads to exactly one request output and no abort."""
    processed = processor.step([CoreOutput(child, ids, **fields)])
    assert processed.aborts == []
    (output,) = processed.request_outputs
    return output


def test_cumulative_outputs_grow(processor: Front) -> None:
    add(processor)
    first = one(processor, *ids_of("a"))
    assert (first.outputs[0].text, first.outputs[0].token_ids) == ("a", list(ids_of("a")))
    assert not first.finished
    assert processor.has_unfinished()
    last = one(processor, *ids_of("b", "ab"), finish_reason="length", num_cached_tokens=2)
    (completion,) = last.outputs
    assert (completion.text, completion.finish_reason) == ("abab", "length")
    assert completion.logprobs is None
    assert completion.cumulative_logprob is None
    assert last.finished
    assert last.num_cached_tokens == 2
    assert (last.request_id, last.prompt, last.prompt_token_ids) == ("r", "prompt", PROMPT)
    assert first.outputs[0].token_ids == list(ids_of("a"))
    assert not processor.has_unfinished()


def test_delta_outputs_join(processor: Front) -> None:
    add(processor, output_kind=RequestOutputKind.DELTA, logprobs=0, prompt_logprobs=0)
    bytes_of_smile = TOKENIZER.convert_tokens_to_ids(list("ðŁĻĤ"))
    first = one(
        processor,
        *ids_of("a"),
        logprobs=logprobs_of(ids_of("a"), 0),
        prompt_logprobs=logprobs_of([2], 0),
    )
    second = one(processor, *bytes_of_smile[:3], logprobs=logprobs_of(bytes_of_smile[:3], 0))
    third = one(
        processor,
        bytes_of_smile[3],
        logprobs=logprobs_of(bytes_of_smile[3:], 0),
        finish_reason="length",
    )
    outputs = [output.outputs[0] for output in (first, second, third)]
    assert [output.text for output in outputs] == ["a", "", "🙂"]
    assert [len(output.token_ids) for output in outputs] == [1, 3, 1]
    assert [len(output.logprobs or ()) for output in outputs] == [1, 3, 1]
    total = -sum([*ids_of("a"), *bytes_of_smile]) / 8
    assert outputs[2].cumulative_logprob == pytest.approx(total)
    assert first.prompt_logprobs is not None
    assert second.prompt_logprobs is None


def test_final_only_outputs_wait(processor: Front) -> None:
    children = add(processor, n=2, output_kind=RequestOutputKind.FINAL_ONLY)
    outputs = [CoreOutput(children[0], ids_of("a"), finish_reason="length")]
    outputs.append(CoreOutput(children[1], ids_of("b")))
    assert processor.step(outputs).request_outputs == []
    last = one(processor, *ids_of("ba"), child=children[1], finish_reason="length")
    assert last.finished
    assert [(c.index, c.text) for c in last.outputs] == [(0, "a"), (1, "bba")]


def test_n_completions_are_one_request(processor: Front) -> None:
    children = add(processor, n=3)
    assert children == ["0_r", "1_r", "2_r"]
    processed = processor.step([CoreOutput(name, ids_of("a")) for name in children])
    (output,) = processed.request_outputs
    assert [completion.text for completion in output.outputs] == ["a", "a", "a"]
    early = one(processor, *ids_of("b"), child="2_r", finish_reason="length")
    assert [c.text for c in early.outputs] == ["a", "a", "ab"]
    assert [c.finished() for c in early.outputs] == [False, False, True]
    assert not early.finished
    assert processor.abort("r")[0] == ["0_r", "1_r"]
    assert not processor.has_unfinished()


def test_delta_of_n_completions_names_those_with_news(processor: Front) -> None:
    add(processor, n=3, output_kind=RequestOutputKind.DELTA)
    output = one(processor, *ids_of("b"), child="1_r")
    assert [(c.index, c.text) for c in output.outputs] == [(1, "b")]


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_token_is_no_text_unless_asked_for(processor: Front, include: bool) -> None:
    stop = ids_of("ba")[0]
    add(processor, stop_token_ids=[stop], include_stop_str_in_output=include)
    output = one(processor, *ids_of("a"), stop, finish_reason="stop", stop_reason=stop)
    (completion,) = output.outputs
    assert completion.text == ("aba" if include else "a")
    assert completion.token_ids == [*ids_of("a"), stop]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)


def test_a_stop_string_over_tokens_ends_and_aborts(processor: Front) -> None:
    add(processor, stop=["bab", "x"])
    first = one(processor, *ids_of("a", "ab"))
    assert first.outputs[0].text == "aa"
    assert first.outputs[0].token_ids == list(ids_of("a", "ab"))
    processed = processor.step([CoreOutput("r", ids_of("ab", "a"))])
    assert processed.aborts == ["r"]
    (output,) = processed.request_outputs
    assert output.finished
    (completion,) = output.outputs
    assert (completion.text, completion.finish_reason, completion.stop_reason) == (
        "aa",
        "stop",
        "bab",
    )
    assert completion.token_ids == list(ids_of("a", "ab", "ab"))
    late = processor.step([CoreOutput("r", ids_of("a"))])
    assert late.request_outputs == []
    assert late.aborts == ["r"], "the core goes on with it"


def test_a_stop_string_in_the_last_token_needs_no_abort(processor: Front) -> None:
    add(processor, stop="b", logprobs=0)
    ids = ids_of("ab")
    output = one(processor, *ids, finish_reason="length", logprobs=logprobs_of(ids, 0))
    (completion,) = output.outputs
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("a", "stop", "b")
    assert len(completion.logprobs or ()) == 1


def test_min_tokens_count_before_a_stop_string(processor: Front) -> None:
    add(processor, stop="b", min_tokens=2)
    assert one(processor, *ids_of("b")).outputs[0].text == "b"
    assert one(processor, *ids_of("ba")).outputs[0].text == "bba"
    processed = processor.step([CoreOutput("r", ids_of("ab"))])
    assert processed.request_outputs[0].outputs[0].text == "bbaa"
    assert processed.aborts == ["r"]


@given(
    st.lists(st.sampled_from(IDS), min_size=1, max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=2),
    st.booleans(),
    st.lists(st.integers(1, 3), min_size=8, max_size=8),
    st.sampled_from([RequestOutputKind.CUMULATIVE, RequestOutputKind.DELTA]),
)
def test_any_tokens_and_steps_stop_where_the_text_does(
    ids: list[int],
    stops: list[str],
    include: bool,
    sizes: list[int],
    kind: RequestOutputKind,
) -> None:
    text = TOKENIZER.decode(ids)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text if not ends else text[: min(ends)[0 if include else 1]]
    processor = Front(TOKENIZER)
    add(processor, stop=stops, include_stop_str_in_output=include, output_kind=kind)
    shown, rest, aborts = "", list(ids), []
    for size in sizes:
        step, rest = rest[:size], rest[size:]
        last = not rest
        core = CoreOutput("r", tuple(step), finish_reason="length" if last else None)
        processed = processor.step([core])
        aborts += processed.aborts
        (output,) = processed.request_outputs
        piece = output.outputs[0].text
        if kind is RequestOutputKind.DELTA:
            piece = shown + piece
        assert piece.startswith(shown)
        assert expected.startswith(piece)
        shown = piece
        if output.finished:
            assert output.outputs[0].finish_reason == ("stop" if ends else "length")
            assert (output.outputs[0].stop_reason in stops) == bool(ends)
            assert aborts == ([] if last else ["r"])
            break
    assert shown == expected
    assert not processor.has_unfinished()


def test_logprobs_have_the_token_first_and_ranks(processor: Front) -> None:
    add(processor, logprobs=2, prompt_logprobs=1)
    output = one(
        processor,
        *(97, 1),
        logprobs=logprobs_of([97, 1], 2),
        prompt_logprobs=logprobs_of([2], 1),
    )
    made = output.outputs[0].logprobs
    assert made is not None
    first, second = made
    assert list(first) == [97, 0, 1]
    assert (first[97].logprob, first[97].rank) == (-97 / 8, 98)
    assert first[97].decoded_token == TOKENIZER.decode([97])
    assert (first[0].rank, first[1].rank) == (1, 2)
    assert list(second) == [1, 0]
    assert second[1].rank == 2
    assert output.outputs[0].cumulative_logprob == pytest.approx(-98 / 8)
    assert output.prompt_logprobs is not None
    nothing, entry = output.prompt_logprobs
    assert nothing is None
    assert list(entry or ()) == [2, 0]


def test_a_prompt_of_one_token_has_one_empty_entry(processor: Front) -> None:
    params = SamplingParams(prompt_logprobs=1)
    processor.admit("r", ["r"], None, [4], params, None, 0.0)
    assert one(processor, *ids_of("a")).prompt_logprobs == [None]


def test_without_detokenization_there_is_no_text() -> None:
    for processor, detokenize in (
        (Front(None), True),
        (Front(TOKENIZER), False),
    ):
        add(processor, logprobs=0, detokenize=detokenize)
        output = one(processor, 7, finish_reason="length", logprobs=logprobs_of([7], 0))
        (completion,) = output.outputs
        assert (completion.text, completion.token_ids) == ("", [7])
        assert completion.logprobs is not None
        assert completion.logprobs[0][7].decoded_token is None


def test_special_tokens_in_the_text(processor: Front) -> None:
    add(processor, "plain", ignore_eos=True)
    add(processor, "shown", ignore_eos=True, skip_special_tokens=False)
    ids = (EOS, *ids_of("a"))
    assert one(processor, *ids, child="plain").outputs[0].text == "a"
    assert one(processor, *ids, child="shown").outputs[0].text == "</s>a"


def test_an_error_fails_its_request_alone(processor: Front) -> None:
    add(processor, "bad", n=2, output_kind=RequestOutputKind.FINAL_ONLY)
    add(processor, "good")
    error = ErrorInfo("AdapterError", "the adapter is damaged")
    processed = processor.step(
        [
            CoreOutput("1_bad", finish_reason="error", error=error),
            CoreOutput("good", ids_of("a")),
        ]
    )
    bad, good = processed.request_outputs
    assert isinstance(bad.error, AdapterError)
    assert str(bad.error) == "the adapter is damaged"
    assert bad.finished
    assert [completion.finish_reason for completion in bad.outputs] == ["error", "error"]
    assert processed.aborts == ["0_bad"]
    assert good.error is None
    assert processor.has_unfinished()
    assert processor.abort("good")[0] == ["good"]


def test_an_abort_by_the_core_is_let_out(processor: Front) -> None:
    add(processor, output_kind=RequestOutputKind.FINAL_ONLY)
    assert one(processor, finish_reason="abort").outputs[0].finish_reason == "abort"


def test_ids_are_unique_among_the_unfinished(processor: Front) -> None:
    add(processor, "r", n=2)
    with pytest.raises(InputError, match="'r' is in use"):
        add(processor, "r")
    processor.admit("1_r", ["other"], None, [4], SamplingParams(), None, 0.0)
    assert processor.abort("r")[0] == ["0_r", "1_r"]
    add(processor, "r")
    assert processor.abort("unknown") == ([], None)


def test_stop_strings_need_a_tokenizer() -> None:
    processor = Front(None)
    with pytest.raises(InputError, match="needs a tokenizer"):
        add(processor, stop="x")
    assert not processor.has_unfinished()


def test_metrics_span_all_completions(processor: Front) -> None:
    add(processor, n=2)
    processed = processor.step(
        [
            CoreOutput("0_r", ids_of("a"), events=CoreEvents(6.0, 8.0, 9.0, 9.0, 1)),
            CoreOutput("1_r", ids_of("a", "b"), events=CoreEvents(6.5, 7.0, 10.0, 11.0, 2)),
        ]
    )
    metrics = processed.request_outputs[0].metrics
    assert metrics is not None
    assert (metrics.arrival_time, metrics.queued_ts, metrics.scheduled_ts) == (5.0, 6.0, 7.0)
    assert (metrics.first_token_ts, metrics.last_token_ts) == (9.0, 11.0)
    assert (metrics.num_preemptions, metrics.num_generation_tokens) == (3, 3)


def test_news_without_tokens_are_not_let_out(processor: Front) -> None:
    add(processor)
    processed = processor.step([CoreOutput("r", events=CoreEvents(1.0, None, None, None, 0))])
    assert processed.request_outputs == []
    assert processor.has_unfinished()
