"""GGUF tokenizers against those of the models they were converted from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gguf import GGUFWriter
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from plait.gguf_pre_tokenizers import SPLITTINGS
from plait.tokenizer import load_tokenizer
from plait_kernels.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CORPUS = [
    "def f(x):\n    return x**2  # it's 12345 items\n\n\n\tif (a[0] != b->c) { i++; }\r\n",
    "I don't, WE'LL, they've, She'D, o'clock 'TIS 's 'S",
    "3.14159 1000000 2024-11-28 １２３ Ⅷ x² ½ 1st 22nd 007",  # noqa: RUF001
    "日本語テキスト、漢字かな混じり。中文，没有空格！한국어 텍스트",  # noqa: RUF001
    "🙂👍🏽 👨‍👩‍👧 naïve café e\u0301 a\u0308ffin straße ЁЖИК ελληνικά",
    "   leading   inner  \t tabs\t\t and trailing   ",
    "\n \n  \n\n   x\n",
    "camelCaseHTTPServer PATH/to//file.txt https://a.b/c?d=e&f#g <|x|> {{y}} $1,234.56",
    "عربي हिन्दी ไทย বাংলা \u200d\u00a0\u3000 \x00 \x7f",
    "snake_case_name__init__ `code` ~~~ ^^^ +++ === <<< >>> ||| \\\\",
    "",
]

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def byte_level(use_regex: bool = False) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


DIGITS = {"type": "Digits", "individual_digits": True}
O200K_WORD = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
)
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

ORIGINALS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([byte_level(True)], False),
    "mpt": ([byte_level(True)], True),
    "smollm": ([DIGITS, byte_level(True)], False),
    "starcoder": ([DIGITS, byte_level(True)], False),
    "command-r": ([DIGITS, byte_level(True)], True),
    "llama-bpe": (
        [
            split(rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{TAIL}"),
            byte_level(),
        ],
        False,
    ),
    "qwen2": (
        [split(rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{TAIL}"), byte_level()],
        True,
    ),
    "tekken": (
        [split(O200K_WORD % ("", "") + r"\p{N}|" + O200K_TAIL), byte_level()],
        False,
    ),
    "gpt-4o": (
        [
            split(
                O200K_WORD % (f"{CONTRACTIONS}?", f"{CONTRACTIONS}?") + r"\p{N}{1,3}|" + O200K_TAIL
            ),
            byte_level(),
        ],
        False,
    ),
    "deepseek-coder": (
        [
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-퟿]+"),
            DIGITS,
            byte_level(),
        ],
        False,
    ),
    "deepseek-v3": (
        [
            split(r"\p{N}{1,3}"),
            split("[一-龥\u3040-ゟ\u30a0-ヿ]+"),
            split(
                r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"""
                r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            byte_level(),
        ],
        False,
    ),
    "falcon": (
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(True),
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ],
        False,
    ),
}
"""Pre-tokenizers as the models' own ``tokenizer.json`` have them; whether text is composed."""


def write_gguf(path: Path, vocabulary: Sequence[str], merges: Sequence[str], **more: Any) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(more.pop("model", "gpt2"))
    writer.add_token_list(list(vocabulary))
    if merges:
        writer.add_token_merges(list(merges))
    for key, value in more.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def trained() -> Callable[[str], Tokenizer]:
    """Train the original tokenizer of a name on the corpus, so that each cut matters."""

    def train(name: str) -> Tokenizer:
        steps, composes = ORIGINALS[name]
        tokenizer = Tokenizer(models.BPE())
        if composes:
            tokenizer.normalizer = normalizers.NFC()
        # From JSON, as the model's file has it.
        content = json.loads(tokenizer.to_str())
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=900,
            min_frequency=1,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=["<|begin|>", "<|end|>"],
            show_progress=False,
        )
        tokenizer.train_from_iterator(CORPUS * 2, trainer)
        return tokenizer

    return train


@pytest.mark.parametrize("name", ORIGINALS)
def test_tokens_are_those_of_the_original(
    name: str, trained: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    original = trained(name)
    content = json.loads(original.to_str())["model"]
    vocabulary = sorted(content["vocab"], key=content["vocab"].__getitem__)
    merges = [" ".join(pair) for pair in content["merges"]]
    path = write_gguf(
        tmp_path / "m.gguf",
        vocabulary,
        merges,
        pre=name,
        bos_token_id=0,
        eos_token_id=1,
        token_type=[3, 3, *[1] * (len(vocabulary) - 2)],
        add_bos_token=False,
    )
    tokenizer = load_tokenizer(path)
    for text in (*CORPUS, "".join(CORPUS), "a<|end|>b 12 <|begin|>"):
        assert tokenizer(text).input_ids == original.encode(text).ids, text
        assert tokenizer.decode(tokenizer(text).input_ids) == original.decode(
            original.encode(text).ids, skip_special_tokens=False
        )
    assert len(tokenizer) == len(vocabulary)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin|>", "<|end|>")


LETTERS = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "abc", "bc"]


def test_a_whole_word_is_a_token_where_the_model_ignores_merges(tmp_path: Path) -> None:
    # "abc" cannot be reached: "b c" is merged first.
    merges = ["b c", "a b", "ab c"]
    found = {}
    for name in ("llama-bpe", "qwen2"):
        path = write_gguf(tmp_path / f"{name}.gguf", LETTERS, merges, pre=name, bos_token_id=0)
        tokenizer = load_tokenizer(path)
        found[name] = tokenizer.convert_ids_to_tokens(tokenizer("abc").input_ids)
    # Llama 3 adds the start token, where the file does not say.
    assert found == {"llama-bpe": ["<s>", "abc"], "qwen2": ["a", "bc"]}


