"""What each criterion removes from networks in which one channel is useless by construction."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torchvision
from tables import rows_of
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError, UsageError
from iqa_armor.graph.trace import trace
from iqa_armor.pruning import CRITERIA
from iqa_armor.pruning.coupling import ChannelGroup, Coupling
from iqa_armor.pruning.criteria import Criterion, Evidence
from iqa_armor.pruning.prune import Pruned, prune
from iqa_armor.pruning.samples import Inputs, pooled_inputs, score_effects

SAMPLED = pytest.mark.parametrize("criterion", ["pls", "distilled-pls", "hsic"])
WIDTH, PLANTED = 16, 5


def labelled(count: int = 48, size: int = 16) -> tuple[Tensor, Tensor]:
    """Return noise whose red and green follow the label, while blue is as bright as chance will have it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(count, generator=generator)
    blue = torch.rand(count, generator=generator)
    levels = torch.stack([labels, labels, blue], dim=1).view(count, 3, 1, 1)
    return levels + 0.05 * torch.rand(count, 3, size, size, generator=generator), labels


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = labelled()
    yield from zip(images.split(10), labels.split(10), strict=True)


SILENCED = pytest.mark.parametrize("criterion", ["pls", "distilled-pls", "hsic", "taylor"])


def cut(network: nn.Module, criterion: str, *, ratio: float = 1 / WIDTH, seed: int = 0, across: bool = False) -> Pruned:
    images, _ = labelled()
    return prune(
        trace(network, images[:1]),
        images[:8],
        ratio=ratio,
        criterion=criterion,
        across_layers=across or CRITERIA[criterion].across_layers,
        samples=batches() if CRITERIA[criterion].takes_samples else None,
        seed=seed,
    )


def lacks(pruned: Pruned, name: str, original: nn.Conv2d, *, channels: tuple[int, ...] = (PLANTED,)) -> bool:
    """Return whether a layer's filters are the original's but for the planted channels (and fewer inputs)."""
    kept = pruned.network.get_submodule(name).weight
    rest = [index for index in range(original.out_channels) if index not in channels]
    return len(kept) == len(rest) and torch.equal(kept[:, 0], original.weight[rest, 0])


def colour_blind(layer: nn.Conv2d) -> nn.Conv2d:
    """Make a first layer read red and green with filters above 0, so that every channel follows the label."""
    with torch.no_grad():
        layer.weight.abs_()
        layer.weight[:, 2] = 0
        layer.bias.fill_(0.1)
    return layer


def brighten(*layers: nn.Conv2d) -> None:
    """Make filters positive, so that no channel but a planted one is silenced by a ReLU."""
    with torch.no_grad():
        for layer in layers:
            layer.weight.abs_()
            layer.bias.abs_()


def plant_chance(layer: nn.Conv2d) -> None:
    """Make a channel follow blue alone, by far the largest filter."""
    with torch.no_grad():
        layer.weight[PLANTED] = 0
        layer.weight[PLANTED, 2] = 50.0


def plant_silence(layer: nn.Conv2d, *channels: int) -> None:
    """Make channels negative on every image, with filters that are large: a ReLU silences them."""
    with torch.no_grad():
        layer.weight[list(channels)] *= 50
        layer.bias[list(channels)] = -10_000.0


class Plain(nn.Sequential):
    """One wide layer whose channels all follow the label, and a score."""

    def __init__(self, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        wide = colour_blind(nn.Conv2d(3, WIDTH, 3, padding=1))
        super().__init__(wide, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 1))


class Residual(nn.Module):
    """A stem and a branch whose channels a sum couples, read by the branch and by the score."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = colour_blind(nn.Conv2d(3, WIDTH, 3, padding=1))
        self.one = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.two = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.score = nn.Linear(WIDTH, 1)
        brighten(self.one, self.two)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        return self.score((stem + self.two(self.one(stem).relu())).relu().mean((2, 3)))


class Separable(nn.Module):
    """A depthwise pair as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = colour_blind(nn.Conv2d(3, WIDTH, 3, padding=1))
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.pointwise = nn.Conv2d(WIDTH, WIDTH, 1)
        self.score = nn.Linear(WIDTH, 1)
        brighten(self.depthwise, self.pointwise)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.depthwise(self.stem(x).relu()).relu()
        return self.score(self.pointwise(maps).relu().mean((2, 3)))


