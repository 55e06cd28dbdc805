"""The demo: the main job on a small real model. Run ``python -m plait.demo``."""
