"""The baseline of SPAQ: a ResNet-50 with one output."""

from torch import Tensor, nn

from iqa_armor.models.base import Preprocessing
from iqa_armor.models.build import RESNET_TRUNK


class SPAQBaseline(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1), about 0 to 100.

    The paper resizes the shorter side to 512 and averages the scores of 224 × 224 patches, 112 apart. (ours) The
    whole image is scored at once, at 512 × 682 whatever its shape.

    Source: Fang, Zhu, Zeng, Ma, Wang, "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020,
    Section 4.1 (baseline model BL).
    """

    # 512 on the shorter side of a 4:3 photograph; pixels stay in [0, 1].
    preprocessing = Preprocessing(size=(512, 682), interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.classifier_places = {part: f"backbone.{part}" for part in RESNET_TRUNK}
        self.backbone: nn.Module = resnet50(weights=None, num_classes=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)  # type: ignore[no-any-return]


spaq_network = SPAQBaseline
