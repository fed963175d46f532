"""How to open a foreign model file: what its weights do not say. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from iqa_armor.settings import Flag, Pair, Positive, SettingsModel, Triple, read_size

PANEL = "Foreign model files"
_COLOURS = Flag(kind=str, metavar="R,G,B", shown="ImageNet's", panel=PANEL)


def _read_own_size(value: Any) -> Any:
    try:
        return value if value == "own" else read_size(value)
    except ValueError as error:
        raise ValueError(f"{error}, or 'own'") from None


class Opening(SettingsModel):
    """What a user says of a foreign model file; None is nothing."""

    in_recipes: ClassVar[bool] = False

    arch: Annotated[str | None, Flag(panel=PANEL)] = Field(
        None,
        description="Architecture of a state dict: a built-in name such as resnet50, timm:NAME, pyiqa:NAME (licensed "
        "for non-commercial use), package.module:factory or path/file.py:factory. Without it the weights are matched "
        "against the built-in ones.",
    )
    weights_key: Annotated[str | None, Flag(metavar="KEY", shown="averaged ones, else the usual", panel=PANEL)] = Field(
        None,
        description="Which weights of a checkpoint to open: a key such as model_ema, keys joined by dots, or how the "
        "names of the tensors begin.",
    )
    input_size: Annotated[
        tuple[Positive, Positive] | Literal["own"] | None,
        BeforeValidator(_read_own_size),
        Flag(kind=str, metavar="HEIGHTxWIDTH", shown="498x664, or the architecture's", panel=PANEL),
    ] = Field(None, description="Size images are resized to before the network, or 'own' to keep theirs.")
    mean: Annotated[Triple | None, _COLOURS] = Field(None, description="Mean of the normalisation.")
    std: Annotated[Triple | None, _COLOURS] = Field(None, description="Divisor of the normalisation.")
    interpolation: Annotated[
        Literal["nearest", "nearest-exact", "bilinear", "bicubic"] | None,
        Flag(shown="bilinear, antialiased", panel=PANEL),
    ] = Field(None, description="Resampling of the resize.")
    score_range: Annotated[
        Pair | None,
        Flag(kind=str, metavar="LOW,HIGH", shown="measured where images are at hand", panel=PANEL),
    ] = Field(None, description="Range of the model's scores on clean training images.")
    lower_is_better: Annotated[bool, Flag(panel=PANEL)] = Field(False, description="Small scores mean good quality.")
    trust_pickle: Annotated[bool, Flag(panel=PANEL)] = Field(
        False, description="Open a file although it may run its author's code. Only for authors you trust."
    )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Fields of `Preprocessing` that the user gave."""
        given = {"size": self.input_size, "interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        return {name: None if value == "own" else value for name, value in given.items() if value is not None}
