"""Measure whether the queries of the sql adapter give the right rows, over 40 held-out prompts."""

import sys

from generation import evaluate
from sql_data import check, held_out

GOAL = 30
BASE_BELOW = 5

if __name__ == "__main__":
    sys.exit(evaluate(__doc__, "sql", held_out(), check, goal=GOAL, base_below=BASE_BELOW))
