"""Settings of all unit tests: generated examples are few and repeatable, and a slow machine is no failure.

``make fuzz`` sets FUZZ_SEED: many examples then, other ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",
    settings.get_profile("unit"),
    max_examples=1000,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("fuzz" if "FUZZ_SEED" in os.environ else "unit")
