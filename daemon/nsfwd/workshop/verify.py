"""Verify a bundle on disk: digests, then the model itself, then its golden pictures. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nsfwd.bundles.store import Bundle, verify_file
from nsfwd.engines import quiet

if TYPE_CHECKING:
    from nsfwd.workshop.goldens import Drift


def verify(bundle: Bundle, say: Callable[[str], None]) -> list[Drift]:
    """Hash every file, load the model with Keras, and score the golden pictures at full precision.

    Args:
        bundle: opened.
        say: takes lines of progress.

    Returns:
        The drift of each golden picture; judge it with ``goldens.require``.

    Raises:
        BundleError: a file is altered, the model cannot be loaded or has other shapes, or scores are no probabilities.
    """
    for path in bundle.manifest.files:
        verify_file(bundle, path)
    say(f"{bundle.manifest.name}: {len(bundle.manifest.files)} files have their digests; loading the model")
    with quiet.muted():
        from nsfwd.workshop import goldens, keras_file

        model = keras_file.load(bundle.weights, bundle.manifest)
        pictures = {golden.file: path.read_bytes() for golden, path in bundle.golden_files()}
        return goldens.measure(model, bundle.manifest, pictures)
