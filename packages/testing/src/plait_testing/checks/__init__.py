"""What is checked: one module for each promise of a backend."""
