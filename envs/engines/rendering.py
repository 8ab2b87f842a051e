"""Pictures of a MuJoCo simulation: Gymnasium's renderer with a camera that follows, and marks of the task."""

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
_ARROW_SCALE = 2.0  # MuJoCo draws an arrow half as long as its size says


@dataclass(frozen=True)
class FreeCamera:
    """A camera that belongs to no model: from a distance, at an angle.

    Args:
        distance: from what it looks at (m); ``None`` for the model's extent.
        elevation: degrees above the plane, negative when looking down.
        azimuth: degrees around the z-axis; at 90 x points right.
        height: of the point that it looks at (m); ``None`` for that of the model's centre.
        follows: the centre of mass in the plane; a camera that does not looks at the origin.
    """

    distance: float | None = None
    elevation: float = -30.0
    azimuth: float = 90.0
    height: float | None = None
    follows: bool = True


def check_opengl() -> None:
    """Find an OpenGL backend that starts here, and have Gymnasium's off-screen renderer use it.

    The renderer itself takes the first one that does not fail at once, and prints a traceback from
    its destructor where all do. Its choice is what MUJOCO_GL says; where the user said nothing, it
    is set to the backend found.

    Raises:
        RuntimeError: none starts; says why for each, and what to install.
    """
    wanted = os.environ.get("MUJOCO_GL") or None  # an empty one says nothing, as to MuJoCo itself
    platform = os.environ.get("PYOPENGL_PLATFORM")
    problems = []
    screen = (
        sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    for backend in (
        [wanted] if wanted is not None else [*(["glfw"] if screen else []), "egl", "osmesa"]
    ):
        try:
            importlib.import_module(f"mujoco.{backend}").GLContext(16, 16).free()
            os.environ["MUJOCO_GL"] = backend
            return
        except Exception as error:  # OpenGL's loaders fail in as many ways as there are drivers
            problems.append(f"{backend}: {error}")
            _forget_opengl(platform)
    raise RuntimeError(
        f"OpenGL could not be started ({'; '.join(problems)}). On a machine without a screen "
        f"install the Debian "
        "package libegl1 (or libosmesa6) and leave MUJOCO_GL unset"
    )


def _forget_opengl(platform: str | None) -> None:
    """Let another backend start after one failed: PyOpenGL keeps the first platform that it was loaded with.

    Args:
        platform: PYOPENGL_PLATFORM as the user set it.
    """
    os.environ.pop("PYOPENGL_PLATFORM", None)
    if platform is not None:
        os.environ["PYOPENGL_PLATFORM"] = platform
    for name in list(sys.modules):
        if name.split(".")[0] == "OpenGL" or name.startswith(("mujoco.egl", "mujoco.osmesa")):
            del sys.modules[name]


class MujocoPictures:
    """Draws a simulation in one render mode.

    Args:
        model: whose off-screen buffer is made large enough.
        data: drawn as it is at each call.
        render_mode: of Gymnasium's renderer.
        free_camera: used where ``options`` name no camera.
        options: of Gymnasium's renderer.

    Raises:
        RuntimeError: OpenGL is not available here.
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

        if render_mode != "human":
            check_opengl()
        options = {"width": 480, "height": 480, **options}
        visual = model.vis.global_
        visual.offwidth = max(visual.offwidth, options["width"])
        visual.offheight = max(visual.offheight, options["height"])
        self._mode, self._model, self._data, self._camera = render_mode, model, data, free_camera
        if (
            "default_camera_config" in options
        ):  # Gymnasium's environments and its renderer differ in the name
            options["default_cam_config"] = options.pop("default_camera_config")
        uses_free_camera = options.get("camera_id", -1) == -1 and not {
            "camera_name",
            "default_cam_config",
        } & set(options)
        if uses_free_camera:
            distance = model.stat.extent if free_camera.distance is None else free_camera.distance
            angles = {"elevation": free_camera.elevation, "azimuth": free_camera.azimuth}
            options = {
                **options,
                "camera_id": -1,
                "default_cam_config": {"distance": distance, **angles},
            }
        self._aims = (
            uses_free_camera and render_mode != "human"
        )  # in a window the user moves the camera
        self._renderer = MujocoRenderer(model, data, **options)

    def draw(self, markers: Sequence[Marker]) -> Any:
        """The scene as the render mode says; depth shows no markers, nor does a scene that ``max_geom`` fills."""
        viewer = self._renderer._get_viewer(self._mode)
        if self._aims:
            viewer.cam.lookat[:] = self._aim()
        has_room = self._model.ngeom + self._model.nsite + len(markers) <= viewer.scn.maxgeom
        if has_room and self._mode in ("rgb_array", "human"):
            for marker in markers:
                if isinstance(marker, Arrow) and marker.length == 0:  # MuJoCo would draw its head
                    continue
                viewer.add_marker(**_marker_geom(marker))
        return self._renderer.render(self._mode)

    def _aim(self) -> Any:
        """The point that the free camera looks at, (3,), in m."""
        x, y = self._data.subtree_com[0, :2] if self._camera.follows else (0.0, 0.0)
        return (
            x,
            y,
            self._model.stat.center[2] if self._camera.height is None else self._camera.height,
        )

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _marker_geom(marker: Marker) -> dict[str, Any]:
    """A marker as Gymnasium's viewer takes it."""
    if isinstance(marker, Arrow):
        rotation, quaternion = np.zeros(9), np.zeros(4)
        mujoco.mju_quatZ2Vec(quaternion, np.array(marker.vector, float))
        mujoco.mju_quat2Mat(rotation, quaternion)
        size = np.array([marker.radius, marker.radius, _ARROW_SCALE * marker.length])
        kind, position = mujoco.mjtGeom.mjGEOM_ARROW, marker.tail
        return {
            "type": kind,
            "size": size,
            "pos": np.array(position, float),
            "mat": rotation,
            "rgba": _MARKER_RGBA,
        }
    size = np.full(3, float(marker.radius))
    centre = np.array(marker.centre, float)
    return {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "size": size, "pos": centre, "rgba": _MARKER_RGBA}
