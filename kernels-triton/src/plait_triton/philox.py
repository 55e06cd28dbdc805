"""The uniform numbers that ``sample`` draws from: see ``plait_kernels.ops.philox``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def uniform(seed, position):
    """Return the float64 in [0, 1) of a seed and a position, int64 both.

    Triton's ``philox`` is Philox4x32-10 with the seed's low and high words as its key.
    """
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    zero = low ^ low
    word0, word1, _, _ = tl.philox(seed, low, high, zero, zero)
    # 53 bits of 2⁻⁵³ each: exact in float64.
    bits = (word0.to(tl.int64) << 21) + (word1 >> 11).to(tl.int64)
    return bits.to(tl.float64) * 1.1102230246251565e-16
