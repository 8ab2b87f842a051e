"""Control step, limits and observations, compared with Gymnasium, MuJoCo and papers' code."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, ClassVar

import gymnasium as gym
import maml_envs
import mujoco
import numpy as np
import pytest
from helpers.families import PER_ROBOT
from maml_envs.engines.mujoco import MujocoRobot
from maml_envs.families.half_cheetah import HalfCheetahVel
from maml_envs.families.walker2d import Walker2dDir

from maml_rl.analysis.recording import seconds_per_step
from maml_rl.analysis.video.grid import steps_shown
from maml_rl.settings.learners import LEARNER_CONFIGS
from maml_rl.settings.parser import load_config, parse_training_arguments
from maml_rl.settings.sources import preset_names

NEVER_ENDING = {"terminate_when_unhealthy": False}
ANT = {
    "observe_contact_forces": True,
    "observe_root_position": True,
    "observe_orientation": True,
    **NEVER_ENDING,
}


def _single(name: str, **settings: Any) -> Any:
    return gym.make(maml_envs.env_id(name), **settings).unwrapped


def _batch(name: str, num_envs: int, **settings: Any) -> Any:
    return gym.make_vec(maml_envs.env_id(name), num_envs=num_envs, **settings)


# Family, its task, Gymnasium's robot, frame skip, and seconds per control step.
FRAME_SKIPS: list[tuple[str, dict[str, float], str, int, float]] = [
    ("Walker2dDir", {"direction": 1.0}, "Walker2d", 8, 0.016),
    ("Walker2dDir", {"direction": 1.0}, "Walker2d", 1, 0.002),
    ("HopperRandParams", {"body_mass": 1.0}, "Hopper", 8, 0.016),
    ("HalfCheetahDir", {"direction": 1.0}, "HalfCheetah", 1, 0.01),
    ("AntDir", {"direction": 1.0}, "Ant", 2, 0.02),
]


@pytest.mark.parametrize(("name", "task", "robot", "frame_skip", "dt_s"), FRAME_SKIPS)
def test_frame_skip_equals_gymnasiums(
    name: str, task: dict[str, float], robot: str, frame_skip: int, dt_s: float
) -> None:
    exact = {"include_cfrc_ext_in_observation": False} if robot == "Ant" else {}
    reference = gym.make(f"{robot}-v5", frame_skip=frame_skip, **exact).unwrapped
    single = _single(name, frame_skip=frame_skip)
    batch = _batch(name, 2, frame_skip=frame_skip)
    assert single.dt == pytest.approx(dt_s) == pytest.approx(reference.dt)
    rng, space = np.random.default_rng(1), reference.action_space
    batch.set_tasks([task] * 2)
    batch.reset(seed=7)
    single.reset(seed=8, options={"task": task})
    reference.reset(seed=0)
    mujoco.mj_resetData(reference.model, reference.data)
    reference.set_state(batch.engine.state["qpos"][1], batch.engine.state["qvel"][1])
    for t in range(1, 41):
        action = (0.3 * rng.uniform(space.low, space.high)).astype(np.float32)
        x_before = float(batch.engine.state["qpos"][1, 0])
        observation, _, terminated, _, info = batch.step(np.stack([-action, action]))
        alone, *_, single_info = single.step(action)
        expected, _, is_over, _, expected_info = reference.step(action)
        np.testing.assert_array_equal(alone, observation[1])
        np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-10)
        assert single.data.time == pytest.approx(t * dt_s)
        velocity = (batch.engine.state["qpos"][1, 0] - x_before) / dt_s
        assert info["reward_forward"][1] == pytest.approx(velocity, rel=0, abs=1e-9)
        assert single_info["reward_forward"] == info["reward_forward"][1]
        if robot != "Ant":  # Gymnasium's ant velocity lags by one MuJoCo step
            assert velocity == pytest.approx(expected_info["x_velocity"], rel=0, abs=1e-9)
        assert terminated[1] == is_over
        if is_over:
            break
    assert t > 10


def test_frame_rate_video_and_delay_use_the_control_step() -> None:
    env = _single("Walker2dDir", frame_skip=10, dynamics={"action_delay": 2})
    assert env.dt == seconds_per_step(env) == pytest.approx(0.02)
    assert env.metadata["render_fps"] == 50
    assert len(steps_shown(100, env.dt, 50)) == 101  # one frame per control step
    plain = _single("Walker2dDir", frame_skip=10)
    env.reset(seed=0, options={"task": {"direction": 1.0, "action_delay": 2}})
    plain.reset(seed=0, options={"task": {"direction": 1.0, "action_delay": 0}})
    first = env.engine.state["qpos"].copy()
    actions = [np.full(6, value) for value in (0.5, -0.5, 0.0, 0.0)]
    zeros = np.zeros(6)
    observations = [env.step(action)[0] for action in actions]
    plain.engine.reset(np.zeros(1, int), {"qpos": first, "qvel": plain.engine.state["qvel"].copy()})
    expected = [plain.step(action)[0] for action in [zeros, zeros, *actions[:2]]]
    np.testing.assert_array_equal(observations, expected)


def test_longest_control_step_is_a_second() -> None:
    env = _single("HalfCheetahVel", frame_skip=100)
    assert seconds_per_step(env) == env.dt == pytest.approx(1.0)


def test_frame_skip_does_not_change_the_class() -> None:
    robot = Walker2dDir.robot
    family = Walker2dDir(frame_skip=8)
    assert (robot.frame_skip, family.robot.frame_skip) == (4, 8)
    assert Walker2dDir.robot is Walker2dDir().robot is robot
    assert dataclasses.replace(family, frame_skip=None).robot is robot
    assert Walker2dDir(frame_skip=8).robot is family.robot  # its model is compiled once
    assert Walker2dDir(frame_skip=np.int64(8)).robot is family.robot
    assert dataclasses.replace(family, survive_reward=2.0).robot is family.robot
    assert copy.deepcopy(family).robot == family.robot


def test_custom_body_keeps_its_control_step() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Slow(HalfCheetahVel):
        robot: ClassVar[MujocoRobot] = MujocoRobot("half_cheetah.xml", frame_skip=3)

    assert maml_envs.FamilyEnv(Slow()).dt == pytest.approx(0.03)
    assert maml_envs.FamilyEnv(Slow(frame_skip=2)).dt == pytest.approx(0.02)


OBSERVED: list[tuple[str, dict[str, Any], int]] = [
    ("HalfCheetahVel", {"observe_position": "torso"}, 20),
    ("HalfCheetahDir", {"observe_position": "centre_of_mass", "frame_skip": 1}, 20),
    ("AntVel", {**ANT, "observe_position": "torso"}, 119),
    ("AntGoal", {"observe_position": "torso", "observe_root_position": False, **NEVER_ENDING}, 30),
    ("AntDir", {**ANT, "observe_position": "centre_of_mass", "frame_skip": 2}, 119),
]


def _quantities(name: str, settings: dict[str, Any], model: Any, data: Any) -> np.ndarray:
    """The observation recomputed by MuJoCo from the state, in the order of the papers' code."""
    forces = data.cfrc_ext[1:].copy()
    fresh = mujoco.MjData(model)
    fresh.qpos[:], fresh.qvel[:] = data.qpos, data.qvel
    mujoco.mj_forward(model, fresh)
    has_root_position = settings.get("observe_root_position", name == "AntGoal")
    start = 1 if "Cheetah" in name else 0 if has_root_position else 2
    parts = [fresh.qpos[start:], fresh.qvel]
    if settings.get("observe_contact_forces"):
        parts.append(forces.clip(-1, 1).ravel())
    if settings.get("observe_orientation"):
        parts.append(fresh.body("torso").xmat)
    torso = fresh.body("torso")
    parts.append(torso.xpos if settings["observe_position"] == "torso" else torso.subtree_com)
    return np.concatenate(parts)


