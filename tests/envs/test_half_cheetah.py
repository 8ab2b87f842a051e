"""The half cheetah: equality with Gymnasium's, rewards and tasks."""

from __future__ import annotations

import gymnasium as gym
import maml_envs
import mujoco
import numpy as np
import pytest

DT_S = 0.05
CONTROL_COST_WEIGHT = 0.05


@pytest.mark.parametrize("seed", [0, 11])
def test_batch_equals_gymnasiums_environment(seed: int) -> None:
    num_sims, num_steps, goals = 3, 200, (0.0, 1.0, 2.0)
    batch = gym.make_vec(
        "maml_rl/HalfCheetahVel-v0", num_envs=num_sims, max_episode_steps=num_steps
    )
    # set the tasks, so that the generators only draw the state
    batch.set_tasks([{"goal_velocity": goal} for goal in goals])
    references = [gym.make("HalfCheetah-v5") for _ in range(num_sims)]
    rng = np.random.default_rng(seed)

    for reset_seed in (seed, None):  # the generators continue in the second episode
        observation, _ = batch.reset(seed=reset_seed)
        expected = [
            env.reset(seed=None if reset_seed is None else reset_seed + i)[0]
            for i, env in enumerate(references)
        ]
        np.testing.assert_array_equal(observation, expected)
        for _ in range(num_steps):
            actions = rng.uniform(-1, 1, (num_sims, 6)).astype(np.float32)
            observation, reward, _, _, info = batch.step(actions)
            steps = [env.step(action) for env, action in zip(references, actions, strict=True)]
            np.testing.assert_allclose(observation, [step[0] for step in steps], rtol=0, atol=1e-10)
            velocity = np.array([step[4]["x_velocity"] for step in steps])
            np.testing.assert_allclose(
                info["reward_forward"], -abs(velocity - goals), rtol=0, atol=1e-10
            )
            np.testing.assert_allclose(
                reward, info["reward_forward"] + info["reward_control"], rtol=0, atol=1e-12
            )
    for env in (batch, *references):
        env.close()


