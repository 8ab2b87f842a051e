"""Custom families: mistakes are reported before anything is simulated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import mujoco
import numpy as np
import pytest
from maml_envs.engines.dynamics import limbs, parameters
from maml_envs.engines.mujoco import MujocoRobot, load_model
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.half_cheetah import HalfCheetahVel
from maml_envs.families.point_navigation import PointNavigation

from maml_rl.errors import UserError
from maml_rl.settings.env import resolve_env_id


@pytest.fixture(autouse=True)
def _unregister() -> Iterator[None]:
    known = dict(maml_envs.FAMILIES)
    yield
    for name in maml_envs.FAMILIES.keys() - known.keys():
        del maml_envs.FAMILIES[name], gym.registry[maml_envs.env_id(name)]


@dataclass(frozen=True, kw_only=True)
class Trotter(HalfCheetahVel):
    """A correct family."""


def test_gymnasium_makes_a_registered_family() -> None:
    assert maml_envs.register(Trotter) is Trotter
    env = gym.make_vec("maml_rl/Trotter-v0", num_envs=2)
    assert env.reset(seed=0)[0].shape == (2, 17)
    env.close()


def test_a_family_may_have_a_parameter_low_alone() -> None:
    """A range has ``low`` and ``high``."""

    @maml_envs.register
    @dataclass(frozen=True, kw_only=True)
    class Stepper(PointNavigation):
        low: float = 0.2

    env = gym.make("maml_rl/Stepper-v0", low=0.3)
    assert env.unwrapped.family.low == 0.3
    env.close()


def test_errors_name_an_own_family_with_its_module_and_not_as_built_in() -> None:
    maml_envs.register(Trotter)
    for name in ("Troter", f"{__name__}:Troter"):
        with pytest.raises(UserError) as raised:
            resolve_env_id(name)
        message = str(raised.value)
        assert f"Did you mean '{__name__}:Trotter'?" in message
        assert f"PointNavigationSparse), your own ({__name__}:Trotter), any id" in message
    del maml_envs.FAMILIES["Trotter"], gym.registry[maml_envs.env_id("Trotter")]
    with pytest.raises(UserError, match=r"PointNavigationSparse\), any id"):
        resolve_env_id("Troter")


def test_duplicate_names_are_rejected() -> None:
    clash = dataclass(frozen=True, kw_only=True)(
        type("HalfCheetahVel", (Trotter,), {"__module__": __name__})
    )
    with pytest.raises(
        ValueError, match=r"HalfCheetahVel already exists, in maml_envs\.families\.half_cheetah"
    ):
        maml_envs.register(clash)


def test_class_that_is_not_a_family_is_rejected() -> None:
    with pytest.raises(TypeError, match="Plain must be a dataclass"):
        maml_envs.register(type("Plain", (), {}))
    bare = dataclass(frozen=True)(type("Bare", (), {"robot": Trotter.robot, "task_units": {}}))
    with pytest.raises(
        TypeError, match=r"Bare lacks dynamics, derived_fields, .*reward_terms, terminated"
    ):
        maml_envs.register(bare)


def test_names_of_values_belong_to_task_parameters() -> None:
    names = {"goal": {1.0: "near"}}
    wrong = dataclass(frozen=True, kw_only=True)(
        type("Wrong", (Trotter,), {"task_value_names": names, "__module__": __name__})
    )
    with pytest.raises(TypeError, match=r"task_value_names of Wrong has goal, .*task_units: \["):
        maml_envs.register(wrong)


@pytest.mark.parametrize("quantity", ["speed", ("speed",), None])
def test_a_shown_quantity_is_a_pair_beside_its_value(
    quantity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (owner,) = (cls for cls in Trotter.__mro__ if "shown_quantity" in vars(cls))
    if quantity is None:
        monkeypatch.delattr(owner, "shown_quantity")
    else:
        monkeypatch.setattr(owner, "shown_quantity", quantity)
    wrong = dataclass(frozen=True, kw_only=True)(
        type("Wrong", (Trotter,), {"__module__": __name__})
    )
    with pytest.raises(TypeError, match="Wrong must have both or none of shown_value and shown_q"):
        maml_envs.register(wrong)


@pytest.mark.parametrize(
    ("member", "result", "message"),
    [
        (
            "observation",
            lambda self, xp, state: state["qpos"][:, 0],
            r"observation of Wrong has shape \(3,\)",
        ),
        (
            "reward_terms",
            lambda self, xp, b, a, action, t: a["qpos"][:, 0],
            "reward_terms of Wrong must be a mapping",
        ),
        (
            "reward_terms",
            lambda self, xp, b, a, action, t: {"reward_x": a["qpos"][:, :1]},
            r"'reward_x'.*\(3, 1\)",
        ),
        (
            "reward_terms",
            lambda self, xp, b, a, action, t: {"reward_x": 1.0},
            r"'reward_x' of Wrong has shape \(\)",
        ),
        (
            "terminated",
            lambda self, xp, state, t: state["qpos"] > 0,
            r"terminated of Wrong has shape \(3, 9\)",
        ),
        (
            "terminated",
            lambda self, xp, state, t: state["xpos"][:, 1, 2] > 0,
            "Wrong uses the state field 'xpos', .* has only qpos, qvel; .* in its derived_fields$",
        ),
        (
            "success",
            lambda self, xp, state, t: state["qpos"][0] > 0,
            r"success of Wrong has shape \(9,\), expected \(3,\)",
        ),
        (
            "initial_state",
            lambda self, rng: {"pos": np.zeros(9)},
            "initial_state of Wrong: 'pos'.*qpos",
        ),
        (
            "initial_state",
            lambda self, rng: {"qpos": np.zeros(3)},
            r"initial_state of Wrong: 'qpos' has shape \(3,\)",
        ),
        ("sample_tasks", lambda self, rng, n: {"speed": rng.random(n)}, "goal_velocity.*speed"),
        (
            "sample_tasks",
            lambda self, rng, n: {"goal_velocity": np.ones(n), "speed": rng.random(n)},
            r"sample_tasks of Wrong .*\(goal_velocity\), got .*: 'speed' is not in task_units$",
        ),
        (
            "sample_tasks",
            lambda self, rng, n: {"goal_velocity": np.ones(n), "slope": rng.random(n)},
            r"sample_tasks of Wrong .*\(goal_velocity\), got .*: 'slope' is not in task_units$",
        ),
        (
            "sample_tasks",
            lambda self, rng, n: {"goal_velocity": rng.random()},
            r"sample_tasks of Wrong: 'goal_velocity' has shape \(\), expected \(3,\)$",
        ),
        (
            "sample_tasks",
            lambda self, rng, n: {"goal_velocity": rng.random(n + 1)},
            r"sample_tasks of Wrong: 'goal_velocity' has shape \(4,\), expected \(3,\)$",
        ),
        (
            "sample_tasks",
            lambda self, rng, n: {},
            r"sample_tasks of Wrong .*\(goal_velocity\), got none: 'goal_velocity' is missing$",
        ),
        (
            "sample_tasks",
            lambda self, rng, n: None,
            r"sample_tasks of Wrong must return a mapping .*, got None$",
        ),
        (
            "sample_tasks",
            lambda self, rng, n: {"goal_velocity": np.full(n, 1e9)},
            "goal_velocity.*1000000000",
        ),
    ],
)
def test_errors_name_functions_with_a_wrong_result(member: str, result: Any, message: str) -> None:
    wrong = dataclass(frozen=True, kw_only=True)(type("Wrong", (Trotter,), {member: result}))
    with pytest.raises(ValueError, match=message):
        maml_envs.FamilyVectorEnv(wrong(), 3)


@pytest.mark.parametrize("make", [maml_envs.FamilyEnv, lambda f: maml_envs.FamilyVectorEnv(f, 3)])
def test_fields_that_the_engines_do_not_compute_are_refused(make: Any) -> None:
    wrong = dataclass(frozen=True, kw_only=True)(
        type("Wrong", (Trotter,), {"derived_fields": ("xpos", "sensordata")})
    )
    with pytest.raises(ValueError, match="derived_fields has 'sensordata'; valid are xpos, xmat"):
        make(wrong())


MODEL = """
<mujoco>
  <worldbody>
    <body name="base"><joint name="slide" type="slide"/><geom size="0.1" mass="1"/>
      <body name="arm" pos="1 0 0"><joint name="turn"/><geom size="0.1" mass="1"/></body>
    </body>
  </worldbody>
  <tendon><fixed name="rope"><joint joint="turn" coef="1"/></fixed></tendon>
  <actuator><motor name="one" joint="slide" {range}/><motor name="two" joint="slide" {range}/>
    <motor name="pull" tendon="rope" {range}/></actuator>
