import pytest
import torch
from torch import Generator, Tensor
from white_subjects import BOTH, NAMES, Counted, draw_images, gains, tiny

from iqa_armor.attacks.apgd import APGD, Square
from iqa_armor.attacks.base import Direction
from iqa_armor.errors import ArmorError


@pytest.fixture
def images() -> Tensor:
    return draw_images()


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("name", NAMES)
def test_square_asks_for_scores_only_and_does_not_beat_auto_pgd(
    name: str, direction: Direction, images: Tensor
) -> None:
    model = tiny(name)
    seen = Counted(model)

    def score(batch: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not batch.requires_grad
        return seen(batch)

    square, apgd = Square(queries=300, direction=direction), APGD(direction=direction)
    attacked = square(score, images, Generator().manual_seed(1))
    assert len(seen.asked) == 300
    assert {tuple(asked.shape) for asked in seen.asked} == {tuple(images.shape)}
    black_box = gains(square, model, images, attacked=attacked)
    assert black_box.mean() <= gains(apgd, model, images).mean()


def test_square_works_on_a_score_without_gradient(images: Tensor) -> None:
    def score(batch: Tensor) -> Tensor:
        return torch.from_numpy(tiny("relu")(batch).detach().numpy())

    assert (gains(Square(queries=100), score, images) > 0).all()
    with pytest.raises(ArmorError, match="no gradient"):
        APGD()(score, images, Generator())


def test_square_starts_with_stripes_and_proposes_one_square_per_image() -> None:
    images = draw_images(20, 30).clamp(0.1, 0.9)
    seen = Counted(tiny("smooth"))
    attack = Square(queries=40, epsilon=0.05)
    attack(seen, images, Generator().manual_seed(1))
    assert torch.equal(seen.asked[0], images)
    stripes = seen.asked[1] - images
    torch.testing.assert_close(stripes, stripes[:, :, :1].expand_as(stripes))
    torch.testing.assert_close(stripes.abs(), torch.full_like(images, 0.05))
    model = tiny("smooth")
    current, corners = seen.asked[1], set()
    with torch.no_grad():
        for step, proposed in enumerate(seen.asked[2:], start=1):
            changed = (proposed != current).any(1)
            side = attack.side(step, 20, 30)
            for image in changed:
                rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
                assert not len(rows) or max(rows.max() - rows.min(), columns.max() - columns.min()) < side
            corners.add(len({tuple(image.nonzero()[0].tolist()) for image in changed if image.any()}))
            better = model(proposed) > model(current)
            current = torch.where(better.view(-1, 1, 1, 1), proposed, current)
    assert max(corners) == len(images)


def test_squares_shrink_on_the_schedule_of_the_paper() -> None:
    attack = Square(queries=10_000)
    # √(0.05 · 224²) = 50.1, then p halves after 10, 50, 200, …, 8000 proposals
    steps = (1, 10, 11, 51, 201, 1001, 2001, 4001, 6001, 8001)
    assert [attack.side(step, 224, 224) for step in steps] == [50, 50, 35, 25, 18, 13, 9, 6, 4, 3]
    assert Square(queries=1000).side(2, 224, 224) == 35
    assert Square(initial_share=1.0).side(1, 8, 400) == 8
    assert attack.side(9999, 5, 5) == 1
