"""Robots equal Gymnasium's; rewards, episode ends and tasks match their definitions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import maml_envs
import mujoco
import numpy as np
import pytest

DT_S = {
    "Ant": 0.05,
    "Walker2d": 0.008,
    "Hopper": 0.008,
    "Humanoid": 0.015,
    "Swimmer": 0.04,
    "Reacher": 0.02,
}
DT_S["HalfCheetah"] = 0.05
ROBOT_OF = {name: robot for name in maml_envs.FAMILIES for robot in DT_S if robot in name}


def _reference(name: str, **options: Any) -> Any:
    """Gymnasium's environment with the robot of a family."""
    return gym.make(f"{ROBOT_OF[name]}-v5", **options).unwrapped


def _single(name: str, **settings: Any) -> Any:
    return gym.make(f"maml_rl/{name}-v0", **settings).unwrapped


def _batch(name: str, num_envs: int = 2, **settings: Any) -> Any:
    return gym.make_vec(f"maml_rl/{name}-v0", num_envs=num_envs, **settings)


def _values(part: Any) -> dict[str, np.ndarray]:
    attributes = {name: getattr(part, name) for name in dir(part) if not name.startswith("_")}
    return {
        name: np.array(value)
        for name, value in attributes.items()
        if isinstance(value, (np.ndarray, float, int))
    }


@pytest.mark.parametrize("name", ROBOT_OF)
def test_model_and_time_step_equal_gymnasiums(name: str) -> None:
    family = maml_envs.FAMILIES[name]
    reference = _reference(name)
    single = _single(name)
    for model, changed in (
        (family.robot.model, set()),
        (single.model, family.robot.hidden_geoms and {"geom_rgba"}),
    ):
        for ours, theirs in ((model, reference.model), (model.opt, reference.model.opt)):
            ours, theirs = _values(ours), _values(theirs)
            assert ours.keys() == theirs.keys()
            assert len(ours.keys() & {"body_mass", "nq", "gravity", "timestep"}) == 2
            assert {key for key in ours if not np.array_equal(ours[key], theirs[key])} <= set(
                changed
            )
    assert family.robot.action_space == reference.action_space
    assert family.robot.dt == pytest.approx(reference.dt) == pytest.approx(DT_S[ROBOT_OF[name]])


WITHOUT_FORCES = {"include_cfrc_ext_in_observation": False}
WITH_POSITION = {"exclude_current_positions_from_observation": False}
NEVER_ENDING = {"terminate_when_unhealthy": False}
# Family, its settings, Gymnasium's options, and the size of the observation.
SIMULATED: list[tuple[str, dict[str, bool], dict[str, bool], int]] = [
    ("AntDir", NEVER_ENDING, WITHOUT_FORCES, 27),
    ("AntVel", {"observe_contact_forces": True, **NEVER_ENDING}, {}, 105),
    ("AntGoal", {"observe_contact_forces": True, **NEVER_ENDING}, WITH_POSITION, 107),
    ("Walker2dDir", {}, {}, 17),
    ("HopperVel", {}, {}, 11),
    ("HumanoidDir", {}, {}, 45),
    ("HumanoidDir", {"observe_body_quantities": True, "observe_contact_forces": True}, {}, 348),
    ("SwimmerVel", {}, {}, 8),
    ("ReacherGoal", {}, {}, 8),
]


def _expected_observation(reference: Any, size: int) -> np.ndarray:
    """Gymnasium's observation, with derived fields computed by MuJoCo from the new state."""
    theirs = reference._get_obs()
    data = copy.copy(reference.data)
    mujoco.mj_fwdPosition(reference.model, data)
    mujoco.mj_fwdVelocity(reference.model, data)
    if len(theirs) == 10:  # the reacher's includes the target
        return np.concatenate([theirs[:4], data.body("fingertip").xpos[:2], theirs[6:8]])
    if size == 348:  # the humanoid's body inertias and velocities lag by one MuJoCo step
        return np.concatenate(
            [theirs[:45], data.cinert[1:].ravel(), data.cvel[1:].ravel(), theirs[-95:]]
        )
    return theirs[:size]


def _set_state(engine: Any, sim: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
    engine.reset(np.array([sim]), {"qpos": qpos[None], "qvel": qvel[None]})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "theirs", "size"), SIMULATED)
