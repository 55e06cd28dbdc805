"""Measure whether the json adapter gives JSON of the right shape, over 40 held-out prompts."""

import sys

from generation import evaluate
from json_data import check, held_out

GOAL = 36
BASE_BELOW = 4

if __name__ == "__main__":
    sys.exit(evaluate(__doc__, "json", held_out(), check, goal=GOAL, base_below=BASE_BELOW))
