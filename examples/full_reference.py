"""Train the full-reference network `fr` and certify its scores by feature smoothing.

Needs a dataset whose images have references, such as KADID-10k or LIVE:

    python examples/full_reference.py kadid10k:DIR -o fr.safetensors [--weights resnet18.pth] [--epochs 3]

The file holds the plain weights; `reference_network("resnet18")` and `load_state_dict` read them back.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from iqa_armor.data.specs import open_dataset
from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.build import torchvision_network
from iqa_armor.models.checkpoints import read_checkpoint
from iqa_armor.models.reference import StageDistance
from iqa_armor.models.weights import load_matching
from iqa_armor.recipe import Training
from iqa_armor.training.reference import fit_reference, predict_reference, read_pairs

CERTIFIED = 8


def say(line: str) -> None:
    """Write one line."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Train, report agreement on the test split, certify a few images, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="such as kadid10k:DIR")
    parser.add_argument("-o", "--output", type=Path, default=Path("fr.safetensors"))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", type=Path, help="ImageNet checkpoint of the backbone")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    data = open_dataset(options.data)
    torch.manual_seed(0)
    classifier = torchvision_network(options.backbone)
    if options.weights:
        load_matching(classifier, read_checkpoint(options.weights).state, source=str(options.weights))
    model = StageDistance(classifier)
    fit_reference(
        model,
        data.training(),
        Training(epochs=options.epochs, learning_rate=1e-4),
        progress=lambda *told: say(told[-1]),
    )
    split, images = data.reported()
    scores = predict_reference(model, images)
    say(f"SROCC on {split}: {float(srocc(scores, images.mos)):.3f}")
    few = images.limit(CERTIFIED)
    reference, distorted = read_pairs(model, few, range(len(few)))
    certificate = (
        FeatureSmoothing().bind_reference(model).certify(reference, distorted, torch.Generator().manual_seed(0))
    )
    for name, score, delta in zip(few.names, certificate.scores.tolist(), certificate.delta.tolist(), strict=True):
        say(f"{name}: {score:.3f}, certified within {delta:.3f} ({FeatureSmoothing.guarantee})")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, options.output)


if __name__ == "__main__":
    main()