def test_every_name_makes_a_tokenizer_that_loses_nothing(tmp_path: Path) -> None:
    for name in SPLITTINGS:
        path = write_gguf(tmp_path / "m.gguf", LETTERS, ["a b"], pre=name)
        tokenizer = load_tokenizer(path)
        for text in CORPUS:
            if "\u0301" not in text:  # composed by some
                assert tokenizer.decode(tokenizer(text).input_ids) == text, name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "tokenizer.ggml.pre is missing"),
        ({"pre": "my-own"}, "'my-own', which is not known.*llama-bpe"),
        ({"pre": "kimi-k2"}, "'kimi-k2', which cannot be done exactly"),
        ({"pre": "gpt-2", "model": "bert"}, "tokenizer.ggml.model is 'bert'"),
        ({"pre": 5}, "tokenizer.ggml.pre is 5"),
        ({"pre": "gpt-2", "token_type": [1, 1]}, "token_type is 2 values"),
        ({"pre": "gpt-2", "add_bos_token": True}, "add_bos_token is True, and there is no"),
        ({"pre": "gpt-2", "eos_token_id": 10**6}, "eos_token_id is 1000000"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", LETTERS, ["a b"], **settings)
    with pytest.raises(ModelError, match=rf"m\.gguf.*{words}.*tokenizer=…"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("vocabulary", "merges", "words"),
    [
        ([*LETTERS, "ab"], ["a b"], "1 tokens are in the vocabulary twice"),
        ([*LETTERS, "x" * 2000], ["a b"], "has 2000 characters"),
        (LETTERS, ["a"], "the merge 'a' is not of two tokens"),
        (LETTERS, ["a x"], "the merge 'a x' is not of two tokens into a third"),
        (LETTERS, [], "it holds no merges"),
    ],
)
def test_a_damaged_vocabulary_is_refused(
    vocabulary: list[str], merges: list[str], words: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", vocabulary, merges, pre="gpt-2")
    with pytest.raises(ModelError, match=rf"m\.gguf cannot be read: .*{words}"):
        load_tokenizer(path)


def test_the_names_are_documented() -> None:
    page = Path(__file__).parents[3] / "docs/reference/models.md"
    section = page.read_text(encoding="utf-8").partition("these names are served:")[2]
    listed = re.findall(r"`([^`]+)`", section.partition("Any other name")[0])
    assert listed == sorted(SPLITTINGS)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "a", "b", "ab", "▁a", "▁ab", "c", "bc", "▁▁", "▁▁▁▁", "1", "é", "ca"]


def sentencepiece(path: Path, **settings: Any) -> tuple[Any, Tokenizer]:
    """Load a vocabulary from a GGUF file, and make the original of Llama 2's shape."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *PIECES, "<tool>"]
    types = [2, 3, 3, *[6] * 256, *[1] * len(PIECES), 4]
    scores = [0.0] * 259 + [-float(i) for i in range(len(PIECES))] + [0.0]
    prefix = settings.get("add_space_prefix", True)
    write_gguf(path, tokens, [], model="llama", scores=scores, token_type=types, **settings)
    ids = {token: place for place, token in enumerate(tokens)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in PIECES
        for cut in range(1, len(piece))
        if piece[:cut] in PIECES and piece[cut:] in PIECES
    ]
    original = Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    steps = [normalizers.Prepend("▁")] if prefix else []
    original.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    original.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefix else [])
    )
    special = ("<unk>", "<s>", "</s>")
    original.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    original.add_tokens([AddedToken("<tool>", normalized=False)])
    return load_tokenizer(path), original


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokens_are_those_of_the_original(prefix: bool, tmp_path: Path) -> None:
    tokenizer, original = sentencepiece(
        tmp_path / "m.gguf", add_space_prefix=prefix, add_bos_token=False
    )
    texts = [*CORPUS, "ab abc  ab   b", " ab", "a</s> ab<tool>ab", "<0x41>", "cab bca 11 é"]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert ids == original.encode(text).ids, text
        assert tokenizer.decode(ids) == original.decode(ids, skip_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=True) == original.decode(ids)


def test_sentencepiece_ends(tmp_path: Path) -> None:
    plain, _ = sentencepiece(tmp_path / "a.gguf")
    assert plain.convert_ids_to_tokens(plain("ab").input_ids) == ["<s>", "▁ab"]
    assert plain("ab", add_special_tokens=False).input_ids == plain("ab").input_ids[1:]
    both, _ = sentencepiece(tmp_path / "b.gguf", add_eos_token=True)
    assert both.convert_ids_to_tokens(both("ab").input_ids) == ["<s>", "▁ab", "</s>"]
    # Where the file has no ids, those of the first sentencepiece vocabularies are meant.
    assert (plain.bos_token, plain.eos_token, plain.unk_token) == ("<s>", "</s>", "<unk>")
    with pytest.raises(ModelError, match="remove_extra_whitespaces is True"):
        sentencepiece(tmp_path / "c.gguf", remove_extra_whitespaces=True)
