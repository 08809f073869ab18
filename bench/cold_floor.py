"""The least that lies between a command and a first score: Python, OpenVINO, the network compiled once, one picture.

Started as ``python -m bench.cold_floor BUNDLE PICTURE [PRECISION]``; writes the scores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nsfwd.bundles.bundle_store import open_bundle
from nsfwd.engines import openvino_ir
from nsfwd.engines.openvino import PRECISIONS
from nsfwd.imaging import preprocess


def main() -> None:
    """Score one picture and end."""
    import numpy as np
    import openvino

    from bench.shared import CACHE, LIMITS

    directory, picture, *precision = sys.argv[1:]
    bundle = open_bundle(Path(directory), precision=precision[0] if precision else None)
    recipe = bundle.manifest.recipe
    hint = {"INFERENCE_PRECISION_HINT": PRECISIONS[bundle.precision]}
    network = openvino.Core().compile_model(openvino_ir.obtain(bundle, CACHE) / openvino_ir.NETWORK, "CPU", hint)
    with Path(picture).open("rb") as file:
        pixels = np.frombuffer(preprocess.decode(file, recipe, LIMITS).data, np.uint8)
    image = pixels.reshape(1, recipe.height, recipe.width, 3).astype(np.float32) * recipe.scale
    print(network(image)[0][0].tolist())


if __name__ == "__main__":
    main()
