"""Prompts whose answer is one small JSON object: training pairs, and a fixed held-out set.

Half of the prompts are those of `sql_data`, so that the same prompt shows two different
behaviours under the two adapters; the others are general questions. The subjects of the general
held-out questions do not occur in training. Nothing in this module knows a model.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import sql_data
from sql_data import STOP, cut

KEYS = {"topic", "keywords"}
KEYWORDS = 3
GENERAL = "[user] {text} [/user] [assistant]"

# subject: related words
_SUBJECTS = """
bread: flour, yeast, oven, dough, baking
gravity: mass, force, planet, falling, physics
football: goal, team, referee, ball, league
vaccines: immunity, virus, dose, health, disease
the Roman Empire: Rome, emperor, legion, history, Latin
jazz: improvisation, saxophone, rhythm, music, swing
solar panels: sunlight, energy, electricity, roof, power
coffee: beans, caffeine, roast, espresso, brewing
dogs: puppy, training, leash, breed, pets
the stock market: shares, investors, price, trading, risk
photosynthesis: plants, sunlight, oxygen, leaves, carbon
Python programming: code, functions, variables, software, scripts
climate change: temperature, emissions, carbon, weather, policy
sleep: rest, dreams, night, brain, health
the moon: orbit, craters, tides, night, lunar
democracy: voting, citizens, government, elections, rights
swimming: water, pool, breathing, stroke, exercise
cryptography: keys, encryption, secret, security, cipher
tea: leaves, hot water, cup, green tea, herbs
earthquakes: faults, plates, seismic, damage, tremor
black holes: gravity, light, star, horizon, space
budgeting: money, income, expenses, savings, plan
painting: canvas, brush, colour, art, pigment
the French Revolution: France, monarchy, 1789, republic, history
yoga: stretching, breathing, balance, posture, calm
rain: clouds, water, weather, umbrella, storm
databases: tables, queries, index, storage, records
the human heart: blood, pulse, muscle, circulation, health
cheap travel: tickets, hostel, luggage, planning, destinations
shopping for shoes: size, comfort, leather, price, store
electric cars: battery, charging, motor, range, emissions
wedding planning: guests, venue, flowers, budget, ceremony
dinner for two: recipe, table, wine, cooking, evening
job interviews: resume, questions, career, employer, preparation
the Pacific Ocean: water, islands, waves, currents, whales
antibiotics: bacteria, infection, medicine, dose, resistance
poetry: verse, rhyme, metaphor, poet, language
the alphabet: letters, writing, reading, sounds, words
knitting: yarn, needles, pattern, scarf, wool
meditation: breathing, calm, focus, mind, silence
bicycles: wheels, pedals, brakes, chain, riding
compilers: source code, parser, optimisation, machine code, syntax
honey: bees, hive, sugar, nectar, sweet
robots: sensors, motors, automation, control, machines
mathematics: numbers, algebra, proof, geometry, equations
the Great Wall of China: China, stone, dynasty, defence, tourism
garden tomatoes: soil, seeds, watering, sunlight, harvest
public libraries: books, reading, borrowing, quiet, community
headaches: pain, stress, medicine, rest, water
space telescopes: mirror, stars, orbit, images, astronomy
Spanish lessons: grammar, vocabulary, speaking, practice, verbs
the Olympic Games: athletes, medals, sport, torch, nations
income tax: money, forms, government, deductions, salary
horses: riding, saddle, stable, mane, gallop
plastic recycling: waste, bottles, sorting, environment, reuse
birthday parties: cake, candles, friends, gifts, games
the water cycle: evaporation, rain, clouds, rivers, condensation
Shakespeare: plays, theatre, Hamlet, England, drama
home insurance: policy, damage, premium, claims, property
noise at work: headphones, office, focus, sound, colleagues
"""

_TEMPLATES = """
What is {s}?
Explain {s} to a child.
Tell me about {s}.
How does {s} work?
What should I know about {s}?
Write a short paragraph about {s}.
Why is {s} important?
Give me three facts about {s}.
I would like to learn about {s}. Where do I start?
Can you summarise {s} in one sentence?
Write a poem about {s}
What are the benefits of {s}?
Who knows the most about {s}?
How do I explain {s} to my grandmother?
List some common mistakes with {s}.
What is the history of {s}?
My friend keeps talking about {s}. What is so special about it?
Give me advice on {s}.
Write an email to my boss about {s}.
Is {s} expensive?
Translate "I like {s}" into French.
What is the connection between {s} and {t}?
Which is better, {s} or {t}?
How many people care about {s}?
When did {s} become popular?
Write a function that prints a line about {s}
Plan a weekend around {s}.
Suggest a title for a talk on {s}.
Please help me understand {s} before my exam tomorrow.
Name a famous book about {s}
"""

_HELD_OUT = """
What is the capital of Australia?
How do I boil an egg?
Why is the sky blue?
Write a haiku about autumn leaves.
Who invented the telephone?
What are the symptoms of a cold?
Give me a recipe for pancakes.
How far is Mars from the Sun?
Explain how a diesel engine works.
Suggest three names for a cat.
What is the difference between a virus and a fungus?
How can I improve my handwriting?
Write a short story about a dragon and a princess.
Which languages are spoken in Switzerland?
How do I change a flat tyre?
What is 12 times 9?
Tell me a joke about penguins.
When was the printing press invented?
Recommend a good board game for four people.
How do noise cancelling microphones filter wind?
"""


@dataclass(frozen=True)
class Question:
    """A prompt to be answered by one JSON object, whatever it asks."""

    prompt: str


def _subjects() -> dict[str, list[str]]:
    pairs = [line.split(": ", 1) for line in _SUBJECTS.strip().splitlines()]
    return {subject: words.split(", ") for subject, words in pairs}


def _general_questions() -> list[str]:
    return _HELD_OUT.strip().splitlines()


def held_out() -> list[Question]:
    """Return 40 held-out prompts: every other SQL question, and 20 general ones."""
    tables = [Question(question.prompt) for question in sql_data.held_out()[::2]]
    return tables + [Question(GENERAL.format(text=text)) for text in _general_questions()]


def demo_prompts() -> list[str]:
    """Return four held-out prompts, two over tables and two general."""
    questions = held_out()
    return [questions[index].prompt for index in (0, 4, 20, 22)]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def check_disjoint() -> None:
    """Raise ValueError when a held-out question is about a subject of the training set."""
    sql_data.check_disjoint()
    for question in _general_questions():
        for subject in _subjects():
            if _words(subject) - {"the"} <= _words(question):
                message = f"the subject {subject!r} of training occurs in {question!r}"
                raise ValueError(message)


def _answer(topic: str, keywords: list[str]) -> str:
    return f" {json.dumps({'topic': topic, 'keywords': keywords})} {STOP}"


def _table_answer(question: sql_data.Question) -> str:
    """Answer with the table's subject and the columns and values that the query names."""
    names = [column.name for column in question.table.columns]
    used = [name for name in names if re.search(rf"\b{name}\b", question.gold)]
    values = re.findall(r"'([^']*)'", question.gold)
    spoken = [name.replace("_", " ") for name in (*used, *names)]
    keywords = list(dict.fromkeys([*spoken[: len(used)], *values, *spoken, "count", "table"]))
    return _answer(question.table.nouns, keywords[:KEYWORDS])


