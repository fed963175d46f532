"""How to open a foreign model file: what its weights do not say. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal, get_origin

from pydantic import BeforeValidator, Field

from iqa_armor.settings import Flag, Pair, Positive, SettingsModel, Triple, flags_of, read_size, written_type

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
    score_output: Annotated[str | None, Flag(("--output",), metavar="NAME|INDEX|mean", panel=PANEL)] = Field(
        None,
        description="Which of several outputs is the score: a name, an index, or the mean, of a distribution over bins "
        "worth 1 to K or else of all. Files are written by -o.",
    )
    leaf: Annotated[tuple[str, ...], Flag(metavar="MODULE", panel=PANEL)] = Field(
        (),
        description="Module that stays its author's code: surgery works around it, and the file opens only beside its "
        "--arch.",
    )
    allow_source: Annotated[bool, Flag(panel=PANEL)] = Field(
        False, description="Let all modules that cannot be traced or stored stay their author's code."
    )
    score_range: Annotated[
        Pair | None,
        Flag(kind=str, metavar="LOW,HIGH", shown="measured where images are at hand", panel=PANEL),
    ] = Field(None, description="Range of the model's scores on clean training images.")
    lower_is_better: Annotated[bool, Flag(panel=PANEL)] = Field(False, description="Small scores mean good quality.")
    trust_pickle: Annotated[bool, Flag(panel=PANEL)] = Field(
        False, description="Open a file although it may run its author's code. Only for authors you trust."
    )

    def words(self) -> list[str]:
        """Return the options that say the same, for another command on the same file."""
        found: list[str] = []
        for name, value in ((name, value) for name, value in self if value not in (None, False, ())):
            field = type(self).model_fields[name]
            flag, mark = flags_of(name, field)[0], "x" if name == "input_size" else ","
            if get_origin(written_type(field)) is list:
                found += [word for each in value for word in (flag, str(each))]
            else:
                told = mark.join(map(str, value)) if isinstance(value, tuple) else str(value)
                found += [flag] if value is True else [flag, told]
        return found

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Fields of `Preprocessing` that the user gave."""
        given = {"size": self.input_size, "interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        return {name: None if value == "own" else value for name, value in given.items() if value is not None}
