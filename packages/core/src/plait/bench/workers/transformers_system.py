"""transformers, alone or with peft, as it is measured: one static batch. It also makes files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from .measured import Load, versions

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class System:
    """transformers' ``generate``; with LoRA, that of a ``PeftModel``."""

    def __init__(self) -> None:
        self._adapters: set[str] = set()

    def load(self, **asked: Any) -> dict[str, str]:
        """Load a model as a ``Load`` says; return versions.

        transformers has no pools, so the maxima have nothing to size.
        """
        load = Load(**asked)
        torch.set_num_threads(load.threads)
        self._model = _from_pretrained(load.model, load.dtype, **load.options).eval()
        # Without an end-of-sequence token every row runs to its full length.
        self._model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
        self._peft = _peft() if load.lora else None
        return versions("transformers", "torch", *(("peft",) if load.lora else ()))

    @torch.inference_mode()
    def generate(
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[list[int]]:
        """Continue prompts of equal length greedily with the adapter of that directory."""
        ids = torch.tensor(prompts)
        keywords: dict[str, Any] = {}
        if any(adapters):
            for path in adapters:
                if path is not None and path not in self._adapters:
                    self._add(path)
            keywords["adapter_names"] = [Path(p).name if p else "__base__" for p in adapters]
        tokens: torch.Tensor = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=output_tokens,
            **keywords,
        )
        continued: list[list[int]] = tokens[:, ids.shape[1] :].tolist()
        return continued

    def make_adapters(self, model: str, folder: str, names: list[str], rank: int) -> None:
        """Save random adapters on all linears as peft does; the seed is the place in ``names``."""
        peft = _peft()
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS))
        adapted = peft.get_peft_model(_from_pretrained(model, "float32"), config)
        for seed, name in enumerate(names):
            torch.manual_seed(seed)
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_" in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.03)
            adapted.save_pretrained(str(Path(folder) / name), save_embedding_layers=False)

    def export(self, model: str, folder: str) -> None:
        """Save a GGUF file as a Hugging Face checkpoint, float32, without a tokenizer."""
        read = _from_pretrained(model, "float32")
        # What was read from a GGUF file counts as quantised, and is refused when it is saved.
        del read.config.quantization_config
        plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)

    def _add(self, path: str) -> None:
        # By default peft widens adapters to float32, which a bfloat16 model pays for at every site.
        options = {"adapter_name": Path(path).name, "autocast_adapter_dtype": False}
        if self._adapters:
            self._model.load_adapter(path, **options)
        else:
            assert self._peft is not None, "loaded without LoRA"
            self._model = self._peft.PeftModel.from_pretrained(self._model, path, **options).eval()
        self._adapters.add(path)


def _peft() -> Any:
    # By name: plait does not depend on its peers.
    return importlib.import_module("peft")


def _from_pretrained(model: str, dtype: str, **options: Any) -> Any:
    keywords: dict[str, Any] = {"dtype": getattr(torch, dtype)} | options
    path = Path(model)
    if path.suffix == ".gguf":
        path, keywords["gguf_file"] = path.parent, path.name
    return AutoModelForCausalLM.from_pretrained(str(path), **keywords)
