"""Measure whether the queries of the sql adapter give the right rows, over 40 held-out prompts."""

import sys
from collections.abc import Sequence

from generation import generator, parser
from sql_data import Question, check, cut, held_out

GOAL = 30
BASE_BELOW = 5


def score(questions: Sequence[Question], completions: Sequence[str], *, show: bool) -> int:
    """Return how many completions pass the check."""
    right = 0
    for question, completion in zip(questions, completions, strict=True):
        passed = check(question, completion)
        right += passed
        if show:
            print("ok  " if passed else "FAIL", question.prompt.split("\n\n")[-1])
            print("     ", cut(completion))
    return right


def main() -> int:
    """Run the command line; return 0 when the goals are met."""
    arguments = parser(__doc__, "sql").parse_args()
    generate = generator(arguments.engine)
    questions = held_out()
    prompts = [question.prompt for question in questions]
    trained = score(questions, generate(prompts, arguments.adapter), show=arguments.show)
    print(f"sql adapter: {trained}/{len(questions)}", flush=True)
    base = score(questions, generate(prompts, None), show=arguments.show)
    print(f"base: {base}/{len(questions)}")
    return 0 if trained >= GOAL and base < BASE_BELOW else 1


if __name__ == "__main__":
    sys.exit(main())