class Joined(nn.Module):
    """Two layers side by side, read as one, and flattened maps of which each place is read by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left = colour_blind(nn.Conv2d(3, WIDTH, 3, padding=1))
        self.right = colour_blind(nn.Conv2d(3, WIDTH, 3, padding=1))
        self.both = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.score = nn.Linear(WIDTH * 4, 1)
        brighten(self.both)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.both(torch.cat([self.left(x), self.right(x)], 1).relu()).relu()
        return self.score(nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1))


class Grouped(nn.Module):
    """A layer in two groups, which must lose the same place of both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = colour_blind(nn.Conv2d(3, WIDTH, 3, padding=1))
        self.halves = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=2)
        self.score = nn.Linear(WIDTH, 1)
        brighten(self.halves)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.halves(self.stem(x).relu()).relu().mean((2, 3)))


@SAMPLED
def test_channel_that_follows_chance_goes_first_however_large_its_weights(criterion: str) -> None:
    network = Plain()
    plant_chance(network[0])
    assert lacks(cut(network, criterion), "0", network[0])
    assert not lacks(cut(network, "l2"), "0", network[0])


@SILENCED
def test_channel_that_a_relu_silences_goes_first(criterion: str) -> None:
    network = Plain()
    plant_silence(network[0], PLANTED)
    assert lacks(cut(network, criterion), "0", network[0])
    assert not lacks(cut(network, "l2"), "0", network[0])


@SILENCED
def test_of_silent_channels_those_without_weights_go_first(criterion: str) -> None:
    network = Plain()
    plant_silence(network[0], 1, 5, 9)
    with torch.no_grad():
        for values in (network[0].weight, network[0].bias, network[4].weight.T):
            values[[3, 12]] = 0
    pruned = cut(network, criterion, ratio=2 / WIDTH)
    assert lacks(pruned, "0", network[0], channels=(3, 12))


@SILENCED
def test_channel_that_a_residual_sum_silences_goes_from_all_it_couples(criterion: str) -> None:
    network = Residual()
    plant_silence(network.stem, PLANTED)
    plant_silence(network.two, PLANTED)
    pruned = cut(network, criterion, ratio=1 / (3 * WIDTH) if CRITERIA[criterion].across_layers else 1 / WIDTH)
    assert lacks(pruned, "stem", network.stem)
    assert lacks(pruned, "two", network.two)


@SILENCED
def test_channel_that_a_depthwise_filter_silences_goes(criterion: str) -> None:
    network = Separable()
    plant_silence(network.depthwise, PLANTED)
    pruned = cut(network, criterion, ratio=1 / (2 * WIDTH) if CRITERIA[criterion].across_layers else 1 / WIDTH)
    assert lacks(pruned, "stem", network.stem)
    assert lacks(pruned, "depthwise", network.depthwise)
    assert pruned.network.get_submodule("depthwise").groups == WIDTH - 1