@pytest.mark.parametrize(("name", "settings", "size"), OBSERVED)
def test_observations_are_of_the_new_state(
    name: str,
    settings: dict[str, Any],
    size: int,
) -> None:
    single, batch = _single(name, **settings), _batch(name, 2, **settings)
    batch.np_random = np.random.default_rng(2)
    batch.set_tasks(batch.sample_tasks(2))
    single.set_task(batch.tasks[0])
    batched, alone = batch.reset(seed=5)[0], single.reset(seed=5)[0]
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert alone.shape == (size,)
        np.testing.assert_array_equal(alone, batched[0])
        expected = _quantities(name, settings, single.model, single.data)
        np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-10)
        actions = rng.uniform(-1, 1, batch.action_space.shape)
        batched, alone = batch.step(actions)[0], single.step(actions[0])[0]


def test_positions_after_a_step_do_not_lag() -> None:
    env = _single("HalfCheetahVel", observe_position="torso")
    env.reset(seed=0)
    for _ in range(5):
        observation = env.step(np.ones(6))[0]
    x, z, *_ = env.data.qpos
    np.testing.assert_allclose(observation[-3:], [x, 0, 0.7 + z], rtol=0, atol=1e-12)


# Family, settings, index of (qpos, qvel), values at which an episode continues, and ends.
ENDS: list[tuple[str, dict[str, Any], int, tuple[float, ...], tuple[float, ...]]] = [
    ("AntDir", {"min_torso_height": 0.0}, 2, (0.0, 0.1, 1.0), (-1e-9, 1.01)),
    ("AntVel", {"max_torso_height": 1.5}, 2, (0.2, 1.4, 1.5), (0.19, 1.51)),
    ("Walker2dVel", {"min_torso_height": 0.5, "max_torso_height": 3.0}, 1, (0.6, 2.9), (0.5, 3.0)),
    ("Walker2dDir", {"torso_angle_limit": 0.4}, 2, (0.3, -0.39), (0.4, -0.4)),
    ("HopperVel", {"min_torso_height": 0.9}, 1, (0.91, 9.0), (0.9, 0.8)),
    ("HopperVel", {"torso_angle_limit": 1.0}, 2, (0.9, -0.9), (1.0, -1.0)),
    ("HopperVel", {"state_limit": 20.0}, 8, (19.0, -19.0), (20.0, -20.0)),
    ("HumanoidDir", {"min_torso_height": 0.8, "max_torso_height": 2.5}, 2, (0.9, 2.4), (0.8, 2.5)),
]


