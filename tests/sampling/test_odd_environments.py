"""Odd environments in training, resume, evaluation and adaptation; sync and async."""

from __future__ import annotations

import copy
import csv
import multiprocessing
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeReward, RecordEpisodeStatistics
from helpers.odd_environments import LIMIT, EndsEarly, HalfBounded, RaisingClose, Success, Walk

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.analysis.video.rendering import rendering_problem
from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import make_policy
from maml_rl.policies.parameters import make_stack, parameters
from maml_rl.sampling.actors import PolicyActor
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.gym_vector_env import GymTaskVectorEnv
from maml_rl.sampling.single_env import TaskSetter
from maml_rl.sampling.task_in_observation import TaskObserver
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.policy import PolicyConfig
from maml_rl.system.random_streams import Phase, RandomStreams

QUIET = {"final_evaluation": False, "final_video": False}
SIZES = {"meta_batch_size": 2, "num_episodes": 3, "horizon": LIMIT}
# The choice plays many more episodes than the iterations of these runs.
NO_CHOICE = {"choose_test_step_sizes": False}
pytestmark = [  # what Gymnasium's own checker says of them
    pytest.mark.filterwarnings(f"ignore:.*{words}:UserWarning")
    for words in (
        "The reward returned",
        "Expects `terminated`",
        "Expects `truncated`",
        "The obs returned",
        "RGB-array rendering",
    )
]
both_ways = pytest.mark.parametrize(
    "vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)]
)


def config_of(name: str, folder: Path, **env: Any) -> maml_rl.Config:
    settings = {"name": f"odd/{name}-v0", **env}
    return maml_rl.load_config(
        env=settings,
        **SIZES,
        inner=NO_CHOICE,
        num_iterations=1,
        logging=QUIET,
        output=str(folder),
        device="cpu",
        torch_threads=2,
    )


def collected(env: EnvConfig, num_tasks: int = 40, num_episodes: int = 5) -> Episodes:
    """Episodes of an untrained policy, in rounds of one for each task."""
    sizes = (num_tasks * num_episodes, LIMIT)
    with as_task_vector_env(None, env, *sizes, num_tasks=num_tasks) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        policy = make_policy(PolicyConfig(), *spaces, 0)
        action_map = ActionMap(envs.single_action_space, 0.1)
        cpu = torch.device("cpu")
        collector = Collector(
            env=envs,
            num_tasks=num_tasks,
            num_episodes=num_episodes,
            horizon=LIMIT,
            action_map=action_map,
            device=cpu,
        )
        streams = RandomStreams(0, Phase.EVALUATION)
        stack = make_stack(parameters(policy), num_tasks)
        noise = collector.noise(policy.draw_noise, streams, 0)
        return collector.collect(PolicyActor(policy, stack, noise, None), streams, 0)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:environment .* raised in close:UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        "Walk",
        "Success",
        "HalfBounded",
        "TorchInside",
        "OldSeeding",
        "RaisingClose",
        "ChangingInfos",
        "OddRewards",
        "OddFrames",
        "OddNames",
        "OddTasks",
        "ChangesTasks",
        "Differentiates",
        "ConstantReward",
    ],
)
def test_all_that_is_done_with_an_environment_works_and_is_the_same_in_workers(
    name: str, tmp_path: Path
) -> None:
    odd_names = {"name": "on", "kwargs": {"off": 2}, "task_list": ["12:30", "null", "2"]}
    settings: dict[str, Any] = {"kwargs": odd_names} if name == "OddNames" else {}
    task: dict[str, Any] = {"goal": 0.5}
    task |= {"OddTasks": {"gait": "on", "legs": 4}, "ChangesTasks": {"path": []}}.get(name, {})
    unchanged = copy.deepcopy(task)
    thetas, means = [], []
    for vectorization in ("sync", "async"):
        run = maml_rl.train(
            config_of(name, tmp_path / vectorization, vectorization=vectorization, **settings)
        )
        maml_rl.resume(run, num_iterations=2)
        agent = maml_rl.load(run)
        thetas.append(agent.belief)
        means.append(maml_rl.evaluate(agent, num_tasks=2, num_episodes=2, num_steps=1).mean)
        with pytest.raises(UserError, match="there is no task to adapt to"):
            agent.adapt(num_episodes=2)
        assert agent.adapt(task=task, num_episodes=2).num_adaptation_steps == 1
        assert task == unchanged
        video = maml_rl.record(agent, tmp_path / "video.mp4", num_episodes=2)
        assert video.stat().st_size > 1000
        assert multiprocessing.active_children() == []
    for key, value in thetas[0].items():
        assert value.isfinite().all()
        assert torch.equal(value, thetas[1][key])
    np.testing.assert_array_equal(*means)


