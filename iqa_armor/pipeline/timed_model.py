"""A model on the bench: what is timed, and the memory it takes meanwhile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from iqa_armor.errors import ModelLoadError, UsageError
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.cache import CachingModule

Task = Literal["inference", "training"]
# A step small enough that hundreds of them leave any network finite.
LEARNING_RATE = 1e-6


class TimedModel:
    """A model ready to be timed on random images of one size (height, width); moved to the device.

    Training steps change it in place. `cache_limit` is in bytes for each of its caches, None for their own limits.
    """

    def __init__(
        self, model: QualityModel, *, size: tuple[int, int], device: torch.device, cache_limit: int | None = None
    ) -> None:
        self.model, self.size, self.device = model.eval().to(device), size, device
        self.caches = [module.cache for module in model.modules() if isinstance(module, CachingModule)]
        for cache in self.caches:
            cache.limit = cache.limit if cache_limit is None else cache_limit
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def own_bytes(self) -> int:
        """Memory of its parameters and buffers."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    def forget(self) -> None:
        """Empty its caches, so that the next call prepares them anew."""
        for cache in self.caches:
            cache.clear()

    def images(self, batch: int) -> Tensor:
        """Return random images (batch, 3, H, W) in [0, 1]."""
        drawn = torch.rand(batch, 3, *self.size, generator=torch.Generator().manual_seed(0))
        return drawn.to(self.device)

    def score(self, images: Tensor) -> None:
        """Score images in eval mode, or raise a UsageError if the network does not take them."""
        if self.model.training:  # going through all modules at every call would count as the model's time
            self.model.eval()
        shape = "x".join(map(str, images.shape[-2:]))
        wayout = "choose another --size or a smaller --batch"
        with torch.inference_mode(), self._refusing(f"cannot score {len(images)} images of {shape}", wayout):
            self.model(images)

    def train(self, images: Tensor) -> None:
        """Take one step of AdamW on the mean squared score in train mode, or raise a UsageError if that fails."""
        if self._optimizer is None:
            self.model.requires_grad_(True)
            self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        if not self.model.training:
            self.model.train()
        with self._refusing("cannot be trained", "leave training out with --no-training"):
            loss = self.model(images).square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()

    def work(self, task: Task) -> Callable[[Tensor], None]:
        """Return what a task does with images."""
        return self.score if task == "inference" else self.train

    def seconds(self, work: Callable[[Tensor], None], batch: int) -> float:
        """Return the wall time of one call of `score` or `train` on a batch of images."""
        images = self.images(batch)
        self._wait()
        started = time.perf_counter()
        work(images)
        self._wait()
        return time.perf_counter() - started

    @contextmanager
    def _refusing(self, problem: str, wayout: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError, LookupError, ModelLoadError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"{self.model.name} {problem}: {reason}; {wayout}") from error

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
