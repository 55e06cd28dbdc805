"""OpConfig: the static facts by which a kernel is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Scalar: TypeAlias = int | float | str | bool | None

BUCKETS = ("decode", "prefill")
"""The token buckets. A step uses the kernels of one of them; index 0 is decode."""

DTYPES = ("float32", "bfloat16", "float16")
"""The dtypes of activations, by name."""


@dataclass(frozen=True)
class OpConfig:
    """One op as one model calls it: everything that is known before the first token.

    Attributes
    ----------
    op : str
        Name of the op, a key of ``plait_kernels.ops.OPS``.
    dtype : str
        One of ``DTYPES``: the dtype of the activations.
    bucket : str
        One of ``BUCKETS``.
    max_tokens : int
        The most tokens (or rows) that one call in this bucket will have.
    params : tuple[tuple[str, Scalar], ...]
        Static parameters of the op (head_dim, in_features, …), sorted by name.
    """

    op: str
    dtype: str
    bucket: str
    max_tokens: int
    params: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def of(cls, op: str, *, dtype: str, bucket: str, max_tokens: int, **params: Scalar) -> OpConfig:
        """Make a config with its parameters sorted, so that equal configs compare equal."""
        return cls(op, dtype, bucket, max_tokens, tuple(sorted(params.items())))

    def get(self, name: str, default: Scalar = None) -> Scalar:
        """Return the static parameter ``name``, or ``default``."""
        return dict(self.params).get(name, default)
