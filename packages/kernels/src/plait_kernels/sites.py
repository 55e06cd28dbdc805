"""Sites: the projections where an adapter may act."""

from __future__ import annotations

from dataclasses import dataclass

SITE_GROUPS = ("qkv", "o", "gate_up", "down", "embed", "head")
"""Sites that share an input form a group; a step runs the groups that its adapters target."""


@dataclass(frozen=True)
class LoraSite:
    """One projection of one layer where an adapter may act.

    Attributes
    ----------
    index : int
        Column of this site in the tables of a ``LoraTable``; unique within a model.
    name : str
        The module's name as Hugging Face writes it, without the model prefix:
        ``"layers.3.self_attn.q_proj"``, ``"embed_tokens"``, ``"lm_head"``.
    group : str
        One of ``SITE_GROUPS``.
    in_features, out_features : int
        Shape of the projection: A is [rank, in_features], B is [out_features, rank].
        Of ``embed``, in_features is the size of the vocabulary.
    out_offset : int
        Where this site's columns begin in the y that is handed to ``expand``
        (q, k and v are columns of one packed y).
    """

    index: int
    name: str
    group: str
    in_features: int
    out_features: int
    out_offset: int = 0
