"""Fit, filter and antialias: from an upright image of any size to one of exactly the recipe's.

Pure arithmetic on sizes and Pillow's resampling; knows nothing of files and formats.
"""

from __future__ import annotations

from PIL import Image

from nsfwd.bundles.manifest import Recipe

Box = tuple[float, float, float, float]
"""A part of an image: left, top, right, bottom, in pixels and fractions of them."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def check(recipe: Recipe) -> None:
    """Refuse a recipe that no resampling here can carry out.

    Raises:
        ValueError: the bundle's fault; no retry helps.
    """
    if recipe.filter == "lanczos" and not recipe.antialias:
        raise ValueError("the filter lanczos exists only with antialias")
    if recipe.align_corners and recipe.antialias:
        raise ValueError("align_corners exists only without antialias")


def fitted(image: Image.Image, recipe: Recipe, background: tuple[int, ...]) -> Image.Image:
    """Give the image at the recipe's size.

    Args:
        image: RGB or CMYK.
        background: colour of the bars of ``pad``, in the image's mode.

    Shape: (recipe.height, recipe.width), of the image's mode
    """
    target = (recipe.width, recipe.height)
    if recipe.fit == "stretch":
        return _resized(image, target, (0.0, 0.0, *image.size), recipe)
    if recipe.fit == "crop":
        return _resized(image, target, _centre(image.size, target), recipe)
    inner = inside(image.size, target)
    resized = _resized(image, inner, (0.0, 0.0, *image.size), recipe)
    if inner == target:
        return resized
    padded = Image.new(image.mode, target, background)
    padded.paste(resized, ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2))
    return padded


def inside(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Tell the largest size of the same aspect ratio inside ``target``, at least one pixel each way."""
    factor = min(target[0] / size[0], target[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draft_size(recipe: Recipe, size: tuple[int, int]) -> tuple[int, int] | None:
    """Tell the size below which a JPEG of ``size`` (as seen upright) must not be decoded; None to decode it whole.

    Only a filter that averages what it leaves out may be given a smaller picture: one that picks single pixels would
    pick others.
    """
    if recipe.draft <= 0 or not recipe.antialias or recipe.filter == "nearest":
        return None
    target = (recipe.width, recipe.height)
    wanted = inside(size, target) if recipe.fit == "pad" else target
    return int(-(-wanted[0] * recipe.draft // 1)), int(-(-wanted[1] * recipe.draft // 1))


def _centre(size: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest part of the target's aspect ratio in the middle."""
    factor = min(size[0] / target[0], size[1] / target[1])
    width, height = target[0] * factor, target[1] * factor
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return max(0.0, left), max(0.0, top), min(size[0], left + width), min(size[1], top + height)


def _resized(image: Image.Image, size: tuple[int, int], box: Box, recipe: Recipe) -> Image.Image:
    """Resample ``box`` to ``size``. Without antialias Pillow cuts fractions off: up to one level of 255 too dark."""
    method = _FILTERS[recipe.filter]
    if recipe.antialias:
        return image.resize(size, method, box)
    across = _steps(size[0], box[0], box[2], corners=recipe.align_corners)
    down = _steps(size[1], box[1], box[3], corners=recipe.align_corners)
    matrix = (across[0], 0.0, across[1], 0.0, down[0], down[1])
    return image.transform(size, Image.Transform.AFFINE, matrix, method)


def _steps(count: int, low: float, high: float, *, corners: bool) -> tuple[float, float]:
    """Give (a, c) so that output pixel x is sampled at a * (x + 0.5) + c, which is how Pillow counts.

    Aligned corners put the first sample on the centre of the first pixel and the last on that of the last:
    low + 0.5 + x * (high - low - 1) / (count - 1). Otherwise the samples lie in the middle of equal parts.

    Source: TensorFlow, ``tf.compat.v1.image.resize``; TensorFlow.js, ``resizeBilinear(alignCorners)``.
    """
    if not corners:
        return (high - low) / count, low
    step = (high - low - 1) / (count - 1) if count > 1 else 0.0
    return step, low + 0.5 - 0.5 * step