def test_simulation_equals_gymnasiums(name: str, settings: Any, theirs: Any, size: int) -> None:
    reference, batch, single = (
        _reference(name, **theirs),
        _batch(name, **settings),
        _single(name, **settings),
    )
    rng, space, expected, qvels = np.random.default_rng(3), reference.action_space, [], []
    for env in (reference, batch, single):
        env.reset(seed=0)
    qpos = reference.init_qpos + rng.uniform(-0.1, 0.1, reference.model.nq)
    qvel = rng.normal(0, 0.5, reference.model.nv)
    qvel[-1] = 15  # the walker's and the hopper's observations are clipped at 10
    if "Ant" in name:
        qpos[2] = 0.24  # on the ground
    _set_state(batch.engine, 1, qpos, qvel)
    _set_state(single.engine, 0, qpos, qvel)
    mujoco.mj_resetData(reference.model, reference.data)
    reference.set_state(qpos, qvel)
    # Gymnasium computes contact forces only after a step
    mujoco.mj_rnePostConstraint(reference.model, reference.data)
    for step in range(101):
        action = rng.uniform(space.low, space.high).astype(np.float32)
        actions = np.stack([-action, action])
        if step > 0:
            reference.step(action)
        if 0 < step < 5:
            current = batch.step(actions)[0][1], single.step(action)[0]
        else:  # step the engines, because a finished environment is not stepped
            if step > 0:
                batch.engine.step(None, actions)
                single.engine.step(None, action[None])
            current = tuple(
                env.family.observation(np, env.engine.state)[-1] for env in (batch, single)
            )
        expected.append(_expected_observation(reference, size))
        qvels.append(reference.data.qvel.copy())
        for env, observation in zip((batch, single), current, strict=True):
            np.testing.assert_allclose(
                env.engine.state["qpos"][-1], reference.data.qpos, rtol=0, atol=1e-10
            )
            np.testing.assert_allclose(
                env.engine.state["qvel"][-1], reference.data.qvel, rtol=0, atol=1e-10
            )
            np.testing.assert_allclose(observation, expected[-1], rtol=0, atol=1e-10)
    assert np.shape(expected) == (101, size)
    forces = abs(np.array(expected)[:, -78:])  # if they are observed
    if size > 100:
        assert (forces.max() == 1) == (size < 348)  # only the ant's are clipped
        assert ((forces > 0) & (forces < 1)).any()
        assert (forces.max(axis=0) > 0).sum() > 10
    if name in ("Walker2dDir", "HopperVel"):
        assert np.max(np.abs(qvels)) > 10 == np.max(np.abs(expected))


@pytest.mark.parametrize(
    "name", ["AntDir", "AntGoal", "Walker2dVel", "HopperVel", "HumanoidDir", "SwimmerVel"]
)
@pytest.mark.parametrize("settings", [{}, {"reset_noise_scale": 0.03}])
def test_start_equals_gymnasiums(name: str, settings: dict[str, float]) -> None:
    batch, single = _batch(name, **settings), _single(name, **settings)
    batch.set_tasks(batch.sample_tasks(2))  # so that the generators only draw the state
    single.set_task(batch.tasks[0])
    for seed in (5, None):  # the generators continue in the second episode
        batch.reset(seed=seed)
        single.reset(seed=seed)
        for i, state in (
            (0, batch.engine.state),
            (1, batch.engine.state),
            (0, single.engine.state),
        ):
            reference = _reference(name, **settings)
            reference.reset(seed=5 + i)
            if seed is None:
                reference.reset()
            np.testing.assert_array_equal(state["qpos"][i], reference.data.qpos)
            np.testing.assert_array_equal(state["qvel"][i], reference.data.qvel)


def test_start_of_the_reacher() -> None:
    family, reference = maml_envs.FAMILIES["ReacherGoal"](), _reference("ReacherGoal")
    starts = [family.initial_state(np.random.default_rng(seed)) for seed in range(4000)]
    for seed, start in enumerate(starts[:20]):  # Gymnasium draws its joint angles first
        reference.reset(seed=seed)
        np.testing.assert_array_equal(start["qpos"][:2], reference.data.qpos[:2])
        # Gymnasium's target, which is not used
        np.testing.assert_array_equal(start["qpos"][2:], reference.init_qpos[2:])
    qvel = np.array([start["qvel"] for start in starts])
    for column in qvel.T[:2]:
        _assert_uniform(column, -0.005, 0.005)
    assert np.all(qvel[:, 2:] == 0)


