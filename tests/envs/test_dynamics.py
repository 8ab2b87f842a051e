"""Dynamics as task parameters: textbook formulas, edited models, and both engines."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import mujoco
import numpy as np
import pytest
from maml_envs.engines.dynamics import limbs
from maml_envs.engines.mujoco import DERIVED_FIELDS, MujocoRobot
from maml_envs.family import sample_tasks, stack_tasks

G = 9.81  # m/s²
MU = 0.4
PENDULUM_MASS, PENDULUM_LENGTH, PENDULUM_INERTIA = 2.0, 0.5, 0.3  # inertia about the centre of mass
WHEEL_INERTIA, WHEEL_DAMPING = 0.25, 0.5
CART_MASS, CART_GEAR = 4.0, 3.0
# Textbook systems that do not touch each other, each on a separate joint; the block also rests on
# the floor.
BENCH = f"""
<mujoco>
  <option timestep="0.001" cone="elliptic"/>
  <worldbody>
    <geom name="floor" type="plane" size="100 100 1" friction="{MU}"/>
    <body name="pendulum" pos="0 0 9"> <joint name="swing" axis="0 1 0"/>
      <inertial pos="0 0 -{PENDULUM_LENGTH}" mass="{PENDULUM_MASS}"
                diaginertia="0.3 {PENDULUM_INERTIA} 0.01"/> </body>
    <body name="ball" pos="0 2 0"> <joint name="fall" type="slide" axis="0 0 1"/>
      <inertial pos="0 0 0" mass="3" diaginertia="1 1 1"/> </body>
    <body name="puck" pos="0 4 0"> <joint name="glide" type="slide" axis="1 0 0"/>
      <inertial pos="0 0 0" mass="3" diaginertia="1 1 1"/> </body>
    <body name="wheel" pos="0 6 5"> <joint name="spin" axis="0 0 1" damping="{WHEEL_DAMPING}"/>
      <inertial pos="0 0 0" mass="1" diaginertia="0.2 0.2 {WHEEL_INERTIA}"/> </body>
    <body name="cart" pos="0 8 5"> <joint name="rail" type="slide" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="{CART_MASS}" diaginertia="1 1 1"/> </body>
    <body name="block" pos="0 -6 0.1"> <joint name="along" type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 0 1"/>
      <geom type="box" size="0.2 0.2 0.1" mass="1" friction="{MU}"/> </body>
  </worldbody>
  <actuator><motor joint="rail" gear="{CART_GEAR}" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
Dynamics = Mapping[str, Any]
BODIES = {
    family.robot.model_file: name
    for name, family in maml_envs.FAMILIES.items()
    if family.robot.parameters
}
every_robot = pytest.mark.parametrize("name", BODIES.values())


@pytest.fixture
def bench(tmp_path: Path) -> MujocoRobot:
    path = tmp_path / "bench.xml"
    path.write_text(BENCH)
    return MujocoRobot(str(path), frame_skip=1, camera_name=None)


def _robot(name: str) -> MujocoRobot:
    return maml_envs.FAMILIES[name].robot


def _engine(robot: MujocoRobot, dynamics: Dynamics, derived: Sequence[str] = ()) -> Any:
    """A batch engine with one simulation per value of ``dynamics``."""
    engine = robot.batch_engine(len(next(iter(dynamics.values()))), 1, derived)
    engine.set_dynamics({name: np.asarray(values, float) for name, values in dynamics.items()})
    return engine


