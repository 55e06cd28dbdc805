"""The tokenizer inside a GGUF file, built from its metadata alone.

It is put together here from the parts of the package tokenizers, so that the same file gives the
same tokens whatever version of transformers wraps it. What the keys mean is llama.cpp's:
``tokenizer.ggml.model`` is ``gpt2`` (byte-level, with merges) or ``llama`` (sentencepiece, with
scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from plait.gguf_pre_tokenizers import splitting
from plait_kernels.errors import ModelError
from plait_models.files.gguf_header import read_header
from plait_models.files.opening import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
"""Types of tokens; 1 is an ordinary one."""

_NEVER_MERGED = frozenset((_UNKNOWN, _CONTROL, _UNUSED, _BYTE))

_NAMED = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens, as transformers and as GGUF name them."""

_SPM_DEFAULTS = {"bos": 1, "eos": 2, "unk": 0}

MAX_TOKEN_LENGTH = 1024
"""Characters of one token; the longest of known vocabularies have some 500."""


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Build the tokenizer that a GGUF file describes.

    Raises
    ------
    ModelError
        The file is damaged, has no vocabulary, or has one that cannot be served exactly.
    """
    from transformers import PreTrainedTokenizerFast

    header = read_header(path, strings=(TOKENS, MERGES))
    vocabulary = _Vocabulary(header.metadata, str(path))
    kind = vocabulary.get("model", str)
    if kind not in ("gpt2", "llama"):
        vocabulary.refuse(f"tokenizer.ggml.model is {shortened(kind)}; allowed: 'gpt2', 'llama'")
    try:
        backend = _byte_level(vocabulary) if kind == "gpt2" else _sentencepiece(vocabulary)
    except ModelError:
        raise
    except Exception as error:
        # The package tokenizers raises Exception itself.
        vocabulary.refuse(f"{error}")
    named = {
        f"{name}_token": vocabulary.tokens[token]
        for name, token in vocabulary.named.items()
        if token is not None
    }
    template = header.metadata.get("tokenizer.chat_template")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **named
    )
    tokenizer.chat_template = template if isinstance(template, str) else None
    tokenizer.name_or_path = str(path)
    return tokenizer


@dataclass(frozen=True)
class _Ends:
    """The tokens that are put around every text."""

    bos: int | None
    eos: int | None


class _Vocabulary:
    """The tokens and settings of a file, checked."""

    def __init__(self, metadata: Mapping[str, Any], origin: str) -> None:
        self._metadata = metadata
        self.origin = origin
        tokens = metadata.get(TOKENS)
        if not isinstance(tokens, tuple) or not tokens or not isinstance(tokens[0], str):
            self.refuse(f"it holds no vocabulary ({TOKENS})")
        self.tokens = [token or f"[EMPTY_{place}]" for place, token in enumerate(tokens)]
        self.ids = {token: place for place, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            more = len(self.tokens) - len(self.ids)
            self.refuse(f"{more} tokens are in the vocabulary twice; allowed: each once")
        longest = max(self.tokens, key=len)
        if len(longest) > MAX_TOKEN_LENGTH:
            self.refuse(
                f"the token {shortened(longest)} has {len(longest)} characters; allowed: at most "
                f"{MAX_TOKEN_LENGTH}"
            )
        self.types = self._per_token("token_type")
        self.is_spm = metadata.get("tokenizer.ggml.model") == "llama"
        self.named = {name: self._token(name, key) for name, key in _NAMED.items()}

    def refuse(self, text: str) -> NoReturn:
        """Raise the error that says what is wrong with the vocabulary."""
        message = (
            f"the tokenizer in {self.origin} cannot be read: {text}. Convert the model again, or "
            "name the directory of the model's own tokenizer with tokenizer=…"
        )
        raise ModelError(message)

    def get(self, key: str, kind: type) -> Any:
        """Give a setting; None if the file has none."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and type(value) is not kind:
            self.refuse(f"tokenizer.ggml.{key} is {shortened(value)}; allowed: a {kind.__name__}")
        return value

    def numbers(self, key: str) -> Sequence[float] | None:
        """Give the number of each token; None if the file has none."""
        return self._per_token(key) if f"tokenizer.ggml.{key}" in self._metadata else None

    def merges(self) -> list[tuple[str, str]]:
        """Give the pairs that are merged, the first one first."""
        merges = self._metadata.get(MERGES)
        if not isinstance(merges, tuple):
            self.refuse(f"it holds no merges ({MERGES})")
        pairs = []
        for merge in merges:
            # The first token may itself be a space.
            left, _, right = merge[1:].partition(" ") if isinstance(merge, str) else ("", "", "")
            left = f"{merge[:1]}{left}"
            if left not in self.ids or right not in self.ids or left + right not in self.ids:
                self.refuse(f"the merge {shortened(merge)} is not of two tokens into a third")
            pairs.append((left, right))
        return pairs

    def ends(self, *, adds_bos: bool) -> _Ends:
        """Tell which tokens are put around every text."""
        asked = self.get("add_bos_token", bool)
        bos = self.named["bos"] if (adds_bos if asked is None else asked) else None
        eos = self.named["eos"] if self.get("add_eos_token", bool) else None
        for key, is_asked, token in (
            ("bos", asked, bos),
            ("eos", self.get("add_eos_token", bool), eos),
        ):
            if is_asked and token is None:
                self.refuse(f"add_{key}_token is True, and there is no {key}_token_id")
        return _Ends(bos, eos)

    def _per_token(self, key: str) -> Sequence[Any]:
        values = self._metadata.get(f"tokenizer.ggml.{key}")
        if values is None:
            return ()
        count = len(self.tokens)
        fits = isinstance(values, tuple) and len(values) >= count
        if not fits or not all(isinstance(value, int | float) for value in values[:1]):
            got = f"{len(values)} values" if isinstance(values, tuple) else shortened(values)
            self.refuse(
                f"tokenizer.ggml.{key} is {got}; needed: a number for each of {count} tokens"
            )
        numbers: tuple[Any, ...] = values[:count]
        return numbers

    def _token(self, name: str, key: str) -> int | None:
        token = self.get(f"{key}_token_id", int)
        if token is None and self.is_spm:
            default = _SPM_DEFAULTS.get(name)
            return default if default is not None and default < len(self.tokens) else None
        if token is not None and not 0 <= token < len(self.tokens):
            self.refuse(f"{key}_token_id is {token}, and there are {len(self.tokens)} tokens")
        return None if token is None else int(token)


