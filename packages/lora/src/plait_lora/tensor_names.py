"""The names of tensors in a PEFT adapter file, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plait_kernels.errors import AdapterError
from plait_lora.shown import shown

_PREFIX = "base_model.model."

# "….q_proj.lora_A.weight", "….q_proj.lora_A.default.weight"
_LINEAR = re.compile(r"(?P<key>.+)\.lora_(?P<role>[AB])(?:\.[^.]+)?\.weight")
# "….embed_tokens.lora_embedding_A", "….embed_tokens.lora_embedding_A.default"
_EMBEDDING = re.compile(r"(?P<key>.+)\.lora_embedding_(?P<role>[AB])(?:\.[^.]+)?")
_BASE_COPY = re.compile(r"(?P<key>.+?)(?P<inner>\.base_layer)?\.weight")
_TRAINING_ONLY = re.compile(r".+\.lora_velora_[a-z_]+(?:\..+)?")

_UNSERVED = (
    ("lora_magnitude_vector", "the magnitude of DoRA"),
    ("modules_to_save", "a module saved whole (modules_to_save)"),
    ("trainable_tokens", "trained token embeddings (trainable_token_indices)"),
    ("token_adapter", "trained token embeddings (trainable_token_indices)"),
    ("lora_diag", "the singular values of KaSA"),
    (".bias", "a bias"),
)


@dataclass(frozen=True)
class TensorName:
    """What a tensor of an adapter file is.

    Attributes
    ----------
    key : str
        The module's name in the model that was trained: ``"model.layers.0.mlp.up_proj"``.
    role : str
        ``"A"``, ``"B"``, or ``"base"``: a copy of the base model's weight, which PEFT adds to an
        adapter that targets the embedding or the head.
    embedding : bool
        Whether A and B are those of an embedding.
    wrapped : bool
        Of a base copy: whether it is the weight under an adapted module, which training leaves
        as it was.
    """

    key: str
    role: str
    embedding: bool = False
    wrapped: bool = False


def parse_tensor_name(name: str, where: str) -> TensorName | None:
    """Take the name of a tensor apart.

    Parameters
    ----------
    name : str
        As in the file; the prefix ``base_model.model.`` and the name of the adapter after
        ``lora_A`` may be there or not.
    where : str
        Names the adapter in messages.

    Returns
    -------
    TensorName | None
        None for a tensor that only training uses.

    Raises
    ------
    AdapterError
        If the tensor is none that plait can use.
    """
    rest = name.removeprefix(_PREFIX)
    for part, meaning in _UNSERVED:
        if part in rest:
            msg = (
                f"{where}: tensor {shown(name)} is {meaning}, which plait does not serve. "
                "Train without it, or merge the adapter into a base model."
            )
            raise AdapterError(msg)
    if match := _LINEAR.fullmatch(rest):
        return TensorName(match["key"], match["role"])
    if match := _EMBEDDING.fullmatch(rest):
        return TensorName(match["key"], match["role"], embedding=True)
    if _TRAINING_ONLY.fullmatch(rest):
        return None
    if match := _BASE_COPY.fullmatch(rest):
        return TensorName(match["key"], "base", wrapped=match["inner"] is not None)
    msg = (
        f"{where}: tensor {shown(name)} is neither lora_A nor lora_B of a module, so it cannot be "
        "used. "
        "Save the adapter with PEFT's save_pretrained, or remove the tensor."
    )
    raise AdapterError(msg)