def _simulate(
    robot: MujocoRobot,
    dynamics: Dynamics,
    num_steps: int,
    *,
    angle: float = 0.0,
    control: float = 0.0,
    **speeds: float,
) -> Callable[[str], np.ndarray]:
    """Simulate the bench; set the pendulum's initial angle and other joints' initial speeds.

    Returns:
        A function from a joint's name to its positions and velocities,
        (2, num_steps + 1, num_sims).
    """
    engine, model = _engine(robot, dynamics), robot.model
    position, velocity = np.zeros((2, engine.num_sims, model.nv))
    position[:, model.joint("swing").qposadr] = angle
    for joint, speed in speeds.items():
        velocity[:, model.joint(joint).dofadr] = speed
    engine.reset(np.arange(engine.num_sims), {"qpos": position, "qvel": velocity})
    states = [np.stack([position, velocity])]
    for _ in range(num_steps):
        engine.step(None, np.full((engine.num_sims, 1), control))
        states.append(np.stack([engine.state["qpos"], engine.state["qvel"]]))
    return lambda joint: np.stack(states, axis=1)[..., model.joint(joint).qposadr[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dynamics", "gravity", "inertia"),
    [
        ({"gravity": [G, 1.62, 24.8]}, [G, 1.62, 24.8], 1.0),
        ({"body_mass": [1.0, 0.25, 3.0]}, G, 1.0),  # mass and inertia scale together: same period
        ({"body_mass/pendulum": [2.0, 0.5], "body_inertia/pendulum": [4.0, 0.2]}, G, [4.0, 0.2]),
        ({"body_inertia": [0.1, 2.0, 5.0]}, G, [0.1, 2.0, 5.0]),
    ],
)
def test_period_of_a_pendulum(
    bench: MujocoRobot, dynamics: Dynamics, gravity: Any, inertia: Any
) -> None:
    angles = _simulate(bench, dynamics, 9000, angle=0.02)("swing")[0].T
    total = PENDULUM_INERTIA * np.asarray(inertia) + PENDULUM_MASS * PENDULUM_LENGTH**2
    expected = 2 * np.pi * np.sqrt(total / (PENDULUM_MASS * np.asarray(gravity) * PENDULUM_LENGTH))
    for angle, period in zip(angles, np.broadcast_to(expected, len(angles)), strict=True):
        before = np.flatnonzero((angle[:-1] > 0) & (angle[1:] <= 0))
        crossings = before + angle[before] / (angle[before] - angle[before + 1])
        assert np.diff(crossings).mean() * 1e-3 == pytest.approx(period, rel=1e-3)


def test_free_fall(bench: MujocoRobot) -> None:
    gravity = np.array([0.0, 1.62, G, 24.8])
    height = _simulate(bench, {"gravity": gravity}, 1000)("fall")[0, -1]
    np.testing.assert_allclose(height, -gravity / 2, rtol=2e-3)


def test_a_slope_goes_uphill_along_x(bench: MujocoRobot) -> None:
    slope, gravity = np.array([-0.3, 0.0, 0.1, 0.5, 0.5]), np.array([G, G, G, G, 2.0])
    for dynamics, size in (({"slope": slope}, G), ({"slope": slope, "gravity": gravity}, gravity)):
        run = _simulate(bench, dynamics, 1000)
        np.testing.assert_allclose(
            run("glide")[1, -1], -size * np.sin(slope), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(run("fall")[1, -1], -size * np.cos(slope), rtol=1e-9)


def test_gravity_keeps_its_direction(tmp_path: Path) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(SERVO.format(POSITION).replace("<mujoco>", PLANAR))
    robot = MujocoRobot(str(path), frame_skip=1, camera_name=None)
    assert "slope" not in robot.parameters
    engine = _engine(robot, {"gravity": [4.0, 5.0, 0.0]})
    gravity = engine.batch.expand("opt.gravity")
    np.testing.assert_allclose(gravity, np.outer([4.0, 5.0, 0.0], [0.6, -0.8, 0.0]), atol=1e-15)


PLANAR = '<mujoco> <option gravity="3 -4 0"/>'


def test_friction_holds_on_a_slope_up_to_its_angle(bench: MujocoRobot) -> None:
    slope = math.atan(MU) * np.array([0.95, -0.95, 1.05, 1.05, -1.05, 0.95])
    factor = np.array([1.0, 1.0, 1.2, 1.0, 1.0, 0.8])
    distance = _simulate(bench, {"slope": slope, "geom_friction": factor}, 1000)("along")[0, -1]
    assert abs(distance[:3]).max() < 0.002
    sliding = G * (np.sin(abs(slope)) - factor * MU * np.cos(slope)) / 2
    np.testing.assert_allclose(distance[3:], (-np.sign(slope) * sliding)[3:], rtol=0.03)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("geom_friction", [0.5, 1.0, 2.0]),
        ("geom_friction/floor", [1.0, 1.5, 2.5]),
    ],  # MuJoCo uses the larger friction
)
def test_stopping_distance(bench: MujocoRobot, name: str, factors: list[float]) -> None:
    position, velocity = _simulate(bench, {name: factors}, 1500, along=2.0)("along")[:, -1]
    np.testing.assert_allclose(position, 2.0**2 / (2 * MU * np.array(factors) * G), rtol=0.02)
    assert abs(velocity).max() < 0.01


def test_stopping_distance_with_the_friction_of_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "pair.xml"
    pair = f'<contact><pair geom1="floor" geom2="box" friction="{MU / 2} {MU / 2}"/></contact>'
    path.write_text(
        BENCH.replace('<geom type="box"', '<geom name="box" type="box"').replace(
            "<actuator>", f"{pair}<actuator>"
        )
    )
    robot, factors = MujocoRobot(str(path), frame_skip=1, camera_name=None), [1.0, 2.0]
    position = _simulate(robot, {"geom_friction": factors}, 1500, along=2.0)("along")[0, -1]
    np.testing.assert_allclose(position, 2.0**2 / (MU * np.array(factors) * G), rtol=0.02)


@pytest.mark.parametrize("name", ["dof_damping", "dof_damping/spin"])
def test_damping(bench: MujocoRobot, name: str) -> None:
    factors = np.array([0.0, 0.5, 1.0, 2.0])
    velocity = _simulate(bench, {name: factors}, 1000, spin=2.0)("spin")[1, -1]
    np.testing.assert_allclose(
        velocity, 2.0 * np.exp(-factors * WHEEL_DAMPING / WHEEL_INERTIA), rtol=0.01
    )


@pytest.mark.parametrize(
    "name",
    ["actuator_gear", "actuator_gear/rail", "actuator_strength", "actuator_strength/rail"],
)
def test_force_of_a_motor(bench: MujocoRobot, name: str) -> None:
    factors, mass = (
        np.array([0.0, 0.5, 1.0, 4.0, 1.0]),
        CART_MASS * np.array([1.0, 1.0, 1.0, 1.0, 2.0]),
    )
    velocity = _simulate(bench, {name: factors, "body_mass": mass / CART_MASS}, 100, control=0.7)(
        "rail"
    )[1, -1]
    np.testing.assert_allclose(velocity, 0.1 * 0.7 * CART_GEAR * factors / mass, rtol=1e-9)


SERVO_STIFFNESS, SERVO_DAMPING, SERVO_LIMIT = 20.0, 3.0, 8.0
SERVO = """
<mujoco>
  <worldbody>
    <body> <joint name="elbow" axis="0 1 0" range="-90 90"/>
      <inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/> </body>
  </worldbody>
  <actuator>{}</actuator>
</mujoco>
"""
POSITION = (
    f'<position joint="elbow" kp="{SERVO_STIFFNESS}" kv="{SERVO_DAMPING}" ctrlrange="-1 1" '
    f'forcerange="-{SERVO_LIMIT} {SERVO_LIMIT}"/>'
)