def test_batch_follows_gymnasium_from_a_given_state() -> None:
    batch = gym.make_vec("maml_rl/HalfCheetahDir-v0", num_envs=2, max_episode_steps=20)
    reference = gym.make("HalfCheetah-v5")
    batch.reset(seed=0)
    reference.reset(seed=0)
    rng = np.random.default_rng(5)
    qpos, qvel = rng.uniform(-0.3, 0.3, 9), rng.standard_normal(9)
    engine = batch.unwrapped.engine
    engine.reset(np.array([1]), {"qpos": qpos[None], "qvel": qvel[None]})
    data = reference.unwrapped.data
    mujoco.mj_resetData(reference.unwrapped.model, data)
    reference.unwrapped.set_state(qpos, qvel)
    for _ in range(20):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        observation, *_ = batch.step(np.stack([-action, action]))
        expected, *_ = reference.step(action)
        np.testing.assert_allclose(observation[1], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(engine.state["qpos"][1], data.qpos, rtol=0, atol=1e-10)
    batch.close()
    reference.close()


def _control_cost(action: np.ndarray) -> float:
    return CONTROL_COST_WEIGHT * sum(min(max(float(a), -1.0), 1.0) ** 2 for a in action)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_velocity_reward(num_envs: int) -> None:
    goals = [0.3, 1.9, 0.0, 1.0][:num_envs]
    env = gym.make_vec("maml_rl/HalfCheetahVel-v0", num_envs=num_envs)
    env.set_tasks([{"goal_velocity": goal} for goal in goals])
    env.reset(seed=3)
    rng, engine = np.random.default_rng(0), env.unwrapped.engine
    for _ in range(30):
        actions = rng.uniform(-2, 2, (num_envs, 6))  # some out of bounds
        x_before = engine.state["qpos"][:, 0].copy()
        _, reward, *_ = env.step(actions)
        for i, goal in enumerate(goals):
            velocity = (engine.state["qpos"][i, 0] - x_before[i]) / DT_S
            expected = -abs(velocity - goal) - _control_cost(actions[i])
            assert reward[i] == pytest.approx(expected, rel=0, abs=1e-10)
    env.close()


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_direction_reward(direction: float) -> None:
    env = gym.make("maml_rl/HalfCheetahDir-v0")
    env.unwrapped.set_task({"direction": direction})
    env.reset(seed=3)
    rng, engine = np.random.default_rng(0), env.unwrapped.engine
    for _ in range(30):
        action = rng.uniform(-2, 2, 6).astype(np.float32)
        x_before = float(engine.state["qpos"][0, 0])
        _, reward, _, _, info = env.step(action)
        velocity = (float(engine.state["qpos"][0, 0]) - x_before) / DT_S
        assert info["reward_forward"] == pytest.approx(direction * velocity, rel=0, abs=1e-10)
        assert info["reward_control"] == pytest.approx(-_control_cost(action), rel=0, abs=1e-10)
        assert reward == pytest.approx(
            direction * velocity - _control_cost(action), rel=0, abs=1e-10
        )
    env.close()


def test_control_cost_weight_is_a_setting() -> None:
    env = gym.make("maml_rl/HalfCheetahVel-v0", control_cost_weight=0.5)
    env.reset(seed=0)
    action = np.array([1.0, -0.5, 0.25, 0.0, 0.5, -1.0], np.float32)
    info = env.step(action)[4]
    assert info["reward_control"] == pytest.approx(-0.5 * (1 + 0.25 + 0.0625 + 0.25 + 1))
    env.close()


@pytest.mark.parametrize("name", ["HalfCheetahVel", "HalfCheetahDir"])
def test_actions_out_of_bounds_are_clipped(name: str) -> None:
    env = gym.make_vec(f"maml_rl/{name}-v0", num_envs=2)
    env.reset(seed=[4, 4])
    actions = np.array([[1.0, -1.0, 1.0, 0.3, -1.0, 1.0], [9.0, -3.0, 1.5, 0.3, -np.inf, np.inf]])
    env.set_tasks([env.tasks[0]] * 2)
    for _ in range(5):
        observation, reward, *_ = env.step(actions)
    np.testing.assert_array_equal(observation[0], observation[1])
    assert reward[0] == reward[1]
    env.close()


def test_time_step() -> None:
    assert maml_envs.FAMILIES["HalfCheetahVel"].robot.dt == pytest.approx(DT_S)
    env = gym.make("maml_rl/HalfCheetahVel-v0")
    env.reset(seed=0)
    env.step(np.zeros(6, np.float32))
    assert env.unwrapped.data.time == pytest.approx(env.unwrapped.dt) == pytest.approx(DT_S)
    env.close()


def test_goal_velocities_fill_their_range() -> None:
    family = maml_envs.FAMILIES["HalfCheetahVel"]
    goals = family().sample_tasks(np.random.default_rng(0), 2000)["goal_velocity"]
    assert 0 <= goals.min() < 0.01
    assert 1.99 < goals.max() <= 2
    assert goals.mean() == pytest.approx(1, abs=0.05)
    goals = family(low=-3.0, high=-1.0).sample_tasks(np.random.default_rng(0), 2000)[
        "goal_velocity"
    ]
    assert -3 <= goals.min() < -2.99
    assert -1.01 < goals.max() <= -1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("HalfCheetahVel", {"low": 2.0, "high": 1.0}, "2.0, 1.0"),
        ("HalfCheetahVel", {"high": np.nan}, "nan"),
        ("HalfCheetahVel", {"low": -np.inf}, "-inf"),
        ("HalfCheetahVel", {"control_cost_weight": -0.1}, "control_cost_weight.*-0.1"),
        ("HalfCheetahDir", {"control_cost_weight": np.inf}, "control_cost_weight.*inf"),
        ("HalfCheetahDir", {"reset_noise_scale": np.nan}, "reset_noise_scale.*nan"),
    ],
)
def test_invalid_settings_are_rejected(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maml_envs.FAMILIES[name](**settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HalfCheetahVel", "HalfCheetahDir"])
def test_camera_follows_the_robot(name: str, egl: None) -> None:
    env = gym.make(f"maml_rl/{name}-v0", render_mode="rgb_array", width=96, height=96)
    env.reset(seed=0)
    env.render()
    frames = []
    for bend in (0.0, 0.9):  # angle of the front thigh, 40 m from the start
        qpos = np.zeros(9)
        qpos[0], qpos[6] = 40.0, bend
        env.unwrapped.engine.reset(np.zeros(1, int), {"qpos": qpos[None], "qvel": np.zeros((1, 9))})
        frames.append(env.render().astype(int))
    changed = (abs(frames[0] - frames[1]).max(axis=-1) > 40).sum()
    assert changed > 20, f"{changed} pixels show the robot"
    env.close()


@pytest.mark.slow
def test_render_options_reach_the_renderer(egl: None) -> None:
    frames = []
    for options in (
        {"default_camera_config": {"distance": 4.0}},
        {"default_camera_config": {"distance": 8.0}},
        {"camera_name": "track"},
        {"camera_id": 0},
        {"max_geom": 1},
        {},
    ):
        env = gym.make(
            "maml_rl/HalfCheetahVel-v0", render_mode="rgb_array", width=64, height=48, **options
        )
        env.reset(seed=0)
        frames.append(env.render())
        env.close()
    np.testing.assert_array_equal(frames[2], frames[3])  # the model's only camera
    np.testing.assert_array_equal(frames[2], frames[5])  # the default camera
    for i in (1, 2, 4):
        assert not np.array_equal(frames[0], frames[i])


@pytest.mark.slow
@pytest.mark.parametrize(("side", "shadow_size"), [(128, 1024), (700, 1400)])
def test_the_shadow_map_fits_the_frame(egl: None, side: int, shadow_size: int) -> None:
    env = gym.make(
        "maml_rl/HalfCheetahVel-v0", render_mode="rgb_array", width=side, height=side
    ).unwrapped
    quality = env.model.vis.quality
    default = quality.shadowsize
    env.reset(seed=0)
    env.render()
    assert quality.shadowsize == shadow_size < default
    # A model's own smaller size stays.
    other = gym.make("maml_rl/HalfCheetahVel-v0", render_mode="rgb_array").unwrapped
    other.model.vis.quality.shadowsize = 256
    other.reset(seed=0)
    other.render()
    assert other.model.vis.quality.shadowsize == 256
    env.close()
    other.close()
