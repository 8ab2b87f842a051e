from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _log_in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo appends its warnings to MUJOCO_LOG.TXT in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def egl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render without a screen; skip only if EGL cannot create a context."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")
    try:
        from mujoco.egl import GLContext

        GLContext(16, 16).free()
    except Exception as error:  # drivers fail in many ways
        pytest.skip(f"EGL cannot create a context: {error!r}")
