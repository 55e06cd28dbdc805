"""A sequence in the engine core: its tokens, what it holds, and how far it has come."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

from plait.block_hash import block_hash, root_hash
from plait.messages import CoreEvents
from plait_sampling.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.messages import CoreOutput, CoreRequest
    from plait_lora.identity import Mix
    from plait_lora.lease import Lease


class RequestState(enum.Enum):
    """Where a request is in its life."""

    RESOLVING = "resolving"
    """Its adapter's files are not read yet."""
    WAITING_ADAPTER = "waiting for its adapter"
    """Its mix is known and not ready on the device."""
    WAITING = "waiting"
    """It could run, and waits for a row, blocks or budget."""
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """The core's record of one ``CoreRequest``.

    Attributes
    ----------
    tokens : list[int]
        Prompt and output.
    num_computed : int
        Tokens whose keys and values are in ``blocks``, those of a planned step included.
    num_pending : int
        Tokens sampled by planned steps that are not committed yet.
    blocks : list[int]
    num_remembered : int
        How many of them the prefix cache knows.
    row : int
        Row of device state while it runs, else −1.
    mix : Mix
    lease : Lease | None
        Holds the mix on the device.
    """

    def __init__(
        self, message: CoreRequest, order: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.message = message
        self.id = message.request_id
        self.params = message.params
        self.sort_key = (message.priority, message.arrival_time, order)
        self.state = RequestState.WAITING if message.lora is None else RequestState.RESOLVING
        self.tokens = list(message.prompt_token_ids)
        self.prompt_length = len(self.tokens)
        self.num_computed = 0
        self.num_pending = 0
        self.num_cached_tokens: int | None = None
        self.blocks: list[int] = []
        self.num_remembered = 0
        self.row = -1
        self.mix: Mix = ()
        self.lease: Lease | None = None
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs_sent = False
        self.num_preemptions = 0
        self._hashes: list[bytes] = []
        self._clock = clock
        self._queued_ts = clock()
        self._scheduled_ts: float | None = None
        self._first_token_ts: float | None = None
        self._last_token_ts: float | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and output, those being sampled included."""
        return len(self.tokens) + self.num_pending

    @property
    def output_length(self) -> int:
        """Tokens generated, those being sampled included."""
        return self.length - self.prompt_length

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether prompt logprobs are asked for and not sent yet."""
        return self.params.prompt_logprobs is not None and not self.prompt_logprobs_sent

    def hashes(self, block_size: int, num_blocks: int) -> list[bytes]:
        """Return the hashes of the first ``num_blocks`` blocks, which must be full."""
        assert num_blocks * block_size <= len(self.tokens)
        while len(self._hashes) < num_blocks:
            start = len(self._hashes) * block_size
            parent = self._hashes[-1] if self._hashes else root_hash(self.message.cache_salt)
            tokens = self.tokens[start : start + block_size]
            self._hashes.append(block_hash(parent, tokens, self.mix))
        return self._hashes[:num_blocks]

    def prompt_logprobs_to_send(self) -> TokenLogprobs | None:
        """Return the prompt's logprobs with the first token, when the prompt is done."""
        if not self.wants_prompt_logprobs or not self.prompt_logprobs:
            return None
        return TokenLogprobs.concatenate(self.prompt_logprobs)

    def take(self, output: CoreOutput) -> None:
        """Take in the tokens that an output tells of, also if it was broken off in it before."""
        if output.new_token_ids:
            self.tokens[self.prompt_length + output.start :] = output.new_token_ids
        if output.prompt_logprobs is not None:
            self.prompt_logprobs_sent = True

    def start_over(self) -> None:
        """Hold nothing and wait to be computed again; who held what has been told already."""
        if self.state is RequestState.RUNNING:
            self.num_preemptions += 1
        self.blocks = []
        self.row = -1
        self.lease = None
        self.num_computed = self.num_pending = 0
        self.prompt_logprobs.clear()
        if self.mix:
            self.state = RequestState.WAITING_ADAPTER
        elif self.message.lora is not None:
            self.state = RequestState.RESOLVING
        else:
            self.state = RequestState.WAITING

    def mark_scheduled(self) -> None:
        """Note the time of the first step that ran this request."""
        if self._scheduled_ts is None:
            self._scheduled_ts = self._clock()

    def mark_token(self) -> None:
        """Note the time of a new token."""
        self._last_token_ts = self._clock()
        if self._first_token_ts is None:
            self._first_token_ts = self._last_token_ts

    def events(self) -> CoreEvents:
        """Return what happened when, so far."""
        return CoreEvents(
            self._queued_ts,
            self._scheduled_ts,
            self._first_token_ts,
            self._last_token_ts,
            self.num_preemptions,
        )
