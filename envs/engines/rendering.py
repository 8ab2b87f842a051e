"""Rendering of a MuJoCo simulation: Gymnasium's renderer with a tracking camera and markers."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from maml_envs.engines.markers import COLOUR, Arrow, Marker

_MARKER_RGBA = np.array([*COLOUR, 1.0])
_ARROW_SCALE = 2.0  # MuJoCo draws an arrow at half of its size


@dataclass(frozen=True)
class FreeCamera:
    """A camera that is not part of the model.

    Args:
        distance: from the point it looks at (m); ``None`` for the model's extent.
        elevation: degrees above the plane, negative when looking down.
        azimuth: degrees around the z-axis; at 90 x points right.
        height: of the point it looks at (m); ``None`` for the height of the model's centre.
        follows: whether it follows the robot's centre of mass in the plane, instead of looking at
            the origin. The robot is the first body with all bodies below it.
    """

    distance: float | None = None
    elevation: float = -30.0
    azimuth: float = 90.0
    height: float | None = None
    follows: bool = True


def check_opengl() -> None:
    """Find an OpenGL backend that works, and select it for Gymnasium's renderer by MUJOCO_GL.

    If the user has set MUJOCO_GL, only that backend is tried. Gymnasium's search may accept a
    backend that fails later, and prints a traceback from a destructor if none works.

    Raises:
        RuntimeError: if no backend works; the message says why and what to install.
    """
    requested = os.environ.get("MUJOCO_GL")  # empty counts as not set, as for MuJoCo
    platform = os.environ.get("PYOPENGL_PLATFORM")
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    backends = ["egl", "osmesa"]
    if sys.platform != "linux" or screen:
        backends.insert(0, "glfw")
    problems = []
    for backend in [requested] if requested else backends:
        try:
            importlib.import_module(f"mujoco.{backend}").GLContext(16, 16).free()
            os.environ["MUJOCO_GL"] = backend
            return
        except Exception as error:  # any type, depending on the driver
            problems.append(f"{backend}: {error}")
            _forget_opengl(platform)
    raise RuntimeError(
        f"OpenGL could not be started ({'; '.join(problems)}). On a machine without a screen "
        f"install the Debian package libegl1 (or libosmesa6) and leave MUJOCO_GL unset"
    )


def _forget_opengl(platform: str | None) -> None:
    """Unload PyOpenGL, so that another backend can start: it never changes its platform.

    Args:
        platform: PYOPENGL_PLATFORM to restore; ``None`` if it was not set.
    """
    os.environ.pop("PYOPENGL_PLATFORM", None)
    if platform is not None:
        os.environ["PYOPENGL_PLATFORM"] = platform
    for name in list(sys.modules):
        if name.split(".")[0] == "OpenGL" or name.startswith(("mujoco.egl", "mujoco.osmesa")):
            del sys.modules[name]


class SceneRenderer:
    """Renders one simulation in one render mode.

    Args:
        model: the model to render; its off-screen buffer is enlarged if needed, and its shadow map
            reduced to twice the size of a frame, or to 1024 for smaller frames.
        data: the state to render, read at each call.
        render_mode: render mode of Gymnasium's renderer.
        free_camera: camera to use if ``options`` has none.
        options: options of Gymnasium's renderer.

    Raises:
        RuntimeError: if OpenGL is not available.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        render_mode: str | None,
        free_camera: FreeCamera,
        options: Any,
    ) -> None:
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        is_window = render_mode == "human"
        if is_window:
            # Gymnasium opens it half as large as the screen, and ignores cameras of the model
            options = {k: v for k, v in options.items() if k not in ("camera_name", "camera_id")}
        else:
            # size of a frame
            check_opengl()
            options = {"width": 480, "height": 480, **options}
            visual = model.vis.global_
            visual.offwidth = max(visual.offwidth, options["width"])
            visual.offheight = max(visual.offheight, options["height"])
            # Where the CPU renders, MuJoCo's default of 4096 takes half of the time of a frame.
            shadow_size = max(1024, 2 * options["width"], 2 * options["height"])
            quality = model.vis.quality
            quality.shadowsize = min(quality.shadowsize, shadow_size)
        self._mode = render_mode
        self._model = model
        self._data = data
        self._camera = free_camera
        # camera: from the options, or the free camera
        if "default_camera_config" in options:  # environments and renderer use different names
            options["default_cam_config"] = options.pop("default_camera_config")
        has_camera = not {"camera_name", "default_cam_config"}.isdisjoint(options)
        uses_free_camera = options.get("camera_id", -1) == -1 and not has_camera
        if uses_free_camera:
            distance = model.stat.extent if free_camera.distance is None else free_camera.distance
            options["camera_id"] = -1
            options["default_cam_config"] = {
                "distance": distance,
                "elevation": free_camera.elevation,
                "azimuth": free_camera.azimuth,
            }
            if is_window and free_camera.follows:
                # the user can still turn it and zoom
                tracking = mujoco.mjtCamera.mjCAMERA_TRACKING.value
                options["default_cam_config"] |= {"type": tracking, "trackbodyid": 1}
        self._moves_camera = uses_free_camera and not is_window
        self._renderer = MujocoRenderer(model, data, **options)

    def draw(self, markers: Sequence[Marker]) -> Any:
        """Render the scene; omit the markers from depth frames, or if ``max_geom`` is too small."""
        viewer = self._renderer._get_viewer(self._mode)
        if self._moves_camera:
            viewer.cam.lookat[:] = self._camera_target()
        has_room = self._model.ngeom + self._model.nsite + len(markers) <= viewer.scn.maxgeom
        if has_room and self._mode in ("rgb_array", "human"):
            for marker in markers:
                if isinstance(marker, Arrow) and marker.length == 0:  # MuJoCo draws its head
                    continue
                viewer.add_marker(**_marker_geom(marker))
        return self._renderer.render(self._mode)

    def _camera_target(self) -> Any:
        """The point that the free camera looks at, (3,), in m: that of the root body, 1."""
        x, y = self._data.subtree_com[1, :2] if self._camera.follows else (0.0, 0.0)
        height = self._camera.height
        return x, y, self._model.stat.center[2] if height is None else height

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _marker_geom(marker: Marker) -> dict[str, Any]:
    """Arguments of ``add_marker`` of Gymnasium's viewer."""
    if isinstance(marker, Arrow):
        rotation = np.zeros(9)
        quaternion = np.zeros(4)
        mujoco.mju_quatZ2Vec(quaternion, np.array(marker.vector, float))
        mujoco.mju_quat2Mat(rotation, quaternion)
        return {
            "type": mujoco.mjtGeom.mjGEOM_ARROW,
            "size": np.array([marker.radius, marker.radius, _ARROW_SCALE * marker.length]),
            "pos": np.array(marker.tail, float),
            "mat": rotation,
            "rgba": _MARKER_RGBA,
        }
    return {
        "type": mujoco.mjtGeom.mjGEOM_SPHERE,
        "size": np.full(3, float(marker.radius)),
        "pos": np.array(marker.centre, float),
        "rgba": _MARKER_RGBA,
    }