class TestSuccess:
    """The rate is the share of episodes that start on the right, however that is reported."""

    @pytest.mark.thorough
    @both_ways
    @pytest.mark.parametrize(
        "how",
        [
            "every step",
            "only then, and ends",
            "only then",
            "None until then",
            "an array of one",
            "NumPy's bool",
            "a number",
        ],
    )
    def test_each_episode_has_its_own(self, how: str, vectorization: Any) -> None:
        env = EnvConfig(name="odd/Success-v0", kwargs={"how": how}, vectorization=vectorization)
        episodes = collected(env, num_tasks=6)
        starts_right = episodes.observations[:, :, 0, 0] > 0
        assert 0 < starts_right.sum() < starts_right.numel()
        assert torch.equal(episodes.success == 1, starts_right)

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["only then, and ends", "only then", "every step"])
    def test_the_rate_of_an_evaluation_counts_episodes_without_a_report(
        self, how: str, tmp_path: Path
    ) -> None:
        agent = maml_rl.load(maml_rl.train(config_of("Success", tmp_path / "run", how=how)))
        result = maml_rl.evaluate(agent, num_tasks=20, num_episodes=10, num_steps=1)
        assert np.isin(result.success, (0, 1)).all()
        assert 0.3 < result.task_success.mean() < 0.7

    @pytest.mark.slow
    def test_it_is_logged_for_each_stage(self, tmp_path: Path) -> None:
        settings = {"how": "only then"}
        config = config_of("Success", tmp_path / "run", **settings)
        config = maml_rl.load_config(
            **{
                **SIZES,
                "inner": NO_CHOICE,
                "env": {"name": config.env.name, **settings},
                "num_iterations": 2,
                "num_episodes": 20,
                "logging": {**QUIET, "evaluate_every": 1},
                "output": config.output,
            }
        )
        run = maml_rl.train(config)
        with (run / "progress.csv").open(newline="") as file:
            row = list(csv.DictReader(file))[-1]
        for stage in ("train", "evaluation"):
            for k in range(2):
                assert 0.2 < float(row[f"{stage}/success_after_{k}_steps"]) < 0.8

    def test_an_environment_that_reports_none_has_no_rate(self, tmp_path: Path) -> None:
        run = maml_rl.train(config_of("Success", tmp_path / "run", how="never"))
        assert "success" not in (run / "progress.csv").read_text()
        assert np.isnan(
            maml_rl.evaluate(maml_rl.load(run), num_tasks=2, num_episodes=2).success
        ).all()

    @both_ways
    def test_a_report_that_is_not_a_truth_value_is_refused(self, vectorization: Any) -> None:
        env = EnvConfig(
            name="odd/Success-v0", kwargs={"how": "in words"}, vectorization=vectorization
        )
        with pytest.raises(
            UserError,
            match=r"is_success.*'odd/Success-v0': expected true, false or None, got 'yes'",
        ):
            collected(env, num_tasks=2)

    def test_of_a_vector_environment_at_hand(self) -> None:
        """Gymnasium fills missing infos with zeros, and marks them."""
        single = gym.vector.SyncVectorEnv(
            [lambda: Success("only then")] * 8,
            autoreset_mode=gym.vector.AutoresetMode.DISABLED,
        )
        with as_task_vector_env(single, EnvConfig(), 8, LIMIT) as envs:
            observation, _ = envs.reset(seed=0)
            reports = [envs.step(np.zeros((8, 1), np.float32))[4]["is_success"] for _ in range(4)]
        starts_right = observation[:, 0] > 0
        np.testing.assert_array_equal(reports[2], np.where(starts_right, 1.0, np.nan))
        assert np.isnan([reports[i] for i in (0, 1, 3)]).all()


