"""Markers that show a task in frames, and rendering."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
from helpers.families import PER_ROBOT
from maml_envs.engines import rendering
from maml_envs.engines.markers import Arrow, Sphere, heading

DIRECTIONS = ("HalfCheetahDir", "AntDir", "Walker2dDir")
ANGLES = ("AntDir2D", "HumanoidDir")
VELOCITIES = {
    "HalfCheetahVel": 2.0,
    "AntVel": 3.0,
    "Walker2dVel": 10.0,
    "HopperVel": 2.0,
    "SwimmerVel": 0.2,
}
PLACES = {"AntGoal": 2.5, "ReacherGoal": 0.15, "PointNavigation": 0.4, "PointNavigationSparse": 1.0}
MARKED = {*DIRECTIONS, *ANGLES, *VELOCITIES, *PLACES}

Changed = Callable[..., np.ndarray]


@pytest.fixture
def changed(egl: None) -> Iterator[Changed]:
    """Pixels that markers turn green, (n, 2): distance to the right of and above the centre."""
    envs: list[gym.Env] = []

    def pixels(name: str, task: Mapping[str, float], **options: Any) -> np.ndarray:
        if not envs:
            envs.append(
                gym.make(
                    f"maml_rl/{name}-v0", render_mode="rgb_array", width=120, height=120, **options
                )
            )
        env = envs[0]
        env.reset(seed=0, options={"task": task})
        with_markers, without = env.render().astype(int), env.unwrapped.engine.render().astype(int)
        green = with_markers[..., 1] - with_markers[..., [0, 2]].max(axis=-1) > 40
        rows, columns = np.nonzero((abs(with_markers - without).max(axis=-1) > 30) & green)
        return np.stack([columns - 59.5, 59.5 - rows], axis=1)

    yield pixels
    for env in envs:
        env.close()


def head(pixels: np.ndarray) -> float:
    """Distance from the arrow's middle to its head, the thickest part, to the right."""
    columns, thickness = np.unique(pixels[:, 0], return_counts=True)
    return columns[thickness == thickness.max()].mean() - (columns[0] + columns[-1]) / 2


def test_families_that_show_their_task() -> None:
    marked = {name for name, family in maml_envs.FAMILIES.items() if hasattr(family, "markers")}
    assert marked == MARKED, "correct the table above of the kind of marker"


@pytest.mark.slow
@pytest.mark.parametrize("name", DIRECTIONS)
def test_arrow_points_in_the_direction(name: str, changed: Changed) -> None:
    forward, backward = (changed(name, {"direction": direction}) for direction in (1.0, -1.0))
    for pixels, direction in ((forward, 1), (backward, -1)):
        assert direction * head(pixels) > 3
        assert np.ptp(pixels[:, 0]) > 20
        assert np.median(pixels[:, 1]) > 5, "above the robot"


@pytest.mark.slow
@pytest.mark.parametrize("name", ANGLES)
def test_arrow_points_at_the_angle(name: str, changed: Changed) -> None:
    arrows = [changed(name, {"direction_angle": angle}) for angle in (0.0, np.pi, np.pi / 2)]
    # the upper half, without reflections in the floor
    right, left, away = (pixels[pixels[:, 1] > 0] for pixels in arrows)
    assert head(right) > 2
    assert head(left) < -2
    assert np.ptp(away[:, 1]) > np.ptp(right[:, 1])
    assert np.ptp(away[:, 0]) < np.ptp(right[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fast"), VELOCITIES.items())
def test_arrow_grows_with_the_goal_velocity(name: str, fast: float, changed: Changed) -> None:
    widths = [
        np.ptp(changed(name, {"goal_velocity": part * fast})[:, 0]) for part in (0.4, 0.7, 1.0)
    ]
    assert widths[0] + 2 < widths[1] < widths[2] - 2
    assert len(changed(name, {"goal_velocity": 0.0})) == 0
    assert head(changed(name, {"goal_velocity": fast})) > 3
    assert head(changed(name, {"goal_velocity": -fast})) < -3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "far"), PLACES.items())
