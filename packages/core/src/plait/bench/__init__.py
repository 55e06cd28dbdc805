"""The benchmark: plait and its peers on the same work, in turns. Run ``python -m plait.bench``."""