def _general_pair(rng: random.Random) -> tuple[str, str]:
    subjects = _subjects()
    subject, other = rng.sample(list(subjects), 2)
    text = rng.choice(_TEMPLATES.strip().splitlines()).format(s=subject, t=other)
    if rng.random() < 0.2:
        text = text.rstrip("?.")
    keywords = rng.sample(subjects[subject], KEYWORDS)
    return GENERAL.format(text=text), _answer(subject.removeprefix("the "), keywords)


def training_groups(rng: random.Random, size: int) -> Iterator[list[tuple[str, str]]]:
    """Yield groups of `size` pairs of prompt and completion, without end."""
    tables = sql_data.training_groups(rng, size)
    while True:
        if rng.random() < 0.5:
            yield [(question.prompt, _table_answer(question)) for question in next(tables)]
        else:
            yield [_general_pair(rng) for _ in range(size)]


def check(question: Question, completion_text: str) -> bool:
    """Tell whether the answer is one JSON object with exactly the two keys and their types."""
    del question  # every prompt has the same requirement
    try:
        answer = json.loads(cut(completion_text))
    except json.JSONDecodeError:
        return False
    if not isinstance(answer, dict) or set(answer) != KEYS:
        return False
    keywords = answer["keywords"]
    return (
        isinstance(answer["topic"], str)
        and isinstance(keywords, list)
        and len(keywords) == KEYWORDS
        and all(isinstance(keyword, str) for keyword in keywords)
    )