def test_a_sphere_marks_the_goal(name: str, far: float, changed: Changed) -> None:
    for x, y in ((far, 0.0), (-far, 0.0), (0.0, far), (0.0, -far)):
        pixels = changed(name, {"goal_x": x, "goal_y": y})
        assert len(pixels) > 4
        across, up = pixels.mean(axis=0)
        assert np.sign(x) * across > 10 if x else np.sign(y) * up > 8
        assert abs(across if x == 0 else up) < 10


def test_goal_marker_has_the_scale_of_the_point(changed: Changed) -> None:
    pixels = changed("PointNavigation", {"goal_x": 0.25, "goal_y": -0.5})
    np.testing.assert_allclose(pixels.mean(axis=0), [0.25 / 0.75 * 60, -0.5 / 0.75 * 60], atol=1.0)


def test_view_includes_a_distant_goal(changed: Changed) -> None:
    across, up = changed("PointNavigation", {"goal_x": 0.9, "goal_y": 0.0}).mean(axis=0)
    assert 50 < across < 60
    assert abs(up) < 1


@pytest.mark.slow
@pytest.mark.parametrize("camera", [{}, {"camera_id": -1}])
def test_arrow_and_camera_follow_the_robot(
    camera: dict[str, int], changed: Changed, monkeypatch: Any
) -> None:
    at_origin = changed("HalfCheetahDir", {"direction": 1.0}, **camera)
    start = maml_envs.FAMILIES["HalfCheetahDir"].initial_state

    def far_away(self: Any, rng: np.random.Generator) -> Any:
        state = start(self, rng)
        state["qpos"][0] += 40.0
        return state

    monkeypatch.setattr(maml_envs.FAMILIES["HalfCheetahDir"], "initial_state", far_away)
    far = changed("HalfCheetahDir", {"direction": 1.0}, **camera)
    np.testing.assert_allclose(at_origin.mean(axis=0), far.mean(axis=0), atol=2.0)


@pytest.mark.parametrize("name", PER_ROBOT)
def test_rendering_does_not_affect_the_simulation(name: str, egl: None) -> None:
    """Observations, rewards and state are bit-identical with and without rendering."""
    trajectories = []
    for mode in ("rgb_array", None):
        env = gym.make(
            f"maml_rl/{name}-v0", render_mode=mode, **({"width": 64, "height": 64} if mode else {})
        )
        observation, _ = env.reset(seed=3)
        env.action_space.seed(0)
        trajectory = [observation]
        for _ in range(4):
            if mode:
                env.render()
            observation, reward, *_ = env.step(env.action_space.sample())
            trajectory += [observation, np.array(reward)]
        trajectory += [np.array(value) for value in env.unwrapped.engine.state.values()]
        trajectories.append(trajectory)
        env.close()
    for one, other in zip(*trajectories, strict=True):
        np.testing.assert_array_equal(one, other)


