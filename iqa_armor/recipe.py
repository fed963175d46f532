"""The settings of one hardening: validated once, frozen, stored with the result."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from iqa_armor.errors import ArmorError, RecipeError, contents, reading
from iqa_armor.settings import Flag, OneOf, Seed, SettingsModel

MOST_BYTES = 2**20
Select = Literal["clean", "robust", "balanced"]
CRITERIA = OneOf("iqa_armor.pruning:CRITERIA")
TUNING = "Fine-tuning"
_NUMBERED = BeforeValidator(lambda value: str(value) if type(value) is int else value)


class Fitting(SettingsModel):
    """Steps of a fit, and what is kept of it."""

    panel: ClassVar[str] = TUNING
    error: ClassVar[type[ArmorError]] = RecipeError

    epochs: int = Field(5, ge=0, le=10_000)
    # With 3e-4 pretrained networks forget: NIMA on CLIVE fell from a held-out SROCC of .56 (probe) to .25 in one epoch.
    learning_rate: float = Field(1e-4, gt=0, le=10)
    batch_size: int = Field(8, ge=2, le=65_536)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    loss: Annotated[str, OneOf("iqa_armor.training:LOSSES")] = "plcc+mse"
    flip: bool = True
    precision: Literal["no", "bf16", "fp16"] = "no"
    views: Annotated[Literal[1, 2, 4, 8], Flag(kind=int)] = 1
    seed: Seed = 0
    norms: Literal["auto", "frozen", "batch"] = "auto"
    clip: float = Field(1.0, ge=0, le=1e6)
    ema: float = Field(0.0, ge=0, lt=1)
    select: Select = "clean"


class Training(Fitting):
    """How a network is fitted to opinion scores."""

    panel: ClassVar[str] = "Defences by training"

    defense: Annotated[str, OneOf("iqa_armor.training:DEFENSES")] = "none"
    teacher_weight: float = Field(2.0, ge=0, le=1e6)
    teacher_epsilon: float = Field(2.0, gt=0, le=255)
    teacher_steps: int = Field(2, ge=1, le=100)
    hinge_weight: float = Field(1.0, ge=0, le=1e6)
    awp_size: float = Field(0.005, gt=0, le=1)
    nt_weight: float = Field(1e-3, ge=0, le=1e6)
    nt_step: float = Field(0.01, ge=0, le=1)
    at_epsilon: float = Field(4.0, gt=0, le=255)
    activation: Literal["keep", "elu", "silu", "gelu", "sqish"] = "keep"
    activation_scope: Literal["all", "new"] = "all"

    @field_validator("defense")
    @classmethod
    def _needs_epochs(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("epochs") == 0:
            raise ValueError("needs at least one epoch, since it is a way of training")
        return value


class TrainSettings(Training):
    """Settings of the command that only trains."""

    epochs: int = Field(6, ge=1, le=10_000)


class Recipe(Training):
    """Settings of one hardening, beside those of its fine-tuning."""

    panel: ClassVar[str] = "Surgery"

    # As in the recipe strong, but for half its epochs and for the views, which make calls longer.
    learning_rate: float = Field(2e-4, gt=0, le=10)
    batch_size: int = Field(16, ge=2, le=65_536)
    ema: float = Field(0.99, ge=0, lt=1)
    select: Select = "balanced"
    defense: Annotated[str, OneOf("iqa_armor.training:DEFENSES")] = "teacher"
    position: Annotated[str, _NUMBERED] = "last"
    backend: Annotated[str, OneOf("iqa_armor.ortho:BACKENDS", ("auto",))] = "cayley"
    init: Literal["random", "identity"] = "random"
    pool: Literal["square", "none"] = "square"
    taps: Literal["all", "trunk"] = "all"
    prune: float = Field(0.10, ge=0, lt=1)
    criterion: Annotated[str, CRITERIA] = "taylor"
    prune_global: Annotated[bool, Flag(("--prune-global/--prune-local",))] = False
    share: Annotated[float, Flag(panel=TUNING)] = Field(1.0, gt=0, le=1)
    frontier: Annotated[int, Flag(panel=TUNING)] = Field(0, ge=0, le=100)
    max_srocc_drop: Annotated[float | None, Flag(panel=TUNING)] = Field(None, ge=0, le=2)
    calibration: int = Field(64, ge=2, le=4096)

    @model_validator(mode="before")
    @classmethod
    def _ranked_across_layers(cls, values: Any) -> Any:
        if isinstance(values, dict) and _ranks_across_layers(values.get("criterion")):
            return {"prune_global": True, **values}
        return values

    @field_validator("share", "frontier", "max_srocc_drop", "activation_scope", "prune_global")
    @classmethod
    def _goes_together(cls, value: Any, info: ValidationInfo) -> Any:
        name, given, problem = info.field_name, info.data, ""
        if name == "frontier" and (value == 1 or (value and given.get("epochs") == 0)):
            problem = "needs two models or more, and a fine-tuning between them"
        elif name == "share" and value < 1 and given.get("epochs") == 0:
            problem = "is a part of what fine-tuning changes, and there is none; give --epochs 5 too"
        elif name == "max_srocc_drop" and value is not None and not given.get("frontier"):
            problem = "chooses among the models of a frontier; give --frontier 5 too"
        elif name == "activation_scope" and value == "new":
            problem = "a model that is hardened has no new layers, so it can only be all"
        elif name == "prune_global" and not value and _ranks_across_layers(given.get("criterion")):
            problem = f"{given['criterion']} ranks channels across layers; drop --prune-local or prune_global = false"
        if problem:
            raise ValueError(problem)
        return value


def _ranks_across_layers(criterion: object) -> bool:
    """Return whether a word names a criterion that has to; a word that names none is refused elsewhere."""
    try:
        return isinstance(criterion, str) and bool(CRITERIA.registry().read(criterion).across_layers)
    except ArmorError:
        return False


def read_recipe(recipe: Path | str) -> dict[str, Any]:
    """Return the settings that a shipped recipe (its name) or a TOML file gives, unvalidated; else a RecipeError."""
    shipped, path = shipped_recipes(), shipped_recipes().get(str(recipe), Path(recipe))
    known = f"a TOML file, a model file that was made by one, or a shipped recipe: {', '.join(shipped)}"
    with reading(path, RecipeError, says="is not TOML", advice="name a recipe as harden takes it"):
        try:
            return tomllib.loads(contents(path, MOST_BYTES).decode("utf-8"))
        except FileNotFoundError as error:
            raise RecipeError(f"there is no recipe {recipe}; name {known}") from error


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name; the first line of each says what it is for."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}
