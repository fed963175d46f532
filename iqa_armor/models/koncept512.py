"""KonCept512: Inception-ResNet-v2 with a regression head."""

from torch import Tensor, nn

from iqa_armor.models.base import Preprocessing
from iqa_armor.models.inception_resnet import WIDTH, inception_resnet_v2

_WINDOW = 8
_MANY = 2**12  # more windows than any side has


class KonCept512(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 75 pixels on, giving (N, 1), about 0 to 100.

    The original averages a fixed window of 8 × 8 from the top left corner of the last map, which is 10 × 14 for its
    384 × 512 pixels: so does this one wherever both sides of that map are 8 to 15, that is for 299 to 554 pixels.
    (ours) The original fails on any other size; here a side shorter than 8 is averaged whole, and of a side of 16 or
    more as many whole windows as fit.

    Source: Hosu, Lin, Sziranyi, Saupe, "KonIQ-10k: An Ecologically Valid Database for Deep Learning of Blind Image
    Quality Assessment", IEEE TIP 2020, arXiv:1910.06180, Section V.
    """

    # Height × width; scaled to [-1, 1], as Inception-ResNet-v2 takes images.
    preprocessing = Preprocessing(size=(384, 512), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.base = inception_resnet_v2()
        self.fc = nn.Sequential(
            *(nn.Linear(WIDTH, 2048), nn.ReLU(), nn.BatchNorm1d(2048), nn.Dropout(0.25)),
            *(nn.Linear(2048, 1024), nn.ReLU(), nn.BatchNorm1d(1024), nn.Dropout(0.25)),
            *(nn.Linear(1024, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Dropout(0.5)),
            nn.Linear(256, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.base(images)
        window = maps[:, :, : _covered(maps.shape[2]), : _covered(maps.shape[3])]
        return self.fc(window.mean((2, 3)))  # type: ignore[no-any-return]


def _covered(side: int) -> int:
    """Return how many of `side` pixels whole windows cover; one window where none fits."""
    whole = side // _WINDOW
    # ceil(whole / _MANY) is 0 for whole = 0 and else 1: a conditional could not be traced.
    return _WINDOW * (whole + 1 - (whole + _MANY - 1) // _MANY)


koncept512_network = KonCept512
