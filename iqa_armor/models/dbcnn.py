"""DBCNN: VGG-16 and S-CNN joined by bilinear pooling."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.models.base import Preprocessing

# Output channels and stride of S-CNN's convolutions.
SCNN = ((48, 1), (48, 2), (64, 1), (64, 2), (64, 1), (64, 2), (128, 1), (128, 1), (128, 2))


class DBCNN(nn.Module):
    """Score normalised images (N, 3, H, W) of any size from 16 pixels on, giving (N, 1) that rises with quality.

    VGG-16 without its last pooling sees the scene, S-CNN the distortion; the score is linear in the square root of
    the average product of every channel of the one with every channel of the other.

    Source: Zhang, Ma, Yan, Deng, Wang, "Blind Image Quality Assessment Using a Deep Bilinear Convolutional Neural
    Network", IEEE TCSVT 2020, arXiv:1907.02665, Section III. Where sides are no multiples of 16 the maps of S-CNN are
    the larger ones and are resampled to VGG's size, corners aligned; equal sizes pass unchanged.
    """

    preprocessing = Preprocessing(size=None)  # images keep their size, as in the paper

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16

        self.features1 = nn.Sequential(*list(vgg16(weights=None).features)[:-1])
        layers: list[nn.Module] = []
        for (channels, _), (outputs, stride) in pairwise(((3, 1), *SCNN)):
            layers += [nn.Conv2d(channels, outputs, 3, stride=stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features2 = nn.Sequential(*layers)
        self.fc = nn.Linear(512 * SCNN[-1][0], 1)

    def forward(self, images: Tensor) -> Tensor:
        scene, distortion = self.features1(images), self.features2(images)
        distortion = functional.interpolate(distortion, size=scene.shape[2:], mode="bilinear", align_corners=True)
        scene, distortion = scene.flatten(2), distortion.flatten(2)
        products = torch.bmm(scene, distortion.transpose(1, 2)) / scene.shape[2]
        pooled = functional.normalize(torch.sqrt(products.flatten(1) + 1e-8))
        return self.fc(pooled)  # type: ignore[no-any-return]


dbcnn_network = DBCNN
