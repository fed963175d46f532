"""Defences that change a network itself and leave its training alone."""

from iqa_armor.defenses.activations import replace_activations

__all__ = ["replace_activations"]
