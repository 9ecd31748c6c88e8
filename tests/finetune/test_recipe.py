"""Recipes: the ones that come along say what the papers say, and a wrong one is named with what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import RECIPES, Recipe, as_trained, load_recipe, parse_recipe
from ripcurrent.finetune._trainer import _lora


def test_the_paper_recipe_is_the_papers() -> None:
    paper = load_recipe("paper")
    assert (paper.name, paper.method, paper.optimizer) == ("paper", "full", "adamw")
    assert (paper.learning_rate, paper.batch, paper.epochs) == (5e-5, 20, 5)
    assert (paper.schedule, paper.gamma, paper.steps) == ("step", 0.85, None)
    assert paper.total_steps(100) == 25


def test_the_lora_recipe_is_the_peers() -> None:
    lora = load_recipe("lora")
    assert (lora.method, lora.r, lora.target) == ("lora", 8, "all-linear")
    assert (lora.learning_rate, lora.batch, lora.epochs, lora.warmup) == (1e-4, 16, 3, 0.1)


def test_the_embedded_recipe_is_the_feasibility_runs() -> None:
    embedded = load_recipe("embedded")
    assert (embedded.method, embedded.schedule, embedded.learning_rate) == ("full", "constant", 4e-5)
    assert (embedded.batch, embedded.epochs, embedded.warmup) == (20, 3, 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_computes_by_default_where_it_is_native_and_says_so_in_full(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.compute == "auto"
    assert Recipe(**recipe.model_dump()) == recipe


def test_a_file_is_read_and_named_after_itself(tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    # without a point YAML reads 1e-6 as text
    file.write_text("method: full\nlearning_rate: 1e-6\nbatch: 8\nsteps: 30\naccumulation: 4\n")
    recipe = load_recipe(file)
    assert (recipe.name, recipe.learning_rate, recipe.part, recipe.total_steps(5)) == ("slow", 1e-6, 2, 30)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("papre", ("'papre'", "Did you mean paper?", "paper, lora, embedded")),
        ("zzz", ("'zzz'", "or a .yaml file")),
        ("nowhere.yaml", ("nowhere.yaml", "no recipe file")),
    ],
)
def test_a_recipe_that_is_not_there(name: str, says: tuple[str, ...]) -> None:
    with pytest.raises(RipcurrentError) as caught:
        load_recipe(name)
    for part in says:
        assert part in str(caught.value)
    assert ("Did you mean" in str(caught.value)) == (name == "papre")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: [full", ("not YAML, line 1", "key: value")),
        ("- full\n", ("no keys and values",)),
        ("", ("no keys and values",)),
        ("1: full\n", ("no keys and values",)),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, says: tuple[str, ...]) -> None:
    file = tmp_path / "odd.yml"
    file.write_text(text)
    with pytest.raises(RipcurrentError) as caught:
        load_recipe(file)
    for part in (str(file), *says):
        assert part in str(caught.value)


GOOD: dict[str, Any] = {"method": "full", "learning_rate": 1e-5, "batch": 20, "epochs": 3}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rte": 1}, ("no key 'learning_rte'", "Did you mean learning_rate?")),
        ({"method": "ful"}, ("method 'ful'", "'full' or 'lora'")),
        ({"batch": 0}, ("batch 0", "greater than or equal to 1")),
        ({"learning_rate": -1}, ("learning_rate -1", "greater than 0")),
        ({"learning_rate": float("nan")}, ("learning_rate nan",)),
        ({"learning_rate": None}, ("learning_rate None",)),
        ({"max_grad_norm": float("inf")}, ("max_grad_norm inf", "finite")),
        ({"steps": 5}, ("either epochs or steps",)),
        ({"epochs": None}, ("either epochs or steps",)),
        ({"r": 8}, ("for method lora",)),
        ({"method": "lora"}, ("needs r",)),
        ({"schedule": "step"}, ("gamma and schedule step",)),
        ({"gamma": 0.5}, ("gamma and schedule step",)),
        ({"schedule": "step", "gamma": 0.5, "warmup": 0.1}, ("warmup is for",)),
        ({"accumulation": 3}, ("batch of 20", "3 equal parts")),
        ({"optimizer": "sgd"}, ("optimizer 'sgd'", "'adamw'")),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(RipcurrentError) as caught:
        parse_recipe({**GOOD, **changes}, where="mine.yaml", name="mine")
    for part in ("mine.yaml", *says):
        assert part in str(caught.value)


def test_a_missing_key_is_named() -> None:
    without = {"method": "full", "batch": 1, "epochs": 1}
    with pytest.raises(RipcurrentError, match="learning_rate is missing"):
        parse_recipe(without, where="mine.yaml", name="mine")
    with pytest.raises(RipcurrentError, match=r"no key 'learning_rte'\. Did you mean learning_rate\?"):
        parse_recipe({**without, "learning_rte": 1e-4}, where="mine.yaml", name="mine")


def test_keys_of_memory_alone_are_no_other_training_and_dropout_is() -> None:
    keys = {"method": "lora", "r": 4, "learning_rate": 1e-3, "batch": 4, "epochs": 1}
    plain = Recipe(**keys)
    less = Recipe(**keys, accumulation=2, gradient_checkpointing=True)
    assert as_trained(less.model_dump()) == as_trained(plain.model_dump())
    assert as_trained(Recipe(**keys, dropout=0.1).model_dump()) != as_trained(plain.model_dump())
    # recipes that were kept before the key was there are the same without it
    assert "dropout" not in plain.model_dump(mode="json")
    assert _lora(Recipe(**keys, dropout=0.1)).lora_dropout == 0.1
    with pytest.raises(ValueError, match="dropout and target are for method lora"):
        Recipe(**{**keys, "method": "full", "r": None}, dropout=0.1)