class TestBounds:
    def test_each_axis_is_mapped_by_its_own_bounds(self) -> None:
        action_map = ActionMap(HalfBounded.action_space, 0.1)
        outputs = np.array([[0, 0, 0, 0], [1, 2, 3, 4], [-20, -20, -20, -20]], np.float32)
        expected = [[5, 0, 0.5, 0], [5.5, 2, 3.5, 4], [0, -20, 0.5, -20]]
        np.testing.assert_allclose(action_map(outputs), expected, rtol=1e-6)

    def test_a_policy_as_a_plain_network_acts_alike(self, tmp_path: Path) -> None:
        agent = maml_rl.load(maml_rl.train(config_of("HalfBounded", tmp_path / "run")))
        observations = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
        actions, _ = agent.predict(observations, deterministic=True)
        with torch.no_grad():
            ours = agent.module()(torch.from_numpy(observations)).numpy()
        np.testing.assert_allclose(actions, ours, rtol=1e-5)

    @pytest.fixture
    def agent(self, tmp_path: Path) -> Agent:
        return maml_rl.load(maml_rl.train(config_of("Walk", tmp_path / "run")))

    def test_adapt_refuses_other_bounds(self, agent: Agent) -> None:
        env = Walk()
        env.action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
        with pytest.raises(UserError, match=r"the environment has .*-2.*the policy expects.*-1"):
            agent.adapt(env)

    def test_evaluate_refuses_other_bounds(self, agent: Agent) -> None:
        gym.register("odd/Wide-v0", lambda: Wide())
        try:
            with pytest.raises(
                UserError, match=r"the environment has .*-2.*the policy expects.*-1"
            ):
                maml_rl.evaluate(agent, env=EnvConfig(name="odd/Wide-v0"), num_tasks=2)
        finally:
            gym.registry.pop("odd/Wide-v0")

    def test_numbers_of_another_type_are_the_same_bounds(self, agent: Agent) -> None:
        env = Walk()
        env.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
        assert agent.adapt(env, num_episodes=2).num_adaptation_steps == 1


class Wide(Walk):
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


class TestGlobalGenerators:
    @pytest.mark.slow
    def test_workers_draw_different_numbers_and_the_same_again(self) -> None:
        env = EnvConfig(name="odd/GlobalRandom-v0", vectorization="async")
        first, second = (collected(env, num_tasks=4).observations[:, :, 0, 0] for _ in range(2))
        assert len(first.unique()) == first.numel()
        assert torch.equal(first, second)

    def test_in_this_process_they_stay_the_users(self) -> None:
        np.random.seed(3)  # noqa: NPY002
        expected = np.random.RandomState(3).uniform()
        collected(EnvConfig(name="odd/Walk-v0"), num_tasks=2)
        assert np.random.uniform() == expected  # noqa: NPY002


@pytest.mark.thorough
@both_ways
def test_an_environment_that_gets_its_task_by_each_reset(
    vectorization: Any, tmp_path: Path
) -> None:
    agent = maml_rl.load(
        maml_rl.train(config_of("NeedsTask", tmp_path / "run", vectorization=vectorization))
    )
    assert np.isfinite(maml_rl.evaluate(agent, num_tasks=2, num_episodes=2).mean).all()
    assert maml_rl.record(agent, tmp_path / "video.mp4", num_episodes=2).stat().st_size > 1000