@pytest.mark.parametrize(("name", "settings", "index", "continues", "ends"), ENDS)
def test_episodes_end_at_the_limits(
    name: str,
    settings: dict[str, Any],
    index: int,
    continues: tuple[float, ...],
    ends: tuple[float, ...],
) -> None:
    family = maml_envs.FAMILIES[name](**settings)
    model = family.robot.model
    for value in (*continues, *ends):
        state = np.concatenate([model.qpos0, np.zeros(model.nv)])
        state[index] = value
        qpos, qvel = state[None, : model.nq], state[None, model.nq :]
        terminated = family.terminated(np, {"qpos": qpos, "qvel": qvel}, {})
        assert terminated.tolist() == [value in ends], value


@pytest.mark.parametrize(("name", "size"), [("Walker2dDir", 8), ("HopperVel", 5)])
def test_observed_velocities_are_clipped_to_the_limit(name: str, size: int) -> None:
    family = maml_envs.FAMILIES[name](observed_velocity_limit=3.0)
    model = family.robot.model
    velocities = np.linspace(-5, 5, model.nv)
    observation = family.observation(np, {"qpos": model.qpos0[None], "qvel": velocities[None]})
    np.testing.assert_array_equal(observation[0, size:], velocities.clip(-3, 3))


def test_contact_forces_and_their_cost_are_clipped_to_the_limits() -> None:
    settings = {"contact_cost_weight": 0.5, "contact_force_limit": 2.0}
    ant = maml_envs.FAMILIES["AntDir"](observe_contact_forces=True, **settings)
    forces = np.zeros((1, 14, 6))
    forces[0, 3] = [-3, 1, 0, 0, 0, 5]
    state = {"qpos": np.zeros((1, 15)), "qvel": np.zeros((1, 14)), "cfrc_ext": forces}
    of_body_3 = ant.observation(np, state)[0, 27 + 12 : 27 + 18]
    np.testing.assert_array_equal(of_body_3, [-2, 1, 0, 0, 0, 2])
    task = {"direction": np.ones(1)}
    terms = ant.reward_terms(np, state, state, np.zeros((1, 8)), task)
    assert terms["reward_contact"].tolist() == [-0.5 * (4 + 1 + 4)]
    humanoid = maml_envs.FAMILIES["HumanoidDir"](contact_cost_weight=0.5, contact_cost_limit=7.0)
    state["subtree_com"] = np.zeros((1, 14, 3))
    for scale, cost in ((0.1, 0.5 * 0.35), (1.0, 7.0)):
        after = {**state, "cfrc_ext": scale * forces}
        task = {"direction_angle": np.zeros(1)}
        terms = humanoid.reward_terms(np, state, after, np.zeros((1, 17)), task)
        assert terms["reward_contact"][0] == pytest.approx(-cost)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("Walker2dVel", value) for value in (-1, 101, 2.0, True, "8", [4])],
        *[(name, 0) for name in PER_ROBOT if name != "PointNavigation"],
    ],
)
def test_invalid_frame_skip_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="frame_skip must be an integer from 1 to 100") as error:
        maml_envs.FAMILIES[name](frame_skip=value)
    assert str(error.value).endswith(f"got {value!r}")


