"""``plait.lora``: the paths under which vLLM users import."""