class TestFrames:
    @pytest.mark.thorough
    @pytest.mark.parametrize("kind", ["list", "gray", "flat", "opacity", "int64", "float"])
    def test_frames_of_many_kinds_are_rendered(self, kind: str, tmp_path: Path) -> None:
        run = maml_rl.train(with_a_video("OddFrames", tmp_path / "run", kind=kind))
        assert (run / "videos" / "final.mp4").stat().st_size > 1000

    def test_other_frames_do_not_end_training(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "maml_rl")
        run = maml_rl.train(with_a_video("OddFrames", tmp_path / "run", kind="None"))
        assert not (run / "videos" / "final.mp4").exists()
        assert any(
            "no video will be made" in text and "OddFrames" in text for text in caplog.messages
        )


def with_a_video(name: str, folder: Path, **env: Any) -> maml_rl.Config:
    logging = {"final_evaluation": False, "final_video": True}
    settings = {"env": {"name": f"odd/{name}-v0", **env}, "logging": logging, "output": str(folder)}
    return maml_rl.load_config(**settings, **SIZES, inner=NO_CHOICE, num_iterations=1)


class TestResets:
    @both_ways
    def test_every_reset_has_the_number_of_updates(self, vectorization: Any) -> None:
        """Also those of episodes that are over before others."""
        env = EnvConfig(name="odd/EndsEarly-v0", vectorization=vectorization)
        lengths = collected(env, num_tasks=4).num_steps
        assert len(lengths.unique()) > 1

    def test_that_before_a_video_has_it_too(self) -> None:
        assert rendering_problem(EnvConfig(name="odd/EndsEarly-v0")) is None

    @both_ways
    def test_an_unstable_simulation_is_reset_before_its_next_step(self, vectorization: Any) -> None:
        episodes = collected(EnvConfig(name="odd/Breaks-v0", vectorization=vectorization))
        assert 0.2 < episodes.discarded.float().mean() < 0.8

    @pytest.mark.parametrize("wrapper", [None, RecordEpisodeStatistics])
    @pytest.mark.parametrize("vector_env", [SyncVectorEnv, AsyncVectorEnv])
    def test_a_vector_environment_at_hand_is_asked_through_its_wrappers(
        self, vector_env: Any, wrapper: Any
    ) -> None:
        envs = vector_env([EndsEarly] * 2, autoreset_mode=AutoresetMode.DISABLED)
        plain = SyncVectorEnv([Walk], autoreset_mode=AutoresetMode.DISABLED)
        try:
            assert GymTaskVectorEnv(wrapper(envs) if wrapper else envs, None).takes_episode
            assert not GymTaskVectorEnv(plain, None).takes_episode
        finally:
            envs.close()


