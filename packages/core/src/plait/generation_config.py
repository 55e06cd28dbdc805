"""The defaults of sampling that a model ships, and the tokens that end its sequences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError, ModelError
from plait_models.files.opening import read_json
from plait_sampling.params import GENERATION_DEFAULTS, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.tokenizer import Tokenizer

NAME = "generation_config.json"
_EOS = "eos_token_id"
_MOST_BYTES = 2**24
"""Bytes of a JSON file."""
_MOST_IDS = 1024
"""End-of-sequence tokens of a model."""


def load_generation_config(
    path: str | Path, source: str = "auto", overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the defaults of sampling and the end-of-sequence tokens of a model.

    Parameters
    ----------
    path : str | Path
        A model directory, or a ``.gguf`` file, which has none.
    source : str
        "auto": the model's ``generation_config.json``. "vllm": no defaults of sampling. Else a
        folder with such a file. End-of-sequence tokens are the model's where the source has none.
    overrides : Mapping[str, Any] | None
        What goes before the file's values; None in it drops one.

    Returns
    -------
    dict[str, Any]
        Content of ``generation_config.json`` with the overrides; what sampling uses of it has been
        checked. ``eos_token_id`` is a list, where there are such tokens: the file's, else those of
        ``config.json``, as transformers has it.

    Raises
    ------
    ModelError
        A file is missing, is no JSON object, or holds a value that cannot be used.
    InputError
        A value of the overrides cannot be used.
    """
    directory = Path(path).expanduser()
    file = directory / NAME
    config = _read(file) if file.is_file() else _eos_of_config(directory / "config.json")
    if source != "auto":
        config = {_EOS: config[_EOS]} if _EOS in config else {}
    if source not in ("auto", "vllm"):
        file = _file_of(source)
        config |= _read(file)
    own = dict(overrides or {})
    merged = config | own
    for key, field in GENERATION_DEFAULTS.items():
        if merged.get(key) is None:
            continue
        try:
            SamplingParams(**{field: merged[key]})
        except InputError as error:
            raise _unusable(error, key, None if key in own else file) from None
    if _EOS in own:
        merged[_EOS] = _token_ids(own[_EOS], None)
    return merged


def eos_token_ids(
    tokenizer: Tokenizer | None, generation_config: Mapping[str, Any]
) -> tuple[int, ...]:
    """Collect the tokens that end a sequence.

    Parameters
    ----------
    tokenizer : Tokenizer | None
    generation_config : Mapping[str, Any]
        ``eos_token_id`` there is one id or a list.

    Returns
    -------
    tuple[int, ...]
        Sorted, each once; -1, which stands for no token, is left out.
    """
    configured = generation_config.get(_EOS)
    ids = set(configured) if isinstance(configured, list | tuple) else {configured}
    if tokenizer is not None:
        ids.add(tokenizer.eos_token_id)
    return tuple(sorted(token for token in ids if token is not None and token >= 0))


def _read(file: Path) -> dict[str, Any]:
    """Read a generation config; its end-of-sequence tokens are brought into one form."""
    config = read_json(file, _MOST_BYTES)
    if _EOS in config:
        config[_EOS] = _token_ids(config[_EOS], file)
    return config


def _eos_of_config(file: Path) -> dict[str, Any]:
    ids = _token_ids(read_json(file, _MOST_BYTES).get(_EOS), file) if file.is_file() else []
    return {_EOS: ids} if ids else {}


def _file_of(source: str) -> Path:
    folder = Path(source).expanduser()
    file = folder / NAME
    if not file.is_file():
        message = (
            f"generation_config={shown(source)} has no {NAME}. Allowed: 'auto', 'vllm', or a "
            "folder with that file."
        )
        raise ModelError(message)
    return file


def _token_ids(value: Any, file: Path | None) -> list[int]:
    """Bring end-of-sequence tokens into one form; -1 stands for no token."""
    ids = value if isinstance(value, list | tuple) else [] if value is None else [value]
    valid = len(ids) <= _MOST_IDS and all(
        type(token) is int and -1 <= token < 2**31 for token in ids
    )
    if not valid:
        error = f"{_EOS} is {shown(value)}, and must be a token id, a list of ids, or null"
        raise _unusable(error, _EOS, file)
    return [token for token in ids if token != -1]


def _unusable(error: object, key: str, file: Path | None) -> InputError:
    """Make the error of a value of a file, or of the overrides without one."""
    if file is None:
        return InputError(f"override_generation_config: {error}")
    remedies = f"correct the file, or pass override_generation_config={{{key!r}: …}}"
    if key != _EOS:
        remedies += " or generation_config='vllm'"
    return ModelError(f"{file}: {error}; {remedies}.")
