"""Regular expressions of a config: PEFT's own matching, and never for long."""

from __future__ import annotations

import random
import re
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from plait_kernels.errors import AdapterError
from plait_lora.catalog import AdapterCatalog
from plait_lora.expressions import Expression, MatchTime
from plait_lora.peft_config import PeftConfig
from plait_lora.request import LoRARequest

BASE = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
KEYS = (
    *(f"model.layers.{i}.self_attn.{x}_proj" for i in (0, 1, 2, 10, 21) for x in "qkvo"),
    *(f"model.layers.{i}.mlp.{x}_proj" for i in (0, 1, 2, 10, 21) for x in ("up", "down")),
    "lm_head",
    "model.embed_tokens",
)

EXPRESSIONS = (
    r"^(?!.*vision).*(?:q_proj|v_proj)$",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]"
    r"{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|v_proj|up_proj)))",
    r".*\.(?<!embed_)\w+_proj",
    r"(?<=model)x|model\.layers\.(?P<n>\d)\.(?=self_attn).*",
    r".*layers\.(\d)\1?\..*",
    r".*layers\.(?P<d>\d)(?P=d)?\..*",
    r"(lm_head)?(?(1)|.*q_proj)",
    r"(?i)MODEL\.LAYERS\.0\..*",
    r"(?i:MODEL)\..*up_proj",
    r"(?x) model \. layers \. 1 \. .*  # the second layer",
    r"model\.layers\.(?>1|10)\..*",
    r"model\.layers\.\d++\..*",
    r"model\.layers\.[0-9]*?1\..*",
    r".*[[:alpha:]].*",
    r".*(?:q_pro){e<=1}j",
    r".*q_proj{e<=1}",
    r"[^]]+|[^.]+",
    r".*[a&&q]_proj",
    "",
    "model.layers.0.self_attn.q_proj",
    ".*",
)

LAYER_PATTERNS = ("layers", "layers|.*", "layer[s]", "", ["blocks", "layers"], "(?=l).*", "a{e<=1}")


