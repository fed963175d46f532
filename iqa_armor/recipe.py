"""The settings of one hardening: validated once, frozen, stored with the result."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from iqa_armor.errors import ArmorError, RecipeError, contents, reading
from iqa_armor.settings import BatchSize, Epochs, Flag, LearningRate, OneOf, Seed, SettingsModel

MOST_BYTES = 2**20
Precision = Literal["no", "bf16", "fp16"]
Activation = Literal["keep", "elu", "silu", "gelu", "sqish"]
ActivationScope = Literal["all", "new"]
Norms = Literal["auto", "frozen", "batch"]
Select = Literal["clean", "robust", "balanced"]
CRITERIA = OneOf("iqa_armor.pruning:CRITERIA")
TUNING = "Fine-tuning"


class Fitting(SettingsModel):
    """Steps of a fit, and what is kept of it."""

    panel: ClassVar[str] = TUNING
    error: ClassVar[type[ArmorError]] = RecipeError

    epochs: Epochs = Field(5, ge=0, le=10_000)
    # With 3e-4 pretrained networks forget: NIMA on CLIVE fell from a held-out SROCC of .56 (probe) to .25 in one epoch.
    learning_rate: LearningRate = Field(1e-4, gt=0, le=10)
    batch_size: BatchSize = Field(8, ge=2, le=65_536)
    weight_decay: float = Field(1e-4, ge=0, le=10, description="AdamW's, on weights of at least two dimensions.")
    loss: Annotated[str, OneOf("iqa_armor.training:LOSSES")] = Field(
        "plcc+mse", description="What is minimised; norm-in-norm is that of Li et al. 2020. Known are"
    )
    flip: bool = Field(True, description="Whether training images are mirrored at random.")
    precision: Precision = Field(
        "no", description="Arithmetic of the forward pass, mixed but for no, which is float32."
    )
    views: Annotated[Literal[1, 2, 4, 8], Flag(kind=int, metavar="1|2|4|8")] = Field(
        1,
        description="Views of an image whose scores are averaged: with its mirror image 2, with both moved by some "
        "pixels 4 or 8. A call takes so many times as long.",
    )
    seed: Seed = 0
    norms: Norms = Field(
        "auto",
        description="Statistics of batch norms: frozen, or those of each batch; auto freezes pretrained ones where "
        "batches have fewer than 32 images.",
    )
    clip: float = Field(
        1.0, ge=0, le=1e6, description="Longest gradient of a step, L2 over all weights; 0 clips nothing."
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of the weights' moving average, which is what is kept; 0 keeps the last."
    )
    select: Select = Field(
        "clean",
        description="What the best epoch has most of on the held-out tenth: SROCC on clean images, on images attacked "
        "to turn the ranking round, or the mean of both.",
    )


class Training(Fitting):
    """How a network is fitted to opinion scores."""

    panel: ClassVar[str] = "Defences by training"

    defense: Annotated[str, OneOf("iqa_armor.training:DEFENSES")] = Field(
        "none", description="Way of training. Known are"
    )
    teacher_weight: float = Field(
        2.0, ge=0, le=1e6, description="Factor of teacher's distance to the original's scores, of unit spread."
    )
    teacher_epsilon: float = Field(2.0, gt=0, le=255, description="Largest budget of teacher's attack, in 1/255.")
    teacher_steps: int = Field(2, ge=1, le=100, description="Steps of teacher's attack.")
    hinge_weight: float = Field(1.0, ge=0, le=1e6, description="Factor of hinge's penalty.")
    awp_size: float = Field(0.005, gt=0, le=1, description="How far awp moves weights, as a share of their length.")
    nt_weight: float = Field(1e-3, ge=0, le=1e6, description="Factor of nt's penalty.")
    nt_step: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Step of nt's difference, in the network's normalised pixels; of nt-scaled's in pixels of 0..1, "
        "where 0 takes the gradient itself, by double backward.",
    )
    at_epsilon: float = Field(
        4.0, gt=0, le=255, description="Radius of the attack of at and hinge in 1/255; its step is 5/4 of it."
    )
    activation: Activation = Field("keep", description="What takes the place of ReLU, ReLU6 and leaky ReLU.")
    activation_scope: ActivationScope = Field(
        "all",
        description="Whether in all layers or, with train --weights, only behind those that FILE has no weights for.",
    )

    @field_validator("defense")
    @classmethod
    def _needs_epochs(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("epochs") == 0:
            raise ValueError("needs at least one epoch, since it is a way of training")
        return value


class TrainSettings(Training):
    """Settings of the command that only trains."""

    epochs: Epochs = Field(6, ge=1, le=10_000)


class Recipe(Training):
    """Settings of one hardening, beside those of its fine-tuning."""

    panel: ClassVar[str] = "Surgery"

    # As in the recipe strong, but for half its epochs and for the views, which make calls longer.
    learning_rate: LearningRate = Field(2e-4, gt=0, le=10)
    batch_size: BatchSize = Field(16, ge=2, le=65_536)
    ema: float = Field(0.99, ge=0, lt=1, description=Training.model_fields["ema"].description)
    select: Select = Field("balanced", description=Training.model_fields["select"].description)
    defense: Annotated[str, OneOf("iqa_armor.training:DEFENSES")] = Field(
        "teacher", description=Training.model_fields["defense"].description
    )
    position: Annotated[str, Flag(metavar="PLACE")] = Field(
        "last",
        description="Where the block stands: the last cut, a cut's number, a node or module; none only prunes and "
        "fine-tunes.",
    )
    backend: Annotated[str, OneOf("iqa_armor.ortho:BACKENDS", ("auto",))] = Field(
        "cayley",
        description="Orthogonal convolution of the block; auto is aoc where cayley would make a call of this network "
        "more than a fifth longer. Known are",
    )
    init: Literal["random", "identity"] = Field(
        "random",
        description="First weights of the block: the paper's, or principal directions of calibration images, which "
        "keep the model's scores nearly as they are.",
    )
    pool: Literal["square", "none"] = Field(
        "square", description="Whether the block pools maps to squares, as the paper's, or keeps height and width."
    )
    taps: Literal["all", "trunk"] = Field(
        "all", description="Whether side readers of the tensor read the protected one."
    )
    prune: float = Field(0.10, ge=0, lt=1, description="Share of the channels to remove.")
    criterion: Annotated[str, CRITERIA] = Field(
        "taylor",
        description="Importance that decides which go: effect on the scores (taylor), size of the weights (l1, l2, the "
        "paper's), what 200 scored training images say (pls, hsic; distilled-pls, which ranks across layers), or "
        "chance. Known are",
    )
    prune_global: Annotated[bool, Flag(("--prune-global/--prune-local",))] = Field(
        False, description="Rank channels across layers or within each."
    )
    frontier: Annotated[int, Flag(panel=TUNING)] = Field(
        0,
        ge=0,
        le=100,
        description="Models to measure between the weights before and after fine-tuning, of which the best by "
        "--max-srocc-drop is kept and the others lie beside it; 0 keeps the fine-tuned one.",
    )
    max_srocc_drop: Annotated[float | None, Flag(panel=TUNING, shown="none")] = Field(
        None,
        ge=0,
        le=2,
        description="Of a frontier take the most robust model whose held-out SROCC is at most so far below the "
        "original's; without it the one with the largest mean of clean and worst-case SROCC.",
    )
    calibration: int = Field(64, ge=2, le=4096, description="Training images that statistics are taken from.")

    @field_validator("frontier")
    @classmethod
    def _has_two_ends(cls, value: int, info: ValidationInfo) -> int:
        if value == 1 or (value and info.data.get("epochs") == 0):
            raise ValueError("needs two models or more, and a fine-tuning between them")
        return value

    @field_validator("max_srocc_drop")
    @classmethod
    def _needs_a_frontier(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and not info.data.get("frontier"):
            raise ValueError("chooses among the models of a frontier; give --frontier 5 too")
        return value

    @field_validator("activation_scope")
    @classmethod
    def _has_no_new_layers(cls, value: ActivationScope) -> ActivationScope:
        if value == "new":
            raise ValueError("a model that is hardened has no new layers, so it can only be all")
        return value

    @field_validator("position", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="before")
    @classmethod
    def _ranked_across_layers(cls, values: Any) -> Any:
        if isinstance(values, dict) and _ranks_across_layers(values.get("criterion")):
            return {"prune_global": True, **values}
        return values

    @field_validator("prune_global")
    @classmethod
    def _not_within_layers(cls, value: bool, info: ValidationInfo) -> bool:
        criterion = info.data.get("criterion")
        if not value and _ranks_across_layers(criterion):
            raise ValueError(f"{criterion} ranks channels across layers; drop --prune-local or prune_global = false")
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
    with reading(path, RecipeError, says="is not TOML", advice="name a recipe as harden takes it"):
        try:
            content = contents(path, MOST_BYTES)
        except FileNotFoundError as error:
            raise RecipeError(
                f"there is no recipe {recipe}; name a TOML file, a model file that was made by one, or a shipped "
                f"recipe: {', '.join(shipped)}"
            ) from error
        return tomllib.loads(content.decode("utf-8"))


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name; the first line of each says what it is for."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}
