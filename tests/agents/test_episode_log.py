"""Adapting to a log equals adapting to the same episodes played in an environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from helpers.fixed_noise import FixedNoise

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.system.random_streams import Phase, RandomStreams

GOAL = {"goal_x": 0.4, "goal_y": -0.3}
HORIZON, NUM_EPISODES = 6, 4


def make(folder: Path, env: Any, **settings: Any) -> Agent:
    sizes = {
        "num_iterations": 1,
        "meta_batch_size": 2,
        "num_episodes": NUM_EPISODES,
        "horizon": HORIZON,
    }
    off = {"final_evaluation": False, "final_video": False}
    # At this scale a standard deviation is a tenth of the way to the bounds: nothing is clipped.
    policy = {
        "hidden_sizes": [8],
        "normalize_observations": True,
        "action_scale": 0.1,
    } | settings.pop("policy", {})
    config = maml_rl.load_config(
        env=env, device="cpu", logging=off, output=str(folder), policy=policy, **sizes, **settings
    )
    return maml_rl.load(maml_rl.train(config))


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    return make(tmp_path_factory.mktemp("point") / "run", "PointNavigation")


def test_an_episode_longer_than_in_training_is_a_warning(point: Agent) -> None:
    """As if the log marked no end but the last: all its episodes are one."""
    log = played(point, point_env)
    ends = np.zeros(len(log["rewards"]), bool)
    ends[-1] = True
    joined = {name: log[name] for name in ("observations", "actions", "rewards")}
    with pytest.warns(
        MamlRLWarning, match=f"has {NUM_EPISODES * HORIZON} control steps.*{HORIZON}:"
    ):
        point.adapt(episodes={**joined, "episode_ends": ends})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    settings = {"inner": {"adapts": "context"}, "policy": {"context_size": 3}}
    return make(tmp_path_factory.mktemp("context") / "run", "PointNavigation", **settings)


class UprightCartPole(CartPoleEnv):
    """Reward for being upright: with a constant reward there would be nothing to adapt to."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, -abs(float(observation[2])), *rest


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    gym.register("UprightCartPole-v0", UprightCartPole)
    yield make(tmp_path_factory.mktemp("cartpole") / "run", "UprightCartPole-v0")
    gym.registry.pop("UprightCartPole-v0")


