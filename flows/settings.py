"""Defaults for Prefect's environment: nothing phones home, and a slow machine may start a temporary server.

Import this module before prefect, which reads the environment when it is imported. What the user set is left alone,
and processes started from here (served flow runs, a temporary server) inherit all of it.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
