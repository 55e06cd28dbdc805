"""Questions about tables with their SQL: a generator for training, and a fixed held-out set.

The training questions are generated from the domains in
`sql_training_tables.txt`. The held-out questions are written by hand over other tables
(`sql_held_out.txt`); `check_disjoint` verifies that neither a table name nor a
column name of theirs can occur in training. Nothing in this module knows a model.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

STOP = "[/assistant]"
PROMPT = (
    "[user] Write a SQL query to answer the question based on the table schema.\n\n"
    " context: {schema}\n\n question: {question} [/user] [assistant]"
)
UNITS = ("_kg", "_km", "_usd", "_mm", "_tons", "_minutes", "_percent", "_meters", "_hours")
TABLES_PER_CHECK = 5
SQLITE_STEPS = 200_000


@dataclass(frozen=True)
class Column:
    """A column: text with a pool of values, or a number with a range (dates are years)."""

    name: str
    kind: str  # "text", "number" or "year"
    values: tuple[str, ...] = ()
    pool: str = ""
    low: int = 0
    high: int = 0
    most: str = ""
    least: str = ""

    @property
    def is_text(self) -> bool:
        """Tell whether the column holds strings."""
        return self.kind == "text"


@dataclass(frozen=True)
class Domain:
    """A subject: its possible table names, its nouns and its columns; the first is the key."""

    tables: tuple[str, ...]
    noun: str
    nouns: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    """One concrete table of a domain."""

    name: str
    noun: str
    nouns: str
    columns: tuple[Column, ...]
    text_type: str = "VARCHAR"

    def schema(self) -> str:
        """Return the CREATE TABLE statement."""
        typed = ", ".join(
            f"{c.name} {self.text_type if c.is_text else 'INTEGER'}" for c in self.columns
        )
        return f"CREATE TABLE {self.name} ({typed})"


@dataclass(frozen=True)
class Question:
    """A question about one table with the query that answers it."""

    table: Table
    text: str
    gold: str

    @property
    def prompt(self) -> str:
        """Return the raw prompt (no chat template)."""
        return PROMPT.format(schema=self.table.schema(), question=self.text)


# --- the domains -------------------------------------------------------------------------------

# A line of these files: table names | noun | plural | columns, the key column first.
# A column is `name:pool`, `name=a/b/c` (fixed values), `name#low-high` (a number) or
# `name~low-high` (a year); a number may end in `:most,least`, its two superlatives.
# In the held-out file, a table's questions follow its line as `question => query`.
_FOLDER = Path(__file__).parent
_TRAINING = _FOLDER / "sql_training_tables.txt"
_HELD_OUT = _FOLDER / "sql_held_out.txt"

_STARTS = (
    "Bel Cor Dra Fen Gal Har Ist Jor Kal Lun Mor Nar Os Pel Quin Ros Sel Tor Ul Ver Wil Yar Zan"
)
_MIDDLES = "a e i o u an en ar or el il am ov ath ing est and"
_ENDS = "ton ville mar den ria burg lo nia th sk ra mond field ne ro wick by dor la ka"
_FIRST = "Anna Ben Carla David Elena Frank Grace Hugo Irene James Karin Luis Maria Noah Olga Peter"
_NOUNS = (
    "River Garden Night Winter Road Mirror Storm House Letter Summer Island Crown Shadow Bridge"
)
_ADJECTIVES = "Silent Last Golden Broken Distant Blue Hidden Long Second Empty Crimson Lost Burning"
_PLACES = "Stadium|Park|Arena|Hall|International Center|Museum|Street|Road|High School|Field"
_ORGS = "Group|Records|Motors|Brothers|Media|Company|Works|Press|Studios|Labs"
_TEAMS = "United|City|Rovers|Wanderers|Lions|FC|State|Kings"
_COUNTRIES = (
    "France|Brazil|Japan|Kenya|Canada|Poland|Chile|Egypt|Spain|New Zealand|South Korea|Peru|Italy|"
    "United States|Germany|Portugal|Vietnam|Nigeria|Sweden|Turkey|Costa Rica|Greece|Ireland"
)
_LANGUAGES = "English|Spanish|German|Arabic|Hindi|Swahili|Polish|Korean|Dutch|Portuguese"
_COLORS = "red|black|silver|dark blue|white|green|yellow|orange|grey"
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"

# Parts of invented column names; none of these words occurs in a held-out column.
_QUALIFIERS = "net|annual|daily|outer|inner|main|local|former|second|chief|final|first|public|old"
_MEASURES = (
    "depth|width|volume|rainfall|income|yield|voltage|pressure|temperature|debt|turnover|humidity|"
    "altitude|thickness|diameter|cost|delay|members|pupils|shops|windows|strength|demand|exports"
)
_ROLES = (
    "guide|editor|vendor|pilot|region|valley|harbor|quarter|format|finish|pattern|branch|faculty|"
    "shape|season|motif|breed|variety|dialect|regiment|prize|doctor|painter|founder|museum|brand"
)
_INVENTED_POOLS = "pseudo|pseudo|pseudo|person|place|org|work|code"


def _word(rng: random.Random) -> str:
    middle = rng.choice(_MIDDLES.split()) if rng.random() < 0.6 else ""
    return rng.choice(_STARTS.split()) + middle + rng.choice(_ENDS.split())


def _pipes(options: str) -> list[str]:
    return options.split("|")


def _pick(rng: random.Random, options: str) -> str:
    return rng.choice(_pipes(options))


def _title(rng: random.Random) -> str:
    title = f"{rng.choice(_ADJECTIVES.split())} {rng.choice(_NOUNS.split())}"
    return rng.choice((f"The {title}", title, _word(rng), f"{_word(rng)} {title.split()[1]}"))


def _date(rng: random.Random) -> str:
    month = _pick(rng, _MONTHS)
    day, year = rng.randint(1, 28), rng.randint(1950, 2022)
    return rng.choice((f"{month} {day}, {year}", f"{day} {month} {year}", f"{month} {day}"))


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTVX") for _ in range(rng.randint(2, 4)))
    return rng.choice(
        (letters, f"{letters}-{rng.randint(10, 999)}", f"{letters}{rng.randint(1, 99)}")
    )


def _person(rng: random.Random) -> str:
    return rng.choice((f"{rng.choice(_FIRST.split())} {_word(rng)}", _word(rng)))


def _pseudo(rng: random.Random) -> str:
    """Make one or two words of random letters, so that only copying can reproduce them."""

    def syllable() -> str:
        end = rng.choice("nrslmtkp") if rng.random() < 0.4 else ""
        return rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiouy") + end

    words = [
        "".join(syllable() for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 2))
    ]
    text = " ".join(words)
    return text if rng.random() < 0.3 else text.title()


def _pool_value(pool: str, rng: random.Random) -> str:
    makers: dict[str, Callable[[], str]] = {
        "word": lambda: _word(rng),
        "city": lambda: _word(rng),
        "work": lambda: _title(rng),
        "pseudo": lambda: _pseudo(rng),
        "person": lambda: _person(rng),
        "place": lambda: f"{_word(rng)} {_pick(rng, _PLACES)}",
        "org": lambda: f"{_word(rng)} {_pick(rng, _ORGS)}",
        "team": lambda: f"{_word(rng)} {_pick(rng, _TEAMS)}",
        "country": lambda: _pick(rng, _COUNTRIES),
        "language": lambda: _pick(rng, _LANGUAGES),
        "color": lambda: _pick(rng, _COLORS),
        "date": lambda: _date(rng),
        "code": lambda: _code(rng),
        "score": lambda: f"{rng.randint(0, 9)}-{rng.randint(0, 9)}",
    }
    return makers[pool]()


def _parse_column(spec: str) -> Column:
    spec_body, _, tail = spec.partition(":")
    for mark, kind in (("#", "number"), ("~", "year")):
        if mark in spec_body:
            name, _, span = spec_body.partition(mark)
            low, _, high = span.partition("-")
            most, _, least = tail.partition(",")
            return Column(name, kind, low=int(low), high=int(high), most=most, least=least)
    if "=" in spec_body:
        name, _, values = spec_body.partition("=")
        return Column(name, "text", values=tuple(values.split("/")))
    return Column(spec_body, "text", pool=tail)


def _parse_domain(line: str) -> Domain:
    tables, noun, nouns, columns = line.split("|")
    parsed = tuple(_parse_column(spec) for spec in columns.split(";"))
    return Domain(tuple(tables.split(",")), noun, nouns, parsed)


def training_domains() -> list[Domain]:
    """Return the domains from which training questions are generated."""
    return [_parse_domain(line) for line in _TRAINING.read_text().splitlines()]


def held_out() -> list[Question]:
    """Return the 40 held-out questions."""
    questions: list[Question] = []
    for block in _HELD_OUT.read_text().split("\n\n"):
        head, *pairs = block.strip().splitlines()
        domain = _parse_domain(head)
        table = Table(domain.tables[0], domain.noun, domain.nouns, domain.columns)
        for pair in pairs:
            text, _, gold = pair.strip().partition(" => ")
            questions.append(Question(table, text, gold))
    return questions


def demo_prompts() -> list[str]:
    """Return four held-out prompts of different kinds for a side-by-side demo."""
    questions = held_out()
    return [questions[index].prompt for index in (0, 5, 8, 34)]


def check_disjoint() -> None:
    """Raise ValueError when a held-out table or column name can occur in training."""
    domains = training_domains()
    tables = {name for domain in domains for name in domain.tables}
    tables |= {f"table_name_{number}" for number in _table_numbers()}
    columns = {column.name for domain in domains for column in domain.columns}
    columns |= {*_invented_names(_MEASURES), *_invented_names(_ROLES)}
    for question in held_out():
        shared = {question.table.name} & tables | {c.name for c in question.table.columns} & columns
        if shared:
            message = f"held-out names occur in training: {sorted(shared)}"
            raise ValueError(message)


# --- generating training questions -------------------------------------------------------------


def _table_numbers() -> list[int]:
    # The numbers of the held-out tables called table_name_N stay out of training.
    return [number for number in range(1, 100) if number not in (31, 74)]


def _phrase(column: Column, rng: random.Random) -> str:
    """Say the column as a question would: words, at times without the unit."""
    name = column.name
    if rng.random() < 0.6:
        for unit in UNITS:
            name = name.removesuffix(unit)
    return name.replace("_", " ")


def _value(column: Column, rng: random.Random) -> str:
    if not column.is_text:
        return str(rng.randint(column.low, column.high))
    value = rng.choice(column.values) if column.values else _pool_value(column.pool, rng)
    # The query must copy a value as the question writes it, in lower case too.
    return value.lower() if rng.random() < 0.1 else value


def _literal(column: Column, value: str) -> str:
    return f"'{value}'" if column.is_text else value


def _invented_names(parts: str) -> list[str]:
    words = _pipes(parts)
    return words + [f"{first}_{word}" for first in _pipes(_QUALIFIERS) for word in words]


def _invent(like: Column, rng: random.Random) -> Column:
    """Invent a column of the same kind as the given one."""
    if like.is_text:
        pool = _pick(rng, _INVENTED_POOLS)
        return Column(rng.choice(_invented_names(_ROLES)), "text", pool=pool)
    name = rng.choice(_invented_names(_MEASURES))
    return Column(name, "number", low=1, high=rng.choice((50, 900, 20000)))


def _with_inventions(
    columns: list[Column], key: Column, share: float, rng: random.Random
) -> list[Column]:
    """Replace a share of the columns, and the values of the key, by invented ones."""
    made: list[Column] = []
    for column in columns:
        new = column
        if rng.random() < share and column.name == key.name:
            new = replace(column, pool="pseudo", values=())
        elif rng.random() < share and column.name != key.name:
            new = _invent(column, rng)
        made.append(column if new.name in {c.name for c in made} else new)
    return made


def _sample_table(domains: list[Domain], rng: random.Random, invented: float) -> Table:
    domain = rng.choice(domains)
    key, others = domain.columns[0], list(domain.columns[1:])
    if rng.random() < 0.35:
        # Columns of another subject: the model must read the schema, not remember subjects.
        taken = {column.name for column in domain.columns}
        strangers = [c for c in rng.choice(domains).columns[1:] if c.name not in taken]
        others += rng.sample(strangers, min(2, len(strangers)))
    count = 1 if rng.random() < 0.08 else rng.randint(2, min(5, len(others)))
    chosen = [key, *rng.sample(others, count)]
    if rng.random() < 0.4:
        rng.shuffle(chosen)
    if invented:
        chosen = _with_inventions(chosen, key, invented, rng)
    numbered = rng.random() < 0.3
    name = f"table_name_{rng.choice(_table_numbers())}" if numbered else rng.choice(domain.tables)
    text_type = "VARCHAR" if rng.random() < 0.9 else "TEXT"
    return Table(name, domain.noun, domain.nouns, tuple(chosen), text_type)


def _choose(rng: random.Random, templates: str) -> str:
    """Choose one of the templates, one a line."""
    return rng.choice(templates.strip().splitlines()).strip()


def _fill(rng: random.Random, template: str, **parts: str) -> str:
    """Fill the template, with some variety in case and punctuation."""
    text = template.format(**parts)
    if rng.random() < 0.2:
        text = text.rstrip("?.")
    return text if rng.random() < 0.1 else text[0].upper() + text[1:]


@dataclass(frozen=True)
class _Picker:
    """What the question makers choose from: the table, its key column and a random source."""

    table: Table
    key: Column
    rng: random.Random

    def text(self, *avoid: Column) -> Column:
        """Choose a text column, the key only if nothing else is left."""
        options = [c for c in self.table.columns if c.is_text and c not in avoid]
        others = [c for c in options if c != self.key]
        return self.rng.choice(others or options or [self.key])

    def number(self, *avoid: Column) -> Column:
        """Choose a number column; IndexError when there is none."""
        return self.rng.choice([c for c in self.table.columns if not c.is_text and c not in avoid])

    def any(self, *avoid: Column) -> Column:
        """Choose any column but the given ones."""
        return self.rng.choice([c for c in self.table.columns if c not in avoid])


_ABOVE = "above|over|greater than|higher than|more than"
_BELOW = "below|under|less than|lower than|smaller than"


def _comparison(rng: random.Random, column: Column) -> tuple[str, str]:
    if column.kind == "year" and rng.random() < 0.7:
        return rng.choice(
            (("after", ">"), ("before", "<"), ("later than", ">"), ("earlier than", "<"))
        )
    return rng.choice(
        (
            *((word, ">") for word in _pipes(_ABOVE)),
            *((word, "<") for word in _pipes(_BELOW)),
            ("of at least", ">="),
            ("of at most", "<="),
        )
    )


def _equal(p: _Picker) -> tuple[str, str]:
    where = p.key if p.rng.random() < 0.45 else p.any()
    select = p.any(where) if where == p.key or p.rng.random() < 0.6 else p.key
    value = _value(where, p.rng)
    general = """
        What is the {c} when the {d} is {v}?
        Which {c} has a {d} of {v}?
        What {c} has {v} as the {d}?
        Tell me the {c} with {d} of {v}
        Find the {c} with a {d} of {v}.
        Name the {c} where the {d} is {v}
        What is the {c} of the {n} whose {d} is {v}?
        Which {c} goes with the {d} {v}?
        What are the {c} values for a {d} of {v}?
        Give the {c} of the {n} that has the {d} {v}.
    """
    by_key = """
        What is the {c} of {v}?
        What is the {c} of the {n} {v}?
        What was the {c} of {v}?
        Name the {c} for {v}
        Name the {c} of {v}
        Give me the {c} of the {n} called {v}.
        Who is the {c} of {v}?
        Who was the {c} of the {n} {v}?
        In which {c} is {v}?
        Which {c} does {v} have?
        For {v}, what is the {c}?
        What {c} does the {n} {v} have?
        Tell me the {c} for {v}
    """
    listing = """
        List the {ns} with the {d} {v}.
        Which {ns} have a {d} of {v}?
        Which {ns} are from the {d} {v}?
        Which {n} has {v} as its {d}?
        Show all {ns} whose {d} is {v}.
        Which {ns} have {v} {d}?
        Find the {ns} that have {d} {v}
    """
    templates = general
    if where == p.key and p.rng.random() < 0.8:
        templates = by_key
    elif where.pool in ("person", "work", "place", "team") and p.rng.random() < 0.3:
        templates = "Name the {c} for {v}\nWhat is the {c} for {v}?\nTell me the {c} for {v}"
    elif select == p.key and p.rng.random() < 0.7:
        templates = listing
    text = _fill(
        p.rng,
        _choose(p.rng, templates),
        c=_phrase(select, p.rng),
        d=_phrase(where, p.rng),
        v=value,
        n=p.table.noun,
        ns=p.table.nouns,
    )
    return text, f"SELECT {select.name} FROM {p.table.name} WHERE {where.name} = " + _literal(
        where, value
    )


def _two_conditions(p: _Picker) -> tuple[str, str]:
    first = p.text(p.key)
    second = p.any(first, p.key)
    value, other = _value(first, p.rng), _value(second, p.rng)
    compare = not second.is_text and p.rng.random() < 0.7
    words, sign = _comparison(p.rng, second) if compare else ("of", "=")
    templates = """
        Which {c} has a {d} of {v} and a {e} {w} {u}?
        Which {n} has {v} as the {d} and a {e} {w} {u}?
        Which {ns} have {v} as the {d} and have a {e} {w} {u}?
        List the {ns} with the {d} {v} and a {e} {w} {u}.
        What is the {c} with a {d} of {v} and a {e} {w} {u}?
        Show the {c} when the {d} is {v} and the {e} is {w} {u}
        Find the {c} of {ns} that have {d} {v} and {e} {w} {u}.
        Name the {c} that has a {e} {w} {u} and a {d} of {v}
        List the {ns} of {v} with a {e} {w} {u}.
    """
    if second.is_text and p.rng.random() < 0.4:
        templates = """
            List the {ns} in {v} with a {u} {e}.
            Which {n} has the {d} {v} and the {e} {u}?
            Which {ns} by {v} have {u} as the {e}?
            Which {ns} have {v} as the {d} and {u} as the {e}?
            Which {n} in {v} was given {u} as the {e}?
        """
    template = _choose(p.rng, templates)
    plain = "{c}" not in template or p.rng.random() < 0.5
    select = p.key if plain else p.any(first, second)
    text = _fill(
        p.rng,
        template,
        c=_phrase(select, p.rng) if select != p.key or p.rng.random() < 0.5 else p.table.noun,
        d=_phrase(first, p.rng),
        e=_phrase(second, p.rng),
        v=value,
        u=other,
        w=words,
        n=p.table.noun,
        ns=p.table.nouns,
    )
    left, right = (
        f"{first.name} = {_literal(first, value)}",
        f"{second.name} {sign} {_literal(second, other)}",
    )
    mentioned = sorted((left, right), key=lambda part: text.find(value if part is left else other))
    return text, f"SELECT {select.name} FROM {p.table.name} WHERE {' AND '.join(mentioned)}"


def _compare(p: _Picker) -> tuple[str, str]:
    column = p.number()
    value = _value(column, p.rng)
    words, sign = _comparison(p.rng, column)
    verb_words = words.removeprefix("of ")
    if column.kind == "year":
        templates = """
            Which {ns} have a {d} {w} {v}?
            Which {ns} were {d} {x} {v}?
            List the {ns} {d} {x} {v}.
            Which {ns} had their {d} {x} {v}?
            Show the {c} of {ns} with a {d} {w} {v}.
            What is the {c} when the {d} is {x} {v}?
        """
    else:
        templates = """
            Which {ns} have a {d} {w} {v}?
            Which {ns} have {m} {v} {d}?
            List the {ns} with {m} {v} {d}.
            Find the {c} of the {ns} whose {d} is {x} {v}
            What {c} has a {d} {w} {v}?
            Show all {ns} with a {d} {w} {v}.
            What is the {c} when the {d} is {x} {v}?
        """
    more = {
        ">": ("more than", "over"),
        "<": ("fewer than", "less than"),
        ">=": ("at least", "no fewer than"),
        "<=": ("at most", "no more than"),
    }
    template = _choose(p.rng, templates)
    select = p.any(column) if "{c}" in template else p.key
    text = _fill(
        p.rng,
        template,
        c=_phrase(select, p.rng),
        d=_phrase(column, p.rng),
        w=words,
        x=verb_words,
        m=p.rng.choice(more[sign]),
        v=value,
        ns=p.table.nouns,
    )
    return text, f"SELECT {select.name} FROM {p.table.name} WHERE {column.name} {sign} {value}"


def _count(p: _Picker) -> tuple[str, str]:
    n, ns, table = p.table.noun, p.table.nouns, p.table.name
    roll = p.rng.random()
    if roll < 0.12:
        templates = """
            How many {ns} are there?
            How many {ns} are in the table?
            Count the {ns}.
            What is the total number of {ns}?
            How many {ns} are listed in total?
        """
        return _fill(p.rng, _choose(p.rng, templates), ns=ns), f"SELECT COUNT(*) FROM {table}"
    column = p.any(p.key)
    value = _value(column, p.rng)
    if roll < 0.22:
        templates = """
            How many different {d} values are there?
            How many distinct {d} values are in the table?
            Count the different {d} values
        """
        text = _fill(p.rng, _choose(p.rng, templates), d=_phrase(column, p.rng))
        return text, f"SELECT COUNT(DISTINCT {column.name}) FROM {table}"
    if roll < 0.35 and column.is_text and len(p.table.columns) > 2:
        return _count_two(p, column, value)
    words, sign = ("of", "=")
    if not column.is_text:
        words, sign = _comparison(p.rng, column)
    templates = """
        How many {ns} have a {d} {w} {v}?
        What is the number of {ns} with a {d} {w} {v}?
        Count the {ns} with a {d} {w} {v}.
        How many {ns} are there with a {d} {w} {v}?
    """
    if column.is_text and p.rng.random() < 0.6:
        templates = """
            How many {ns} have {v} as the {d}?
            How many {ns} have the {d} {v}?
            How many {ns} are there whose {d} is {v}?
            How many {ns} are from the {d} {v}?
            How many {ns} are in the {d} {v}?
            How many {ns} with the {d} {v} are there?
            How many {ns} by the {d} {v} are there?
            Count how many {ns} are a {d} of {v}
        """
    text = _fill(
        p.rng, _choose(p.rng, templates), n=n, ns=ns, d=_phrase(column, p.rng), v=value, w=words
    )
    condition = f"{column.name} {sign} {_literal(column, value)}"
    return text, f"SELECT COUNT(*) FROM {table} WHERE {condition}"


def _count_two(p: _Picker, first: Column, value: str) -> tuple[str, str]:
    second = p.any(p.key, first)
    other = _value(second, p.rng)
    words, sign = ("of", "=") if second.is_text else _comparison(p.rng, second)
    templates = """
        How many {ns} have a {d} of {v} and a {e} {w} {u}?
        How many {ns} with the {d} {v} have a {e} {w} {u}?
        How many {ns} by {v} have a {e} {w} {u}?
        How many {ns} in {v} have a {e} {w} {u}?
        Count the {ns} that have {v} as the {d} and a {e} {w} {u}
    """
    text = _fill(
        p.rng,
        _choose(p.rng, templates),
        ns=p.table.nouns,
        d=_phrase(first, p.rng),
        e=_phrase(second, p.rng),
        v=value,
        u=other,
        w=words,
    )
    gold = f"SELECT COUNT(*) FROM {p.table.name} WHERE {first.name} = {_literal(first, value)}"
    return text, f"{gold} AND {second.name} {sign} {_literal(second, other)}"


_AGGREGATES = (
    ("MAX", "highest|maximum|largest|greatest|biggest"),
    ("MIN", "lowest|minimum|smallest|least"),
    ("AVG", "average|mean"),
    ("SUM", "total|sum of the|combined|total number of"),
)


def _aggregate(p: _Picker) -> tuple[str, str]:
    column = p.number()
    function, names = p.rng.choice(_AGGREGATES[:3] if column.kind == "year" else _AGGREGATES)
    parts = {"a": _pick(p.rng, names), "c": _phrase(column, p.rng), "ns": p.table.nouns}
    gold = f"SELECT {function}({column.name}) FROM {p.table.name}"
    if p.rng.random() < 0.35:
        templates = """
            What is the {a} {c}?
            What is the {a} {c} of all {ns}?
            Find the {a} {c} of the {ns}.
            Give the {a} {c}
            What was the {a} {c} in the table?
        """
        return _fill(p.rng, _choose(p.rng, templates), **parts), gold
    where = p.text(column)
    value = _value(where, p.rng)
    templates = """
        What is the {a} {c} when the {d} is {v}?
        What is the {a} {c} of {ns} with a {d} of {v}?
        What is the {a} {c} for the {d} {v}?
        What is the {a} {c} of the {ns} in {v}?
        What is the {a} {c} of {ns} that have {v} as the {d}?
        What was the {a} {c} for {v}?
        Find the {a} {c} of the {v} {ns}.
        What is the {a} {c} among the {ns} with the {d} {v}?
        What is the {a} {c} among {v} {ns}?
        Give the {a} {c} with {v} as the {d}
    """
    text = _fill(p.rng, _choose(p.rng, templates), **parts, d=_phrase(where, p.rng), v=value)
    return text, f"{gold} WHERE {where.name} = {_literal(where, value)}"


def _order(p: _Picker) -> tuple[str, str]:
    column = p.number()
    down = p.rng.random() < 0.6
    high = "highest|largest|greatest|biggest|most" if column.kind == "number" else "latest|highest"
    low = "lowest|smallest|least|fewest" if column.kind == "number" else "earliest|lowest"
    superlative = column.most if down else column.least
    parts = {
        "h": _pick(p.rng, high if down else low),
        "s": superlative,
        "d": _phrase(column, p.rng),
        "n": p.table.noun,
        "ns": p.table.nouns,
        "k": str(p.rng.randint(2, 9)),
    }
    order = f" ORDER BY {column.name} {'DESC' if down else 'ASC'}"
    roll = p.rng.random()
    if roll < 0.6:
        return _order_one(p, parts, order)
    if roll < 0.85:
        templates = """
            List the {k} {ns} with the {h} {d}.
            Show the {k} {ns} with the {h} {d}
            Which {k} {ns} have the {h} {d}?
            Name the {k} {ns} that have the {h} {d}.
        """
        if down and p.rng.random() < 0.5:
            templates = """
                List the top {k} {ns} by {d}.
                Show the top {k} {ns} by {d}
                What are the top {k} {ns} in {d}?
            """
        limit = f" LIMIT {parts['k']}"
    else:
        limit = ""
        templates = """
            List all {ns} sorted by {d} from high to low.
            Show the {ns} ordered by {d} in descending order
        """
        if not down:
            templates = """
                List all {ns} sorted by {d} from low to high.
                Show the {ns} ordered by {d} in ascending order
                List the {ns} sorted by {d}.
            """
    text = _fill(p.rng, _choose(p.rng, templates), **parts)
    return text, f"SELECT {p.key.name} FROM {p.table.name}{order}{limit}"


def _order_one(p: _Picker, parts: dict[str, str], order: str) -> tuple[str, str]:
    templates = """
        Which {n} has the {h} {d}?
        What {n} has the {h} {d}?
        Name the {n} with the {h} {d}
        Find the {n} that has the {h} {d}.
        Which of the {ns} has the {h} {d}?
        What is the {c} of the {n} with the {h} {d}?
        Which {c} has the {h} {d}?
    """
    if parts["s"] and p.rng.random() < 0.3:
        templates = "Which {n} is the {s}?\nWhat is the {s} {n}?\nName the {s} {n}"
    template, where = _choose(p.rng, templates), ""
    select = p.any() if "{c}" in template and p.rng.random() < 0.5 else p.key
    if select.name in order:
        select = p.key
    if p.rng.random() < 0.35:
        column = p.text(p.key, select)
        value = _value(column, p.rng)
        clause = "with the {e} {v}|with {v} as the {e}|in {v}|by {v}|whose {e} is {v}"
        parts = {**parts, "e": _phrase(column, p.rng), "v": value}
        template = template.replace("{n}", "{n} " + _pick(p.rng, clause), 1)
        if "{v}" in template:
            where = f" WHERE {column.name} = {_literal(column, value)}"
    text = _fill(p.rng, template, **parts, c=_phrase(select, p.rng))
    return text, f"SELECT {select.name} FROM {p.table.name}{where}{order} LIMIT 1"


def _group(p: _Picker) -> tuple[str, str]:
    by = p.text(p.key)
    numbers = [c for c in p.table.columns if c.kind == "number" and c != by]
    if not numbers or p.rng.random() < 0.5:
        templates = """
            How many {ns} are there for each {d}?
            Count the {ns} per {d}.
            What is the number of {ns} for each {d}?
            For each {d}, how many {ns} are there?
            Show the number of {ns} in each {d}
        """
        text = _fill(p.rng, _choose(p.rng, templates), ns=p.table.nouns, d=_phrase(by, p.rng))
        return text, f"SELECT {by.name}, COUNT(*) FROM {p.table.name} GROUP BY {by.name}"
    column = p.rng.choice(numbers)
    function, names = p.rng.choice(_AGGREGATES)
    templates = """
        What is the {a} {c} for each {d}?
        Show the {a} {c} per {d}.
        For each {d}, what is the {a} {c}?
        What is the {a} {c} of the {ns} by {d}?
    """
    text = _fill(
        p.rng,
        _choose(p.rng, templates),
        a=_pick(p.rng, names),
        c=_phrase(column, p.rng),
        d=_phrase(by, p.rng),
        ns=p.table.nouns,
    )
    selected = f"{by.name}, {function}({column.name})"
    return text, f"SELECT {selected} FROM {p.table.name} GROUP BY {by.name}"


def _question(table: Table, key: Column, rng: random.Random) -> Question:
    makers: dict[Callable[[_Picker], tuple[str, str]], int] = {
        _equal: 32,
        _two_conditions: 16,
        _count: 14,
        _aggregate: 14,
        _order: 14,
        _compare: 10,
        _group: 6,
    }
    if all(column.is_text for column in table.columns):
        makers = {m: w for m, w in makers.items() if m not in (_aggregate, _order, _compare)}
    if len(table.columns) < 3:
        del makers[_two_conditions]
    maker = rng.choices(list(makers), weights=list(makers.values()))[0]
    text, gold = maker(_Picker(table, key, rng))
    return Question(table, text, gold)


def training_groups(
    rng: random.Random, size: int, invented: float = 0.0
) -> Iterator[list[Question]]:
    """Yield groups of `size` questions over one table each, without end.

    `invented` is the share of columns that get an invented name and values of random letters.
    """
    domains = training_domains()
    keys = {domain.nouns: domain.columns[0].name for domain in domains}
    while True:
        table = _sample_table(domains, rng, invented)
        key = next(column for column in table.columns if column.name == keys[table.nouns])
        yield [_question(table, key, rng) for _ in range(size)]


# --- checking an answer ------------------------------------------------------------------------


def completion(question: Question) -> str:
    """Return the text to learn after the prompt, the stop string included."""
    return f" {question.gold} {STOP}"


def cut(text: str) -> str:
    """Return the text before the stop string, without surrounding space."""
    return text.split(STOP, 1)[0].strip()


def _rows(columns: tuple[Column, ...], rng: random.Random) -> list[tuple[str | int, ...]]:
    """Make rows in which no number of a column occurs twice, so that no answer is a tie."""
    size = len(columns[0].values)
    made: list[list[str | int]] = []
    for position, column in enumerate(columns):
        if not column.is_text:
            made.append(list(rng.sample(range(column.low, column.high + 1), size)))
        elif position == 0 or len(column.values) >= size:
            made.append(list(rng.sample(column.values, size)))
        else:
            made.append([rng.choice(column.values) for _ in range(size)])
    return list(zip(*made, strict=True))


def _database(table: Table, seed: int) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(table.schema())
    marks = ", ".join("?" for _ in table.columns)
    rows = _rows(table.columns, random.Random(seed))
    connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
    # A query may be anything at all: a limit on its work keeps it from running on for ever.
    connection.set_progress_handler(lambda: 1, SQLITE_STEPS)
    return connection


def _result(connection: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = connection.execute(query).fetchall()
    rounded = [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in rows]
    return rounded


def _databases(question: Question) -> Iterator[sqlite3.Connection]:
    """Yield tables over which the gold query has an answer without NULL, in a fixed order."""
    found = 0
    for seed in range(2000):
        connection = _database(question.table, seed)
        rows = _result(connection, question.gold)
        if rows and all(value not in (None, 0) for row in rows for value in row):
            found += 1
            yield connection
        connection.close()
        if found == TABLES_PER_CHECK:
            return
    message = f"no table gives an answer to {question.gold}"
    raise ValueError(message)


def check(question: Question, completion_text: str) -> bool:
    """Tell whether the answer is one SELECT with the gold query's rows, on several tables."""
    query = cut(completion_text)
    if not query.upper().startswith("SELECT"):
        return False
    for connection in _databases(question):
        expected = _result(connection, question.gold)
        try:
            got = _result(connection, query)
        except (sqlite3.Error, sqlite3.Warning):
            return False
        if "ORDER BY" not in question.gold:
            expected, got = sorted(expected, key=repr), sorted(got, key=repr)
        if expected != got:
            return False
    return True
