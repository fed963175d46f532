"""Architectures by name: published quality models, and torchvision's classifiers with one score."""

from collections.abc import Callable
from typing import Any, cast

from iqa_armor.errors import ModelLoadError
from iqa_armor.registry import Entry, Registry

# Names of torchvision's model builders; each is built with a single output, its quality score.
TORCHVISION = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"efficientnet_b{index}" for index in range(8)),
    *(f"efficientnet_v2_{size}" for size in ("s", "m", "l")),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf")),
    *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    *("squeezenet1_0", "squeezenet1_1", "alexnet", "googlenet", "inception_v3"),
)


def _accepts(found: Any, name: str) -> Callable[[], Any]:
    if not callable(found):
        raise ModelLoadError(f"{name} is no factory: a function without arguments that returns an nn.Module")
    return cast(Callable[[], Any], found)


ARCHITECTURES: Registry[Callable[[], Any]] = Registry(
    "architecture",
    {
        "linearity": Entry("iqa_armor.models.published:Linearity", "Norm-in-Norm on ResNeXt-101, any size"),
        **{
            f"linearity-{on}": Entry("iqa_armor.models.published:linearity_on", f"the same on {on}", {"backbone": on})
            for on in ("resnet18", "resnet34", "resnet50")
        },
        "koncept512": Entry("iqa_armor.models.published:KonCept512", "Inception-ResNet-v2, 384x512"),
        "dbcnn": Entry("iqa_armor.models.published:DBCNN", "VGG-16 and S-CNN, bilinear, any size"),
        "tres": Entry("iqa_armor.models.tres:TReS", "ResNet-50 and a transformer, 224x224"),
        "metaiqa": Entry("iqa_armor.models.published:MetaIQA", "ResNet-18, meta-learned, 224x224"),
        "spaq": Entry("iqa_armor.models.published:SPAQBaseline", "ResNet-50, baseline of SPAQ, 512x682"),
        **{
            name: Entry("iqa_armor.models.build:classifier", "torchvision's with one score", {"name": name})
            for name in TORCHVISION
        },
    },
    group="iqa_armor.architectures",
    accepts=_accepts,
    also="timm:NAME, pyiqa:NAME (licensed for non-commercial use), package.module:factory or path/file.py:factory",
    error=ModelLoadError,
)
