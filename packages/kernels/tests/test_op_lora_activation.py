"""``lora`` of gate and up that goes on with the activation."""

from __future__ import annotations

import torch

from plait_kernels.ops.lora import ReferenceLora, inputs


def test_the_reference_is_expand_and_then_the_activation() -> None:
    data = inputs(5, group="gate_up", out_features=(20, 20), packed=True, tokens=11)
    lora = ReferenceLora()
    y = data.y.clone()
    lora.expand(lora.shrink(data.x, data.sites, data.batch), data.sites, data.batch, y)
    gate, up = y.chunk(2, dim=1)
    h = lora.shrink(data.x, data.sites, data.batch)
    z = lora.expand_silu_and_mul(h, data.sites, data.batch, data.y)
    torch.testing.assert_close(z, torch.nn.functional.silu(gate) * up)
