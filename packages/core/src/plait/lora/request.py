"""``from plait.lora.request import LoRARequest``, as in vLLM."""

from plait_lora.request import LoRARequest

__all__ = ["LoRARequest"]
