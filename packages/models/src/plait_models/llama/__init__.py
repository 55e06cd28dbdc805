"""Llama, and what is Llama by another name."""
