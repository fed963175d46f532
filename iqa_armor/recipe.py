"""The settings of one hardening: validated once, frozen, stored with the result."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from iqa_armor.errors import RecipeError

Loss = Literal["norm-in-norm", "plcc", "mse", "plcc+mse"]
Precision = Literal["no", "bf16", "fp16"]
Defense = Literal["none", "nt", "at"]
Activation = Literal["keep", "elu", "silu", "gelu", "sqish"]
ActivationScope = Literal["all", "new"]
Criterion = Literal["l1", "l2", "pls", "distilled-pls", "hsic", "random"]
T = TypeVar("T", bound=BaseModel)


class Training(BaseModel):
    """How a network is fitted to opinion scores.

    Attributes:
        epochs: Passes over the training images; 0 leaves the network as it is.
        learning_rate: Peak step size of AdamW; warmed up over the first tenth, then cosine to zero.
        batch_size: Images per step and process.
        weight_decay: AdamW's, on weights of at least two dimensions.
        loss: "norm-in-norm" (Li et al. 2020), "plcc", "mse" or "plcc+mse".
        flip: Whether training images are mirrored at random.
        precision: Arithmetic of the forward pass: "no" is float32.
        seed: Of everything that is drawn.
        defense: What is added to the objective: "none", "nt" (a penalty on the gradient by the pixels) or "at" (half
            of each batch attacked, its labels lowered).
        nt_weight: Factor of the penalty, for scores of unit spread.
        nt_step: Step of the difference that stands for the gradient, pixels being in [0, 1]; 0 takes the gradient
            itself by double backward.
        at_epsilon: Radius of the training attack, in 1/255.
        activation: What takes the place of ReLU, ReLU6 and leaky ReLU; "keep" leaves them.
        activation_scope: Whether that happens in all layers or only behind those that are not pretrained ("new").
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(5, ge=0, le=10_000)
    learning_rate: float = Field(3e-4, gt=0, le=10)
    batch_size: int = Field(8, ge=2, le=65_536)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    loss: Loss = "plcc+mse"
    flip: bool = True
    precision: Precision = "no"
    seed: int = Field(0, ge=0, lt=2**63)
    defense: Defense = "none"
    nt_weight: float = Field(1e-3, ge=0, le=1e6)
    nt_step: float = Field(0.01, ge=0, le=1)
    at_epsilon: float = Field(4.0, gt=0, le=255)
    activation: Activation = "keep"
    activation_scope: ActivationScope = "all"

    @field_validator("defense")
    @classmethod
    def _needs_epochs(cls, value: Defense, info: ValidationInfo) -> Defense:
        if value != "none" and info.data.get("epochs") == 0:
            raise ValueError("needs at least one epoch, since it is a way of training")
        return value


class Recipe(Training):
    """Settings of one hardening, beside those of its fine-tuning.

    Attributes:
        position: Where the block stands: "last", a cut's number, a node or module, or "none" for no block (the
            control that is only fine-tuned).
        backend: Orthogonal convolution of the block.
        init: "random" (the paper's) or "identity" (principal directions of the calibration images).
        pool: "square" (the paper's) or "none", which keeps the map's height and width.
        taps: Whether side readers of the cut tensor read the protected one ("all") or not ("trunk").
        prune: Share of channels removed, in [0, 1).
        criterion: Channel importance: size of the weights ("l1", "l2"), what 200 labelled training images say of it
            ("pls", "distilled-pls", "hsic"), or "random".
        prune_global: Rank channels across layers instead of within each; always so with "distilled-pls".
        calibration: Training images that statistics are taken from.
    """

    # [RA] gives no figure; with 3e-4 NIMA on CLIVE lost SROCC .27 in its first epoch, with 1e-4 .09.
    learning_rate: float = Field(1e-4, gt=0, le=10)
    position: str = "last"
    backend: Literal["cayley", "aoc", "aol"] = "cayley"
    init: Literal["random", "identity"] = "random"
    pool: Literal["square", "none"] = "square"
    taps: Literal["all", "trunk"] = "all"
    prune: float = Field(0.10, ge=0, lt=1)
    criterion: Criterion = "l2"
    prune_global: bool = False
    calibration: int = Field(64, ge=2, le=4096)

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
        if isinstance(values, dict) and values.get("criterion") == "distilled-pls":
            return {"prune_global": True, **values}
        return values

    @field_validator("prune_global")
    @classmethod
    def _not_within_layers(cls, value: bool, info: ValidationInfo) -> bool:
        if info.data.get("criterion") == "distilled-pls" and not value:
            raise ValueError("distilled-pls ranks channels across layers; drop --prune-local or prune_global = false")
        return value


def make_recipe(values: Mapping[str, Any], *, source: str = "the recipe") -> Recipe:
    """Return a validated recipe.

    Args:
        values: Settings by name; the rest take their defaults.
        source: What messages call their origin.

    Raises:
        RecipeError: If a name is unknown (the nearest valid one is given) or a value is not allowed.
    """
    return _validated(Recipe, values, source)


def make_training(values: Mapping[str, Any], *, source: str = "the command line") -> Training:
    """Return validated settings of plain training; arguments and errors as in `make_recipe`."""
    return _validated(Training, values, source)


def _validated(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    _refuse_unknown(values, source)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {_explain(fault)}" for fault in error.errors())
        raise RecipeError(f"{source}: {faults}") from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the settings that a TOML file gives, unvalidated but for their names.

    Raises:
        RecipeError: If the file cannot be read, is not TOML or holds an unknown name.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    _refuse_unknown(values, str(path))
    return values


def _refuse_unknown(values: Mapping[str, Any], source: str) -> None:
    for name in values:
        if name not in Recipe.model_fields:
            near = difflib.get_close_matches(name, Recipe.model_fields, n=1, cutoff=0)
            raise RecipeError(f"{source} has no setting {name!r}; did you mean {near[0]!r}?")


def _explain(fault: Any) -> str:
    given = repr(fault["input"])
    if fault["type"] == "literal_error":
        allowed = get_args(Recipe.model_fields[fault["loc"][0]].annotation)
        return f"must be one of {', '.join(map(str, allowed))}, got {given}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}, got {given}"
