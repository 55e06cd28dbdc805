"""Without a GPU these tests run the kernels under Triton's interpreter."""

from __future__ import annotations

import os

import torch

# Before Triton is imported: its decorator looks at it. Backends that can run on a CPU are chosen
# before an interpreted one, so other tests in this process notice nothing.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
