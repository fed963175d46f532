"""Pristine synthetic scenes with the statistics of natural images: dead leaves, 1/f textures, shading."""

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_MIN_RADIUS = 1.5
_TEXTURES = 6


@dataclass(frozen=True)
class Leaf:
    """One opaque shape of a scene; lengths are in pixels."""

    center: tuple[float, float]  # row, column
    axes: tuple[float, float]  # half lengths along and across
    angle: float  # of the first axis, in radians
    power: float  # exponent of the superellipse: 2 is an ellipse, large values approach a rectangle
    color: Floats  # RGB in [0, 1]
    contrast: float  # amplitude of the texture
    shade: float  # brightness slope across the leaf
    softness: float  # width of the edge


def render_scene(rng: Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return a pristine scene (height, width, 3), 8 bits, the same for the same state of `rng`.

    Leaves with power-law radii cover each other from back to front, each with a color near one of a small palette, a
    patch of a noise field with a 1/f^a spectrum and a shading; in half of the scenes the back layer is out of focus.

    Source: Lee, Mumford & Huang, "Occlusion Models for Natural Images", IJCV 2001 (radii and occlusion);
    Ruderman & Bialek, "Statistics of Natural Images", PRL 1994 (1/f spectra). Shading, shadows, focus (ours).
    """
    from scipy.ndimage import gaussian_filter

    textures = [_texture(rng, height, width) for _ in range(_TEXTURES)]
    hues = rng.uniform() + rng.normal(0, 0.18, 7)
    colors = [colorsys.hsv_to_rgb(hue % 1.0, rng.beta(1.3, 3.0), rng.uniform(0.08, 0.95)) for hue in hues.tolist()]
    palette = np.array(colors, np.float32)
    mix = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = (1 - mix) * palette[0] + mix * palette[1]
    background = sky * (1 + _log_uniform(rng, 0.005, 0.2) * textures[0][..., None])
    canvas = np.broadcast_to(background, (height, width, 3)).astype(np.float32)
    smallest = _log_uniform(rng, _MIN_RADIUS, 6)
    count = 4 + int(height * width / 49152 * _log_uniform(rng, 30, 2500) * (_MIN_RADIUS / smallest) ** 0.7)
    softness, roughness = rng.uniform(0.6, 1.3), _log_uniform(rng, 0.2, 2.7)
    focus_after = int(count * rng.uniform(0.3, 0.95)) if rng.random() < 0.5 else -1  # last leaf that is out of focus
    defocus = _log_uniform(rng, 1.0, 6.0)
    for index in range(count):
        leaf = _leaf(rng, (height, width), palette, smallest=smallest, softness=softness, roughness=roughness)
        _paint(canvas, leaf, textures[rng.integers(_TEXTURES)], rng)
        if index == focus_after:
            canvas = gaussian_filter(canvas, (defocus, defocus, 0), mode="nearest")
    return _developed(canvas, rng)


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _texture(rng: Generator, height: int, width: int) -> Floats:
    """Return noise of unit variance whose amplitude spectrum falls as 1/f^a, in some fields stretched."""
    rows = np.fft.fftfreq(height)[:, None] * height
    columns = np.fft.rfftfreq(width)[None, :] * width
    angle = rng.uniform(0, np.pi)
    stretch = rng.choice([1.0, 1.0, rng.uniform(2, 8)])
    along = rows * np.cos(angle) + columns * np.sin(angle)
    across = columns * np.cos(angle) - rows * np.sin(angle)
    frequency = np.sqrt((along * stretch) ** 2 + across**2)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency ** rng.uniform(0.3, 1.6)
    field = np.fft.irfft2(spectrum, (height, width))
    return np.asarray(field / field.std(), np.float32)


def _leaf(
    rng: Generator, size: tuple[int, int], palette: Floats, *, smallest: float, softness: float, roughness: float
) -> Leaf:
    low, high = smallest, 0.45 * min(size)
    # Inverse of the cumulative distribution of a density r^-3, that of scale-invariant dead leaves, from low to high.
    radius = (low**-2 - rng.random() * (low**-2 - high**-2)) ** -0.5
    radius = max(radius, low * np.exp(rng.uniform(0, 2.0)))  # fewer specks than the pure model
    aspect = np.exp(rng.normal(0, 0.5))
    color = palette[rng.integers(len(palette))] * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03, 3)
    center, axes = (rng.uniform(0, size[0]), rng.uniform(0, size[1])), (radius * aspect, radius / aspect)
    angle, power = rng.uniform(0, np.pi), float(rng.choice([2.0, 2.0, 3.0, 8.0]))
    contrast, shade = roughness * _log_uniform(rng, 0.01, 0.3), rng.uniform(0, 0.4)
    return Leaf(center, axes, angle, power, color.astype(np.float32), contrast, shade, softness)


def _paint(canvas: Floats, leaf: Leaf, texture: Floats, rng: Generator) -> None:
    """Draw a leaf and its shadow on `canvas`, in place."""
    shadow = float(max(leaf.axes)) * 0.15 if min(leaf.axes) > 8 else 0.0
    # A superellipse with a large power reaches its corner, at sqrt(2) times the longer axis at most.
    reach = 1.42 * max(leaf.axes) + leaf.softness + (2 * shadow + 2)
    ends = zip(leaf.center, canvas.shape[:2], strict=True)
    window = tuple(slice(max(int(at - reach), 0), min(int(at + reach) + 1, length)) for at, length in ends)
    rows, columns = (np.arange(part.start, part.stop).astype(np.float32) for part in window)
    patch = canvas[window]
    if shadow and rng.random() < 0.5:
        down, right = np.float32(shadow), np.float32(shadow * rng.uniform(-1, 1))
        cover, _ = _coverage(leaf, rows - down, columns - right, softness=2 * shadow)
        patch *= 1 - rng.uniform(0.2, 0.6) * cover[..., None]
    cover, along = _coverage(leaf, rows, columns, softness=leaf.softness)
    light = 1 + leaf.contrast * texture[window] + leaf.shade * along
    patch += cover[..., None] * (light[..., None] * leaf.color - patch)


def _coverage(leaf: Leaf, rows: Floats, columns: Floats, *, softness: float) -> tuple[Floats, Floats]:
    """Return the share of each pixel that the leaf covers, and positions along its first axis."""
    down, right = rows[:, None] - leaf.center[0], columns[None, :] - leaf.center[1]
    along = (down * np.cos(leaf.angle) + right * np.sin(leaf.angle)) / leaf.axes[0]
    across = (right * np.cos(leaf.angle) - down * np.sin(leaf.angle)) / leaf.axes[1]
    radius = (np.abs(along) ** leaf.power + np.abs(across) ** leaf.power) ** (1 / leaf.power)
    distance = (1 - radius) * min(leaf.axes)
    return np.clip(distance / softness + 0.5, 0, 1).astype(np.float32), along.astype(np.float32)


def _developed(canvas: Floats, rng: Generator) -> NDArray[np.uint8]:
    """Light, expose and quantize a scene as a camera would."""
    height, width = canvas.shape[:2]
    slope = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * rng.uniform(-0.3, 0.3)
    slope = slope + np.linspace(-1, 1, height, dtype=np.float32)[:, None] * rng.uniform(-0.3, 0.3)
    lit = np.clip(canvas * (1 + slope[..., None]), 0, None) ** np.float32(rng.uniform(0.7, 1.3))
    low, high = np.percentile(lit, [1, 99])
    black, white = rng.uniform(0, 0.15), rng.uniform(0.75, 1.05)
    exposed = black + (lit - low) / max(high - low, 0.1) * (white - black)
    exposed += rng.normal(0, rng.uniform(0, 0.008), exposed.shape)
    return np.asarray(np.rint(np.clip(exposed, 0, 1) * 255), np.uint8)
