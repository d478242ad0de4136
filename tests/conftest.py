"""What every test gets: a home of its own, no tracing to anybody's account, steady Hypothesis."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Deadlines and "too slow" measure the machine, not the code.
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=50,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")

# A developer's own tracing settings would send what the tests record to a server.
for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's keys and pins go: never the configuration of whoever runs it."""
    path = tmp_path / "home"
    monkeypatch.setenv("PROVKEEP_HOME", str(path))
    return path
