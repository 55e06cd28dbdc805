"""What a directory holds instead of a model, and what to do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_kernels.errors import ModelError
from plait_models.files.opening import read_json, shortened

if TYPE_CHECKING:
    from pathlib import Path

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def what_lies_there(root: Path) -> str | None:
    """Say what a directory without a model that can be loaded holds; None: nothing known."""
    has_config = (root / "config.json").is_file()
    if (root / "adapter_config.json").is_file() and not has_config:
        return _adapter(root)
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
    if any(root.glob("*.safetensors*")) and not has_config:
        return f"{root}: config.json is missing beside the safetensors files. Fetch it as well"
    return None


def _adapter(root: Path) -> str:
    """Say of which base model an adapter is, and how it is used."""
    path = root / "adapter_config.json"
    try:
        config = read_json(path)
    except ModelError as error:
        return f"{root}: is an adapter and no model, and its config is damaged: {error}"
    if "base_model_name_or_path" not in config and (
        "lora_parameters" in config or "lora_layers" in config or "fine_tune_type" in config
    ):
        base = config.get("model")
        return (
            f"{root}: is an adapter of mlx-lm and no model; its base is {shortened(base)}. Fuse it "
            "into its base with mlx_lm.fuse and give the result, or convert it to PEFT's format"
        )
    base = config.get("base_model_name_or_path")
    named = shortened(base) if isinstance(base, str) and base else "not named in its config"
    model = shortened(base) if isinstance(base, str) and base else "'…'"
    return (
        f"{root}: is an adapter and no model; its base is {named}. Give the base as model={model} "
        f"with enable_lora=True, and pass the adapter with a request: "
        f"lora_request=LoRARequest('{root.name}', 1, '{root}')"
    )