class TestObservations:
    @both_ways
    def test_integers_that_fit_are_converted(self, vectorization: Any) -> None:
        episodes = collected(EnvConfig(name="odd/Integers-v0", vectorization=vectorization))
        assert (episodes.observations[..., 0] == 7).all()

    @both_ways
    @pytest.mark.parametrize(
        ("scale", "dtype"), [(0.1, "float64"), (100, "int64"), (100, "uint16")]
    )
    def test_numbers_that_the_space_cannot_hold_are_refused(
        self, scale: float, dtype: str, vectorization: Any
    ) -> None:
        kwargs = {"scale": scale, "dtype": dtype}
        env = EnvConfig(name="odd/Integers-v0", kwargs=kwargs, vectorization=vectorization)
        message = f"observation of {dtype}, but its observation space has uint8"
        with pytest.raises(UserError, match=message):
            collected(env, num_tasks=2)

    def test_a_task_must_not_change_their_parts(self) -> None:
        tasks = [{"goal": -1.0}, {"goal": 1.0}]
        with pytest.raises(UserError, match=r"observation space .* changes with the task"):
            first_observations(EnvConfig(name="odd/Layout-v0"), tasks)

    @pytest.mark.parametrize(
        ("wrapper", "message"),
        [
            (gym.wrappers.NormalizeObservation, "set policy.normalize_observations"),
            (gym.wrappers.NormalizeReward, "leave out NormalizeReward"),
        ],
    )
    def test_statistics_that_no_checkpoint_has_are_refused(
        self, wrapper: Any, message: str
    ) -> None:
        env = gym.wrappers.ClipAction(wrapper(Walk()))
        with pytest.raises(UserError, match=message):
            TaskSetter(env)
        vector = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
        with pytest.raises(UserError, match=message), as_task_vector_env(vector, EnvConfig(), 1, 5):
            pass

    def test_statistics_around_a_vector_environment_are_refused(self) -> None:
        """Gymnasium normalises observations there only with autoreset, which is refused."""
        vector = SyncVectorEnv([Walk], autoreset_mode=AutoresetMode.DISABLED)
        env = RecordEpisodeStatistics(NormalizeReward(vector))
        with (
            pytest.raises(UserError, match="leave out NormalizeReward"),
            as_task_vector_env(env, EnvConfig(), 1, 5),
        ):
            pass

    def test_one_without_entries_is_refused(self) -> None:
        env = Walk()
        env.observation_space = spaces.Box(-1, 1, (0,), np.float32)
        with pytest.raises(UserError, match="has no entries"):
            TaskSetter(env)


class TestListedTasks:
    def test_an_argument_needs_no_default(self) -> None:
        tasks = ({"mass": 1.0}, {"mass": 2.0})
        env = EnvConfig(name="odd/NeedsMass-v0", task_list=tasks)
        assert first_observations(env, tasks) == [1.0, 2.0]

    def test_set_task_of_what_a_function_makes_is_found(self) -> None:
        tasks = ({"goal": 1.0}, {"goal": 2.0})
        env = EnvConfig(name="odd/GoalOnly-v0", task_list=tasks)
        assert first_observations(env, tasks) == [1.0, 2.0]

    def test_an_unknown_argument_is_named(self) -> None:
        env = EnvConfig(name="Pendulum-v1", task_list=({"mass": 1.0},))
        with pytest.raises(UserError, match="takes no argument 'mass', and the environment has no"):
            collected(env)