AT_LEAST_ZERO = {
    "Walker2dVel": ("torso_angle_limit", "observed_velocity_limit"),
    "HopperVel": ("torso_angle_limit", "state_limit", "observed_velocity_limit"),
    "AntDir": ("contact_force_limit",),
    "HumanoidDir": ("contact_cost_limit",),
}


@pytest.mark.parametrize("name", AT_LEAST_ZERO)
def test_negative_limits_are_rejected(name: str) -> None:
    for setting in AT_LEAST_ZERO[name]:
        message = f"^{setting} must be finite and at least 0, got -1.0"
        with pytest.raises(ValueError, match=message):
            maml_envs.FAMILIES[name](**{setting: -1.0})
        assert getattr(maml_envs.FAMILIES[name](**{setting: 0.0}), setting) == 0


@pytest.mark.parametrize("name", ["AntVel", "Walker2dDir", "HumanoidDir"])
def test_heights_in_the_wrong_order_are_rejected(name: str) -> None:
    family = maml_envs.FAMILIES[name]
    message = "^min_torso_height must be at most max_torso_height, got 3.0 and 2.5"
    with pytest.raises(ValueError, match=message):
        family(min_torso_height=3.0, max_torso_height=2.5)
    with pytest.raises(ValueError, match="min_torso_height must be finite, got nan"):
        family(min_torso_height=math.nan)


def test_unknown_position_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^observe_position must be one of .*'torso'.*got 'head'"):
        maml_envs.FAMILIES["HalfCheetahVel"](observe_position="head")


def test_settings_are_flags() -> None:
    flags = ["--env", "Walker2dVel", "--env.frame_skip", "8", "--env.min_torso_height=0.7"]
    kwargs = parse_training_arguments(flags).env.kwargs
    assert (kwargs["frame_skip"], kwargs["min_torso_height"]) == (8, 0.7)
    again = parse_training_arguments(["--config", "promp/Walker2dVel", "--env.frame_skip", "null"])
    assert again.env.kwargs["frame_skip"] is None