def played(agent: Agent, make_env: Callable[[], gym.Env], step: int = 0) -> dict[str, np.ndarray]:
    """Play the episodes of ``agent.adapt`` by hand: same reset seeds, same noise of actions."""
    streams = RandomStreams(0, Phase.ADAPTATION)
    noise = agent.learner.draw_noise(streams.actions(step, 0), (NUM_EPISODES, HORIZON))
    rows: list[tuple[Any, ...]] = []
    env = make_env()
    for episode in range(NUM_EPISODES):
        observation, _ = env.reset(seed=streams.reset_seed(step, NUM_EPISODES) + episode)
        rng: Any = FixedNoise(noise[episode])
        ended = False
        while not ended:
            action, _ = agent.predict(observation, rng=rng)
            next_observation, reward, terminated, truncated, _ = env.step(action)
            rows.append((observation, action, reward, terminated, truncated))
            observation = next_observation
            ended = terminated or truncated
    env.close()
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return {
        name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def point_env() -> gym.Env:
    env = gym.make(maml_envs.env_id("PointNavigation"), max_episode_steps=HORIZON)
    env.unwrapped.set_task(GOAL)  # type: ignore[attr-defined]
    return env


def cartpole_env() -> gym.Env:
    return gym.make("UprightCartPole-v0", max_episode_steps=HORIZON)


def assert_same(a: Agent, b: Agent, start: Agent) -> None:
    assert a.num_adaptation_steps == b.num_adaptation_steps
    assert a.belief.keys() == b.belief.keys()
    for name, value in a.belief.items():
        torch.testing.assert_close(value, b.belief[name], rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(value, start.belief[name]) for name, value in a.belief.items())


def test_a_log_of_the_same_episodes_adapts_alike(point: Agent) -> None:
    assert_same(point.adapt(episodes=played(point, point_env)), point.adapt(task=GOAL), point)


def test_a_context_adapts_to_a_log(context: Agent) -> None:
    assert_same(
        context.adapt(episodes=played(context, point_env)), context.adapt(task=GOAL), context
    )


def test_discrete_actions_and_episodes_of_any_length(cartpole: Agent) -> None:
    assert_same(cartpole.adapt(episodes=played(cartpole, cartpole_env)), cartpole.adapt(), cartpole)
    log = played(cartpole, cartpole_env)
    ends = np.flatnonzero(log["truncated"])
    log["terminated"][ends[0] - 3] = True  # the first episode is two
    separate = cartpole.adapt(episodes=log)
    log["episode_ends"] = log.pop("truncated") | log.pop("terminated")
    other = cartpole.adapt(episodes=maml_rl.EpisodeLog(**log))
    assert_same(separate, other, cartpole)
    assert not torch.equal(other.belief["weight_0"], cartpole.adapt().belief["weight_0"])


def test_one_log_for_each_inner_step(point: Agent) -> None:
    first = played(point, point_env)
    second = played(point.adapt(episodes=first), point_env, step=1)
    assert_same(point.adapt(episodes=[first, second]), point.adapt(task=GOAL, num_steps=2), point)
    assert_same(point.adapt(episodes=[first]), point.adapt(episodes=first), point)


def test_what_follows_the_last_end_is_left_out(point: Agent) -> None:
    log = played(point, point_env)
    longer = {name: np.concatenate([values, values[:3]]) for name, values in log.items()}
    assert_same(point.adapt(episodes=longer), point.adapt(episodes=log), point)


def test_clipped_actions_count_as_the_bound(point: Agent) -> None:
    log = played(point, point_env)
    clipped = log["actions"].copy()
    clipped[:5] = point.action_space.high  # type: ignore[attr-defined]
    rounded_log = {**log, "actions": clipped.astype(np.float64) * (1 + 1e-6)}
    with pytest.warns(MamlRLWarning, match="at a bound"):
        played_here = point.adapt(episodes={**log, "actions": clipped})
    with pytest.warns(MamlRLWarning, match="at a bound"):
        rounded = point.adapt(episodes=rounded_log)
    assert_same(rounded, played_here, point)


def changed(log: dict[str, Any], name: str, values: Any) -> dict[str, Any]:
    return {**log, name: values}


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "too few rewards": (
        lambda log: changed(log, "rewards", log["rewards"][:-1]),
        r"rewards .* shape \(24,\)",
    ),
    "other observations": (
        lambda log: changed(log, "observations", np.zeros((24, 3))),
        r"observations .* \(24, 2\)",
    ),
    "other actions": (lambda log: changed(log, "actions", np.zeros(24)), r"actions .* \(24, 2\)"),
    "no numbers": (
        lambda log: changed(log, "rewards", ["good"] * 24),
        "rewards .* must be an array of numbers, got <U4",
    ),
    "complex numbers": (
        lambda log: changed(log, "rewards", log["rewards"] + 1j),
        "rewards .* must be an array of numbers, got complex128",
    ),
    "masked": (
        lambda log: changed(log, "rewards", np.ma.array(log["rewards"], mask=[1] + [0] * 23)),
        "rewards .* must be an array of numbers, got masked values",
    ),
    "ragged": (
        lambda log: changed(log, "rewards", [[1.0], [1.0, 2.0]]),
        "rewards .* not an array of numbers",
    ),
    "NaN": (
        lambda log: changed(log, "observations", log["observations"] * np.nan),
        "observations .* step 0",
    ),
    "too large for float32": (
        lambda log: changed(log, "rewards", [*log["rewards"][:-1], 1e39]),
        "rewards .* not finite at step 23",
    ),
    "out of bounds": (lambda log: changed(log, "actions", log["actions"] + 7), "action of step 0"),
    "a thousandth out of bounds": (
        lambda log: changed(log, "actions", np.full((24, 2), 0.1 * 1.001)),
        "action of step 0",
    ),
    "ends that are no bools": (
        lambda log: changed(log, "truncated", np.full(24, 0.5)),
        "truncated .* bool",
    ),
    "ends of another length": (
        lambda log: changed(log, "truncated", np.ones(23, bool)),
        "terminated and truncated .* equal lengths, got {'terminated': 24, 'truncated': 23}",
    ),
    "ends that are ragged": (
        lambda log: changed(log, "truncated", [[True], [False, True]]),
        "truncated .* not an array of Booleans",
    ),
    "ends on another device": (
        lambda log: changed(log, "truncated", torch.ones(24, device="meta")),
        "truncated .* not an array of Booleans",
    ),
    "ends with two axes": (
        lambda log: changed(log, "truncated", np.ones((24, 1), bool)),
        r"truncated .* \(N,\) bool .*, got \(24, 1\) bool",
    ),
    "ends that are counted": (
        lambda log: changed(log, "truncated", np.arange(24)),
        "truncated .* bool",
    ),
    "no end": (lambda log: changed(log, "truncated", np.zeros(24, bool)), "no episode is complete"),
    "nothing of ends": (
        lambda log: {name: log[name] for name in ("observations", "actions", "rewards")},
        "terminated, truncated, episode_ends",
    ),
    "a key missing": (
        lambda log: {"observations": log["observations"]},
        "missing actions, rewards",
    ),
    "a key too many": (lambda log: changed(log, "log_probs", log["rewards"]), "unknown log_probs"),
    "no log": (lambda log: [log["rewards"]], "mapping or EpisodeLog"),
    "no logs": (lambda log: [], "one per adaptation step"),
    "a path": (lambda log: "log.npz", "EpisodeLog"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused(case: str, point: Agent) -> None:
    spoil, message = BAD[case]
    with pytest.raises(UserError, match=message):
        point.adapt(episodes=spoil(played(point, point_env)))


def test_ends_may_be_zeros_and_ones(point: Agent) -> None:
    log = played(point, point_env)
    for dtype in (int, float):
        written = changed(log, "truncated", log["truncated"].astype(dtype))
        assert_same(point.adapt(episodes=written), point.adapt(episodes=log), point)


def test_every_action_counts_the_same_however_long_its_log(point: Agent) -> None:
    """A quarter of the 12 entries of one log are at a bound, none of the 36 of the other."""
    log = {
        "observations": np.linspace(-0.5, 0.5, 48).reshape(24, 2),
        "actions": np.linspace(-0.02, 0.02, 48).reshape(24, 2),
        "rewards": np.arange(24.0),
        "episode_ends": np.arange(24) % 3 == 2,
    }
    log["actions"][0], log["actions"][1, 0] = 0.1, 0.1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        point.adapt(
            episodes=[{k: v[:6] for k, v in log.items()}, {k: v[6:] for k, v in log.items()}]
        )
    assert [w for w in caught if "at a bound" in str(w.message)] == []


@pytest.mark.parametrize("choice", [2, -1, 0.5])
def test_choices_that_do_not_exist_are_refused(choice: float, cartpole: Agent) -> None:
    log = played(cartpole, cartpole_env)
    with pytest.raises(UserError, match="is not in Discrete"):
        cartpole.adapt(episodes=changed(log, "actions", np.full(len(log["actions"]), choice)))


@pytest.mark.parametrize(
    "more", [{"env": "PointNavigation"}, {"task": GOAL}, {"num_steps": 1}, {"num_episodes": 4}]
)
def test_episodes_and_an_environment_are_refused(more: dict[str, Any], point: Agent) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(more))} cannot .* leave out"):
        point.adapt(episodes=played(point, point_env), **more)