class Step(NamedTuple):
    """The position (m) that the reward uses after a control step, and its mean velocity (m/s).

    For a planar robot y is the second entry of qpos: the height of the walker and the hopper.
    """

    x: float
    y: float
    vx: float
    vy: float


def _position(robot: str, model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Position that the reward uses, (2,): root, centre of mass (humanoid), fingertip (reacher)."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    if robot == "Humanoid":
        moments = [mass * centre for mass, centre in zip(model.body_mass, data.xipos, strict=True)]
        return sum(moments)[:2] / sum(model.body_mass)
    return data.body("fingertip").xpos[:2] if robot == "Reacher" else qpos[:2].copy()


def _squared(values: Any, limit: float) -> float:
    return sum(min(max(float(value), -limit), limit) ** 2 for value in values)


COS, SIN = math.cos(2.0), math.sin(2.0)
# Per family: a task, the constant reward, the weight of the control cost, the goal reward or
# velocity weight w, and the remaining reward terms.
REWARDS: dict[str, tuple[dict[str, float], float, float, float, Callable[[Step, float], float]]] = {
    "AntVel": ({"goal_velocity": 0.2}, 0.05, 0.005, 1.0, lambda s, w: w - abs(s.vx - 0.2)),
    "AntDir": ({"direction": -1.0}, 0.05, 0.005, 0.0, lambda s, w: -s.vx),
    "AntDir2D": ({"direction_angle": 2.0}, 1.0, 0.5, 0.0, lambda s, w: COS * s.vx + SIN * s.vy),
    "AntGoal": (
        {"goal_x": 0.1, "goal_y": -2.0},
        0.05,
        0.005,
        4.0,
        lambda s, w: w - abs(s.x - 0.1) - abs(s.y + 2),
    ),
    "CrippledAnt": ({"disabled_limb": -1}, 0.05, 0.005, 0.0, lambda s, w: s.vx),
    "CrippledHalfCheetah": ({"disabled_actuator": 2}, 0.0, 0.05, 0.0, lambda s, w: s.vx),
    "Walker2dVel": ({"goal_velocity": 0.1}, 0.0, 0.001, 15.0, lambda s, w: w - abs(s.vx - 0.1)),
    "Walker2dDir": ({"direction": -1.0}, 1.0, 0.001, 0.0, lambda s, w: -s.vx),
    "Walker2dRandParams": ({"body_mass": 2.0}, 1.0, 0.001, 0.0, lambda s, w: s.vx),
    "HopperVel": ({"goal_velocity": 0.05}, 1.0, 0.001, 1.0, lambda s, w: w - abs(s.vx - 0.05)),
    "HopperRandParams": ({"geom_friction": 0.3}, 1.0, 0.001, 0.0, lambda s, w: s.vx),
    "HumanoidDir": (
        {"direction_angle": 2.0},
        5.0,
        0.1,
        1.25,
        lambda s, w: w * (COS * s.vx + SIN * s.vy),
    ),
    "SwimmerVel": ({"goal_velocity": 0.01}, 0.0, 0.0001, 0.0, lambda s, w: -abs(s.vx - 0.01)),
    "ReacherGoal": (
        {"goal_x": 0.1, "goal_y": -0.05},
        0.0,
        1.0,
        0.0,
        lambda s, w: -math.hypot(s.x - 0.1, s.y + 0.05),
    ),
}
TESTED_ELSEWHERE = {"HalfCheetahDir", "HalfCheetahVel"}


def test_every_reward_is_tested() -> None:
    """Add a row of ``REWARDS`` for a new family."""
    assert {*REWARDS, *TESTED_ELSEWHERE} == set(ROBOT_OF)


CHANGED_SETTINGS = {
    "survive_reward": 0.7,
    "control_cost_weight": 0.3,
    "goal_reward": 2.5,
    "forward_reward_weight": 0.6,
}
CONTACT_COSTS = [(name, 0.02) for name in REWARDS if "Ant" in name]
# below and above the limit of the contact cost
CONTACT_COSTS += [("HumanoidDir", 5e-7), ("HumanoidDir", 5e-3)]


@pytest.mark.parametrize(
    ("name", "contact_weight"),
    [*[(name, weight) for name in REWARDS for weight in (None, 0.0)], *CONTACT_COSTS],
)
def test_reward(name: str, contact_weight: float | None) -> None:
    task, constant, control_weight, weight, formula = REWARDS[name]
    settings, family = {}, maml_envs.FAMILIES[name]
    if contact_weight is not None:  # no setting has its default
        settings = {key: value for key, value in CHANGED_SETTINGS.items() if hasattr(family, key)}
        constant, control_weight = (
            settings.get("survive_reward", 0.0),
            settings["control_cost_weight"],
        )
        weight = settings.get("goal_reward", settings.get("forward_reward_weight", 0.0))
        settings |= {"contact_cost_weight": contact_weight} if contact_weight else {}
    robot, rng, contact_costs, velocities = ROBOT_OF[name], np.random.default_rng(2), [0.0], set()
    env, reference = _batch(name, **settings), _reference(name)
    env.set_tasks([env.sample_tasks(1)[0], task])  # simulation 0 has a different task
    env.reset(seed=4)
    state, space = env.engine.state, reference.action_space
    reference.reset(seed=0)
    mujoco.mj_resetData(reference.model, reference.data)
    reference.set_state(state["qpos"][1], state["qvel"][1])
    for _ in range(25):
        actions = rng.uniform(2 * space.low, 2 * space.high, (2, *space.shape))
        before = _position(robot, reference.model, state["qpos"][1])
        _, reward, terminated, _, info = env.step(actions)
        after = _position(robot, reference.model, state["qpos"][1])
        velocity = (after - before) / DT_S[robot]
        reference.step(np.clip(actions[1], space.low, space.high))  # contact forces
        forces = _squared(reference.data.cfrc_ext.ravel(), 1.0 if robot == "Ant" else math.inf)
        control_cost = control_weight * _squared(actions[1], float(space.high[0]))
        contact_costs.append((contact_weight or 0) * forces)
        expected = (
            formula(Step(*after, *velocity), weight)
            + constant
            - control_cost
            - min(contact_costs[-1], 10.0)
        )
        assert reward[1] == pytest.approx(expected, rel=0, abs=1e-9)
        assert info["reward_control"][1] == pytest.approx(-control_cost, rel=0, abs=1e-12)
        velocities.add(velocity[0])
        if terminated[1]:
            break
    assert len(velocities) > 10
    assert (max(contact_costs) > 0) == bool(contact_weight)
    assert (max(contact_costs) > 10) == (contact_weight == 5e-3)


def test_sparse_reward_of_the_point() -> None:
    env = _single("PointNavigationSparse")
    env.reset(options={"task": {"goal_x": 0.35, "goal_y": 0.0}})
    rewards = [env.step(np.array([9.0, 0.0]))[1] for _ in range(6)]  # clipped to 0.1
    np.testing.assert_allclose(rewards, [0, 0.85, 0.95, 0.95, 0.85, 0], rtol=0, atol=1e-7)
    family, tasks = (
        maml_envs.FAMILIES["PointNavigationSparse"](goal_radius=0.5),
        {"goal_x": np.full(3, 0.5)},
    )
    # at the radius, just outside, and inside
    state = {"position": np.array([[0.0, 0.0], [-1e-9, 0.0], [0.5, 0.3]])}
    terms = family.reward_terms(
        np, state, state, np.zeros((3, 2)), {**tasks, "goal_y": np.zeros(3)}
    )
    np.testing.assert_allclose(terms["reward_near_goal"], [0.5, 0, 0.7], rtol=0, atol=1e-12)


def _open(low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The extreme floats inside an open range, and its bounds, at which an episode ends."""
    return (float(np.nextafter(low, high)), float(np.nextafter(high, low))), (low, high)


ENDING = [f"Ant{task}" for task in ("Vel", "Dir", "Dir2D", "Goal")] + [
    "HumanoidDir",
    "HopperVel",
    "HopperRandParams",
]
ENDING += [f"Walker2d{task}" for task in ("Vel", "Dir", "RandParams")]
ANY = _open(-500.0, 500.0)[0], ()
# Per index of (qpos, qvel): values at which an episode continues, and at which it ends.
BOUNDS: dict[str, dict[int, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "Ant": {
        0: ANY,
        2: ((0.2, 1.0), (float(np.nextafter(0.2, 0)), float(np.nextafter(1, 2)))),
        18: ANY,
    },
    "Walker2d": {0: ANY, 1: _open(0.8, 2.0), 2: _open(-1.0, 1.0), 12: ANY},
    "Hopper": {0: ANY, 1: (_open(0.7, 500.0)[0], (0.7,)), 2: _open(-0.2, 0.2)}
    | {i: _open(-100.0, 100.0) for i in range(3, 12)},
    "Humanoid": {0: ANY, 2: _open(1.0, 2.0), 27: ANY},
}


@pytest.mark.parametrize("name", ENDING)
def test_episode_ends_at_the_bounds(name: str) -> None:
    family = maml_envs.FAMILIES[name]()
    reference = _reference(name)
    start = np.concatenate([reference.init_qpos, reference.init_qvel])
    for index, (continues, ends) in BOUNDS[ROBOT_OF[name]].items():
        for value in (*continues, *ends):
            start_with = np.where(np.arange(len(start)) == index, value, start)
            qpos, qvel = np.split(start_with, [reference.model.nq])
            terminated = family.terminated(np, {"qpos": qpos[None], "qvel": qvel[None]}, {})
            assert terminated.tolist() == [value in ends], (index, value)
            reference.data.qpos[:], reference.data.qvel[:] = qpos, qvel
            assert bool(reference.is_healthy) is (value in continues)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),  # far enough from the bound for one step
    [
        ("AntDir", 0.9, 1.2),
        ("Walker2dDir", 0.9, 1.1),
        ("HopperVel", -0.15, -0.25),
        ("HumanoidDir", 1.9, 2.1),
    ],
)
def test_step_out_of_bounds_terminates(name: str, inside: float, outside: float) -> None:
    batch, single = _batch(name), _single(name)
    batch.reset(seed=0)
    single.reset(seed=0)
    for sim, value in enumerate((inside, outside)):
        qpos = np.where(
            np.arange(batch.family.robot.model.nq) == 2, value, batch.engine.state["qpos"][sim]
        )
        _set_state(batch.engine, sim, qpos, batch.engine.state["qvel"][sim].copy())
        _set_state(single.engine, 0, qpos, batch.engine.state["qvel"][sim])
        assert single.step(np.zeros(single.action_space.shape))[2] is bool(sim)
    assert batch.step(np.zeros(batch.action_space.shape))[2].tolist() == [False, True]


@pytest.mark.parametrize(
    "name", [*ENDING[:4], *sorted(maml_envs.FAMILIES.keys() - {*ENDING, "PointNavigation"})]
)
def test_other_families_never_terminate(name: str) -> None:
    settings = NEVER_ENDING if name in ENDING else {}
    family, rng = maml_envs.FAMILIES[name](**settings), np.random.default_rng(0)
    states = {
        key: rng.normal(0, 500, (100, len(value)))
        for key, value in family.initial_state(rng).items()
    }
    ends = family.terminated(np, states, family.sample_tasks(rng, 100))
    assert not ends.any(), (
        "if its episodes can end early, add it to ENDING and its bounds to BOUNDS"
    )
    if "Ant" in name:  # termination is a setting of the ant
        family = maml_envs.FAMILIES[name](terminate_when_unhealthy=True)
        assert family.terminated(np, states, family.sample_tasks(rng, 100)).any()


def _sampled(name: str, num_tasks: int = 4000, **settings: Any) -> dict[str, np.ndarray]:
    env = _batch(name, **settings)
    env.reset(seed=1)
    tasks = env.sample_tasks(num_tasks)
    return {key: np.array([task[key] for task in tasks]) for key in tasks[0]}


def _assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Check range, mean and second moment of 4000 samples."""
    scaled = (values - low) / (high - low)
    assert 0 <= scaled.min() < 0.005 < 0.995 < scaled.max() <= 1
    assert scaled.mean() == pytest.approx(1 / 2, abs=0.02)
    assert (scaled**2).mean() == pytest.approx(1 / 3, abs=0.02)
    assert len(np.unique(values)) == len(values)


# Default ranges of the goal velocity; the half cheetah has its own test.
RANGES = {"AntVel": (0, 3), "Walker2dVel": (0, 10), "HopperVel": (0, 2), "SwimmerVel": (0.1, 0.2)}


@pytest.mark.parametrize("name", [*RANGES, "AntDir2D", "HumanoidDir"])
def test_tasks_are_uniform_in_their_range(name: str) -> None:
    tasks = _sampled(name)
    assert list(tasks) == ["goal_velocity" if name in RANGES else "direction_angle"]
    _assert_uniform(*tasks.values(), *RANGES.get(name, (0, 2 * math.pi)))
    if name in RANGES:
        _assert_uniform(*_sampled(name, low=-3.0, high=-1.0).values(), -3, -1)


@pytest.mark.parametrize("goal_radius", [None, 1.5])
def test_goals_are_uniform_in_their_area(goal_radius: float | None) -> None:
    settings = {} if goal_radius is None else {"goal_radius": goal_radius}
    for name, default in (("AntGoal", 3.0), ("ReacherGoal", 0.2)):
        x, y = _sampled(name, **settings).values()
        distance = np.hypot(x, y) / (goal_radius or default)
        _assert_uniform(distance**2, 0, 1)  # uniform over the area
        assert (distance < 1 / 2).mean() == pytest.approx(1 / 4, abs=0.02)
        _assert_uniform(np.arctan2(y, x), -math.pi, math.pi)
    square, half = _sampled("AntGoal", goal_area="square", **settings), goal_radius or 3.0
    for values in square.values():
        _assert_uniform(values, -half, half)
    assert abs(np.corrcoef(list(square.values()))[0, 1]) < 0.05
    x, y = _sampled("PointNavigationSparse").values()
    np.testing.assert_allclose(np.hypot(x, y), 1, rtol=1e-12)
    _assert_uniform(np.arctan2(y, x), 0, math.pi)


@pytest.mark.parametrize("name", ["AntDir", "HalfCheetahDir", "Walker2dDir"])
def test_directions_alternate(name: str) -> None:
    assert _sampled(name, 5)["direction"].tolist() == [1, -1, 1, -1, 1]
    family = maml_envs.FAMILIES[name]()
    single_directions = [
        family.sample_tasks(np.random.default_rng(seed), 1)["direction"].item()
        for seed in range(40)
    ]
    assert set(single_directions) == {1.0, -1.0}
    assert 10 < single_directions.count(1.0) < 30


@pytest.mark.parametrize("name", ["HalfCheetahDir", "AntDir", "Walker2dDir"])
@pytest.mark.parametrize(("directions", "expected"), [("forward", 1.0), ("backward", -1.0)])
def test_one_direction(name: str, directions: str, expected: float) -> None:
    env = gym.make_vec(f"maml_rl/{name}-v0", num_envs=1, directions=directions)
    for num_tasks in (1, 4):
        tasks = env.sample_tasks(num_tasks)
        assert [task["direction"] for task in tasks] == [expected] * num_tasks
    env.close()


def test_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"directions must be .*both.*forward.*backward.*'left'"):
        maml_envs.FAMILIES["HalfCheetahDir"](directions="left")


# Families with held-out tasks: the disabled actuators of each task. The held-out task is the last.
DISABLED = {
    "CrippledHalfCheetah": {1: [1], 2: [2], 3: [3], 4: [4], 5: [5], 0: [0]},
    "CrippledAnt": {0: [2, 3], 1: [4, 5], 2: [6, 7], 3: [0, 1]},
}


@pytest.mark.parametrize("name", DISABLED)
def test_held_out_tasks(name: str) -> None:
    *train, held_out = DISABLED[name]
    for settings, expected in (
        ({}, train),
        ({"split": "train"}, train),
        ({"split": "held_out"}, [held_out]),
    ):
        numbers, counts = np.unique(*_sampled(name, **settings).values(), return_counts=True)
        assert numbers.tolist() == expected
        np.testing.assert_allclose(counts / 4000, 1 / len(expected), atol=0.03)


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, tasks in DISABLED.items() for number in tasks]
)
def test_only_disabled_actuators_have_no_effect(name: str, number: int) -> None:
    (key,), (size,) = (
        maml_envs.FAMILIES[name].task_units,
        maml_envs.FAMILIES[name].robot.action_space.shape,
    )
    env = _batch(name, size + 1)
    env.reset(seed=[0] * (size + 1), options={"task": {key: number}})
    for _ in range(3):
        # simulation i differs from the last one in actuator i
        env.step(0.2 + 0.5 * np.eye(size + 1, size))
    qpos = env.engine.state["qpos"]
    assert [i for i in range(size) if np.array_equal(qpos[i], qpos[-1])] == DISABLED[name][number]