LIMIT = f'{{}}range="-{SERVO_LIMIT} {SERVO_LIMIT}"'
UNLIMITED = POSITION.replace(LIMIT.format("force"), "")
LIMITED_JOINT = SERVO.replace("<joint ", f"<joint {LIMIT.format('actuatorfrc')} ", 1)
LIMITED_TENDON = SERVO.replace(
    "<actuator>",
    f"""<tendon> <fixed name="cord" {LIMIT.format("actuatorfrc")}>
      <joint joint="elbow" coef="1"/> </fixed></tendon> <actuator>""",
)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (SERVO.format(POSITION), "actuator_strength"),
        (SERVO.format(POSITION), "actuator_strength/elbow"),
        (LIMITED_JOINT.format(UNLIMITED), "actuator_strength"),
        (LIMITED_JOINT.format(UNLIMITED), "actuator_strength/elbow"),
        (
            LIMITED_TENDON.format(UNLIMITED.replace("joint=", "tendon=").replace("elbow", "cord")),
            "actuator_strength",
        ),
    ],
    ids=["servo", "servo of a joint", "joint", "joint of a joint", "tendon"],
)
@pytest.mark.parametrize("angle", [0.3, -0.9])  # the force is within its limits, and at one
def test_strength_of_a_servo(tmp_path: Path, model: str, name: str, angle: float) -> None:
    path = tmp_path / "servo.xml"
    path.write_text(model)
    robot = MujocoRobot(str(path), frame_skip=1, camera_name=None)
    factors, speed, control = np.array([0.0, 0.5, 1.0, 3.0]), -0.4, 0.5
    engine = _engine(robot, {name: factors})
    initial = {"qpos": np.full((4, 1), angle), "qvel": np.full((4, 1), speed)}
    engine.reset(np.arange(4), initial)
    engine.step(None, np.full((4, 1), control))
    force = SERVO_STIFFNESS * (control - angle) - SERVO_DAMPING * speed
    force = factors * np.clip(force, -SERVO_LIMIT, SERVO_LIMIT)
    expected = speed + robot.model.opt.timestep * force  # the inertia is 1
    np.testing.assert_allclose(engine.state["qvel"][:, 0], expected, rtol=1e-9)


def test_muscles_have_no_strength(tmp_path: Path) -> None:
    path = tmp_path / "muscle.xml"
    path.write_text(SERVO.format('<muscle joint="elbow" ctrlrange="0 1" lengthrange="0 1"/>'))
    names = MujocoRobot(str(path), frame_skip=1, camera_name=None).parameters
    assert "actuator_gear/elbow" in names
    assert [name for name in names if "strength" in name] == []


def test_plugins_have_no_strength(tmp_path: Path) -> None:
    path = tmp_path / "plugin.xml"
    instance = """<extension> <plugin plugin="mujoco.pid"> <instance name="pid">
      <config key="kp" value="10"/> </instance> </plugin> </extension> <worldbody>"""
    actuator = '<plugin joint="elbow" plugin="mujoco.pid" instance="pid" ctrlrange="-1 1"/>'
    path.write_text(SERVO.format(actuator).replace("<worldbody>", instance))
    names = MujocoRobot(str(path), frame_skip=1, camera_name=None).parameters
    assert "actuator_gear/elbow" in names
    assert [name for name in names if "strength" in name] == []


def test_an_actuator_in_the_parent_frame_drives_its_joint(tmp_path: Path) -> None:
    path = tmp_path / "servo.xml"
    path.write_text(SERVO.format(POSITION.replace("joint=", "jointinparent=")))
    known = MujocoRobot(str(path), frame_skip=1, camera_name=None).parameters
    assert {"actuator_gear/elbow", "actuator_strength/elbow", "disabled_joint"} <= known.keys()


def test_a_disabled_limb_leaves_its_meshes(tmp_path: Path) -> None:
    path = tmp_path / "leg.xml"
    path.write_text(
        """<mujoco> <asset> <mesh name="rod" vertex="0 0 0  .1 0 0  0 .1 0  0 0 -.3"/> </asset>
        <worldbody> <body> <freejoint/> <geom size="0.1"/>
          <body> <joint name="hip" axis="0 1 0"/> <geom type="mesh" mesh="rod"/>
            <body pos="0 0 -.3"> <joint name="knee" axis="0 1 0"/> <geom type="mesh" mesh="rod"/>
              <geom pos="0 0 -.2" size="0.1"/> </body> </body> </body> </worldbody>
        <actuator> <motor joint="hip" ctrlrange="-1 1"/> </actuator> </mujoco>"""
    )
    robot = MujocoRobot(path, frame_skip=1, camera_name=None)
    engine = robot.single_engine((), None)
    engine.set_dynamics({"disabled_limb": np.zeros(1)})
    model, nominal = engine.model, robot.model
    np.testing.assert_array_equal(model.geom_pos[1:3], nominal.geom_pos[1:3])
    np.testing.assert_array_equal(model.geom_size[:3], nominal.geom_size[:3])
    np.testing.assert_array_equal(model.geom_pos[3], [0.0, 0.0, -0.1])
    assert (model.geom_size[3, 0], model.actuator_gear[0, 0]) == (0.05, 0.0)


