"""Is a network a function of one image?"""

import torch
from torch import Tensor, nn

from iqa_armor.randomness import seeded

STEADY, ROUNDING = 1e-3, 1e-5  # of the scores' spread and of their size: more than float32 rounds
# In a stored graph's meta: whether it draws, and whether images depend on their company: "untried", "alone" or "any".
DRAWS, COMPANY = "draws", "company"


def is_steady(network: nn.Module, images: Tensor) -> bool:
    """Return whether an image (of N, 3, H, W, N at least 2) has one score, every time and in any company."""
    with torch.no_grad():
        together = network.forward(images).double().flatten()
        alone = torch.cat([network.forward(images[i : i + 1]).double().flatten() for i in range(len(images))])
    tolerance = max(STEADY * float(together.std()), ROUNDING * float(together.abs().max()))
    return len(alone) == len(together) and bool(((alone - together).abs() <= tolerance).all())


def scores_of(network: nn.Module, images: Tensor) -> object:
    """Return what a network in eval mode gives for images (N, 3, H, W), so that each depends on its own image only.

    A stored graph that mixes images gets them one by one, as the first two that it gets together decide; one that
    draws also gets the same draws for each.
    """
    meta = getattr(network, "meta", {})
    if meta.get(COMPANY) == "untried" and len(images) > 1 and not meta.get(DRAWS):
        meta[COMPANY] = "any" if is_steady(network, images[:2].detach()) else "alone"
    if len(images) < 1 or not (meta.get(DRAWS) or meta.get(COMPANY) == "alone"):
        return network.forward(images) if isinstance(network, torch.fx.GraphModule) else network(images)
    scores = []
    for image in torch.split(images, 1):
        with seeded(0, images.device):
            scores.append(network.forward(image).reshape(-1))
    return torch.cat(scores)
