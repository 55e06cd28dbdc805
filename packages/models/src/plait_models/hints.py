"""What a directory holds instead of a model, and what to do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_kernels.errors import ModelError
from plait_models.files.opening import read_json, shortened

if TYPE_CHECKING:
    from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"

_OF_MLX = frozenset(("fine_tune_type", "lora_layers", "lora_parameters"))
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def what_lies_there(root: Path) -> str | None:
    """Say what a directory without a model that can be loaded holds; None: nothing known."""
    has_config = (root / "config.json").is_file()
    if is_adapter(root):
        return tell_adapter(root, str(root))
    pickles = sorted(file.name for pattern in _PICKLES for file in root.glob(pattern))
    if pickles and (root / "params.json").is_file() and not has_config:
        return (
            f"{root}: holds a model in the format of Meta's own code (params.json and "
            f"{pickles[0]}). Convert it: python -m "
            "transformers.models.llama.convert_llama_weights_to_hf, or fetch the repository whose "
            "name ends in -hf"
        )
    if pickles:
        return (
            f"{root}: the only weights are pickle files ({', '.join(pickles[:4])}), which can run "
            "code when read and are refused. Convert them: load the model with transformers and "
            "call save_pretrained, which writes safetensors"
        )
    if (root / "weights.npz").is_file():
        return (
            f"{root}: the only weights are weights.npz, which early versions of mlx wrote. Fetch "
            "the model that it was converted from"
        )
    config = root / "config.json"
    if not has_config and (config.is_symlink() or config.exists()):
        return f"{config}: is no regular file, or a link to nothing. Fetch the file again"
    if any(root.glob("*.safetensors*")) and not has_config:
        return f"{root}: config.json is missing beside the safetensors files. Fetch it as well"
    return None


def is_adapter(root: Path) -> bool:
    """Tell whether a directory holds an adapter instead of a model."""
    return (root / ADAPTER_CONFIG).is_file() and not (root / "config.json").is_file()


def tell_adapter(root: Path, shown: str) -> str:
    """Say of which base model an adapter is, and how it is used.

    Parameters
    ----------
    root : Path
        Where its files lie.
    shown : str
        What it was named by: a path or an id on the hub.
    """
    try:
        config = read_json(root / ADAPTER_CONFIG)
    except ModelError as error:
        return f"{shown}: is an adapter and no model, and its config is damaged: {error}"
    if "base_model_name_or_path" not in config and _OF_MLX & config.keys():
        base = config.get("model")
        return (
            f"{shown}: is an adapter of mlx-lm and no model; its base is {shortened(base)}. Fuse "
            "it into its base with mlx_lm.fuse and give the result, or convert it to PEFT's format"
        )
    base = config.get("base_model_name_or_path")
    is_named = isinstance(base, str) and bool(base)
    named = shortened(base) if is_named else "not named in its config"
    model = shortened(base) if is_named else "'…'"
    short = shown.rstrip("/").rpartition("/")[2]
    return (
        f"{shown}: is an adapter and no model; its base is {named}. Give the base as model={model} "
        f"with enable_lora=True, and pass the adapter with a request: "
        f"lora_request=LoRARequest({shortened(short)}, 1, {shown!r})"
    )