</mujoco>
"""


def test_actuators_of_a_tendon(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(MODEL.format(range='ctrlrange="-1 1"'))
    model = load_model(str(path))
    known = parameters(model)
    assert "actuator_gear/slide" in known
    assert "actuator_gear/turn" not in known
    assert "disabled_joint" not in known  # an actuator has none
    assert limbs(model) == []
    assert "disabled_limb" not in known
    engine = MujocoRobot(str(path), frame_skip=1, camera_name=None).batch_engine(1, 1, ())
    engine.set_dynamics({"actuator_gear/slide": np.array([3.0])})
    gears = engine.batch.get_model(0).actuator_gear[:, 0]
    assert gears.tolist() == [3, 3, 1]  # both motors of the joint


@pytest.mark.parametrize("angle", [0, 90])
def test_a_push_needs_a_root_that_moves_along_x(angle: int, tmp_path: Path) -> None:
    """The axis of a joint turns with its body."""
    path = tmp_path / "cart.xml"
    path.write_text(
        f'<mujoco><worldbody><body euler="0 0 {angle}"><joint name="x" type="slide" axis="1 0 0"/>'
        '<geom size="0.1"/></body></worldbody><actuator><motor joint="x" ctrlrange="-1 1"/>'
        "</actuator></mujoco>"
    )
    names = MujocoRobot(str(path), frame_skip=1, camera_name=None).parameters
    assert ("push_velocity" in names) == (angle == 0)


def _ball(tmp_path: Path, joints: str, before: str = "") -> MujocoRobot:
    """A ball with ``joints``, after bodies ``before``, without gravity."""
    path = tmp_path / "robot.xml"
    path.write_text(
        f"""<mujoco><option gravity="0 0 0"/><worldbody> {before}
        <body>{joints}<geom size="0.1"/></body></worldbody>
        <actuator><motor joint="x" ctrlrange="-1 1"/></actuator></mujoco>"""
    )
    return MujocoRobot(path, frame_skip=1, camera_name=None)


SLIDE = '<joint name="{}" type="slide" axis="{}"/>'
ALONG_X = SLIDE.format("x", "1 0 0")


@pytest.mark.parametrize(
    ("joints", "before", "is_valid"),
    [
        (ALONG_X + SLIDE.format("z", "0 0 1"), "", True),
        ('<freejoint name="x"/>', "", True),
        (SLIDE.format("z", "0 0 1") + ALONG_X, "", False),
        (SLIDE.format("x", "-1 0 0"), "", False),
        (SLIDE.format("x", "1 0 1"), "", False),
        (ALONG_X, '<body><geom size="1" pos="9 0 0"/></body>', False),
    ],
    ids=["x first", "free", "z first", "backward", "oblique", "of the second body"],
)
def test_forward_velocity_is_that_of_the_root_along_x(
    joints: str, before: str, is_valid: bool, tmp_path: Path
) -> None:
    robot = _ball(tmp_path, joints, before)
    assert ("push_velocity" in robot.parameters) == is_valid
    engine = robot.single_engine(("xpos",), None)
    velocity = np.arange(3.0, 3.0 + engine.model.nv)
    engine.reset(np.zeros(1, int), {"qpos": engine.model.qpos0[None], "qvel": velocity[None]})
    states = [{name: value.copy() for name, value in engine.state.items()}]
    engine.step(None, np.zeros((1, 1)))
    states.append(engine.state)
    if is_valid:
        moved = np.diff([state["xpos"][0, 1, 0] for state in states])
        np.testing.assert_allclose(robot.forward_velocity(*states), moved / robot.dt, rtol=1e-9)
        assert moved[0] != 0
    else:
        with pytest.raises(ValueError, match=r"robot\.xml must be a free joint, or a slide joint"):
            robot.forward_velocity(*states)


@pytest.mark.parametrize(("name", "is_valid"), [("0", True), ("1", False)])
def test_a_name_that_is_the_index_of_an_unnamed_element_is_refused(
    name: str, is_valid: bool, tmp_path: Path
) -> None:
    robot = _ball(tmp_path, f'{ALONG_X}<geom name="{name}" size="0.1"/>')  # geom 0; 1 is unnamed
    if is_valid:
        assert {"geom_friction/0", "geom_friction/1"} <= robot.parameters.keys()
    else:
        with pytest.raises(ValueError, match="geom of the model has the index of an unnamed geom"):
            _ = robot.parameters


def test_an_actuator_with_several_controls_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ball.xml"
    path.write_text(
        """<mujoco><worldbody><body><joint name="ball" type="ball"/><geom size="0.1"/></body>
        </worldbody><actuator><general joint="ball" gaintype="so3" biastype="so3"
        gainprm="10" biasprm="0 -10 -1" ctrlrange="-1 1"/></actuator></mujoco>"""
    )
    is_known = hasattr(mujoco.MjModel, "nactuator")  # before 4.0, MuJoCo has no such actuators
    message = "has 3 controls for 1 actuators" if is_known else "is not a valid model"
    with pytest.raises(ValueError, match=rf"ball\.xml {message}"):
        _ = MujocoRobot(path, frame_skip=1).action_space


def test_a_camera_that_follows_the_robot_ignores_other_bodies(tmp_path: Path) -> None:
    box = '<body pos="3 0 0"><geom type="box" size="0.1 0.1 0.1" density="1e5"/></body>'
    frames = []
    for after in ("", box):
        path = tmp_path / "robot.xml"
        path.write_text(FILMED.format(camera="").replace("</worldbody>", f"{after}</worldbody>"))
        robot = MujocoRobot(path, frame_skip=1, free_camera=FreeCamera(distance=1.0, height=0.0))
        engine = robot.single_engine((), "rgb_array", width=64, height=64)
        engine.reset(np.zeros(1, int), {"qpos": np.full((1, 1), 0.5), "qvel": np.zeros((1, 1))})
        frames.append(np.asarray(engine.render([])).astype(int))
        engine.close()
    assert frames[0][32, 32].max() > 50  # the robot is in the middle
    assert abs(frames[0][32, 32] - frames[1][32, 32]).max() < 20


@pytest.mark.parametrize("frame_skip", [0, 2.5, True, 101])
def test_a_robot_with_an_impossible_control_step_is_refused(frame_skip: Any) -> None:
    with pytest.raises(ValueError, match="frame_skip must be an integer from 1 to 100"):
        MujocoRobot("hopper.xml", frame_skip=frame_skip)


def test_actuators_without_a_range_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(MODEL.format(range=""))
    with pytest.raises(ValueError, match=r"actuators \[0, 1, 2\].*ctrlrange"):
        _ = MujocoRobot(str(path), frame_skip=1, camera_name=None).action_space


def test_a_model_without_actuators_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stone.xml"
    path.write_text('<mujoco><worldbody><geom type="sphere" size="1"/></worldbody></mujoco>')
    with pytest.raises(ValueError, match=r"stone\.xml has no actuators"):
        _ = MujocoRobot(path, frame_skip=1).action_space


def test_relative_paths_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "robot.xml").write_text(MODEL.format(range='ctrlrange="-1 1"'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'robot\.xml' is not a model file of Gymnasium; .*abs"):
        _ = MujocoRobot("robot.xml", frame_skip=1).model
    path = tmp_path / "robot.xml"
    assert MujocoRobot(path, frame_skip=1).model.nu == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<mujoco><worldbody>", "XML parse error"),
        (b'<mujoco><worldbody><geom sise="1"/></worldbody></mujoco>', "unrecognized .*'sise'"),
        (b'<mujoco><worldbody><geom name="g" size="0"/></worldbody></mujoco>', "positive.*'g'"),
        (b'<mujoco><asset><mesh file="leg.stl"/></asset></mujoco>', r"opening file 'leg\.stl'"),
        (b'<mujoco><asset><mesh file="robot.xml"/></asset></mujoco>', r"robot\.xml"),
        (b"\0\xff", "parse error"),
    ],
)
def test_what_mujoco_says_of_a_model_is_one_line_that_names_the_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "robot.xml"
    path.write_bytes(content)
    where = rf"^{re.escape(str(path))} is not a valid model; MuJoCo reports: .*{message}"
    with pytest.raises(ValueError, match=where) as raised:
        load_model(path)
    assert "\n" not in str(raised.value)


def test_a_model_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "robot.xml"
    with pytest.raises(ValueError, match=rf"^there is no model file {re.escape(str(path))}$"):
        load_model(path)


FILMED = """
<mujoco>
  <worldbody>
    <camera name="wide" pos="0 -3 1"/><camera pos="0 0 9"/>{camera}
    <body name="base"><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def _filmed(tmp_path: Path, camera: str = "") -> str:
    path = tmp_path / "filmed.xml"
    path.write_text(FILMED.format(camera=camera))
    return str(path)