@SILENCED
def test_channels_of_joined_and_flattened_maps_are_found_at_their_own_places(criterion: str) -> None:
    network = Joined()
    plant_silence(network.both, PLANTED + 1)
    plant_silence(network.right, PLANTED)
    plant_silence(network.left, PLANTED + 2)
    pruned = cut(network, criterion)
    assert lacks(pruned, "right", network.right)
    assert lacks(pruned, "left", network.left, channels=(PLANTED + 2,))
    kept = pruned.network.get_submodule("score").weight
    rest = [place for place in range(4 * WIDTH) if place // 4 != PLANTED + 1]
    assert torch.equal(kept, network.score.weight[:, rest])


@SILENCED
def test_channels_of_a_grouped_layer_go_in_step(criterion: str) -> None:
    network = Grouped()
    half = WIDTH // 2
    plant_silence(network.stem, PLANTED, PLANTED + half)
    plant_silence(network.halves, PLANTED - 1, PLANTED - 1 + half)
    pruned = cut(network, criterion, ratio=1 / 8)
    assert lacks(pruned, "stem", network.stem, channels=(PLANTED, PLANTED + half))
    assert pruned.network.get_submodule("halves").weight.shape[:2] == (14, 7)


def test_distilled_pls_takes_from_the_layer_that_says_least() -> None:
    class Branches(nn.Module):
        """One branch sees red and green, which follow the label, the other blue alone."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.seeing = nn.Conv2d(2, 32, 3, padding=1)
            self.blind = nn.Conv2d(1, 32, 3, padding=1)
            self.after_seeing, self.after_blind = nn.Linear(32, 4), nn.Linear(32, 4)
            self.score = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.after_seeing(self.seeing(x[:, :2]).relu().mean((2, 3)))
            unseen = self.after_blind(self.blind(x[:, 2:]).relu().mean((2, 3)))
            return self.score(torch.cat([seen, unseen], 1))

    network = Branches()
    with torch.no_grad():
        for layer in (network.seeing, network.blind):
            layer.weight.abs_()
            layer.bias.fill_(0.1)

    def widths(criterion: str, ratio: float) -> list[int]:
        pruned = cut(network, criterion, ratio=ratio).network
        return [module.out_channels for module in pruned.modules() if isinstance(module, nn.Conv2d)]

    assert widths("pls", 0.125) == [28, 28]
    assert widths("distilled-pls", 0.125) == [32, 24]
    assert widths("distilled-pls", 0.25) == [32, 16]
    # At most half of a layer goes first, so the rest comes from the other.
    assert widths("distilled-pls", 0.375) == [24, 16]
    assert widths("distilled-pls", 0.75) == [8, 8]


def test_random_follows_its_seed() -> None:
    def kept(seed: int) -> Tensor:
        return cut(Plain(), "random", ratio=0.5, seed=seed).network.get_submodule("0").weight

    assert torch.equal(kept(1), kept(1))
    assert not torch.equal(kept(1), kept(2))
    torch.rand(3)
    assert torch.equal(kept(1), kept(1))


@SAMPLED
def test_the_same_images_remove_the_same_channels(criterion: str) -> None:
    one, two = (cut(Residual(), criterion, ratio=0.25) for _ in range(2))
    assert one.samples == two.samples == 48
    torch.testing.assert_close(one.network.state_dict(), two.network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        ("resnet18", "pls"),
        ("resnet18", "distilled-pls"),
        ("mobilenet_v2", "distilled-pls"),
        ("mobilenet_v2", "hsic"),
        ("resnet18", "random"),
        *(pytest.param("densenet121", criterion, marks=pytest.mark.slow) for criterion in CRITERIA),
    ],
)
def test_published_networks_lose_a_tenth(name: str, criterion: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=1)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(12, 3, 32, 32, generator=generator), torch.rand(12, generator=generator)
    across = CRITERIA[criterion].across_layers
    sampled = [(images, labels)] if CRITERIA[criterion].takes_samples else None
    pruned = prune(trace(network, images[:1]), images[:2], criterion=criterion, across_layers=across, samples=sampled)
    assert pruned.share == pytest.approx(0.10, abs=0.015)
    assert pruned.network(images[:2]).isfinite().all()
    widths = {n: m.out_channels for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert all(pruned.network.get_submodule(n).out_channels >= width / 2 - 8 for n, width in widths.items())


def test_criteria_describe_themselves() -> None:
    rows = {row.name: row for row in rows_of(CRITERIA)}
    assert all(row.says for row in rows.values())
    assert rows["pls"].settings == {"components": 2}
    assert {name for name in CRITERIA if not CRITERIA[name].takes_samples} == {"taylor", "l1", "l2", "random"}
    assert [name for name in CRITERIA if CRITERIA[name].across_layers] == ["distilled-pls"]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_gives_each_channel_of_a_group_a_number(criterion: str) -> None:
    images, _ = labelled()
    for network in (Plain(), Residual(), Separable(), Joined(), Grouped()):
        traced = trace(network, images[:1])
        measure = CRITERIA[criterion]
        inputs = pooled_inputs(traced, batches()) if measure.takes_samples else Inputs()
        groups = Coupling(traced.requires_grad_(True), images[:1]).groups
        assert groups
        for group in groups:
            values = measure(group, Evidence(torch.Generator().manual_seed(0), inputs, network=traced, images=images))
            assert values is not None
            assert values.shape == (group.width,)
            assert values.isfinite().all()
            assert (values >= 0).all()


def test_effects_on_scores_are_those_of_channels_taken_away_one_by_one() -> None:
    """The readers are linear in what they read, so to first order is exact behind the last activation."""
    images, _ = labelled()
    network = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 1),
    )
    effects = score_effects(network, images[:6])["2"]
    for channel in range(WIDTH):
        silenced = copy.deepcopy(network)
        with torch.no_grad():
            silenced[2].weight[:, channel] = 0
            change = network(images[:6]) - silenced(images[:6])
        torch.testing.assert_close(effects[:, channel], change.flatten().double(), rtol=1e-4, atol=1e-6)


def test_effects_on_scores_add_up_over_runs_and_rows_of_one_image() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.score = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            both = torch.stack([x, x.flip(3)], 1).flatten(0, 1)  # two rows for each image
            return self.score(self.layer(both).mean((2, 3)).view(-1, 2, 4).mean(1) + self.layer(x).mean((2, 3)))

    images, _ = labelled()
    network = Twice()
    found = score_effects(network, images[:5])["layer"].sum(1)
    with torch.no_grad():
        biases = (network.score.weight @ network.layer.bias * 2 + network.score.bias).double()
        torch.testing.assert_close(found, network(images[:5]).flatten().double() - biases, rtol=1e-4, atol=1e-6)


def test_effects_where_the_score_has_no_gradient_are_numbers() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.score = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.score(self.layer(x).var((2, 3)).sqrt())

    effects = score_effects(Spread(), torch.zeros(2, 3, 8, 8))
    assert all(values.isfinite().all() for values in effects.values())


class Thresholded(nn.Module):
    """Maps, what a threshold leaves of other maps, and a score of some of both."""

    def __init__(self, *, sees_maps: bool, threshold: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sees_maps, self.threshold = sees_maps, threshold
        self.maps, self.hidden, self.score = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), nn.Linear(16, 1)
        self.behind = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.behind(self.hidden(x).relu())
        seen = self.maps(x).relu() if self.sees_maps else torch.ones_like(hidden)
        marks = (hidden > 0).float() if self.threshold == "greater" else getattr(hidden, self.threshold)()
        return self.score((seen * marks).mean((2, 3)))


@pytest.mark.parametrize("threshold", ["greater", "sign", "round", "detach"])
def test_channels_behind_which_no_gradient_comes_keep_their_place(threshold: str) -> None:
    pruned = cut(Thresholded(sees_maps=True, threshold=threshold), "taylor", ratio=0.25)
    assert "maps" in pruned.kept
    assert "hidden" not in pruned.kept


@pytest.mark.parametrize("threshold", ["greater", "detach"])
def test_scores_behind_which_no_gradient_comes_are_refused(threshold: str) -> None:
    with pytest.raises(SurgeryError, match="no gradient, as behind argmax; pass --criterion l1"):
        cut(Thresholded(sees_maps=False, threshold=threshold), "taylor", ratio=0.25)


def test_scores_that_cannot_be_differentiated_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Floored(), nn.Conv2d(8, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SurgeryError, match="floor_divide is not implemented; pass --criterion l1"):
        cut(network.eval(), "taylor", ratio=0.25)
    assert cut(network.eval(), "l1", ratio=0.25).share > 0


class Floored(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps // 0.1


def test_settings_of_a_criterion_are_read_from_its_word() -> None:
    network = Plain()
    plant_chance(network[0])
    assert PLANTED not in cut_by("pls:components=1", network).kept["0"]
    assert PLANTED in cut_by("l2:power=3", network).kept["0"]
    with pytest.raises(UsageError, match=r"needs components in \[1, inf\), got 0"):
        CRITERIA.read("pls:components=0")
    with pytest.raises(UsageError, match=r"unknown criterion 'pll'; did you mean pls\?"):
        CRITERIA.read("pll")


class Last(Criterion):
    """The last channels are the least important."""

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> Tensor:
        return torch.arange(group.width, 0, -1.0)


def last(group: ChannelGroup, evidence: Evidence) -> Tensor:
    return torch.arange(group.width, 0, -1.0)


def short(group: ChannelGroup, evidence: Evidence) -> Tensor:
    return torch.zeros(3)


def broken(group: ChannelGroup, evidence: Evidence) -> Tensor:
    raise KeyError("nothing")


NOTHING = 3


def cut_by(word: str, network: nn.Module) -> Pruned:
    images, _ = labelled()
    criterion = CRITERIA.read(word)
    sampled = batches() if criterion.takes_samples else None
    return prune(trace(network, images[:1]), images[:8], ratio=1 / 8, criterion=criterion, samples=sampled)


@pytest.mark.parametrize("name", ["Last", "last"])
@pytest.mark.parametrize("module", ["test_pruning_criteria", __file__])
def test_a_users_own_criterion_is_named_by_its_place(name: str, module: str) -> None:
    assert cut_by(f"{module}:{name}", Plain()).kept["0"] == list(range(14))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("short", SurgeryError, "must give 16 numbers for a group"),
        ("broken", SurgeryError, "fails: KeyError: 'nothing'"),
        ("NOTHING", UsageError, "must be a Criterion or a function"),
        ("Absent", UsageError, "has no criterion 'Absent'"),
    ],
)
def test_a_users_criterion_that_does_not_fit_is_refused(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cut_by(f"test_pruning_criteria:{name}", Plain())


@SAMPLED
def test_criterion_without_images_is_refused(criterion: str) -> None:
    traced: fx.GraphModule = trace(Plain(), labelled()[0][:1])
    with pytest.raises(ValueError, match="must be given labelled images"):
        prune(traced, labelled()[0][:2], criterion=criterion, across_layers=True)


def test_distilled_pls_within_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="must rank across layers"):
        prune(trace(Plain(), labelled()[0][:1]), labelled()[0][:2], criterion="distilled-pls", samples=batches())
