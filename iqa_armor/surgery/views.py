"""Average a network's scores over moved and mirrored views of each image."""

import operator

import torch
from torch import Tensor, fx
from torch.nn import functional

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.sizes import size_of

MOVES = {1: (0,), 2: (0,), 4: (0, 16), 8: (0, 8, 16, 24)}  # pixels down and to the right, by the number of views


def average_views(traced: fx.GraphModule, views: int) -> None:
    """Make a network give the mean of its scores over views of each image, in place.

    Two views are the image and its mirror image, four also both moved down and to the right by 16 pixels, eight by 8,
    16 and 24 pixels; what was in the image is mirrored into the free edge. A call takes so many times as long. Signed
    steps gain from the mean of gradients, which agree less from view to view than scores do, above all where strides
    skip pixels. The graph maps (N, 3, H, W) to (N,) or (N, 1); one with more inputs is a SurgeryError.

    Source: ours. That strides make scores depend on small moves: Zhang, "Making Convolutional Networks Shift-Invariant
    Again", ICML 2019.
    """
    if views == 1:
        return
    graph, moves = traced.graph, MOVES[views]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise SurgeryError(f"views are made of one image, and this network takes {len(inputs)}; pass --views 1")
    (image,), output = inputs, graph.output_node()
    _check_size(size_of(image) or (), views)
    readers, (scores,) = list(image.users), output.all_input_nodes
    with graph.inserting_after(image):
        after = graph.call_function(torch.cat, ([image], 0))
    with graph.inserting_before(after):
        edge, parts, whole = moves[-1], [], slice(None)
        padded = graph.call_function(functional.pad, (image, (edge, 0, edge, 0), "reflect")) if edge else image
        for move in moves:
            window = slice(edge - move, -move or None)
            moved = graph.call_function(operator.getitem, (padded, (whole, whole, window, window))) if edge else image
            parts += [moved, graph.call_function(torch.flip, (moved, (-1,)))]
    after.args = (parts, 0)
    for reader in readers:
        reader.replace_input_with(image, after)
    with graph.inserting_before(output):
        each = graph.call_function(torch.unflatten, (scores, 0, (2 * len(moves), -1)))
        output.replace_input_with(scores, graph.call_function(torch.mean, (each, 0)))
    graph.lint()
    traced.recompile()


def moved_at_random(images: Tensor, views: int, *, generator: torch.Generator) -> Tensor:
    """Return images (N, 3, H, W) moved together as one of the views is, without mirroring.

    Raises:
        SurgeryError: If they are too small for that.
    """
    if len(MOVES[views]) == 1:
        return images
    _check_size(tuple(images.shape), views)
    edge = MOVES[views][int(torch.randint(len(MOVES[views]), (), generator=generator))]
    return functional.pad(images, (edge, 0, edge, 0), "reflect")[..., : images.shape[-2], : images.shape[-1]]


def _check_size(size: tuple[int, ...], views: int) -> None:
    if size and min(size[-2:]) <= MOVES[views][-1]:
        raise SurgeryError(
            f"{views} views move images by up to {MOVES[views][-1]} pixels, and these are {size[-2]}x{size[-1]}; pass "
            "--views 2, or a larger --input-size"
        )
