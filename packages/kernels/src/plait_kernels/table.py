"""KernelTable: the kernels of one engine, chosen once and made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS, OpConfig, Scalar
from plait_kernels.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.backend import Backend, Kernel, Reasons


@dataclass(frozen=True)
class Candidate:
    """A kernel that was looked at for one config.

    Attributes
    ----------
    backend : Backend
    kernel : Kernel
        One of ``backend.kernels``.
    reasons : tuple[str, ...]
        Why it cannot be used. Empty means that it can.
    """

    backend: Backend
    kernel: Kernel
    reasons: Reasons = ()

    def __str__(self) -> str:
        if self.reasons:
            return f"{self.backend.name}: {'; '.join(self.reasons)}"
        by_name = "" if self.backend.automatic else ", by name only"
        uses = "".join(f", uses {name}" for name in self.kernel.uses)
        return f"{self.backend.name}: usable (priority {self.kernel.priority}{by_name}{uses})"


@dataclass(frozen=True)
class Choice:
    """The kernel that was chosen for one config.

    Attributes
    ----------
    config : OpConfig
    chosen : Candidate
        One of ``candidates``, without reasons against it.
    candidates : tuple[Candidate, ...]
        Everything that was looked at: the kernels of the backends that the request means.
    """

    config: OpConfig
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def dropped(self) -> tuple[Candidate, ...]:
        """The candidates that could not be used, with the reasons."""
        return tuple(candidate for candidate in self.candidates if candidate.reasons)

    def __str__(self) -> str:
        config, uses = self.config, " and ".join(self.chosen.kernel.uses)
        name = self.chosen.backend.name + (f", which uses {uses}" if uses else "")
        call = describe_call(config.op, config.dtype, config.params)
        dropped = f" ({', '.join(map(str, self.dropped))})" if self.dropped else ""
        return f"{call}, {config.bucket} up to {config.max_tokens} tokens: {name}{dropped}"


@dataclass(frozen=True, eq=False)
class KernelTable:
    """The chosen kernel and its implementation for every config of an engine.

    Attributes
    ----------
    choices : Mapping[OpConfig, Choice]
    implementations : Mapping[OpConfig, object]
        What the chosen kernels' factories returned, one a config.
    """

    choices: Mapping[OpConfig, Choice]
    implementations: Mapping[OpConfig, Any]

    def bind(self, op: str, dtype: str, **params: Scalar) -> tuple[Any, ...]:
        """Return the implementations of one op as one layer calls it.

        Parameters
        ----------
        op : str
            Name of the op.
        dtype : str
            Dtype of the activations, one of ``DTYPES``.
        **params : int | float | str | bool | None
            All static parameters of the config, in any order.

        Returns
        -------
        tuple[object, ...]
            One implementation a token bucket, indexed like ``BUCKETS``. Of configs that differ in
            ``max_tokens`` alone, the one of the largest counts.

        Raises
        ------
        KernelError
            The table was built without a config for this call and one of the buckets.
        """
        return tuple(self.implementations[config] for config in self._configs(op, dtype, params))

    def backends(self, op: str, dtype: str, **params: Scalar) -> tuple[str, ...]:
        """Return the names of the backends whose implementations ``bind`` returns."""
        configs = self._configs(op, dtype, params)
        return tuple(self.choices[config].chosen.backend.name for config in configs)

    def _configs(self, op: str, dtype: str, params: Mapping[str, Scalar]) -> tuple[OpConfig, ...]:
        """Find the configs of one call, indexed like ``BUCKETS``."""
        key = tuple(sorted(params.items()))
        found: dict[str, OpConfig] = {}
        for config in sorted(self.implementations, key=lambda config: config.max_tokens):
            if (config.op, config.dtype, config.params) == (op, dtype, key):
                found[config.bucket] = config
        missing = [bucket for bucket in BUCKETS if bucket not in found]
        if missing:
            call = describe_call(op, dtype, key)
            others = sorted(
                {
                    describe_call(config.op, config.dtype, config.params)
                    for config in self.implementations
                    if config.op == op
                }
            )
            msg = (
                f"no kernel was chosen for {call} in {' and '.join(missing)}; chosen for this op: "
                f"{', '.join(others) or 'none'}; add an OpConfig for each bucket to those that "
                "the table is built from"
            )
            raise KernelError(msg)
        return tuple(found[bucket] for bucket in BUCKETS)

    def describe(self) -> tuple[str, ...]:
        """Return one line a config for the log: what was chosen, and why nothing else was."""
        return tuple(map(str, self.choices.values()))


def describe_call(op: str, dtype: str, params: tuple[tuple[str, Scalar], ...]) -> str:
    """Write an op with its dtype and static parameters: ``linear[bfloat16, in_features=64]``."""
    return f"{op}[{', '.join((dtype, *(f'{name}={value}' for name, value in params)))}]"
