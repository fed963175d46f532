"""What certifying models by smoothing found, with stable names, and its JSON."""

from typing import Literal

from pydantic import Field

from iqa_armor.results.figures import Number, Scale, Value
from iqa_armor.results.outcome import DataEntry, Document


class CertifiedImage(Value):
    """One image: plain and smoothed score with bounds, in model units; a bound is null where the method abstains.

    `seconds` is what the smoothed score and its bounds took.
    """

    name: str
    mos: Number = None
    score: Number
    smoothed: Number
    lower: Number
    upper: Number
    abstained: bool
    seconds: float

    @property
    def delta(self) -> float | None:
        """Certified delta, upper − lower bound; None where the method abstains."""
        return None if self.upper is None or self.lower is None else self.upper - self.lower


class MethodFigures(Value):
    """One method on one model.

    `delta` is the mean distance of the bounds of images for which the method does not abstain, in model units,
    `delta_share` the same in score ranges, `ratio_to_baseline` that share over the baseline's, from images for which
    neither abstains. Agreement with opinion is that of the smoothed score. Seconds are medians per image: of the
    smoothed score alone, and with bounds. Where noise is put on features, `jacobian` is the largest s that was used,
    how far they move per unit of change near an image, and `lipschitz` how far they can move anywhere, where that could
    be computed.
    """

    guarantee: str
    settings: dict[str, bool | int | float | str]
    delta: Number = None
    delta_share: Number = None
    ratio_to_baseline: Number = None
    abstained: float
    srocc: Number = None
    plcc: Number = None
    seconds_smoothed: Number = None
    seconds_certified: Number = None
    jacobian: Number = None
    lipschitz: Number = None
    images: tuple[CertifiedImage, ...]

    @property
    def radius(self) -> float | None:
        """Radius of the certificate, pixels being in [0, 1], where the method has one."""
        value = self.settings.get("radius")
        return float(value) if isinstance(value, int | float) else None


class CertifiedModel(Value):
    """One model: its plain score, and its methods by the words that name them.

    `size` is (height, width) of the first image as the network sees it, and `step_l2` the Euclidean length of one
    step of 1/255 on every value of such an image, in the unit of the radius.
    """

    name: str
    arch: str = ""
    scale: Scale | None = None
    size: tuple[int, int]
    step_l2: float
    srocc: Number = None
    plcc: Number = None
    seconds_plain: Number = None
    methods: dict[str, MethodFigures]


class Certification(Document):
    """Everything that certifying reports; `data` is null where image files were named."""

    schema_: Literal["iqa-armor/certification/1"] = Field("iqa-armor/certification/1", alias="schema")
    models: tuple[CertifiedModel, ...]
    baseline: str | None = None
    data: DataEntry | None = None
    seed: int = 0
    device: str = "cpu"
    versions: dict[str, str]