def test_a_task_disables_its_leg_only() -> None:
    env = _single("CrippledAnt")
    nominal = env.model.geom_size.copy()
    geoms = (
        ("left_leg_geom", "left_ankle_geom"),
        ("right_leg_geom", "right_ankle_geom"),
        ("back_leg_geom", "third_ankle_geom"),
        ("rightback_leg_geom", "fourth_ankle_geom"),
        (),
    )
    for number, names in zip((0, 1, 2, 3, -1), geoms, strict=True):
        env.reset(seed=0, options={"task": {"disabled_limb": number}})
        is_smaller = (env.model.geom_size != nominal).any(axis=1)
        changed = [env.model.geom(int(geom)).name for geom in np.flatnonzero(is_smaller)]
        assert changed == list(names)


FACTORS = {
    "mass": "body_mass",
    "inertia": "body_inertia",
    "friction": "geom_friction",
    "damping": "dof_damping",
}


@pytest.mark.parametrize("name", ["Walker2dRandParams", "HopperRandParams"])
def test_random_parameters(name: str) -> None:
    reference, single = _reference(name), _single(name)
    single.reset(seed=3)
    task, expected = single.task, set()
    old, new = (
        [m.body(i) for i in range(m.nbody)]
        + [m.geom(i) for i in range(m.ngeom)]
        + [m.joint(i) for i in range(m.njnt)]
        for m in (reference.model, single.model)
    )
    for before, after in zip(old, new, strict=True):
        for field, quantity in FACTORS.items():
            if np.any(getattr(before, field, 0)):
                key = f"{quantity}/{before.name}"
                expected.add(key)
                # Inertia scales with mass, so that the body is physically possible.
                factor = task[key] * (task[f"body_mass/{before.name}"] if field == "inertia" else 1)
                np.testing.assert_allclose(
                    getattr(after, field), factor * getattr(before, field), rtol=1e-12
                )
    logs = {
        key: np.log(values) / math.log(1.3 if "damping" in key else 1.5)
        for key, values in _sampled(name).items()
    }
    assert set(logs) == set(task) == expected
    for values in logs.values():
        _assert_uniform(values, -3, 3)
    # factors are independent
    assert abs(np.corrcoef(list(logs.values())) - np.eye(len(logs))).max() < 0.08


