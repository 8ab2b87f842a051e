"""Dynamics that change within a task: in both environments, against edited models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import maml_envs
import mujoco
import numpy as np
import pytest

Task = dict[str, float]
CHEETAH: Task = {"goal_velocity": 1.0}
ANT: Task = {"direction": 1.0}
NUM_STEPS = 12
SIMS = np.arange(3)


def _batch(family: str, tasks: Sequence[Task], **settings: Any) -> Any:
    env = gym.make_vec(
        maml_envs.env_id(family),
        num_envs=len(tasks),
        max_episode_steps=1000,
        num_threads=1,
        **settings,
    )
    env.set_tasks(tasks)
    return env


def _actions(env: Any, num_steps: int = NUM_STEPS) -> np.ndarray:
    space = env.action_space
    rng = np.random.default_rng(0)
    return rng.uniform(space.low, space.high, (num_steps, *space.shape))


def _episode(env: Any, actions: np.ndarray, **reset: Any) -> dict[str, np.ndarray]:
    """Observations, rewards and positions of an episode, each (time, num_envs, ...)."""
    observation, _ = env.reset(**reset)
    observations, rewards = [observation], []
    positions = [env.engine.state["qpos"].copy()]
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        positions.append(env.engine.state["qpos"].copy())
    return {
        "observations": np.stack(observations),
        "rewards": np.stack(rewards),
        "positions": np.stack(positions),
    }


def _assert_equal(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> None:
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


CHANGES: list[Task] = [
    {"changed/body_mass": 2.0},
    {"body_mass": 0.5, "changed/body_mass/torso": 3.0},
    {"changed/body_inertia": 1.5},
    {"changed/geom_friction": 0.2},
    {"changed/dof_damping": 3.0},
    {"changed/actuator_gear": 0.5},
    {"changed/gravity": 3.0},
    {"gravity": 5.0, "changed/slope": 0.3},
    {"changed/disabled_actuator": 1.0},
    {"disabled_actuator": 2.0, "changed/disabled_actuator": -1.0},
    {"changed/disabled_joint": 1.0},
    {"changed/disabled_limb": 1.0},
]


def _stepped(model: mujoco.MjModel, start: mujoco.MjData, controls: np.ndarray, n: int) -> Any:
    """Positions and velocities after each of ``controls``, of ``model`` from a copied state."""
    data = mujoco.MjData(model)
    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.zeros(mujoco.mj_stateSize(model, spec))
    mujoco.mj_getState(model, start, state, spec)
    mujoco.mj_setState(model, data, state, spec)
    states = []
    for control in controls:
        data.ctrl[:] = control
        mujoco.mj_step(model, data, nstep=n)
        states.append(np.concatenate([data.qpos, data.qvel]))
    return np.stack(states)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(change))
@pytest.mark.parametrize(
    ("family", "task", "settings"),
    [
        ("HalfCheetahVel", CHEETAH, {}),
        ("AntDir", ANT, {"observe_position": "centre_of_mass", "max_torso_height": 10.0}),
    ],
)
def test_a_change_equals_a_fresh_model_in_the_same_state(
    family: str, task: Task, settings: dict[str, Any], change: Task
) -> None:
    """The ant has derived fields; both have touched the ground."""
    changes_at = 30
    batch = _batch(family, [{**task, **change, "change_step": changes_at}] * 2, **settings)
    single = gym.make(maml_envs.env_id(family), **settings).unwrapped
    single.set_task({**task, **change, "change_step": changes_at})
    batch.reset(seed=3)
    single.reset(seed=4)
    actions = _actions(batch, changes_at + 8)
    for action in actions[:changes_at]:
        batch.step(action)
        single.step(action[1])
    # the model with the changed dynamics, and the states of both engines
    values = {name.removeprefix("changed/"): np.array([value]) for name, value in change.items()}
    fresh = single.family.robot.single_engine((), None)
    fresh.set_dynamics(values)
    frame_skip = single.family.robot.frame_skip
    starts = (batch.engine.batch.get_data(1), single.data)
    expected = [
        _stepped(fresh.model, start, actions[changes_at:, 1], frame_skip) for start in starts
    ]
    for t, action in enumerate(actions[changes_at:]):
        batch.step(action)
        single.step(action[1])
        state = batch.engine.state
        batch_state = np.concatenate([state["qpos"][1], state["qvel"][1]])
        np.testing.assert_array_equal(batch_state, expected[0][t])
        single_state = np.concatenate([single.data.qpos, single.data.qvel])
        np.testing.assert_array_equal(single_state, expected[1][t])


VARIED: list[Task] = [
    {**CHEETAH, "change_step": 5, "changed/body_mass": 2.0, "changed/action_delay": 2},
    {**CHEETAH, "body_mass": 1.5, "change_step": 3, "changed/observation_noise": 0.1},
    {**CHEETAH, "change_episode": 1, "change_step": 4, "changed/disabled_limb": 0},
    {**CHEETAH, "action_delay": 3, "observation_noise": 0.2, "change_step": 7}
    | {"changed/action_delay": 1, "changed/observation_noise": 0.05},
]


def test_single_environments_equal_the_batch() -> None:
    batch = _batch("HalfCheetahVel", VARIED)
    singles = [gym.make("maml_rl/HalfCheetahVel-v0").unwrapped for _ in VARIED]
    actions = _actions(batch).astype(np.float32)
    for episode, seed in enumerate((11, None, None)):
        observations, _ = batch.reset(seed=seed)
        for i, (single, task) in enumerate(zip(singles, VARIED, strict=True)):
            options = {"task": task} if episode == 0 else None
            seed_i = None if seed is None else seed + i
            observation, _ = single.reset(seed=seed_i, options=options)
            np.testing.assert_array_equal(observation, observations[i])
        for action in actions:
            observations, rewards, *_ = batch.step(action)
            for i, single in enumerate(singles):
                observation, reward, *_ = single.step(action[i])
                np.testing.assert_array_equal(observation, observations[i])
                assert reward == rewards[i]


def test_simulations_without_a_change_equal_those_of_a_run_without_changes() -> None:
    plain_task = {**CHEETAH, "body_mass": 1.3, "action_delay": 1, "observation_noise": 0.1}
    same_value = {**plain_task, "changed/body_mass": 1.3, "change_step": 4}
    changing = {**plain_task, "changed/body_mass": 3.0, "changed/action_delay": 4, "change_step": 4}
    plain = _batch("HalfCheetahVel", [plain_task] * 3)
    mixed = _batch("HalfCheetahVel", [plain_task, changing, same_value])
    for seed in (5, None):
        expected = _episode(plain, _actions(plain), seed=seed)
        result = _episode(mixed, _actions(mixed), seed=seed)
        others = {name: values[:, [0, 2]] for name, values in result.items()}
        _assert_equal(others, {name: values[:, [0, 2]] for name, values in expected.items()})
        assert (result["positions"][-1, 1] != expected["positions"][-1, 1]).any()


@pytest.mark.parametrize("change", [*CHANGES, {"changed/action_delay": 2.0}], ids=str)
def test_a_change_at_the_first_step_equals_fixed_dynamics(change: Task) -> None:
    fixed = {name.removeprefix("changed/"): value for name, value in change.items()}
    changed = _batch("AntDir", [{**ANT, **change}] * 2, observe_contact_forces=True)
    expected = _batch("AntDir", [{**ANT, **fixed}] * 2, observe_contact_forces=True)
    for seed in (2, None):
        _assert_equal(
            _episode(changed, _actions(changed), seed=seed),
            _episode(expected, _actions(expected), seed=seed),
        )


def test_the_change_holds_in_later_episodes_and_not_in_earlier_ones() -> None:
    task = {**CHEETAH, "change_episode": 1, "change_step": 6, "changed/disabled_actuator": 0}
    env = _batch("HalfCheetahVel", [task, CHEETAH])
    fixed = _batch("HalfCheetahVel", [{**CHEETAH, "disabled_actuator": 0}, CHEETAH])
    plain = _batch("HalfCheetahVel", [CHEETAH] * 2)
    actions = _actions(env)
    before, middle, after = (_episode(env, actions, seed=seed) for seed in range(3))
    _assert_equal(before, _episode(plain, actions, seed=0))
    unchanged = _episode(plain, actions, seed=1)
    np.testing.assert_array_equal(middle["positions"][:7], unchanged["positions"][:7])
    assert (middle["positions"][7, 0] != unchanged["positions"][7, 0]).any()
    _assert_equal(after, _episode(fixed, actions, seed=2))
    # An episode by its index, as in a trial that is played again
    for episode, expected in ((0, before), (2, after), (1, middle)):
        again = _episode(env, actions, seed=episode, options={"episode": episode})
        _assert_equal(again, expected)
    assert env.is_changed.tolist() == [True, False]
    single = gym.make(maml_envs.env_id("HalfCheetahVel"), max_episode_steps=1000)
    single.unwrapped.set_task(task)
    for episode, expected in ((0, before), (2, after), (1, middle)):
        single.reset(seed=episode, options={"episode": episode})
        observations = [single.step(action[0])[0] for action in actions]
        np.testing.assert_array_equal(observations, expected["observations"][1:, 0])
    # The next task starts from the untouched model, with its own first episode
    env.set_tasks([CHEETAH, task])
    for seed in range(3):
        result = _episode(env, actions, seed=seed)
        expected = _episode(plain, actions, seed=seed)
        np.testing.assert_array_equal(result["positions"][:, 0], expected["positions"][:, 0])
        assert env.is_changed.tolist() == [False, seed >= 1]


def test_an_episode_that_ends_early_does_not_stop_the_change() -> None:
    task = {"goal_velocity": 1.0, "change_step": 90, "changed/gravity": 2.0}
    env = _batch("HopperVel", [task])
    env.reset(seed=0)
    steps = 0
    while not env.step(np.ones((1, 3)))[2][0]:
        steps += 1
    assert steps < 90
    for _ in range(90):  # a finished simulation does not reach it
        env.step(np.ones((1, 3)))
    assert not env.is_changed[0]
    env.reset()
    assert env.is_changed[0]
    assert env.engine.batch.get_model(0).opt.gravity.tolist() == [0, 0, -2]


def test_a_change_after_the_last_step_does_nothing() -> None:
    task = {**CHEETAH, "change_step": NUM_STEPS, "changed/gravity": 2.0}
    env, plain = _batch("HalfCheetahVel", [task]), _batch("HalfCheetahVel", [CHEETAH])
    actions = _actions(env)
    _assert_equal(_episode(env, actions, seed=1), _episode(plain, actions, seed=1))


def test_a_changed_delay_repeats_or_skips_actions() -> None:
    tasks: list[Task] = [
        {**CHEETAH, "action_delay": before, "changed/action_delay": after, "change_step": 6}
        for before, after in ((0, 3), (3, 0), (2, 4))
    ]
    env, plain = _batch("HalfCheetahVel", tasks), _batch("HalfCheetahVel", [CHEETAH] * 3)
    actions = _actions(env)
    applied = np.zeros_like(actions)
    for i, task in enumerate(tasks):
        for t in range(NUM_STEPS):
            source = t - int(task["changed/action_delay" if t >= 6 else "action_delay"])
            if source >= 0:
                applied[t, i] = actions[source, i]
    for seed in (0, 1):  # in the second episode the changed delay holds from the start
        if seed == 1:
            applied = np.zeros_like(actions)
            for i, task in enumerate(tasks):
                delay = int(task["changed/action_delay"])
                applied[delay:, i] = actions[: NUM_STEPS - delay, i]
        result = _episode(env, actions, seed=seed)
        expected = _episode(plain, applied, seed=seed)
        np.testing.assert_array_equal(result["positions"], expected["positions"])


def test_changed_noise_is_in_the_observation_of_the_change() -> None:
    task = {**CHEETAH, "changed/observation_noise": 0.5, "change_step": 4}
    env, plain = _batch("HalfCheetahVel", [task]), _batch("HalfCheetahVel", [CHEETAH])
    actions = _actions(env)
    noise = _episode(env, actions, seed=1)["observations"]
    noise = noise - _episode(plain, actions, seed=1)["observations"]
    assert not noise[:4].any()
    assert noise[4:].all()


def test_a_limb_that_fails_turns_red_at_that_step() -> None:
    env = gym.make("maml_rl/AntDir-v0").unwrapped
    colours = env.model.geom_rgba.copy()
    env.reset(seed=0, options={"task": {**ANT, "changed/disabled_limb": 2, "change_step": 3}})
    for t in range(5):
        changed = np.flatnonzero((env.model.geom_rgba != colours).any(axis=1))
        assert len(changed) == (3 if t >= 3 else 0)
        env.step(np.zeros(8))


def test_centre_of_mass_does_not_jump_in_the_reward() -> None:
    """The step after a change is measured from the centre of mass of the changed robot."""
    change = {"changed/body_mass/right_upper_arm": 20.0, "change_step": 3}
    task = {"direction_angle": np.pi / 2, **change}
    env = _batch("HumanoidDir", [task])
    env.reset(seed=0)
    rewards = [env.step(np.zeros((1, 17)))[4]["reward_forward"][0] for _ in range(6)]
    assert abs(np.diff(rewards)).max() < 1


@pytest.mark.parametrize(
    ("family", "task", "settings"),
    [
        ("HalfCheetahVel", CHEETAH, {}),
        ("AntDir", ANT, {"observe_position": "centre_of_mass", "max_torso_height": 10.0}),
    ],
)
def test_a_push_adds_to_the_velocity_of_the_root(
    family: str, task: Task, settings: dict[str, Any]
) -> None:
    """Equal to a model in the same state, whose first velocity is larger."""
    push, at = {"push_velocity": -1.5, "change_step": 30.0}, 30
    batch = _batch(family, [{**task, **push}, task], **settings)
    plain = _batch(family, [task] * 2, **settings)
    single = gym.make(maml_envs.env_id(family), **settings).unwrapped
    single.set_task({**task, **push})
    batch.reset(seed=3)
    plain.reset(seed=3)
    single.reset(seed=3)
    actions = _actions(batch, at + 8)
    for action in actions[:at]:
        observation, *_ = batch.step(action)
        expected, *_ = plain.step(action)
        seen, *_ = single.step(action[0])
    # The push is in the observation of that step, and only there.
    velocity = 8 if family == "HalfCheetahVel" else 13
    np.testing.assert_array_equal(
        np.delete(observation[0], velocity), np.delete(expected[0], velocity)
    )
    np.testing.assert_array_equal(observation[1], expected[1])
    np.testing.assert_array_equal(seen, observation[0])
    # From then on, the same as a model in that state.
    model = single.family.robot.model
    start = plain.engine.batch.get_data(0)
    start.qvel[0] -= 1.5
    states = _stepped(model, start, actions[at:, 0], single.family.robot.frame_skip)
    for t, action in enumerate(actions[at:]):
        batch.step(action)
        single.step(action[0])
        state = batch.engine.state
        batch_state = np.concatenate([state["qpos"][0], state["qvel"][0]])
        np.testing.assert_array_equal(batch_state, states[t])
        single_state = np.concatenate([single.data.qpos, single.data.qvel])
        np.testing.assert_array_equal(single_state, states[t])


def test_a_push_comes_in_its_episode_only() -> None:
    task = {**CHEETAH, "change_episode": 1, "change_step": 4, "push_velocity": 2.0}
    env = _batch("HalfCheetahVel", [task, CHEETAH])
    plain = _batch("HalfCheetahVel", [CHEETAH] * 2)
    actions = _actions(env)
    before, middle, after = (_episode(env, actions, seed=seed) for seed in range(3))
    _assert_equal(before, _episode(plain, actions, seed=0))
    unchanged = _episode(plain, actions, seed=1)
    np.testing.assert_array_equal(middle["positions"][:5], unchanged["positions"][:5])
    assert (middle["positions"][5, 0] != unchanged["positions"][5, 0]).any()
    _assert_equal(after, _episode(plain, actions, seed=2))
    # That episode again, by its index.
    env.reset(options={"episode": 0})
    _assert_equal(middle, _episode(env, actions, seed=1))


def test_a_push_at_the_first_step_is_in_the_first_observation() -> None:
    tasks = [{**CHEETAH, "push_velocity": 2.0, "changed/disabled_actuator": 1}, CHEETAH]
    env = _batch("HalfCheetahVel", tasks)
    plain = _batch("HalfCheetahVel", [{**CHEETAH, "disabled_actuator": 1}, CHEETAH])
    expected, _ = plain.reset(seed=0)
    for _ in range(2):  # also in a repetition of the episode
        observation, _ = env.reset(seed=0, options={"episode": 0})
        assert observation[0, 8] == expected[0, 8] + 2.0
        observation[0, 8] = expected[0, 8]
        np.testing.assert_array_equal(observation, expected)


def test_an_episode_that_has_ended_is_not_pushed() -> None:
    """Also not if it ends in the step before."""
    tasks = [{"push_velocity": 2.0, "change_step": step} for step in (1.0, 2.0)]
    env = _batch("HopperRandParams", tasks, dynamics={}, torso_angle_limit=1e-6)
    unpushed = _batch("HopperRandParams", [{}, {}], dynamics={}, torso_angle_limit=1e-6)
    actions = _actions(env)
    for either in (env, unpushed):
        either.reset(seed=0)
        _, _, terminated, *_ = either.step(actions[0])
        assert terminated.all()
    velocities = unpushed.engine.state["qvel"][:, 0]
    np.testing.assert_array_equal(env.engine.state["qvel"][:, 0], velocities)
    for action in actions[1:]:
        env.step(action)
        np.testing.assert_array_equal(env.engine.state["qvel"][:, 0], velocities)


def test_quantities_that_depend_on_velocities_are_those_after_the_push() -> None:
    task = {"direction_angle": 0.0}
    settings = {"observe_body_quantities": True}
    env = _batch("HumanoidDir", [{**task, "push_velocity": 2.0, "change_step": 2}], **settings)
    env.reset(seed=0)
    for action in _actions(env, 2):
        env.step(action)
    data = env.engine.batch.get_data(0)
    seen = env.engine.state["cvel"][0].copy()
    mujoco.mj_fwdPosition(env.engine.batch.model, data)
    mujoco.mj_fwdVelocity(env.engine.batch.model, data)
    np.testing.assert_array_equal(seen, data.cvel)


def test_settings_draw_changes_without_affecting_other_draws() -> None:
    settings = {"body_mass": [0.5, 2.0], "slope": [-0.1, 0.1]}
    change = {"changed/disabled_actuator": [-1, 0, 1], "change_step": {"low": 20, "high": 60}}
    plain = gym.make("maml_rl/HalfCheetahVel-v0", dynamics=settings).unwrapped
    env = gym.make("maml_rl/HalfCheetahVel-v0", dynamics={**change, **settings}).unwrapped
    for one in (plain, env):
        one.np_random = np.random.default_rng(0)
    tasks, others = env.sample_tasks(200), plain.sample_tasks(200)
    assert [{name: task[name] for name in others[0]} for task in tasks] == others
    assert {task["changed/disabled_actuator"] for task in tasks} == {-1, 0, 1}
    assert {task["change_step"] for task in tasks} == set(range(20, 61))
    units = env.task_units
    assert (units["change_step"], units["changed/gravity"]) == ("control steps", "m/s²")
    env.set_task(tasks[0])
    assert env.task == {**tasks[0], "disabled_actuator": -1}


@pytest.mark.parametrize(
    ("dynamics", "message"),
    [
        ({"change_step": 5}, "change_step without a changed value: .*such as changed/body_mass"),
        ({"change_episode": 1, "change_step": 5, "slope": 0.1}, "change_episode and change_step"),
        ({"changed/body_mas": 2.0}, "Did you mean 'changed/body_mass'.* changed/gravity"),
        ({"changed/body_mass/torzo": 2.0}, "Did you mean 'changed/body_mass/torso'"),
        ({"changed/body_mass": -1.0}, "changed/body_mass' must be one number in"),
        ({"changed/gravity": 1.0, "change_step": -1}, "'change_step' must be one integer"),
        ({"changed/gravity": 1.0, "change_step": 2.5}, "'change_step' must be one integer"),
        ({"changed/gravity": 1.0, "change_episode": [0, -2]}, "'change_episode'"),
        ({"changed/change_step": 1}, "unknown dynamics 'changed/change_step'"),
        ({"push_velocity": 101.0}, "'push_velocity' must be one number in .*m/s"),
        ({"changed/push_velocity": 1.0}, "unknown dynamics 'changed/push_velocity'"),
    ],
)
def test_errors_name_invalid_settings(dynamics: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maml_envs.FAMILIES["AntDir"](dynamics=dynamics)


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("AntDir", {"change_step": 5.0}, "change_step without a changed value"),
        ("AntDir", {"changed/gravity": -1.0}, "changed/gravity"),
        ("ReacherGoal", {"push_velocity": 1.0}, "optionally any of .*change_step"),
        ("AntDir", {"changed/gravity": 1.0, "change_step": 0.5}, "change_step"),
        ("AntDir", {"changed/colour": 1.0}, "optionally any of .*change_step"),
        ("PointNavigation", {"change_step": 5.0}, "goal_x"),
        ("PointNavigation", {"changed/gravity": 5.0}, "goal_x"),
    ],
)
def test_errors_name_invalid_tasks(family: str, more: Task, message: str) -> None:
    env = gym.make_vec(maml_envs.env_id(family), num_envs=1)
    (task,) = env.sample_tasks(1)
    with pytest.raises(ValueError, match=message):
        env.set_tasks([{**task, **more}])


@pytest.mark.parametrize("episode", [-1, 1.5, "first"])
def test_the_index_of_an_episode_is_checked(episode: Any) -> None:
    env = _batch("HalfCheetahVel", [CHEETAH])
    with pytest.raises(ValueError, match="episode must be a non-negative integer"):
        env.reset(options={"episode": episode})
