"""Build the network that `--arch` names."""

from functools import partial

from torch import nn

from iqa_armor.errors import NETWORK_FAILURES, ModelLoadError
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel, unwrapped
from iqa_armor.models.families import FAMILIES


def build(arch: str) -> nn.Module:
    """Return a new network or QualityModel of the named architecture, with its initial weights.

    `arch` is a key of `ARCHITECTURES`, `timm:NAME`, `pyiqa:NAME`, `package.module:factory` or `path/file.py:factory`.
    A factory takes no arguments and returns a QualityModel, or an nn.Module on normalised input; one that states its
    `preprocessing` comes back in a QualityModel.
    """
    family, _, member = arch.partition(":")
    factory, settings = (partial(FAMILIES[family], member), "") if family in FAMILIES else ARCHITECTURES.find(arch)
    if settings:
        raise ModelLoadError(f"an architecture takes no settings, got {settings!r} in {arch!r}")
    try:
        made = factory()
    except (*NETWORK_FAILURES, ImportError, OSError) as error:
        raise ModelLoadError(f"the factory {arch!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ModelLoadError(
            f"the factory {arch!r} returned {type(made).__name__}; it must return an nn.Module or QualityModel"
        )
    made = unwrapped(made)
    stated = getattr(made, "preprocessing", None)
    if isinstance(stated, Preprocessing) and not isinstance(made, QualityModel):
        return QualityModel(made, stated, arch=arch)
    if isinstance(made, QualityModel):
        made.arch = arch
    return made