def test_a_model_without_joints_cannot_be_pushed(tmp_path: Path) -> None:
    path = tmp_path / "post.xml"
    path.write_text('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
    names = MujocoRobot(str(path), frame_skip=1, camera_name=None).parameters
    assert "push_velocity" not in names


def test_a_disabled_adhesion_does_not_adhere(tmp_path: Path) -> None:
    path = tmp_path / "gripper.xml"
    path.write_text(
        """<mujoco> <option gravity="0 0 0"/> <worldbody>
          <geom type="plane" size="1 1 1"/>
          <body name="pad" pos="0 0 0.1"> <joint type="slide" axis="0 0 1"/>
            <geom type="sphere" size="0.1" mass="1" margin="0.1"/> </body>
        </worldbody>
        <actuator><adhesion body="pad" gain="30" ctrlrange="0 1"/></actuator> </mujoco>"""
    )
    robot = MujocoRobot(str(path), frame_skip=1, camera_name=None)
    engine = _engine(robot, {"disabled_actuator": [-1, 0]}, ("qfrc_actuator",))
    engine.reset(np.arange(2), {"qpos": np.full((2, 1), 0.01), "qvel": np.zeros((2, 1))})
    engine.step(None, np.ones((2, 1)))
    np.testing.assert_allclose(engine.state["qfrc_actuator"][:, 0], [-30.0, 0.0])


def test_damping_that_is_not_linear_has_no_factor(tmp_path: Path) -> None:
    path = tmp_path / "servo.xml"
    model = SERVO.format(POSITION).replace("<joint ", '<joint damping="1 1" ', 1)
    path.write_text(model)
    names = MujocoRobot(str(path), frame_skip=1, camera_name=None).parameters
    assert [name for name in names if "damping" in name] == []


def _model_values(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    named = {}
    for prefix, part in (("", model), ("opt.", model.opt), ("stat.", model.stat)):
        named |= {
            prefix + name: getattr(part, name) for name in dir(part) if not name.startswith("_")
        }
    return {
        name: np.array(value)
        for name, value in named.items()
        if isinstance(value, (np.ndarray, int, float))
    }


def _assert_equal(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> None:
    """Assert bit-identical arrays."""
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []


ANT = _robot("AntDir").model
BACK_LEG, BACK_ANKLE = (ANT.geom(name).id for name in ("back_leg_geom", "third_ankle_geom"))
TORSO, AUX_1 = ANT.body("torso").id, ANT.body("aux_1").id
CHANGES: list[tuple[dict[str, float], list[tuple[str, Any, float]]]] = [
    # A task of the ant, and the expected factors on rows of model fields.
    ({"body_mass": 2.0}, [("body_mass", ..., 2.0), ("body_inertia", ..., 2.0)]),
    ({"body_mass/torso": 3.0}, [("body_mass", TORSO, 3.0), ("body_inertia", TORSO, 3.0)]),
    (
        {"body_mass": 2.0, "body_mass/aux_1": 0.5, "body_inertia/aux_1": 8.0},
        [
            ("body_mass", ..., 2.0),
            ("body_mass", AUX_1, 0.5),
            ("body_inertia", ..., 2.0),
            ("body_inertia", AUX_1, 4.0),
        ],
    ),
    ({"geom_friction/floor": 2.0}, [("geom_friction", ANT.geom("floor").id, 2.0)]),
    ({"dof_damping/hip_2": 4.0}, [("dof_damping", ANT.joint("hip_2").dofadr, 4.0)]),
    (
        {"actuator_gear": 0.25, "actuator_gear/hip_2": 2.0},
        [("actuator_gear", ..., 0.25), ("actuator_gear", 4, 2.0)],
    ),
    (
        {"actuator_strength/hip_2": 2.0},
        [("actuator_gainprm", 4, 2.0)],  # a motor has no bias and no limit
    ),
    ({"disabled_actuator": 3}, [("actuator_gear", 3, 0.0)]),
    (
        {"disabled_limb": 2},
        [
            ("actuator_gear", [6, 7], 0.0),
            ("geom_size", [BACK_LEG, BACK_ANKLE], 0.5),
            ("geom_pos", BACK_ANKLE, 0.5),
        ],
    ),
    ({"gravity": G / 4}, [("opt.gravity", ..., 0.25)]),
    ({"action_delay": 3, "observation_noise": 0.1, "disabled_joint": -1}, []),
]


@pytest.mark.parametrize(
    ("quantity", "red"),
    [
        ("disabled_limb", {"aux_2_geom", "right_leg_geom", "right_ankle_geom"}),
        ("disabled_actuator", {"fourth_ankle_geom"}),
        ("disabled_joint", {"fourth_ankle_geom"}),
    ],
)
def test_disabled_parts_are_red(quantity: str, red: set[str]) -> None:
    single = _robot("AntDir").single_engine((), None)
    for number, expected in ((1.0, red), (-1.0, set())):
        single.set_dynamics({quantity: np.array([number])})
        changed = (single.model.geom_rgba != ANT.geom_rgba).any(axis=1)
        assert {single.model.geom(int(i)).name for i in np.flatnonzero(changed)} == expected


@pytest.mark.parametrize(("task", "changes"), CHANGES, ids=[" ".join(task) for task, _ in CHANGES])
def test_model_equals_an_edited_model(
    task: dict[str, float], changes: list[tuple[str, Any, float]]
) -> None:
    robot, expected = _robot("AntDir"), copy.copy(ANT)
    for field, rows, factor in changes:
        owner: Any = expected.opt if field.startswith("opt.") else expected
        getattr(owner, field.removeprefix("opt."))[rows] *= factor
    mujoco.mj_setConst(expected, mujoco.MjData(expected))
    batch = _engine(
        robot, {name: [robot.parameters[name].nominal, value] for name, value in task.items()}
    ).batch
    single = robot.single_engine((), None)
    single.set_dynamics({name: np.array([value]) for name, value in task.items()})
    assert {"body_mass", "body_subtreemass", "dof_invweight0", "opt.gravity"} <= _model_values(
        ANT
    ).keys()
    _assert_equal(_model_values(batch.get_model(0)), _model_values(ANT))
    _assert_equal(_model_values(batch.get_model(1)), _model_values(expected))
    expected.geom_rgba[:] = single.model.geom_rgba  # colours are tested above
    _assert_equal(_model_values(single.model), _model_values(expected))


@every_robot
def test_total_mass_follows_its_factor(name: str) -> None:
    robot, factors = _robot(name), [1.0, 2.0, 0.5]
    single = robot.single_engine((), None)
    single.set_dynamics({"body_mass": np.array([2.0])})
    models = [*map(_engine(robot, {"body_mass": factors}).batch.get_model, range(3)), single.model]
    for model, factor in zip(models, [*factors, 2.0], strict=True):
        assert mujoco.mj_getTotalmass(model) == pytest.approx(
            factor * mujoco.mj_getTotalmass(robot.model), rel=1e-12
        )
        np.testing.assert_allclose(
            model.body_subtreemass, factor * robot.model.body_subtreemass, rtol=1e-12
        )


def _actions(robot: MujocoRobot, num_steps: int, num_sims: int) -> np.ndarray:
    space = robot.action_space
    return np.random.default_rng(0).uniform(
        space.low, space.high, (num_steps, num_sims, *space.shape)
    )


def _trajectory(
    robot: MujocoRobot, engine: Any, tasks: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Set ``tasks`` one after the other, then roll out; return all state fields over time."""
    rng, n = np.random.default_rng(1), engine.num_sims
    for task in tasks:
        engine.set_dynamics({name: values[:n] for name, values in task.items()})
    starts = [robot.noisy_start(rng, 0.05, "normal") for _ in range(2)][:n]
    engine.reset(
        np.arange(n), {key: np.stack([start[key] for start in starts]) for key in starts[0]}
    )
    states = []
    for action in _actions(robot, 12, 2):
        assert not engine.step(None, action[:n]).any()
        states.append({key: value.copy() for key, value in engine.state.items()})
    return {key: np.stack([state[key] for state in states]) for key in states[0]}


def _random_dynamics(robot: MujocoRobot) -> dict[str, np.ndarray]:
    """Values of every parameter for two simulations, close enough to nominal to be stable."""
    rng = np.random.default_rng(2)
    scale = {"gravity": G, "slope": 0.2}
    dynamics = {}
    for name, parameter in robot.parameters.items():
        numbers = rng.integers(0, min(parameter.high, 3) + 1, 2).astype(float)
        factors = rng.uniform(0.7, 1.3, 2)
        dynamics[name] = numbers if parameter.is_integer else scale.get(name, 1.0) * factors
    return dynamics


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "single"])
@every_robot
def test_dynamics_do_not_depend_on_previous_tasks(name: str, kind: str) -> None:
    robot = _robot(name)

    def run(*tasks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The trajectory of a new engine with all derived fields."""
        engine: Any = robot.single_engine(DERIVED_FIELDS, None)
        return _trajectory(
            robot, robot.batch_engine(2, 1, DERIVED_FIELDS) if kind == "batch" else engine, tasks
        )

    untouched = _model_values(robot.model)
    nominal = {key: np.full(2, parameter.nominal) for key, parameter in robot.parameters.items()}
    every = _random_dynamics(robot)
    some = {key: every[key][::-1] for key in ("body_mass", "dof_damping", "gravity")}
    original, of_some = run(), run(some)
    assert not np.array_equal(original["qpos"], of_some["qpos"])
    assert not np.array_equal(run(every)["qpos"], of_some["qpos"])
    for tasks in ([nominal], [{}], [every, nominal], [every, {}], [some, every, nominal]):
        _assert_equal(run(*tasks), original)
    for tasks in ([every, some], [some, every, some], [every, nominal, some]):
        _assert_equal(run(*tasks), of_some)
    _assert_equal(_model_values(robot.model), untouched)


@every_robot
def test_disabled_actuator_exerts_no_force(name: str) -> None:
    robot = _robot(name)
    number = np.arange(robot.model.nu)
    actions = _actions(robot, 8, len(number))

    def run(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and joint forces over time; actuator i is disabled in simulation i."""
        engine = _engine(robot, {"disabled_actuator": number}, ["qfrc_actuator"])
        engine.reset(number, {"qpos": np.tile(robot.model.qpos0, (len(number), 1))})
        positions, forces = np.full((2, len(actions), len(number), robot.model.nq), np.nan)
        for t, action in enumerate(actions):
            engine.step(None, action)
            positions[t], forces[t, :, : robot.model.nv] = (
                engine.state["qpos"],
                engine.state["qfrc_actuator"],
            )
        return positions, forces

    positions, forces = run(actions)
    of_actuator = forces[:, :, robot.model.jnt_dofadr[robot.model.actuator_trnid[:, 0]]]
    for has_force in of_actuator != 0:
        np.testing.assert_array_equal(has_force, ~np.eye(len(number), dtype=bool))
    changed_disabled = actions.copy()
    changed_disabled[:, number, number] *= -1
    changed_other = actions.copy()
    changed_other[:, number, number - 1] *= -1
    np.testing.assert_array_equal(run(changed_disabled)[0], positions)
    assert (run(changed_other)[0] != positions).any(axis=(0, 2)).all()


@pytest.mark.parametrize("name", ["AntDir", "HalfCheetahVel"])
def test_disabled_joint_hardly_moves(name: str) -> None:
    robot = _robot(name)
    model, joints = robot.model, robot.model.actuator_trnid[:, 0]
    nu, at = len(joints), model.jnt_qposadr[joints]
    start = model.qpos0.copy()
    start[at] = model.jnt_range[joints].mean(axis=1)  # far from the limits, which push
    engine = _engine(robot, {"disabled_joint": [*range(nu), -1]})
    engine.reset(
        np.arange(nu + 1),
        {"qpos": np.tile(start, (nu + 1, 1)), "qvel": np.zeros((nu + 1, model.nv))},
    )
    moved = np.zeros((nu + 1, nu))
    for _ in range(round(1 / robot.dt)):
        engine.step(None, np.tile(robot.action_space.high, (nu + 1, 1)))
        np.maximum(moved, abs(engine.state["qpos"] - start)[:, at], out=moved)
    blocked = np.eye(nu + 1, nu, dtype=bool)
    assert moved[blocked].max() < 0.002
    assert moved[~blocked].min() > 0.1


def _disabled_joints(model: mujoco.MjModel) -> list[str]:
    """Names of the joints whose actuators exert no force."""
    joints = model.actuator_trnid[model.actuator_gear[:, 0] == 0, 0]
    return [model.joint(int(joint)).name for joint in joints]


@pytest.mark.parametrize("limb", range(4))
def test_disabled_leg_of_the_ant_is_that_of_the_source(limb: int) -> None:
    # Nagabandi et al.: the upper and the lower half are half as large, and have the same position
    robot = _robot("CrippledAnt")
    engine = robot.single_engine((), None)
    engine.set_dynamics({"disabled_limb": np.array([float(limb)])})
    model, nominal = engine.model, robot.model
    assert _disabled_joints(model) == [f"hip_{limb + 1}", f"ankle_{limb + 1}"]
    upper, lower = 3 + 3 * limb, 4 + 3 * limb  # geoms, after the floor, the torso and a fixed part
    expected_size, expected_pos = nominal.geom_size.copy(), nominal.geom_pos.copy()
    expected_size[[upper, lower]] /= 2
    expected_pos[lower] = expected_pos[upper]
    np.testing.assert_allclose(model.geom_size, expected_size, rtol=1e-14)
    np.testing.assert_allclose(model.geom_pos, expected_pos, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(model.body_mass, nominal.body_mass)
    # gentle actions do not turn it over
    engine.reset(np.zeros(1, int), {"qpos": model.qpos0[None]})
    for action in _actions(robot, 200, 1):
        engine.step(None, 0.1 * action)
        assert engine.data.xmat[1, 8] > 0.7  # the torso's z-axis, along the world's


def test_disabled_arm_of_the_humanoid_is_a_stump() -> None:
    engine = _robot("HumanoidDir").single_engine((), None)
    nominal = engine.model.geom_size.copy(), engine.model.geom_pos.copy()
    engine.set_dynamics({"disabled_limb": np.array([1.0])})
    model = engine.model
    assert _disabled_joints(model) == ["right_shoulder1", "right_shoulder2", "right_elbow"]
    for before, after, names in zip(
        nominal,
        (model.geom_size, model.geom_pos),
        (["right_uarm1", "right_larm", "right_hand"], ["right_larm", "right_hand"]),
        strict=True,
    ):
        is_changed = (before != after).any(axis=1)
        assert [model.geom(int(i)).name for i in np.flatnonzero(is_changed)] == names
        np.testing.assert_array_equal(after[is_changed], before[is_changed] / 2)


def test_limbs_are_numbered_in_the_models_order() -> None:
    models = {name: _robot(name).model for name in ("AntDir", "HalfCheetahVel", "Walker2dDir")}
    limb_names = {
        name: [[model.body(i).name for i in limb] for limb in limbs(model)]
        for name, model in models.items()
    }
    assert [limb[0] for limb in limb_names["AntDir"]] == [
        "front_left_leg",
        "front_right_leg",
        "back_leg",
        "right_back_leg",
    ]
    assert [limb[1:] for limb in limb_names["AntDir"]] == [
        ["aux_1", ""],
        ["aux_2", ""],
        ["aux_3", ""],
        ["aux_4", ""],
    ]
    assert limb_names["HalfCheetahVel"] == [
        ["bthigh", "bshin", "bfoot"],
        ["fthigh", "fshin", "ffoot"],
    ]
    assert limb_names["Walker2dDir"] == [
        ["thigh", "leg", "foot"],
        ["thigh_left", "leg_left", "foot_left"],
    ]


EVERYTHING_VARIES: dict[str, Any] = {
    "body_mass": [0.7, 1.5],
    "body_inertia": {"low": 0.7, "high": 1.4, "log": True, "each": True},
    "geom_friction": {"low": 0.5, "high": 2.0, "each": True},
    "dof_damping": {"low": 0.5, "high": 2.0, "log": True},
    "actuator_gear": {"low": 0.5, "high": 1.0, "each": True},
    "gravity": [8.0, 11.0],
    "slope": [-0.1, 0.1],
    "disabled_actuator": [-1, 0, 1],
    "disabled_joint": [-1, 2],
    "disabled_limb": [-1, 1],
    "action_delay": [0, 1, 3],
    "observation_noise": [0.0, 0.1],
}
WHOLE_HUMANOID = {
    "observe_body_quantities": True,
    "observe_contact_forces": True,
    "contact_cost_weight": 5e-7,
}


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("HalfCheetahVel", {}),
        ("AntDir", {"observe_contact_forces": True}),
        ("Walker2dRandParams", {}),
        ("CrippledAnt", {"dynamics": {**EVERYTHING_VARIES, "disabled_limb": None}}),
        ("HumanoidDir", WHOLE_HUMANOID),
    ],
)
def test_batch_equals_single_environments(
    name: str, settings: dict[str, Any], num_threads: int
) -> None:
    env_id, settings = maml_envs.env_id(name), {"dynamics": EVERYTHING_VARIES, **settings}
    batch = gym.make_vec(env_id, num_envs=4, num_threads=num_threads, **settings)
    singles = [gym.make(env_id, **settings) for _ in range(4)]
    observation, _ = batch.reset(seed=8)
    starts = [env.reset(seed=8 + i)[0] for i, env in enumerate(singles)]
    np.testing.assert_array_equal(observation, starts)
    assert batch.tasks == [env.unwrapped.task for env in singles]
    assert len({task["body_mass"] for task in batch.tasks}) == 4
    num_compared, finished = 0, np.zeros(4, bool)
    for t, actions in enumerate(_actions(batch.family.robot, 20, 4).astype(np.float32)):
        if t == 10:  # reset two, continue the others
            mask = np.array([False, True, False, True])
            observation, _ = batch.reset(seed=[None, 50, None, None], options={"reset_mask": mask})
            for i, seed in ((1, 50), (3, None)):
                np.testing.assert_array_equal(observation[i], singles[i].reset(seed=seed)[0])
            finished &= ~mask
        observation, reward, terminated, truncated, info = batch.step(actions)
        for i in np.flatnonzero(~finished):
            single = singles[i].step(actions[i])
            np.testing.assert_array_equal(observation[i], single[0])
            assert (reward[i], terminated[i], truncated[i]) == single[1:4]
            assert {key: info[key][i] for key in single[4]} == single[4]
            num_compared += 1
        finished = terminated | truncated
    assert num_compared > 60
    for env in (batch, *singles):
        env.close()


def test_setting_tasks_compiles_and_copies_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    family, num_sims = maml_envs.FAMILIES["HalfCheetahVel"](dynamics=EVERYTHING_VARIES), 200
    env = maml_envs.FamilyVectorEnv(family, num_sims, num_threads=1)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was compiled or copied")

    for owner, names in (
        (
            mujoco.MjModel,
            ("__copy__", "__deepcopy__", "from_xml_path", "from_xml_string", "from_binary_path"),
        ),
        (mujoco.MjSpec, ("compile", "recompile", "from_file", "from_string")),
        (mujoco.batch.Batch, ("__init__", "get_model", "set_models")),
    ):
        for attribute in names:
            monkeypatch.setattr(owner, attribute, refuse)
    with pytest.raises(AssertionError, match="a model was compiled or copied"):
        copy.copy(family.robot.model)
    tasks = sample_tasks(family, np.random.default_rng(0), num_sims)
    assert len({task["body_mass"] for task in tasks}) == num_sims
    env.set_tasks(tasks)
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape))
    env.close()


def _sampled(dynamics: Dynamics, num_tasks: int = 2000) -> dict[str, np.ndarray]:
    tasks = sample_tasks(
        maml_envs.FAMILIES["AntDir"](dynamics=dynamics), np.random.default_rng(0), num_tasks
    )
    assert all(type(value) is float for task in tasks for value in task.values())
    return {name: np.array([task[name] for task in tasks]) for name in tasks[0]}


@pytest.mark.parametrize(
    ("name", "setting", "low", "high", "median"),
    [
        ("gravity", 3, 3.0, 3.0, 3.0),
        ("body_mass", [0.5, 2.5], 0.5, 2.5, 1.5),
        ("slope", (-0.2, 0.1), -0.2, 0.1, -0.05),
        ("dof_damping/hip_1", {"low": 0.0, "high": 2.0}, 0.0, 2.0, 1.0),
        ("geom_friction", {"low": 0.1, "high": 10.0, "log": True}, 0.1, 10.0, 1.0),
    ],
)
def test_range(name: str, setting: Any, low: float, high: float, median: float) -> None:
    values = _sampled({name: setting})[name]
    assert low <= values.min() <= low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) <= values.max() <= high
    assert (values < median).mean() == pytest.approx(0.5 if low < high else 0, abs=0.05)


def test_choices_are_equally_likely() -> None:
    values, counts = np.unique(
        _sampled({"action_delay": [4, 0, 1]}, 3000)["action_delay"], return_counts=True
    )
    assert values.tolist() == [0, 1, 4]
    assert abs(counts - 1000).max() < 120
    assert set(_sampled({"disabled_joint": 2})["disabled_joint"]) == {2.0}
    assert set(_sampled({"disabled_joint": {"low": -1, "high": 2}})["disabled_joint"]) == {
        -1.0,
        0.0,
        1.0,
        2.0,
    }


def test_each_element_draws_a_separate_factor() -> None:
    setting = {"low": 1.0, "high": 2.0, "each": True}
    factors = _sampled(
        dict.fromkeys(("body_mass", "dof_damping", "actuator_gear", "geom_friction"), setting)
    )
    joints = [f"{kind}_{i}" for i in range(1, 5) for kind in ("hip", "ankle")]
    expected = [
        f"{quantity}/{joint}" for quantity in ("dof_damping", "actuator_gear") for joint in joints
    ]
    expected += [f"geom_friction/{ANT.geom(i).name}" for i in range(ANT.ngeom)]
    expected += [f"body_mass/{ANT.body(i).name or i}" for i in range(1, ANT.nbody)]
    assert sorted(factors) == sorted([*expected, "direction"])
    correlation = np.corrcoef([factors[name] for name in expected])
    assert abs(correlation[~np.eye(len(expected), dtype=bool)]).max() < 0.11


@pytest.mark.parametrize(
    "setting",
    [
        {"gravity": [5.0, 10.0], "body_mass": [0.5, 2.0], "action_delay": [0, 1], "slope": None},
        {
            "body_mass": {"low": 0.5, "high": 2.0, "each": True},
            "body_mass/torso": 1.25,
            "gravity": [5.0, 10.0],
        },
        {
            "changed/body_mass": {"low": 0.5, "high": 2.0, "each": True},
            "changed/body_mass/torso": 1.25,
        },
    ],
)
def test_sampling_ignores_the_order_of_the_settings(setting: dict[str, Any]) -> None:
    forward, reverse = (
        _sampled(dict(items), 50) for items in (setting.items(), reversed(setting.items()))
    )
    assert "slope" not in forward
    _assert_equal(forward, reverse)


@pytest.mark.parametrize("name", ["HalfCheetahVel", "Walker2dRandParams"])
def test_sampled_tasks_can_be_set(name: str) -> None:
    options = {"dynamics": EVERYTHING_VARIES}
    single, batch = (
        gym.make(maml_envs.env_id(name), **options),
        gym.make_vec(maml_envs.env_id(name), 2, **options),
    )
    tasks = batch.sample_tasks(2)
    single.unwrapped.set_task(tasks[0])
    assert single.unwrapped.task == tasks[0]
    single.reset(seed=0, options={"task": tasks[1]})
    assert single.unwrapped.task == tasks[1]
    batch.reset(seed=0, options={"tasks": tasks})
    assert batch.tasks == tasks
    units = {"gravity": "m/s²", "slope": "rad", "action_delay": "control steps"}
    units |= {"body_mass": "factor", "observation_noise": ""}
    for env in (single.unwrapped, batch):
        assert {**dict.fromkeys(tasks[0]), **units}.keys() <= env.task_units.keys()
        assert units.items() <= env.task_units.items()
        env.close()


def test_quantities_missing_from_a_task_are_nominal() -> None:
    env = gym.make_vec("maml_rl/HalfCheetahVel-v0", num_envs=3)
    task = {"goal_velocity": 1.0}
    env.set_tasks(
        [{**task, "gravity": 5.0}, {**task, "disabled_joint": 2, "body_mass/torso": 2.0}, task]
    )
    nominal = {**task, "gravity": G, "disabled_joint": -1.0, "body_mass/torso": 1.0}
    assert env.tasks == [
        {**nominal, "gravity": 5.0},
        {**nominal, "disabled_joint": 2, "body_mass/torso": 2},
        nominal,
    ]
    untouched, *models = env.family.robot.model, *map(env.engine.batch.get_model, range(3))
    assert models[0].opt.gravity.tolist() == [0, 0, -5]
    assert models[1].body("torso").mass == 2 * untouched.body("torso").mass
    _assert_equal(_model_values(models[2]), _model_values(untouched))
    env.close()


INVALID = [
    ("body_mas", 1.0, "'body_mass'"),
    ("body_mass/torzo", 1.0, "'body_mass/torso'"),
    ("colour", 1.0, "body_mass, body_inertia"),
    ("body_mass", [2.0, 0.5], "low <= high"),
    ("body_mass", [0.5, 1.0, 2.0], "range"),
    ("body_mass", -1.0, "number"),
    ("body_mass", [0.0, 1.0], "number"),
    ("body_mass", "heavy", "number"),
    ("body_mass", ["0.5", "2"], "number"),
    ("body_mass", [], "number"),
    ("body_mass", {}, "number"),
    ("body_mass", True, "number"),
    ("body_mass", [[1, [2]]], "number"),
    ("body_mass", {"low": 0.5}, "low, high"),
    ("body_mass", {"low": 0.5, "high": 2.0, "median": 1.0}, "low, high"),
    ("body_mass", {"low": 0.5, "high": 2.0, "log": 1}, "true or false"),
    ("dof_damping", {"low": 0.0, "high": 2.0, "log": True}, "low > 0"),
    ("slope", {"low": -0.5, "high": 0.5, "log": True}, "low > 0"),
    ("gravity", math.nan, "m/s²"),
    ("gravity", {"low": 9.0, "high": 10.0, "each": True}, "elements"),
    ("slope", [-2.0, 0.0], "rad"),
    ("action_delay", [0, 0.5], "integer"),
    ("action_delay", {"low": 2, "high": 0}, "choices"),
    ("action_delay", {"low": 0, "high": 2, "log": True}, "choices"),
    ("disabled_actuator", [0, 8], "-1, 7"),
    ("disabled_limb", 4, "-1, 3"),
]


@pytest.mark.parametrize(
    ("name", "value", "message"), INVALID, ids=[f"{name}: {value}" for name, value, _ in INVALID]
)
def test_errors_name_invalid_settings(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        maml_envs.FAMILIES["AntDir"](dynamics={name: value})
    assert message in str(error.value)
    assert repr(value) in str(error.value) or name not in _robot("AntDir").parameters


@pytest.mark.parametrize("setting", [["body_mass"], "body_mass", 1.0, None])
def test_settings_must_be_a_mapping(setting: Any) -> None:
    with pytest.raises(ValueError, match="dynamics must be a mapping") as error:
        maml_envs.FAMILIES["AntDir"](dynamics=setting)
    assert repr(setting) in str(error.value)


def test_dynamics_may_not_name_a_parameter_of_the_family() -> None:
    with pytest.raises(ValueError, match="CrippledAnt draws disabled_limb itself"):
        maml_envs.FAMILIES["CrippledAnt"](dynamics={"gravity": 9.0, "disabled_limb": [0, 1]})
    with pytest.raises(ValueError, match="HalfCheetahVel draws goal_velocity itself"):
        maml_envs.FAMILIES["HalfCheetahVel"](dynamics={"goal_velocity": 2.0})


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("AntDir", "body_mass", -1.0),
        ("AntDir", "body_mass", [1, [2]]),
        ("AntDir", "body_mass/torso", math.nan),
        ("AntDir", "body_mass/torzo", 1.0),
        ("AntDir", "gravity", "9.81"),
        ("AntDir", "action_delay", 0.5),
        ("AntDir", "disabled_limb", 4),
        ("CrippledAnt", "disabled_limb", 1.5),
        ("HalfCheetahVel", "geom_friction", None),
        ("PointNavigation", "gravity", 9.81),
        ("PointNavigation", "action_delay", 1),
    ],
)
def test_errors_name_invalid_tasks(family: str, name: str, value: Any) -> None:
    env = gym.make_vec(maml_envs.env_id(family), num_envs=2)
    tasks = env.sample_tasks(2)
    env.reset(seed=0, options={"tasks": tasks})
    with pytest.raises(ValueError, match=name) as error:
        env.set_tasks([tasks[0], {**tasks[1], name: value}])
    assert repr(value) in str(error.value)
    assert env.tasks == tasks
    env.close()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bodymass", " Did you mean 'body_mass'?"),
        ("goal_velocty", " Did you mean 'goal_velocity'?"),
        ("xyzzy", ""),
        ("dof_damping/bfot", " Did you mean 'dof_damping/bfoot'? Valid are {joints}."),
        ("dof_damping/xyzzyxyzzyxyzzy", " Valid are {joints}."),
    ],
)
def test_misspelt_names_of_a_task_are_answered_by_the_valid_ones(name: str, hint: str) -> None:
    task = {"goal_velocity": 1.0, name: 2.0}
    with pytest.raises(ValueError, match="a task of HalfCheetahVel") as refused:
        stack_tasks(maml_envs.FAMILIES["HalfCheetahVel"](), [task])
    joints = [f"dof_damping/{part}{leg}" for part in "bf" for leg in ("thigh", "shin", "foot")]
    expected = f"got {task!r}: {name!r} is unknown.{hint.format(joints=', '.join(joints))}"
    assert str(refused.value).endswith(expected)