def test_markers_cannot_change_the_state(egl: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def change_state(self: Any, state: Any, task: Any) -> list[Sphere]:
        state["qpos"][:] = 9.0
        return [Sphere((0.0, 0.0, 0.0), 0.1)]

    monkeypatch.setattr(maml_envs.FAMILIES["AntDir"], "markers", change_state)
    env = gym.make("maml_rl/AntDir-v0", render_mode="rgb_array", width=64, height=64)
    env.reset(seed=0)
    before = env.unwrapped.data.qpos.copy()
    env.render()
    np.testing.assert_array_equal(env.unwrapped.data.qpos, before)
    env.close()


@pytest.mark.slow
def test_depth_frames_have_no_markers(egl: None) -> None:
    depths = []
    for direction in (1.0, -1.0):
        env = gym.make("maml_rl/AntDir-v0", render_mode="depth_array", width=64, height=64)
        env.reset(seed=0, options={"task": {"direction": direction}})
        depths.append(env.render())
        env.close()
    np.testing.assert_array_equal(*depths)


def test_point_rejects_arrows() -> None:
    robot = maml_envs.FAMILIES["PointNavigation"].robot
    with pytest.raises(TypeError, match="spheres only"):
        robot.single_engine((), "rgb_array").render([Arrow((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))])


def test_arrow_is_centred() -> None:
    arrow = Arrow((1.0, 2.0, 3.0), (2.0, 0.0, -4.0))
    assert arrow.tail == (0.0, 2.0, 5.0)
    assert arrow.length == pytest.approx(np.sqrt(20))
    np.testing.assert_allclose(heading(np.pi / 2), (0.0, 1.0, 0.0), atol=1e-12)


# --- without a screen ---


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make only the named backends start; returns the list of those that were tried."""
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(variable, "x")  # so that monkeypatch restores it
        monkeypatch.delenv(variable)
    tried: list[str] = []

    def only(*working: str) -> list[str]:
        def start(name: str) -> Any:
            assert "PYOPENGL_PLATFORM" not in os.environ, "left over from the previous backend"
            tried.append(name)
            os.environ["PYOPENGL_PLATFORM"] = name
            if name not in working:
                raise AttributeError(f"no {name} here")
            return SimpleNamespace(
                GLContext=lambda width, height: SimpleNamespace(free=lambda: None)
            )

        monkeypatch.setattr(rendering.importlib, "import_module", start)
        monkeypatch.setattr(rendering.sys, "modules", {**sys.modules})
        monkeypatch.setattr(rendering.sys, "platform", "linux")
        return tried

    return only


def test_egl_is_tried_before_osmesa(headless: Callable[..., list[str]]) -> None:
    tried = headless("mujoco.osmesa")
    rendering.check_opengl()
    assert tried == ["mujoco.egl", "mujoco.osmesa"]
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_first_working_backend_is_used(headless: Callable[..., list[str]]) -> None:
    tried = headless("mujoco.egl", "mujoco.osmesa")
    rendering.check_opengl()
    assert tried == ["mujoco.egl"]
    assert os.environ["MUJOCO_GL"] == "egl"


def test_empty_mujoco_gl_counts_as_unset(
    headless: Callable[..., list[str]], monkeypatch: Any
) -> None:
    tried = headless("mujoco.egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    rendering.check_opengl()
    assert tried == ["mujoco.egl"]


def test_error_without_opengl_names_the_packages(headless: Callable[..., list[str]]) -> None:
    headless()
    with pytest.raises(
        RuntimeError, match=r"(?s)egl: no mujoco.egl here.*osmesa: .*Debian.*libegl1.*libosmesa6"
    ):
        rendering.check_opengl()
    assert not {"MUJOCO_GL", "PYOPENGL_PLATFORM"} & set(os.environ)


def test_backend_of_the_user_is_the_only_one_tried(
    headless: Callable[..., list[str]], monkeypatch: Any
) -> None:
    tried = headless("mujoco.egl")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(RuntimeError, match="libosmesa6"):
        rendering.check_opengl()
    assert tried == ["mujoco.osmesa"]


SCRIPT = """
import os, sys
import gymnasium, maml_envs
env = gymnasium.make("maml_rl/HalfCheetahVel-v0", render_mode="rgb_array", width=64, height=64)
env.reset(seed=0)
try:
    frame = env.render()
except RuntimeError as error:
    assert "libegl1" in str(error) and "egl: " in str(error) and "osmesa: " in str(error), error
else:
    assert os.environ["MUJOCO_GL"] == "osmesa" and frame.std() > 1
env.close()
"""


@pytest.mark.slow
def test_fallback_from_a_broken_egl() -> None:
    """In a new process: PyOpenGL keeps its first platform, and the fallback must unload it."""
    environment = {**os.environ, "MUJOCO_EGL_DEVICE_ID": "99"}  # no such device
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        environment.pop(variable, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
