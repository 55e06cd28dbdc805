"""Small things that programs import from vLLM beside the engine, and that plait has no use for."""
