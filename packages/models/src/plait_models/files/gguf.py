"""GGUF files of the llama architecture: config from metadata, weights dequantised on reading."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plait_kernels.errors import ModelError
from plait_models.files.gguf_names import CHANGES_THE_MATHS, ROPE_FACTORS, hugging_face_name
from plait_models.files.source import Entry
from plait_models.hf_config import parse_hf_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plait_models.config import ModelConfig


class GgufFile:
    """An open GGUF file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelError
        If the file is damaged, one of several parts, or of another architecture than llama.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        try:
            from gguf import GGUFReader
        except ImportError as error:
            message = (
                f"{path}: reading GGUF takes the package gguf, which is not installed. Install it "
                "(pip install gguf) or use safetensors"
            )
            raise ModelError(message) from error
        try:
            self._reader: Any = GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            message = f"{path}: not a whole GGUF file: {error}. Fetch the file again"
            raise ModelError(message) from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._check()

    def config(self) -> ModelConfig:
        """Make the config from the metadata."""
        config = parse_hf_config(self._as_hf_config(), self.origin, file_format="gguf")
        rotary_dim = self._get("rope.dimension_count", config.head_dim)
        if rotary_dim != config.head_dim:
            message = (
                f"{self.origin}: llama.rope.dimension_count is {rotary_dim}; allowed: the size of "
                f"a head, {config.head_dim}. Use a model that rotates whole heads"
            )
            raise ModelError(message)
        if ROPE_FACTORS in self._tensors:
            factors = torch.from_numpy(np.array(self._tensors[ROPE_FACTORS].data))
            inv_freq = torch.tensor(config.rope_inv_freq, dtype=torch.float32) / factors
            config = replace(config, rope_inv_freq=tuple(inv_freq.tolist()))
        return config

    def weights(self, config: ModelConfig) -> GgufWeights:
        """Give the tensors of the file, under the names of Hugging Face."""
        weights = {name: t for name, t in self._tensors.items() if name != ROPE_FACTORS}
        return GgufWeights(self.origin, weights, config)

    def _get(self, key: str, default: Any = None) -> Any:
        field = self._reader.get_field(f"llama.{key}")
        return default if field is None else field.contents()

    def _need(self, key: str) -> Any:
        value = self._get(key)
        if value is None or isinstance(value, list):
            got = "missing" if value is None else "a list, one number a layer"
            message = (
                f"{self.origin}: llama.{key} is {got}; it must be one number. Convert the model "
                "again"
            )
            raise ModelError(message)
        return value

    def _check(self) -> None:
        field = self._reader.get_field("general.architecture")
        architecture = None if field is None else field.contents()
        if architecture != "llama":
            message = (
                f"{self.origin}: general.architecture is {architecture!r}; allowed: 'llama'. Use a "
                "model of that architecture"
            )
            raise ModelError(message)
        split = self._reader.get_field("split.count")
        if split is not None and split.contents() > 1:
            message = (
                f"{self.origin}: is one of {split.contents()} parts; allowed: one whole file. "
                "Join the parts with llama-gguf-split --merge"
            )
            raise ModelError(message)
        found = [f"llama.{key} = {self._get(key)}" for key in CHANGES_THE_MATHS if self._get(key)]
        if self._get("attention.causal", True) is False:
            found.append("llama.attention.causal = False")
        if found:
            message = (
                f"{self.origin}: the model needs what is not implemented: {', '.join(found)}; "
                "allowed: no such key. Use a model without it"
            )
            raise ModelError(message)

    def _as_hf_config(self) -> dict[str, Any]:
        heads = self._need("attention.head_count")
        hidden = self._need("embedding_length")
        head_dim = self._get("attention.key_length", hidden // heads)
        if self._get("attention.value_length", head_dim) != head_dim:
            message = (
                f"{self.origin}: llama.attention.value_length is "
                f"{self._get('attention.value_length')}; allowed: that of a key, {head_dim}. Use "
                "a model whose keys and values have one size"
            )
            raise ModelError(message)
        embedding = self._tensors.get("token_embd.weight")
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self._need("vocab_size")
            if embedding is None
            else int(embedding.shape[1]),
            "hidden_size": hidden,
            "intermediate_size": self._need("feed_forward_length"),
            "num_hidden_layers": self._need("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._get("attention.head_count_kv") or heads,
            "head_dim": head_dim,
            "max_position_embeddings": self._need("context_length"),
            "rms_norm_eps": self._need("attention.layer_norm_rms_epsilon"),
            "rope_parameters": self._rope(),
            "attention_bias": "blk.0.attn_q.bias" in self._tensors,
            "mlp_bias": "blk.0.ffn_gate.bias" in self._tensors,
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "dtype": "float32",
        }

    def _rope(self) -> dict[str, Any]:
        kind = self._get("rope.scaling.type", "none")
        factor = self._get("rope.scaling.factor") or self._get("rope.scale_linear") or 1.0
        if kind == "none" and self._get("rope.scale_linear"):
            kind = "linear"
        theta = {"rope_theta": self._get("rope.freq_base", 10000.0)}
        if kind == "none" or (kind == "linear" and factor == 1.0):
            return theta | {"rope_type": "default"}
        return theta | {"rope_type": kind, "factor": factor}


class GgufWeights:
    """The tensors of a GGUF file as Hugging Face would store them, in float32.

    llama.cpp stores the rows of q and k so that the two numbers that are rotated together are
    neighbours; Hugging Face stores them half a head apart. Reading undoes that.
    """

    def __init__(self, origin: str, tensors: Mapping[str, Any], config: ModelConfig) -> None:
        self.origin = origin
        self._config = config
        self._tensors = {hugging_face_name(name): tensor for name, tensor in tensors.items()}
        self._entries = {
            # GGUF writes the fastest dimension first.
            name: Entry(tuple(int(n) for n in reversed(t.shape)), int(t.n_bytes))
            for name, t in self._tensors.items()
        }

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor, in the order of the file."""
        return self._entries

    def read(self, name: str) -> torch.Tensor:
        """Read and dequantise a tensor to float32.

        Raises
        ------
        ModelError
            Of a format that the package gguf cannot dequantise.
        """
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            message = (
                f"{self.origin}: {name} is of type {tensor.tensor_type.name}, which the package "
                "gguf cannot dequantise. Use a file of another type, say Q8_0 or F16"
            )
            raise ModelError(message) from error
        # torch takes no read-only array, and float32 tensors are views of the mapped file.
        weight = torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
        weight = weight.view(self._entries[name].shape)
        if ".q_proj." in name:
            return _halves_apart(weight, self._config.heads)
        if ".k_proj." in name:
            return _halves_apart(weight, self._config.kv_heads)
        return weight


def _halves_apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    # [heads · pairs · 2, …] -> [heads · 2 · pairs, …]
    paired = weight.view(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return paired.transpose(1, 2).reshape(weight.shape)
