"""Hypothesis settings of all tests."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck

OPTIONS: dict[str, Any] = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