def _byte_level(vocabulary: _Vocabulary) -> Tokenizer:
    how = splitting(vocabulary.get("pre", str), vocabulary.origin)
    model = models.BPE(vocabulary.ids, vocabulary.merges(), ignore_merges=how.ignores_merges)
    tokenizer = Tokenizer(model)
    normalizer = how.normalizer()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = how.make()
    tokenizer.decoder = decoders.ByteLevel()
    _finish(tokenizer, vocabulary, vocabulary.ends(adds_bos=how.adds_bos))
    return tokenizer


def _sentencepiece(vocabulary: _Vocabulary) -> Tokenizer:
    if vocabulary.get("remove_extra_whitespaces", bool):
        vocabulary.refuse("remove_extra_whitespaces is True, which is not served")
    scores = vocabulary.numbers("scores")
    if not scores:
        vocabulary.refuse("it holds no tokenizer.ggml.scores")
    unknown = vocabulary.named["unk"]
    model = models.BPE(
        vocabulary.ids,
        _merges_of_scores(vocabulary, scores),
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    asked = vocabulary.get("add_space_prefix", bool)
    has_prefix = asked is None or asked
    spaces = [normalizers.Replace(" ", "▁")]
    prefix = [normalizers.Prepend("▁")] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, *spaces])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if has_prefix else []),
        ]
    )
    _finish(tokenizer, vocabulary, vocabulary.ends(adds_bos=True))
    return tokenizer


def _merges_of_scores(vocabulary: _Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """List the merges of a sentencepiece vocabulary: the token of the best score is made first."""
    types = vocabulary.types or [1] * len(vocabulary.tokens)
    pieces = {token for token, kind in zip(vocabulary.tokens, types, strict=True) if kind in (1, 4)}
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    merges = []
    for place in order:
        token = vocabulary.tokens[place]
        if types[place] in _NEVER_MERGED:
            continue
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        found = [pair for pair in halves if pair[0] in pieces and pair[1] in pieces]
        found.sort(key=lambda pair: (vocabulary.ids[pair[0]], vocabulary.ids[pair[1]]))
        merges += found
    return merges


def _finish(tokenizer: Tokenizer, vocabulary: _Vocabulary, ends: _Ends) -> None:
    """Add the tokens that are matched whole, and those around every text."""
    types = vocabulary.types
    whole = [place for place, kind in enumerate(types) if kind in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens(
        [AddedToken(vocabulary.tokens[place], normalized=False, special=True) for place in whole]
    )
    tokenizer.add_tokens(
        [
            AddedToken(vocabulary.tokens[place], normalized=False, special=False)
            for place, kind in enumerate(types)
            if kind == _USER_DEFINED
        ]
    )
    around = [
        {"id": name, "ids": [place], "tokens": [vocabulary.tokens[place]]}
        for name, place in (("bos", ends.bos), ("eos", ends.eos))
        if place is not None
    ]
    if around:
        before = [] if ends.bos is None else ["bos"]
        after = [] if ends.eos is None else ["eos"]
        second = [f"{name}:1" for name in (*before, "$B", *after)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *second],
            special_tokens=around,
        )
