"""From the colours of an embedded ICC profile to sRGB, which is what networks were trained on.

Applied to the image at its final size, so that its cost does not grow with the picture: about 3 ms, for pictures with
another profile than sRGB only. Profiles of CMYK and grey pictures are left to Pillow's plain conversion. Knows nothing
of files.
"""

from __future__ import annotations

import io

from PIL import Image, ImageCms

PROFILE_BYTES = 1024 * 1024
"""Largest profile looked at: those of screens and cameras have a few kilobytes, none of RGB needs more."""

_SRGB = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Give the image in sRGB.

    Args:
        image: RGB.
        profile: bytes of the profile its file carries; anything else is no profile. One that is broken, or not of RGB,
            is as good as none: it does not cost the picture.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= PROFILE_BYTES:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        description = source.profile.profile_description or ""
        if source.profile.xcolor_space.strip() != "RGB" or description.startswith("sRGB"):
            return image
        return ImageCms.buildTransform(source, _SRGB, "RGB", "RGB").apply(image)
    except MemoryError:
        raise
    except Exception:  # littlecms and its wrapper have many words for a broken profile
        return image
