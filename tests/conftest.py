"""Property tests draw the same examples every time in the quick check, and new ones, more of them, in the full one."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("quick", derandomize=True, deadline=None)
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
