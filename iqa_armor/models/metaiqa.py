"""MetaIQA: a ResNet-18 classifier whose 1000 outputs a small regression network turns into a score."""

from torch import Tensor, nn

from iqa_armor.models.base import Preprocessing
from iqa_armor.models.build import RESNET_TRUNK


class MetaIQA(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 33 pixels on, giving (N, 1) in (0, 1), the best near 1.

    Source: Zhu, Li, Wu, Dong, Shi, "MetaIQA: Deep Meta-learning for No-Reference Image Quality Assessment",
    CVPR 2020, arXiv:2004.05508, Section 3.2.
    """

    # The authors crop; resizing is (ours).
    preprocessing = Preprocessing(size=(224, 224), interpolation="bilinear")

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.classifier_places = {part: f"resnet_layer.{part}" for part in (*RESNET_TRUNK, "fc")}
        self.resnet_layer: nn.Module = resnet18(weights=None)
        self.net = _Regression()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.resnet_layer(images))  # type: ignore[no-any-return]


class _Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.relu1 = nn.Linear(1000, 1024), nn.BatchNorm1d(1024), nn.PReLU()
        self.drop1 = nn.Dropout(0.5)
        self.fc2, self.bn2, self.relu2 = nn.Linear(1024, 512), nn.BatchNorm1d(512), nn.PReLU()
        self.drop2 = nn.Dropout(0.5)
        self.fc3, self.sigmoid = nn.Linear(512, 1), nn.Sigmoid()

    def forward(self, logits: Tensor) -> Tensor:
        hidden = self.drop1(self.relu1(self.bn1(self.fc1(logits))))
        hidden = self.drop2(self.relu2(self.bn2(self.fc2(hidden))))
        return self.sigmoid(self.fc3(hidden))  # type: ignore[no-any-return]


metaiqa_network = MetaIQA
