"""From the colours of an embedded ICC profile to sRGB, which is what networks were trained on.

Applied to the image at its final size, so that its cost does not grow with the picture: about 3 ms, for pictures with
another profile than sRGB only. Knows nothing of files.
"""

from __future__ import annotations

import io

from PIL import Image, ImageCms

PROFILE_BYTES = 4 * 1024 * 1024
"""Largest profile looked at: those of screens and cameras have a few kilobytes, those of presses one or two million."""

_SRGB = ImageCms.createProfile("sRGB")
_LAB = ImageCms.createProfile("LAB")


def embedded(profile: object, space: str) -> ImageCms.ImageCmsProfile | None:
    """Read the profile that a picture's file carries.

    Args:
        profile: its bytes; anything else is no profile.
        space: of the picture: ``RGB``, ``GRAY`` or ``CMYK``.

    Returns:
        None where there is nothing to convert from: none, sRGB itself, one of another space, or a broken one, which is
        as good as none and does not cost the picture.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        description = source.profile.profile_description or ""
        if source.profile.xcolor_space.strip() != space or description.startswith("sRGB"):
            return None
    except MemoryError:
        raise
    except Exception:  # littlecms and its wrapper have many words for a broken profile
        return None
    return source


def to_srgb(image: Image.Image, source: ImageCms.ImageCmsProfile | None) -> Image.Image:
    """Give the image in sRGB.

    Args:
        image: RGB (its three channels alike for a profile of grey), or CMYK.
        source: as ``embedded`` gave it; None leaves RGB as it is and converts CMYK plainly.
    """
    if source is not None:
        try:
            grey = source.profile.xcolor_space.strip() == "GRAY"
            seen = image.getchannel("R") if grey else image
            return ImageCms.buildTransform(source, _SRGB, seen.mode, "RGB").apply(seen)
        except MemoryError:
            raise
        except Exception:  # its header was sound, its tables are not
            pass
    return image.convert("RGB")


def from_lab(image: Image.Image) -> Image.Image:
    """Give a CIELAB image (a TIFF may hold one) in sRGB; Pillow has no conversion of its own."""
    return ImageCms.buildTransform(_LAB, _SRGB, "LAB", "RGB").apply(image)