NON_NEGATIVE = {f"{kind}_weight" for kind in ("control_cost", "contact_cost", "forward_reward")}
NON_NEGATIVE |= {"reset_noise_scale", "goal_radius"}


@pytest.mark.parametrize("name", sorted(maml_envs.FAMILIES))
def test_invalid_settings_are_rejected(name: str) -> None:
    family = maml_envs.FAMILIES[name]
    for key in family.__dataclass_fields__.keys() & {
        "goal_reward",
        "survive_reward",
        *NON_NEGATIVE,
    }:
        for value in (math.nan, math.inf, -math.inf) + (-0.5,) * (key in NON_NEGATIVE):
            with pytest.raises(ValueError, match=rf"^{key} must.* {value}"):
                family(**{key: value})
    if "low" in family.__dataclass_fields__:
        for low, high in (
            (2.0, 1.0),
            (-200.0, 1.0),
            (0.0, 200.0),
            (math.nan, 1.0),
            (0.0, math.nan),
        ):
            with pytest.raises(ValueError, match=f"^low and high .*{low}, {high}"):
                family(low=low, high=high)


def test_horizons() -> None:
    horizons = {
        name: gym.spec(maml_envs.env_id(name)).max_episode_steps for name in maml_envs.FAMILIES
    }
    short = dict.fromkeys(
        ("HalfCheetahVel", "HalfCheetahDir", "PointNavigation", "PointNavigationSparse"), 100
    )
    assert horizons == {**dict.fromkeys(horizons, 200), **short, "ReacherGoal": 50}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("AntGoal", {"goal_area": "circle"}),
        ("CrippledAnt", {"split": "test"}),
        ("CrippledHalfCheetah", {"split": "heldout"}),
        ("AntVel", {"observe_contact_forces": "no"}),
        ("AntVel", {"terminate_when_unhealthy": 2}),
        ("AntVel", {"survive_reward": None}),
        ("AntVel", {"control_cost_weight": "0.1"}),
        ("AntVel", {"low": "a"}),
        ("HalfCheetahVel", {"high": True}),
    ],
    ids=str,
)
def test_settings_of_the_wrong_type_are_rejected(name: str, settings: dict[str, Any]) -> None:
    [(setting, value)] = settings.items()
    with pytest.raises(ValueError, match=f"{setting} must be") as error:
        maml_envs.FAMILIES[name](**settings)
    assert repr(value) in str(error.value)
