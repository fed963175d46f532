"""Diffusion purification: drown an attack in noise, then let a diffusion model take the noise away."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import existing
from iqa_armor.defenses.purifiers.filters import Unsharp, on_padded
from iqa_armor.errors import NETWORK_FAILURES, ArmorError, ModelLoadError, failing
from iqa_armor.limits import check_limits

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# What a folder may ask for, by the name of its part; none of it is code of the folder's own.
ALLOWED = {"unet": ("UNet2DModel",), "scheduler": ("DDPMScheduler", "DDIMScheduler")}


@dataclass(frozen=True)
class DiffusionFolder:
    """Add noise up to a step of a diffusion model, then denoise from there.

    Source: Nie et al., "Diffusion Models for Adversarial Purification", ICML 2022, arXiv:2205.07460, with t* = 0.15
    of 1000 steps; sharpening after it: [AP] Gushchin et al., arXiv:2404.06957. Ancestral sampling of DDPM instead of
    a solver of the reverse SDE, skipping steps, and the model at the image's own size are (ours).
    """

    # Folder of an unconditional pixel-space pipeline of diffusers (a UNet2DModel with a DDPM or DDIM schedule) with
    # safetensors weights; nothing is downloaded and no code of the folder is run.
    path: str = ""
    step: int = 150  # up to which noise is added, from 1 to 10000 and to the number of steps the model is trained with
    stride: int = 1  # denoise every so many steps, from 1 to `step`; 1 is the paper's
    unsharp: bool = False  # whether the result is sharpened, by `unsharp`'s own settings
    gradient: bool = False  # whether attackers differentiate all denoising, with its activations, not the identity

    def __post_init__(self) -> None:
        check_limits(self, step="[1, 10000]", stride=f"[1, {self.step}]")

    def load(self) -> Diffusion:
        """Return the purifier; raises ArmorError where diffusers is not installed, and as in `PurifierFile.load`."""
        folder = existing(self.path, owner="diffusion", is_folder=True)
        if find_spec("diffusers") is None:
            raise ArmorError("diffusion takes diffusers, not installed here; run pip install 'iqa-armor[diffusion]'")
        _check_index(folder)
        if not (folder / WEIGHTS).is_file():
            advice = "save the pipeline with save_pretrained(FOLDER, safe_serialization=True)"
            raise ModelLoadError(f"{folder} has no {WEIGHTS}; {advice}")
        from diffusers import DDPMScheduler, UNet2DModel

        with failing(f"{folder} cannot be opened by diffusers", (OSError, *NETWORK_FAILURES), error=ModelLoadError):
            unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
            schedule = DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        return Diffusion(unet.eval().requires_grad_(False), schedule, self)


class Diffusion(nn.Module):
    """A loaded `DiffusionFolder`: a network of noisy images (N, 3, H, W) in about [-1, 1], and how noisy steps are."""

    is_random: ClassVar[bool] = True

    def __init__(self, unet: nn.Module, schedule: Any, settings: DiffusionFolder) -> None:
        super().__init__()
        config: Any = unet.config
        if config.in_channels != 3 or config.num_class_embeds is not None:
            raise ModelLoadError(f"{settings.path} is not a model of RGB images without classes; name one that is")
        if settings.step > (steps := schedule.config.num_train_timesteps):
            raise ModelLoadError(f"{settings.path} is trained with {steps} steps, got step={settings.step}")
        self.unet, self.schedule, self.settings = unet, schedule, settings
        self.multiple = 2 ** (len(config.block_out_channels) - 1)
        self.is_differentiable = settings.gradient

    def forward(self, images: Tensor, generator: Generator) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1]; a ModelLoadError refuses sizes that the network does not take."""
        with torch.set_grad_enabled(self.is_differentiable and torch.is_grad_enabled()):
            purified = on_padded(lambda padded: self._denoised(padded, generator), images, multiple=self.multiple)
            return Unsharp()(purified, generator) if self.settings.unsharp else purified

    def _denoised(self, images: Tensor, generator: Generator) -> Tensor:
        # The scheduler keeps the steps it is set to; a copy leaves this module as it is.
        schedule: Any = type(self.schedule).from_config(self.schedule.config)
        steps = list(range(self.settings.step - 1, -1, -self.settings.stride))  # diffusers counts from 0
        schedule.set_timesteps(timesteps=steps, device=images.device)
        noise = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
        current = schedule.add_noise(2 * images - 1, noise, torch.full((len(images),), steps[0], device=images.device))
        refusal = f"{self.settings.path} does not take images of {tuple(images.shape[-2:])}"
        for step in schedule.timesteps:
            with failing(refusal, (RuntimeError,), error=ModelLoadError):
                predicted = self.unet(current, step).sample
            current = schedule.step(predicted, step, current, generator=generator).prev_sample
        return torch.as_tensor((current + 1) / 2)


def _check_index(folder: Path) -> None:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {name: index[name] for name in ALLOWED}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = "model_index.json is missing, damaged or names no unet and scheduler"
        raise ModelLoadError(f"{folder} is no pipeline of an unconditional diffusion model: {why}") from error
    for name, allowed in ALLOWED.items():
        if parts[name] not in [["diffusers", kind] for kind in allowed]:
            known = f"{', '.join(allowed)} of diffusers, since others may run code of the folder"
            raise ModelLoadError(f"{folder} asks for the {name} {parts[name]!r}; allowed are {known}")