# Of each paper's public code (docs/families.md has the sources): seconds per control step, size of
# the observation (without entries that are always zero), and the torso heights (m) between which an
# episode continues.
CONTACTS = 13 * 6
WALKER, HOPPER, NEVER = (0.8, 2.0), (0.7, math.inf), (-math.inf, math.inf)
CHEETAH_OF_FINN = (0.01, 8 + 9 + 3, NEVER)
ANT_OF_FINN = (0.02, 15 + 14 + CONTACTS + 9 + 3, (0.2, 1.0))
ANT_OF_PYTORCH = (0.05, 15 + 14 + CONTACTS + 9 + 3, (0.2, 1.0))
HUMANOID = (0.015, 22 + 23 + 130 + 78 + 17 + CONTACTS, (1.0, 2.0))
PAPERS: dict[str, tuple[float, int, tuple[float, float]]] = {
    "maml/HalfCheetahDir": CHEETAH_OF_FINN,
    "maml/HalfCheetahVel": CHEETAH_OF_FINN,
    "maml/AntDir": ANT_OF_FINN,
    "maml/AntVel": ANT_OF_FINN,
    "maml/AntGoal": ANT_OF_FINN,
    "pytorch_maml_rl/HalfCheetahDir": (0.05, 8 + 9 + 3, NEVER),
    "pytorch_maml_rl/HalfCheetahVel": (0.05, 8 + 9 + 3, NEVER),
    "pytorch_maml_rl/AntDir": ANT_OF_PYTORCH,
    "pytorch_maml_rl/AntVel": ANT_OF_PYTORCH,
    "pytorch_maml_rl/AntGoal": ANT_OF_PYTORCH,
    "promp/HalfCheetahDir": (0.05, 8 + 9, NEVER),
    "promp/HalfCheetahVel": (0.05, 8 + 9, NEVER),
    "promp/AntDir": (0.05, 13 + 14 + CONTACTS, (0.0, 1.0)),
    "promp/AntDir2D": (0.05, 13 + 14 + CONTACTS, (0.0, 1.0)),
    "promp/AntGoal": (0.05, 15 + 14 + CONTACTS, NEVER),
    "promp/Walker2dDir": (0.016, 8 + 9, WALKER),
    "promp/Walker2dVel": (0.016, 8 + 9, WALKER),
    "promp/Walker2dRandParams": (0.02, 8 + 9, WALKER),
    "promp/HopperRandParams": (0.016, 5 + 6, HOPPER),
    "promp/HumanoidDir": HUMANOID,
    "promp/SwimmerVel": (0.04, 3 + 5, NEVER),
    "pearl/HalfCheetahDir": (0.05, 8 + 9 + 3, NEVER),
    "pearl/HalfCheetahVel": (0.05, 8 + 9 + 3, NEVER),
    "pearl/AntDir": (0.05, 13 + 14, (0.2, 1.0)),
    "pearl/AntGoal": (0.05, 15 + 14 + CONTACTS, NEVER),
    "pearl/Walker2dRandParams": (0.02, 8 + 9, WALKER),
    "pearl/HumanoidDir": HUMANOID,
}


def test_every_robot_preset_of_a_paper_is_tested() -> None:
    own = tuple(f"{name}/" for name in LEARNER_CONFIGS if name not in ("maml", "pearl"))
    of_papers = {name for name in preset_names() if "/" in name and not name.startswith(own)}
    of_papers.remove("pearl/default")
    robots = [name for name in of_papers if "Point" not in name]
    assert sorted(PAPERS) == sorted(robots)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PAPERS)
def test_presets_match_the_papers(preset: str) -> None:
    dt_s, size, (low, high) = PAPERS[preset]
    config = load_config(preset)
    env = _single(config.env.name, **config.env.kwargs)
    assert env.dt == pytest.approx(dt_s)
    assert env.observation_space.shape == (size,)
    family, model = env.family, env.family.robot.model
    height = 1 if config.env.name.startswith(("Walker", "Hopper", "HalfCheetah", "Swimmer")) else 2
    around = [(low - 0.01, True), (low + 0.01, False), (high - 0.01, False), (high + 0.01, True)]
    never = [(-5.0, False), (5.0, False)]
    for value, ends in [*filter(lambda pair: math.isfinite(pair[0]), around)] or never:
        qpos = np.where(np.arange(model.nq) == height, value, model.qpos0)
        state = {"qpos": qpos[None], "qvel": np.zeros((1, model.nv))}
        assert family.terminated(np, state, {}).tolist() == [ends], value


# Policy and outer-step settings in which presets differ from others of the same paper's code.
ADAPTIVE = {"num_epochs": 3, "kl_coefficient": 1e-3, "adaptive_kl": True, "target_kl": 0.01}
LEARNERS: dict[str, dict[str, Any]] = {
    **{name: {"action_scale": 1.0} for name in preset_names() if name.startswith("maml/")},
    "pytorch_maml_rl/PointNavigation": {"action_scale": 10.0},
    "pytorch_maml_rl/HalfCheetahDir": {"action_scale": 0.1},
    "promp/Walker2dDir": {"num_epochs": 5, "kl_coefficient": 5e-4, "adaptive_kl": False},
    "promp/Walker2dRandParams": ADAPTIVE,
    "promp/HopperRandParams": ADAPTIVE,
}


@pytest.mark.parametrize("preset", LEARNERS)
def test_learner_settings_match_the_papers(preset: str) -> None:
    config = load_config(preset)
    settings = {**dataclasses.asdict(config.policy), **dataclasses.asdict(config.outer)}
    assert {name: settings[name] for name in LEARNERS[preset]} == LEARNERS[preset]
