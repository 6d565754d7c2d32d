from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that is busy: the test's own timeout is the
# limit. The order of examples is random from run to run, so what fails is printed with its seed.
settings.register_profile(
    "podthaw", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("podthaw")
