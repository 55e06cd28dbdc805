"""How byte-level vocabularies of GGUF files cut text into words, by ``tokenizer.ggml.pre``.

A GGUF file names the way its model's tokenizer cuts text, and does not describe it. The names are
llama.cpp's; what is meant is the model's own ``tokenizer.json``, which is what is written here.
Where llama.cpp's expression is an approximation of it, the original stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenizers import Regex, normalizers, pre_tokenizers

from plait_kernels.errors import ModelError
from plait_models.files.opening import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

Make: TypeAlias = Callable[[], Any]
"""Makes a pre-tokenizer; its objects belong to one tokenizer each."""


@dataclass(frozen=True)
class Splitting:
    """How text becomes words.

    Attributes
    ----------
    make : Callable[[], PreTokenizer]
    composes : bool
        Whether text is brought into Unicode's form NFC first.
    ignores_merges : bool
        Whether a word that is a token is that token, whatever the merges make of it.
    adds_bos : bool
        Whether the start token is added where the file does not say.
    """

    make: Make
    composes: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False

    def normalizer(self) -> Any:
        """Make the normalizer; None: text is taken as it is."""
        return normalizers.NFC() if self.composes else None


def splitting(name: str | None, origin: str) -> Splitting:
    """Look a name up.

    Parameters
    ----------
    name : str | None
        ``tokenizer.ggml.pre``; None: the file has none.
    origin : str
        The file, for messages.

    Raises
    ------
    ModelError
        There is no name, it is not known, or what it means cannot be done exactly.
    """
    remedy = "Name the directory of the model's own tokenizer with tokenizer=…"
    if name is None:
        message = (
            f"{origin}: tokenizer.ggml.pre is missing, so it is not known how the model's "
            f"tokenizer cuts text; files made before May 2024 lack it. {remedy}, or convert the "
            "model again"
        )
        raise ModelError(message)
    if name in _NOT_EXACT:
        message = (
            f"{origin}: tokenizer.ggml.pre is {name!r}, which cannot be done exactly: "
            f"{_NOT_EXACT[name]}. {remedy}"
        )
        raise ModelError(message)
    found = SPLITTINGS.get(name) if isinstance(name, str) else None
    if found is None:
        message = (
            f"{origin}: tokenizer.ggml.pre is {shortened(name)}, which is not known; allowed: "
            f"{', '.join(sorted(SPLITTINGS))}. {remedy}"
        )
        raise ModelError(message)
    return found


def _split(*patterns: str) -> Make:
    """Cut at the matches of one pattern after the other, then spell the bytes."""

    def make() -> Any:
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        return pre_tokenizers.Sequence([*cuts, _byte_level(uses_regex=False)])

    return make


def _byte_level(*, uses_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=uses_regex)


def _gpt2() -> Any:
    return _byte_level(uses_regex=True)


def _single_digits() -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _byte_level(uses_regex=True)]
    )


def _falcon() -> Any:
    # The digits are looked for among the spelled bytes, as in the model's own file.
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            _byte_level(uses_regex=True),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(after: str, number: str) -> str:
    """Cut where a lower case letter is followed by an upper case one."""
    first = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{first}{_UPPER}*{_LOWER}+{after}|{first}{_UPPER}+{_LOWER}*{after}"
        rf"|{number}|{_SYMBOLS}[\r\n/]*|{_SPACES}"
    )


_TEKKEN = _cased("", r"\p{N}")
_GPT4O = _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")

_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASCII_PUNCTUATION_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    _HAN_KANA,
    _ASCII_PUNCTUATION_WORD + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    rf"|{_SPACES}",
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

# The letters of deepseek-llm, as ranges of code points.
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b"
    "\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_CHAMELEON = (
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    _GPT2,
)
_YOUTU_CJK = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_JAIS2_SPACES = "|".join(
    rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")
)

_NOT_EXACT: Mapping[str, str] = MappingProxyType(
    {
        "afmoe": "numbers are cut by code of llama.cpp, not by an expression",
        "gemma4": "it is no byte-level vocabulary",
        "granite-embed-multi-311m": "it is no byte-level vocabulary",
        "kimi-k2": "the file holds no merges, and llama.cpp cuts text by code",
        "sarvam-moe": "it is no byte-level vocabulary",
        "superbpe": "its expression takes minutes for a long number",
        "whitespace": "it is no byte-level vocabulary",
    }
)
"""Names that llama.cpp knows and that are refused, and why."""


def _table() -> dict[str, Splitting]:
    gpt2, digits = Splitting(_gpt2), Splitting(_single_digits)
    qwen2, gpt4o = Splitting(_split(_QWEN2)), Splitting(_split(_GPT4O))
    deepseek3 = Splitting(_split(*_DEEPSEEK3))
    bloom = Splitting(_split(_BLOOM))
    bailing = Splitting(
        _split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        )
    )
    llama3 = Splitting(_split(_LLAMA3), ignores_merges=True, adds_bos=True)
    tiny_aya = Splitting(_split(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O))
    composed_gpt2 = Splitting(_gpt2, composes=True)
    composed_qwen2 = Splitting(_split(_QWEN2), composes=True)
    families: dict[Splitting, str] = {
        llama3: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        Splitting(_split(_LLAMA3)): "dbrx smaug-bpe glm4 chatglm-bpe",
        composed_qwen2: "qwen2 deepseek-r1-qwen f2llmv2 stablelm2 hunyuan",
        qwen2: "kormo megrez solar-open grok-2",
        Splitting(_split(_QWEN35), composes=True): "qwen35",
        Splitting(_split(_TEKKEN), ignores_merges=True, adds_bos=True): "tekken",
        gpt4o: "gpt-4o llama4 kanana2 talkie minimax-m2",
        Splitting(_split(_GPT4O), ignores_merges=True): "granite-embed-multi-97m",
        tiny_aya: "tiny_aya cohere2moe",
        gpt2: (
            "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code "
            "roberta-bpe gigachat a.x-4.0 mellum jais trillion granite-docling exaone4"
        ),
        composed_gpt2: "mpt olmo modern-bert",
        digits: "smollm starcoder refact codeshell exaone minerva-7b mellum2",
        Splitting(_single_digits, composes=True): "command-r",
        Splitting(_falcon): "falcon",
        bloom: "poro-chat bloom gpt3-finnish",
        Splitting(_split(_BLOOM, r"\p{N}")): "viking",
        Splitting(
            _split(
                r"[\r\n]",
                rf"\s?[{_DEEPSEEK_LETTERS}]+",
                rf"\s?[{_DEEPSEEK_PUNCTUATION}]+",
                r"\s+$",
                _CJK,
                r"\p{N}",
            )
        ): "deepseek-llm",
        Splitting(_split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")): "deepseek-coder",
        deepseek3: "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
        Splitting(
            _split(
                *_DEEPSEEK3[:2],
                _ASCII_PUNCTUATION_WORD + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
                r"|[\r\n]|\s+(?!\S)|\s+",
                r"\p{N}",
            )
        ): "spark2_5",
        Splitting(
            _split(_YOUTU_CJK, _cased(f"{_CONTRACTIONS}?", r"\p{N}")), ignores_merges=True
        ): "youtu",
        Splitting(_split(*_CHAMELEON), adds_bos=True): "chameleon",
        bailing: "bailingmoe bailingmoe2 llada-moe",
        Splitting(
            _split(rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}")
        ): "seed-coder",
        Splitting(_split(rf"{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*|{_SPACES}")): "ufakzeka",
        Splitting(_split(r"[^\n]+|[\n]+", _QWEN2)): "laguna",
        Splitting(
            _split(
                rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
                rf"|\p{{N}}|{_SYMBOLS}[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            )
        ): "exaone-moe",
        Splitting(
            _split(
                r"\p{N}{1,3}",
                rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_SYMBOLS}[\r\n]*|{_SPACES}",
            ),
            ignores_merges=True,
        ): "minicpm5",
        Splitting(
            _split(
                rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]+"
                rf"|{_JAIS2_SPACES}|\s{{1}}"
            )
        ): "jais-2",
        # No model's own: llama.cpp's for files that do not say.
        Splitting(_split(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")): "default",
    }
    return {name: how for how, names in families.items() for name in names.split()}


SPLITTINGS: Mapping[str, Splitting] = MappingProxyType(_table())
"""By ``tokenizer.ggml.pre``."""