@pytest.mark.parametrize(
    ("camera", "options"),
    [("", {}), ('<camera name="track" pos="0 -3 0"/>', {"camera_name": "track"})],
    ids=["absent", "present"],
)
def test_default_camera_is_used_if_the_model_has_it(
    tmp_path: Path, camera: str, options: dict[str, str]
) -> None:
    robot = MujocoRobot(_filmed(tmp_path, camera), frame_skip=1)
    engine = robot.single_engine((), "rgb_array")
    assert engine._render_options == options


def test_absent_default_camera_is_a_camera_that_follows(tmp_path: Path, egl: None) -> None:
    robot = MujocoRobot(_filmed(tmp_path), frame_skip=1)
    engine = robot.single_engine((), "rgb_array", width=64, height=64)
    frames = []
    for x in (0.0, 40.0):
        engine.reset(np.zeros(1, int), {"qpos": np.array([[x]])})
        frames.append(engine.render())
    engine.close()
    assert frames[0].std() > 0
    np.testing.assert_array_equal(frames[0], frames[1])  # there is no floor


def test_unknown_cameras_are_rejected(tmp_path: Path) -> None:
    file = _filmed(tmp_path)
    message = r"filmed\.xml has no camera 'side'; it has wide$"
    with pytest.raises(ValueError, match=message):
        _ = MujocoRobot(file, frame_skip=1, camera_name="side").model
    with pytest.raises(ValueError, match=message):
        MujocoRobot(file, frame_skip=1).single_engine((), "rgb_array", camera_name="side")


