"""Weight files: where tensors come from."""