def peft_config(**fields: Any) -> SimpleNamespace:
    settings = {
        "exclude_modules": None,
        "modules_to_save": None,
        "target_parameters": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    return SimpleNamespace(**settings | fields)


def selected(**fields: Any) -> list[str]:
    """The keys that a config selects."""
    selector = PeftConfig.parse(BASE | fields, "the adapter").selector
    return [key for key in KEYS if selector.selects(key, inner=True)]


def selected_by_peft(**fields: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft_config(**fields)
        return [key for key in KEYS if check_target_module_exists(config, key)]


@pytest.mark.filterwarnings("ignore:Possible")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_matches_as_in_peft(expression: str) -> None:
    assert selected(target_modules=expression) == selected_by_peft(target_modules=expression)
    names = ["q_proj", "v_proj", "lm_head"]
    excluding = {"target_modules": names, "exclude_modules": expression}
    assert selected(**excluding) == selected_by_peft(**excluding)
    try:
        re.compile(rf"(.*\.)?({expression})$")
    except re.error:  # a flag may stand at the start only
        with pytest.raises(AdapterError, match=r"rank_pattern has .* no regular expression"):
            PeftConfig.parse(BASE | {"rank_pattern": {expression: 7}}, "the adapter")
        return
    patterns = {"layers.0": 3, expression: 7, "q_proj": 9}
    config = PeftConfig.parse(BASE | {"rank_pattern": patterns}, "the adapter")
    for key in KEYS:
        assert config.rank_of(key) == patterns.get(get_pattern_key(list(patterns), key), 4)


@pytest.mark.parametrize("layers", [0, [0, 21], []])
@pytest.mark.parametrize("pattern", LAYER_PATTERNS)
def test_layers_are_found_as_in_peft(layers: object, pattern: object) -> None:
    fields = {
        "target_modules": ["q_proj", "model.layers.2.mlp.up_proj", "lm_head"],
        "layers_to_transform": layers,
        "layers_pattern": pattern,
    }
    assert selected(**fields) == selected_by_peft(**fields)


@pytest.mark.filterwarnings("ignore:Possible")
def test_random_expressions_match_as_in_re() -> None:
    generator = random.Random(0)
    atoms = [
        *"abq_.^$-#{}| ",
        *(r"\d", r"\w", r"\.", r"\b", r"\B", r"\A", r"\Z", r"\1", r"\x61", "layers", "proj"),
        *("[ab]", "[^a]", "[a-z_]", "[[:alpha:]]", "[a&&b]", "[]a]", "[^]]", r"[\w.]"),
        *("{e<=1}", "{,2}", "{1}", "{2}", "{0,3}", "{1,2}?", "{,}", "*", "+", "?", "*?", "++"),
        *("(?=a)", "(?!q)", "(?<=a)", r"(?<!\.)", "(?:", "(", "(?>", "(?i:", "(?s:.)", "(?#[)"),
        *(r"(?(1)a|b)", ")", ")", ")", "(?i)", "(?x) a #b\n", "K", "é"),
    ]
    keys = (*KEYS[:2], KEYS[-2], "a", "aab", "abab", "ab.ab", "a{e<=1}", "[:alpha:]", "aa{2")
    tried = 0
    for _ in range(1500):
        text = "".join(generator.choices(atoms, k=generator.randint(1, 8)))
        text += ")" * max(0, text.count("(") - text.count(")"))
        try:
            wanted = re.compile(text)
        except (re.error, OverflowError):
            with pytest.raises(AdapterError):
                Expression.parse(text, "a field", "the adapter", MatchTime())
            continue
        found = Expression.parse(text, "a field", "the adapter", MatchTime())
        tried += 1
        for key in keys:
            assert found.matches(key) == (wanted.match(key) is not None), (text, key)
            assert found.matches_all(key) == (wanted.fullmatch(key) is not None), (text, key)
    assert tried > 300


ENDLESS = {
    "target_modules": r"(?:(?:.|..)+)+[XY]",
    "exclude_modules": r"(?:(?:.|..)+)+[XY]",
    "rank_pattern": {r"(?:(?:.|..)+)+[XY]": 3},
    "alpha_pattern": {r"(?:(?:.|..)+)+[XY]": 3},
    "layers_pattern": r"(?:(?:.|..)+)+[XY]",
}


@pytest.mark.parametrize("field", ENDLESS)
def test_an_endless_expression_is_refused_while_other_threads_run(
    field: str,
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plait_lora.peft_config.MatchTime", lambda: MatchTime(0.3))
    config = {"target_modules": ["q_proj"], "layers_to_transform": [0]} | {field: ENDLESS[field]}
    if field == "target_modules":
        del config["layers_to_transform"]
    request = LoRARequest("slow", 1, str(write_adapter(tmp_path, config=config)))
    catalog = make_catalog()
    caught: list[BaseException] = []

    def resolve() -> None:
        try:
            catalog.resolve(request)
        except AdapterError as error:
            caught.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    turns = 0
    while thread.is_alive() and turns < 3000:
        time.sleep(0.01)
        turns += 1
    assert not thread.is_alive(), "it is interrupted"
    assert turns > 3, "this thread had its turns meanwhile"
    assert len(caught) == 1
    message = str(caught[0])
    assert "'slow' (id 1" in message
    assert f"{field} '(?:(?:.|..)+)+[XY]'" in message


def test_the_time_is_one_for_all_expressions_of_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait_lora.peft_config.MatchTime", lambda: MatchTime(0.3))
    # Each of them is quick enough for itself.
    patterns = {rf"(?:(?:.|..)+){{8}}[XY]{i}": 3 for i in range(1000)}

    def rank_all() -> None:
        config = PeftConfig.parse(BASE | {"rank_pattern": patterns}, "the adapter")
        for key in KEYS:
            config.rank_of(key)

    with pytest.raises(AdapterError, match="takes too long"):
        rank_all()


@pytest.mark.parametrize(
    "expression",
    [
        "a{1000000000}",
        "(a{1000}){1000}",
        "(?:(?:(?:x{999}){999}){999}){999}",
        "(" * 30_000,
        "(" * 400 + ")" * 400,
        "x" * 70_000,
        "(?<=a+)b",
        r"\p{L}",
        "(?r)a",
        "(?R)",
        "(?|a|b)",
    ],
    ids=lambda text: f"{text[:20]}, {len(text)}",
)
def test_what_is_no_expression_of_python_or_too_large_is_refused(expression: str) -> None:
    fields: list[dict[str, Any]] = [
        {"target_modules": expression},
        {"exclude_modules": expression},
        {"rank_pattern": {expression: 3}},
        {"alpha_pattern": {expression: 3}},
        {"layers_to_transform": [0], "layers_pattern": [expression]},
    ]
    for each in fields:
        if expression == "x" * 70_000 and "pattern" in "".join(each):
            continue  # there it is a name, which is only compared
        with pytest.raises(AdapterError, match=f"the adapter: {list(each)[-1]} has ") as caught:
            PeftConfig.parse(BASE | each, "the adapter")
        assert len(str(caught.value)) < 600


def test_names_of_every_module_as_patterns_cost_little() -> None:
    names = {f"model.layers.{i}.self_attn.{x}_proj": i + 1 for i in range(60) for x in "qkvo"}
    config = PeftConfig.parse(BASE | {"rank_pattern": names}, "the adapter")
    for name, rank in names.items():
        assert config.rank_of(name) == rank
        assert config.rank_of(f"inner.{name}") == rank
    dots = PeftConfig.parse(BASE | {"rank_pattern": {"q.proj": 7}}, "the adapter")
    assert dots.rank_of("self_attn.q_proj") == 7, "a dot of a pattern is any character"
    assert dots.rank_of("self_attn.qq.proj") == 4
