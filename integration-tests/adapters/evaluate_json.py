"""Measure whether the json adapter gives JSON of the right shape, over 40 held-out prompts."""

import sys
from collections.abc import Sequence

from generation import generator, parser
from json_data import Question, check, held_out
from sql_data import cut

GOAL = 36
BASE_BELOW = 4


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
    arguments = parser(__doc__, "json").parse_args()
    generate = generator(arguments.engine)
    questions = held_out()
    prompts = [question.prompt for question in questions]
    trained = score(questions, generate(prompts, arguments.adapter), show=arguments.show)
    print(f"json adapter: {trained}/{len(questions)}", flush=True)
    base = score(questions, generate(prompts, None), show=arguments.show)
    print(f"base: {base}/{len(questions)}")
    return 0 if trained >= GOAL and base < BASE_BELOW else 1


if __name__ == "__main__":
    sys.exit(main())
