"""TokenLogprobs: the logprobs of some tokens of one sequence, as plain NumPy data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """Logprobs of n tokens: of each token itself, and of the k best at its position.

    Attributes
    ----------
    token_ids : ndarray, int32 [n, k + 1]
        The token itself first, then the k best, best first; the token may be among those again.
    logprobs : ndarray, float32 [n, k + 1]
        Of ``token_ids``, natural logarithm.
    ranks : ndarray, int32 [n]
        Of the token itself: 1 + the number of tokens that are strictly more probable.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    ranks: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ranks)

    def __getitem__(self, places: slice) -> TokenLogprobs:
        """Return the tokens at ``places``."""
        return TokenLogprobs(self.token_ids[places], self.logprobs[places], self.ranks[places])

    @classmethod
    def concatenate(cls, parts: Sequence[TokenLogprobs]) -> TokenLogprobs:
        """Join parts of one sequence that have the same k."""
        return cls(
            np.concatenate([part.token_ids for part in parts]),
            np.concatenate([part.logprobs for part in parts]),
            np.concatenate([part.ranks for part in parts]),
        )
