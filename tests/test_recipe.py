"""Recipes: defaults, validation, TOML."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from iqa_armor.errors import RecipeError
from iqa_armor.recipe import Recipe, read_recipe, shipped_recipes


def test_shipped_recipe_of_the_paper_is_the_papers() -> None:
    recipe = Recipe.read(read_recipe("paper"))
    chosen = (recipe.position, recipe.backend, recipe.init, recipe.pool, recipe.prune, recipe.criterion, recipe.epochs)
    assert chosen == ("last", "cayley", "random", "square", 0.10, "l2", 5)


def test_the_default_is_the_papers_surgery_with_the_training_of_strong() -> None:
    paper, strong, default = (Recipe.read(read_recipe(name) if name else {}) for name in ("paper", "strong", ""))
    surgery = {"position", "backend", "init", "pool", "taps", "prune", "epochs"}
    for name in Recipe.model_fields.keys() - {"criterion", "views"}:
        assert getattr(default, name) == getattr(paper if name in surgery else strong, name), name
    assert (paper.defense, paper.criterion, default.criterion, default.views) == ("none", "l2", "taylor", 1)


def test_a_control_differs_from_the_default_in_what_armors_alone() -> None:
    control, default = Recipe.read(read_recipe("control")), Recipe()
    changed = {name for name in Recipe.model_fields if getattr(control, name) != getattr(default, name)}
    assert changed == {"position", "prune", "defense", "select"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_recipes_that_say_what_for(name: str) -> None:
    assert Recipe.read(read_recipe(name), source=name)
    assert shipped_recipes()[name].read_text().startswith("# ")


def test_recipe_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe.read({}).epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epocs": 3}, "did you mean 'epochs'"),
        ({"prune": 1.0}, "prune: input should be less than 1, got 1.0"),
        ({"epochs": -1}, "epochs.*got -1"),
        ({"backend": "fourier"}, "backend: unknown backend 'fourier'; known are cayley, aoc, aol"),
        ({"batch_size": 1}, "batch_size"),
        ({"criterion": "best"}, "criterion: unknown criterion 'best'; known are taylor, l1, l2, pls, .*random"),
        ({"criterion": "distilled-pls", "prune_global": False}, "prune_global: .*ranks .* across layers"),
    ],
)
def test_wrong_settings_are_named_with_their_value(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.read(values)


def test_distilled_pls_ranks_across_layers_and_the_recipe_says_so() -> None:
    recipe = Recipe.read({"criterion": "distilled-pls"})
    assert recipe.prune_global
    assert Recipe.read(recipe.model_dump()) == recipe
    assert not Recipe.read({"criterion": "pls"}).prune_global


def test_toml_gives_settings_and_numbers_become_positions(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('position = 3\nbackend = "aol"\nepochs = 2\n')
    recipe = Recipe.read(read_recipe(path), source=str(path))
    assert (recipe.position, recipe.backend, recipe.epochs) == ("3", "aol", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [("epochs = ", "not TOML"), ("prun = 0.1", "did you mean 'prune'"), (None, "no recipe .* shipped recipe: .*paper")],
)
def test_unusable_file_is_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.read(read_recipe(path), source=str(path))
    assert "recipe.toml" in str(caught.value)
