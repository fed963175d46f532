"""Build the network that `--arch` names: ours, torchvision's, and those of timm and pyiqa without their weights."""

import difflib
import importlib
import inspect
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError, calling
from iqa_armor.graph.plain import replace_attribute
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel, unwrapped

# What torchvision calls the parts of a ResNet that come before its classifier.
RESNET_TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
# These two have training-only outputs by default, and warn unless they are told how to initialise.
EXTRA_ARGUMENTS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}


class _Unfetched(dict[str, Tensor]):
    """Stands for weights that were not fetched; loading it changes nothing."""


@contextmanager
def offline(what: str, *, module: ModuleType | None = None) -> Iterator[None]:
    """Keep constructors from fetching weights: those of timm, torchvision and `module` keep random ones.

    The user's file then replaces these. Any other connection is refused by a ModelLoadError about `what`.
    """
    import torchvision.models._api as torchvision_api

    def refuse(*_: object, **__: object) -> None:
        raise ModelLoadError(
            f"{what} tries to download weights while it is built, which is refused; name your own factory with "
            "--arch path/file.py:factory"
        )

    def skip(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        return None if isinstance(state_dict, _Unfetched) else load(self, state_dict, *args, **options)

    load = nn.Module.load_state_dict
    with ExitStack() as stack, redirect_stdout(sys.stderr):
        replace_attribute(stack, socket, "getaddrinfo", refuse)
        replace_attribute(stack, nn.Module, "load_state_dict", skip)
        replace_attribute(stack, torchvision_api.WeightsEnum, "get_state_dict", lambda *_, **__: _Unfetched())
        timm: Any = sys.modules.get("timm")
        if timm is not None:
            create = timm.create_model
            replace_attribute(stack, timm, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))
        if module is not None and hasattr(module, "load_pretrained_network"):
            replace_attribute(stack, module, "load_pretrained_network", lambda *_, **__: None)
        yield


def timm_model(name: str) -> QualityModel:
    """Return one of timm's networks with one output and random weights; nothing is downloaded.

    Preprocessing is timm's but for its crop: the whole image is resized (ours), as quality is not its middle's alone.
    """
    timm = _imported("timm")
    if not timm.is_model(name):
        raise ModelLoadError(f"timm has no network {name!r}{_near(name, timm.list_models())}")
    with offline(f"timm:{name}"):
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=1)
    facts: dict[str, Any] = network.default_cfg  # type: ignore[assignment]
    way: Any = facts.get("interpolation")
    way = way if way in ("nearest", "bilinear", "bicubic") else "bilinear"
    size, mean, std = (tuple(facts[fact]) for fact in ("input_size", "mean", "std"))
    return QualityModel(network, Preprocessing(size=size[1:], interpolation=way, mean=mean, std=std), name=name)


def pyiqa_model(name: str) -> QualityModel:
    """Return the network under one of pyiqa's no-reference metrics, with random weights; nothing is downloaded.

    It normalises images of any size itself. pyiqa is licensed for non-commercial use only; its score ranges are rough.
    """
    configurations = _imported("pyiqa.default_model_configs").DEFAULT_CONFIGS
    if name not in configurations:
        usable = [known for known in configurations if configurations[known]["metric_mode"] == "NR"]
        raise ModelLoadError(f"pyiqa has no metric {name!r}{_near(name, usable)}")
    facts = configurations[name]
    if facts["metric_mode"] != "NR":
        says = "compares an image with a reference; only metrics without a reference can be hardened"
        raise ModelLoadError(f"pyiqa:{name} {says}")
    network = _pyiqa_network(name, dict(facts["metric_opts"]))
    if not any(parameter.numel() for parameter in network.parameters()):
        raise ModelLoadError(f"pyiqa:{name} is a formula without weights; there is no network to load or harden")
    preprocessing = Preprocessing(size=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return QualityModel(network, preprocessing, higher_is_better=not facts.get("lower_better", False), name=name)


def _pyiqa_network(name: str, options: dict[str, Any]) -> nn.Module:
    archs, registry = _imported("pyiqa.archs"), _imported("pyiqa.utils.registry").ARCH_REGISTRY
    with offline(f"pyiqa:{name}"):
        archs._lazy_import_arch(options["type"])
        kind = registry.get(options["type"])
        pretrained = inspect.signature(kind.__init__).parameters.get("pretrained")
        if pretrained is not None:
            options["pretrained"] = False if isinstance(pretrained.default, bool) else None
        with offline(f"pyiqa:{name}", module=importlib.import_module(kind.__module__)):
            network: nn.Module = archs.build_network(options)
    return network.requires_grad_(True)  # some freeze their backbone, which fine-tuning needs


def _imported(name: str) -> ModuleType:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelLoadError(
            f"--arch {package}:… needs the package {package}: pip install 'iqa-armor[{package}]' ({error})"
        ) from error


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""


FAMILIES: dict[str, Callable[[str], nn.Module]] = {"timm": timm_model, "pyiqa": pyiqa_model}


def torchvision_network(name: str) -> nn.Module:
    """Return one of `models.TORCHVISION` on normalised input, with one output and random weights, not downloaded."""
    from torchvision.models import get_model

    # A RegNet computes its widths with tensors, so it cannot be built on the meta device.
    with torch.device("cpu") if name.startswith("regnet") else torch.get_default_device():
        network: nn.Module = get_model(name, weights=None, num_classes=1, **EXTRA_ARGUMENTS.get(name, {}))
    return network


def classifier(name: str) -> Callable[[], nn.Module]:
    return partial(torchvision_network, name)


def build(arch: str) -> nn.Module:
    """Return a new network or QualityModel of the named architecture, with its initial weights.

    `arch` is a key of `ARCHITECTURES`, `timm:NAME`, `pyiqa:NAME`, `package.module:factory` or `path/file.py:factory`,
    of a QualityModel or of an nn.Module on normalised input, which is put into one if it states its `preprocessing`.
    """
    family, _, member = arch.partition(":")
    factory, settings = (partial(FAMILIES[family], member), "") if family in FAMILIES else ARCHITECTURES.find(arch)
    if settings:
        raise ModelLoadError(f"an architecture takes no settings, got {settings!r} in {arch!r}")
    with calling(f"the factory {arch!r}", ModelLoadError):
        made = factory()
    if not isinstance(made, nn.Module):
        found = type(made).__name__
        raise ModelLoadError(f"the factory {arch!r} returned {found}; it must return an nn.Module or QualityModel")
    made = unwrapped(made)
    stated = getattr(made, "preprocessing", None)
    if isinstance(stated, Preprocessing) and not isinstance(made, QualityModel):
        return QualityModel(made, stated, arch=arch)
    if isinstance(made, QualityModel):
        made.arch = arch
    return made
