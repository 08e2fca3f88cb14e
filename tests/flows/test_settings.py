"""Importing a flow switches Prefect's telemetry off, unless the user set it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from pe.flows.settings import DEFAULTS

PROGRAM = """
import json, os, sys
import pe.flows.settings
assert "prefect" not in sys.modules
import pe.flows.schedule
from prefect.analytics import is_telemetry_enabled
from prefect.settings import get_current_settings

settings = get_current_settings()
print(json.dumps({
    "environment": {name: os.environ[name] for name in pe.flows.settings.DEFAULTS},
    "client": is_telemetry_enabled(),
    "server": settings.server.analytics_enabled,
    "cloud": settings.cloud.enable_orchestration_telemetry,
    "metrics": settings.telemetry.enable_resource_metrics,
    "timeout": settings.server.ephemeral.startup_timeout_seconds,
}))
"""


@pytest.fixture
def settings(client: Callable[..., Any], server: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What Prefect makes of an environment that holds the given variables and none of our defaults."""
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delitem(server.environment, name)

    def found(**variables: str) -> dict[str, Any]:
        for name, value in variables.items():
            monkeypatch.setitem(os.environ, name, value)
        ran = client(PROGRAM)
        assert ran.returncode == 0, ran.stderr
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer

    return found


def test_nothing_is_reported_by_default(settings: Callable[..., dict[str, Any]]) -> None:
    assert settings() == {
        "environment": DEFAULTS,
        "client": False,
        "server": False,
        "cloud": False,
        "metrics": False,
        "timeout": 120,
    }


def test_what_the_user_set_is_left_alone(settings: Callable[..., dict[str, Any]]) -> None:
    chosen = {"DO_NOT_TRACK": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "true"}
    found = settings(**chosen)
    assert found["environment"] == DEFAULTS | chosen
    assert found["server"] is True
    assert found["cloud"] is False