KEYFRAMES = """
<mujoco>
  <worldbody>
    <body><joint type="slide" axis="1 0 0"/><joint axis="0 1 0"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <keyframe><key name="home" qpos="0.5 1"/><key/><key name="fast" qpos="0 -1" qvel="2 3"/>
  </keyframe>
</mujoco>
"""


@pytest.mark.parametrize("velocities", ["normal", "uniform"])
def test_start_from_a_keyframe(tmp_path: Path, velocities: Any) -> None:
    path = tmp_path / "keyframes.xml"
    path.write_text(KEYFRAMES)
    robot = MujocoRobot(path, frame_skip=1)
    plain = robot.noisy_start(np.random.default_rng(0), 0.1, velocities)
    for name, qpos, qvel in (("home", [0.5, 1], [0, 0]), ("fast", [0, -1], [2, 3])):
        start = robot.noisy_start(np.random.default_rng(0), 0.1, velocities, keyframe=name)
        np.testing.assert_allclose(start["qpos"] - plain["qpos"], qpos, rtol=0, atol=1e-12)
        np.testing.assert_allclose(start["qvel"] - plain["qvel"], qvel, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"has no keyframe 'rest'; it has home, fast$"):
        robot.noisy_start(np.random.default_rng(0), 0.1, velocities, keyframe="rest")
    with pytest.raises(ValueError, match="velocities must be uniform or normal, got 'gauss'"):
        robot.noisy_start(np.random.default_rng(0), 0.1, "gauss")  # type: ignore[arg-type]