@pytest.mark.parametrize("at_bound", [0, 1, 2, 6])
def test_many_actions_at_a_bound_are_a_warning(point: Agent, at_bound: int) -> None:
    """A log of 12 entries, of which the first ``at_bound`` are ±0.1, the bounds."""
    assert point.action_space == gym.spaces.Box(-0.1, 0.1, (2,), np.float32)
    actions = np.linspace(-0.02, 0.02, 12)  # up to two standard deviations
    actions[:at_bound] = [0.1, -0.1, 0.1, -0.1, 0.1, 0.1][:at_bound]
    log = {
        "observations": np.linspace(-0.5, 0.5, 12).reshape(6, 2),
        "actions": actions.reshape(6, 2),
        "rewards": np.arange(6.0),
        "episode_ends": [False, False, True, False, False, True],
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        point.adapt(episodes=[log, log])
    messages = [str(warning.message) for warning in caught]
    if at_bound <= 1:
        assert messages == []
    else:
        # Half of the actions at the bounds are also unlike those that this policy samples.
        (message,) = (text for text in messages if "probable" not in text)
        assert (len(messages) == 1) == (at_bound == 2)
        assert message.startswith(f"{at_bound / 12:.0%} of the logged actions are at a bound")
        assert "docs/logged_episodes.md" in message


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0.0, "the most probable ones of this agent's policy, as of predict(..., det"),
        (1.0, None),
        (6.0, "from the most probable ones of this agent's policy is 4."),
    ],
)
def test_actions_that_the_policy_did_not_sample_are_a_warning(
    point: Agent, size: float, message: str | None
) -> None:
    """Actions at the mean, sampled, and six times as far from the mean."""
    rng = np.random.default_rng(0)
    observations = rng.uniform(-0.5, 0.5, (400, 2))
    means, _ = point.predict(observations, deterministic=True)
    sampled, _ = point.predict(observations, rng=rng)
    log = {
        "observations": observations,
        "actions": np.clip(means + size * (sampled - means), -0.1, 0.1),
        "rewards": rng.normal(size=400),
        "episode_ends": np.arange(400) % 5 == 4,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        point.adapt(episodes=log)
    texts = [str(one.message) for one in caught if "at a bound" not in str(one.message)]
    assert len(texts) == (message is not None)
    if message is not None:
        assert message in texts[0]
        assert "The policy gradient needs sampled actions" in texts[0]