class TestErrors:
    def test_a_changed_working_directory_needs_an_absolute_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "assets").mkdir()
        config = config_of("MovesFolder", Path("run"), kwargs={"folder": str(tmp_path / "assets")})
        with pytest.raises(UserError, match="has changed the working directory from"):
            maml_rl.train(config)
        assert [path.name for path in tmp_path.rglob("*")] == ["assets"]

    @both_ways
    def test_the_end_of_the_program_is_named(self, vectorization: Any) -> None:
        env = EnvConfig(name="odd/Exits-v0", vectorization=vectorization)
        with pytest.raises(UserError, match="in step"):
            collected(env, num_tasks=2)

    @both_ways
    def test_a_bare_assertion_is_named_with_its_place(self, vectorization: Any) -> None:
        env = EnvConfig(name="odd/BareAssertion-v0", vectorization=vectorization)
        line = r"raised in step: AssertionError \(.*odd_environments\.py, line \d+\)$"
        with pytest.raises(UserError, match=line):
            collected(env, num_tasks=2)

    @both_ways
    def test_close_does_not_hide_an_error_of_a_step(self, vectorization: Any) -> None:
        env = EnvConfig(
            name="odd/RaisingClose-v0", kwargs={"raises_at": 2}, vectorization=vectorization
        )
        warned = pytest.warns(
            UserWarning, match="raised in close: RuntimeError: the window is gone"
        )
        with warned, pytest.raises(UserError, match="raised in step: RuntimeError: the arm hit"):
            collected(env, num_tasks=2)
        assert multiprocessing.active_children() == []

    def test_close_of_an_environment_that_is_made_again_for_a_task(self) -> None:
        env = EnvConfig(name="odd/Again-v0", task_list=({"raises_at": 500}, {"raises_at": 600}))
        gym.register("odd/Again-v0", Again)
        try:
            with pytest.warns(UserWarning, match="raised in close"):
                first_observations(env, env.task_list)
        finally:
            gym.registry.pop("odd/Again-v0")

    @pytest.mark.parametrize("reward", [None, "much", np.zeros(2)])
    def test_a_reward_that_is_not_a_number(self, reward: Any) -> None:
        env = Walk()
        step = env.step
        env.step = lambda action: (step(action)[0], reward, False, False, {})
        with as_task_vector_env(env, EnvConfig(), 1, LIMIT) as envs:
            envs.reset(seed=0)
            named = f"step of environment 'Walk' returned {re.escape(repr(reward))} as reward"
            with pytest.raises(UserError, match=named):
                envs.step(np.zeros((1, 1), np.float32))

    def test_a_task_that_is_not_a_number_makes_observations_that_are_not_finite(self) -> None:
        with as_task_vector_env(None, EnvConfig(name="odd/Success-v0"), 1, LIMIT) as envs:
            observer = TaskObserver(envs, "odd/Success-v0")
            observer.set_tasks([{"goal": np.nan}])
            observation, _ = observer.reset(seed=0)
        assert np.isnan(observation[0, -1])
        with pytest.raises(UserError, match="must have one number"):
            observer.set_tasks([{"goal": 10**400}])

    @pytest.mark.parametrize("tasks", [None, 3, [{"goal": 1.0}], [1.0, 2.0], np.zeros((2, 2))])
    def test_what_are_not_tasks(self, tasks: Any) -> None:
        env = Walk()
        env.sample_tasks = lambda n: tasks  # type: ignore[method-assign]
        message = (
            r"sample_tasks\(2\) of environment 'Walk' must return 2 tasks, each a mapping.*; got .+"
        )
        with pytest.raises(UserError, match=message) as error:
            TaskSetter(env).draw_tasks(np.random.default_rng(0), 2)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("method", "returned", "message"),
        [
            ("step", (np.zeros(1, np.float32), 0.0, False, {}), "returned 4 values, expected 5"),
            ("reset", np.zeros(1, np.float32), "returned one value, expected 2"),
        ],
    )
    def test_what_earlier_versions_of_gym_returned(
        self, method: str, returned: Any, message: str
    ) -> None:
        env = Walk()
        setattr(env, method, lambda *_, **__: returned)
        named = pytest.raises(UserError, match=f"{method} of environment 'Walk' {message}")
        with as_task_vector_env(env, EnvConfig(), 1, LIMIT) as envs, named:
            envs.reset(seed=0)
            envs.step(np.zeros((1, 1), np.float32))

    def test_the_task_in_which_it_raises_is_named(self) -> None:
        gym.register("odd/Again-v0", Again)
        env = EnvConfig(name="odd/Again-v0", task_list=({"raises_at": 0}, {"raises_at": 600}))
        text = r"'odd/Again-v0', with the task {'raises_at': 0}, raised in step"
        named = pytest.raises(UserError, match=text)
        warned = pytest.warns(UserWarning, match="raised in close")
        try:
            with warned, named, as_task_vector_env(None, env, 2, LIMIT) as envs:
                envs.set_tasks([{"raises_at": 0}, {"raises_at": 600}])
                envs.reset(seed=0)
                for _ in range(2):
                    envs.step(np.zeros((2, 1), np.float32))
        finally:
            gym.registry.pop("odd/Again-v0")


class Again(RaisingClose):
    """Its tasks are arguments of the constructor."""

    sample_tasks = None
    set_task = None


def first_observations(env: EnvConfig, tasks: Sequence[dict[str, Any]]) -> list[float]:
    """The first entry of the first observation in each task."""
    with as_task_vector_env(None, env, len(tasks), LIMIT) as envs:
        envs.set_tasks(tasks)
        observations, _ = envs.reset(seed=0)
        return observations[:, 0].tolist()
