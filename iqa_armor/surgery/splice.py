"""Put a module on a tensor of a traced network."""

from typing import Literal

from torch import fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.calls import is_convolution
from iqa_armor.graph.walk import descendants

Taps = Literal["all", "trunk"]


def splice(traced: fx.GraphModule, cut: fx.Node, block: nn.Module, *, taps: Taps = "all") -> str:
    """Route the tensor (N, C, H, W) of `cut` through `block`, (N, C, H', W'), in place; return the block's name there.

    Its readers get the block's output instead: with taps "all" every one, with "trunk" only those that lead to
    convolutions, which leaves side readers a way around the block. Raises SurgeryError if there is none, or a block
    already stands there.
    """
    readers = [
        user for user in cut.users if taps == "all" or any(is_convolution(traced, node) for node in descendants(user))
    ]
    if not readers:
        raise SurgeryError(f"nothing reads {cut.name!r}; a block there would change no score")
    name = f"robust_{cut.name}"
    if hasattr(traced, name):
        raise SurgeryError(f"a block already stands on {cut.name!r}; choose another --position")
    traced.add_submodule(name, block)
    with traced.graph.inserting_after(cut):
        inserted = traced.graph.call_module(name, (cut,))
    # The block itself must keep reading `cut`, or it would feed on its own output.
    cut.replace_all_uses_with(inserted, delete_user_cb=lambda user: user in readers)
    traced.graph.lint()
    traced.recompile()
    return name
