"""Recipes: the ones that come along say what the papers say, and a wrong one is named with what was meant."""

from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import Recipe, as_trained, load_recipe
from ripcurrent.finetune._recipe import RECIPES, parse_recipe
from ripcurrent.finetune._trainer import _lora
from tests.finetune.runs import total_steps

COMMON = {"optimizer": "adamw", "compute": "auto", "weight_decay": 0.0}
SAID: dict[str, dict[str, Any]] = {
    "paper": {"method": "full", "learning_rate": 5e-5, "batch": 20, "epochs": 5, "schedule": "step", "gamma": 0.85},
    "lora": {"method": "lora", "r": 8, "target": "all-linear", "learning_rate": 1e-4, "batch": 16, "epochs": 3}
    | {"schedule": "linear", "warmup": 0.1},
    "embedded": {"method": "full", "learning_rate": 4e-5, "batch": 20, "epochs": 3, "schedule": "constant"}
    | {"warmup": 0.0},
}
"""By recipe: what the paper, its peers and the runs that chose it say."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_comes_along_says_what_its_source_says_and_in_full(name):
    recipe = load_recipe(name)
    keys = recipe.model_dump()
    wanted = {"name": name, **COMMON, **SAID[name]}
    assert {key: keys[key] for key in wanted} == wanted
    assert Recipe(**keys) == recipe
    assert total_steps(recipe, 100) == {"paper": 25, "lora": 21, "embedded": 15}[name]


def test_a_file_is_read_and_named_after_itself(tmp_path):
    file = tmp_path / "slow.yaml"
    # without a point YAML reads 1e-6 as text
    file.write_text("method: full\nlearning_rate: 1e-6\nbatch: 8\nsteps: 30\naccumulation: 4\n")
    recipe = load_recipe(file)
    assert (recipe.name, recipe.learning_rate, recipe.part, recipe.steps) == ("slow", 1e-6, 2, 30)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("papre", None, ("'papre'", "Did you mean paper?", "paper, lora, embedded")),
        ("zzz", None, ("There is no recipe 'zzz'.\n", "or a .yaml file")),
        ("nowhere.yaml", None, ("no recipe file", "nowhere.yaml.\n")),
        ("odd.yml", "method: [full", ("odd.yml", "not YAML, line 1", "key: value")),
        *(("odd.yml", text, ("odd.yml", "no keys and values")) for text in ("", "1: full\n")),
    ],
)
def test_a_recipe_that_is_not_there_or_is_none(name, text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(RipcurrentError) as caught:
        load_recipe(name)
    for part in says:
        assert part in str(caught.value)


GOOD: dict[str, Any] = {"method": "full", "learning_rate": 1e-5, "batch": 20, "epochs": 3}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": None}, ("learning_rate is missing",)),
        ({"learning_rate": None, "learning_rte": 1}, ("no key 'learning_rte'", "Did you mean learning_rate?")),
        ({"method": "ful"}, ("method 'ful'", "'full' or 'lora'")),
        ({"batch": 0}, ("batch 0", "greater than or equal to 1")),
        ({"learning_rate": float("nan")}, ("learning_rate nan",)),
        ({"steps": 5}, ("either epochs or steps",)),
        ({"r": 8}, ("for method lora",)),
        ({"method": "lora"}, ("needs r",)),
        ({"schedule": "step"}, ("gamma and schedule step",)),
        ({"schedule": "step", "gamma": 0.5, "warmup": 0.1}, ("warmup is for",)),
        ({"accumulation": 3}, ("batch of 20", "3 equal parts")),
        ({"dropout": 0.1}, ("dropout and target are for method lora",)),
    ],
)
def test_what_cannot_be_is_named(changes, says):
    with pytest.raises(RipcurrentError) as caught:
        parse_recipe({k: v for k, v in {**GOOD, **changes}.items() if v is not None}, where="mine.yaml", name="mine")
    for part in ("mine.yaml", *says):
        assert part in str(caught.value)


def test_keys_of_memory_alone_are_no_other_training_and_dropout_is():
    keys = {"method": "lora", "r": 4, "learning_rate": 1e-3, "batch": 4, "epochs": 1}
    plain = Recipe(**keys)
    less = Recipe(**keys, accumulation=2, gradient_checkpointing=True)
    assert as_trained(less.model_dump()) == as_trained(plain.model_dump())
    assert as_trained(Recipe(**keys, dropout=0.1).model_dump()) != as_trained(plain.model_dump())
    # recipes that were kept before the key was there are the same without it
    assert "dropout" not in plain.model_dump(mode="json")
    assert _lora(Recipe(**keys, dropout=0.1)).lora_dropout == 0.1
