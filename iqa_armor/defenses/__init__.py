"""Defenses of a network and around one: activations, purifiers of its images, smoothers of its scores."""
