"""What callers get: plain dataclasses that read well and import light."""

from __future__ import annotations

import pickle
import subprocess
import sys

from plait.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput


def test_a_completion_is_finished_once_it_has_a_reason() -> None:
    completion = CompletionOutput(0, "text", [1, 2])
    assert not completion.finished()
    completion.finish_reason = "length"
    assert completion.finished()


def test_outputs_read_and_travel_as_data() -> None:
    completion = CompletionOutput(1, "hi", [5], -0.5, [{5: Logprob(-0.5, 1, "hi")}], "stop", "\n")
    output = RequestOutput("7", "hello", [1], None, [completion], True, RequestMetrics(3.0))
    text = repr(output)
    assert "request_id='7'" in text
    assert "Logprob(logprob=-0.5, rank=1, decoded_token='hi')" in text
    assert "stop_reason='\\n'" in text
    assert pickle.loads(pickle.dumps(output)) == output


def test_what_programs_read_and_nothing_here_sets_is_none() -> None:
    completion = CompletionOutput(0, "text", [1, 2])
    output = RequestOutput("7", "hello", [1], None, [completion], True)
    assert completion.routed_experts is None
    assert output.encoder_prompt is None
    assert output.encoder_prompt_token_ids is None
    assert output.kv_transfer_params is None


def test_the_latency_of_the_first_token() -> None:
    assert RequestMetrics(3.0).first_token_latency == 0.0
    assert RequestMetrics(3.0, first_token_ts=3.25).first_token_latency == 0.25


def test_outputs_import_no_torch() -> None:
    code = (
        "import sys, plait.outputs, plait.output_processor, plait.prompts; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
