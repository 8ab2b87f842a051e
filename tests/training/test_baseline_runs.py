"""Baselines: what each one is, and that it is kept, resumed and found by its name."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from helpers.commands import Result

import maml_rl
from maml_rl.agents.from_scratch import LearningCurve, PPOSettings
from maml_rl.analysis.comparison.compare import Subject
from maml_rl.analysis.comparison.subjects import subjects_of_baselines
from maml_rl.analysis.evaluation import evaluate
from maml_rl.analysis.recording import record
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.base import Iteration, LearnerState
from maml_rl.learners.maml.learner import MAML
from maml_rl.policies.mlp import make_policy
from maml_rl.policies.parameters import parameters
from maml_rl.runs.pretrained import find_run
from maml_rl.runs.run_folder import run_config
from maml_rl.sampling.environments import TaskObserver, make_task_vector_env
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.learners import (
    AdamConfig,
    InnerConfig,
    JointConfig,
    ReptileConfig,
    TRPOConfig,
)
from maml_rl.settings.parser import load_config, parse_training_arguments, resolve
from maml_rl.training import baseline_runs
from maml_rl.training.baseline_runs import baseline_config, make_policy_baseline, train_ppo

SIZES: dict[str, Any] = {
    "num_iterations": 2,
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 5,
    "device": "cpu",
    "policy": {"hidden_sizes": [4]},
    "logging": {"final_evaluation": False, "final_video": False},
}
TINY_PPO = PPOSettings(num_envs=2, n_steps=8, batch_size=8, n_epochs=1)


class Heavy(gym.Env):
    """An environment whose task is a mass, or what a test chooses."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    drawn: ClassVar[Any] = {"mass": 2.0}

    def sample_tasks(self, num_tasks: int) -> list[Any]:
        return [self.drawn] * num_tasks

    def set_task(self, task: Any) -> None:
        pass

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.full(1, 0.5, np.float32), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register(id="TestHeavy-v0", entry_point=Heavy)
    yield
    del gym.registry["TestHeavy-v0"]


def make_run(folder: Path, **settings: Any) -> Path:
    return maml_rl.train(
        load_config(**{"env": "PointNavigation", "output": str(folder), **SIZES, **settings})
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(
        tmp_path_factory.mktemp("baselines") / "run", inner={"num_steps": 2, "step_size": 0.3}
    )


@pytest.fixture
def run(finished: Path) -> Iterator[Path]:
    """A finished run without baselines."""
    yield finished
    baselines = finished / "baselines"
    if baselines.exists():
        baselines.rename(finished.parent / f"baselines-{len(list(finished.parent.iterdir()))}")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    return lambda *argv: Result(main(["baselines", *map(str, argv)]), *capsys.readouterr())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- an observation that holds the task ---


def observing(name: str, num_envs: int = 3, horizon: int = 4, **options: Any) -> Any:
    return make_task_vector_env(
        EnvConfig(name=name, observe_task=True, **options), num_envs, horizon
    )


@pytest.mark.parametrize("name", ["PointNavigation", "HalfCheetahVel", "TestHeavy-v0"])
def test_the_task_follows_every_observation(name: str) -> None:
    env, plain = observing(name), make_task_vector_env(EnvConfig(name=name), 3, 4)
    assert isinstance(env, TaskObserver)
    env.np_random = plain.np_random = np.random.default_rng(1)
    tasks = env.sample_tasks(3)
    names = sorted(tasks[0])
    values = np.array([[task[name] for name in names] for task in tasks])
    for each in (env, plain):
        each.set_tasks(tasks)
    plain_space, space = plain.single_observation_space, env.single_observation_space
    num_values = plain_space.shape[0]
    assert space.shape == (num_values + len(names),)
    assert space.dtype == plain_space.dtype
    action = np.full((3, *env.single_action_space.shape), 0.3)
    observations = [env.reset(seed=4)[0]]
    expected = [plain.reset(seed=4)[0]]
    for _ in range(5):  # one step beyond the end
        results, plain_results = env.step(action), plain.step(action)
        observations.append(results[0])
        expected.append(plain_results[0])
        for result, plain_result in zip(results[1:4], plain_results[1:4], strict=True):
            np.testing.assert_array_equal(result, plain_result)
    task = values.astype(plain_space.dtype)
    np.testing.assert_array_equal([step[:, :num_values] for step in observations], expected)
    assert all((step[:, num_values:] == task).all() for step in observations)
    again, _ = env.reset(options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_array_equal(again[:, num_values:], task)
    env.close()
    plain.close()


def test_an_environment_keeps_its_generator() -> None:
    assert (
        observing("PointNavigation").np_random.random()
        != observing("PointNavigation").np_random.random()
    )


def test_a_task_that_cannot_be_observed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'Pendulum-v1' draws no tasks"):
        observing("Pendulum-v1")
    monkeypatch.setattr(Heavy, "drawn", {"mass": "much"})
    with pytest.raises(UserError, match=r"one number for each of \['mass'\], got {'mass': 'much'}"):
        observing("TestHeavy-v0")
    env = observing("PointNavigation", 1)
    with pytest.raises(UserError, match="call set_tasks before reset"):
        env.reset(seed=0)
    with pytest.raises(UserError, match=r"one number for each of \['goal_x', 'goal_y'\]"):
        env.set_tasks([{"goal_x": 0.0}])
    env.set_tasks([{"goal_x": 0.0, "goal_y": 0.0}])
    with pytest.raises(UserError, match="options cannot contain tasks"):
        env.reset(options={"task": {"goal_x": 1.0, "goal_y": 0.0}})


@pytest.mark.parametrize("name", ["PointNavigation", "TestHeavy-v0"])
def test_the_setting_survives_the_round_trip(name: str) -> None:
    config = parse_training_arguments(["--env", name, "--env.observe_task", "true"])
    assert config.env.observe_task
    assert "observe_task" not in config.env.kwargs
    assert config == load_config(env={"name": name, "observe_task": True})
    assert resolve(yaml.safe_load(yaml.safe_dump(to_mapping(config))), [], source="test") == config
    assert "observe_task" not in to_mapping(load_config(env=name))["env"]


# --- training without adaptation ---


@pytest.mark.slow
@pytest.mark.slow
def test_evaluations_of_joint_training_say_so(tmp_path: Path) -> None:
    logging = {"final_evaluation": True, "final_video": False}
    run = make_run(tmp_path / "joint", learner="joint", logging=logging)
    output = tmp_path / "later"
    command = ["evaluate", str(run), "--num_tasks=2", "--num_episodes=2", f"--output={output}"]
    assert main(command) == 0
    for folder in (run / "evaluation", output):
        (entry,) = json.loads((folder / "results.json").read_text())["results"]
        assert entry["policy"] == "joint"


def test_joint_training_takes_no_inner_steps_and_keeps_them_for_later(tmp_path: Path) -> None:
    joint = maml_rl.load(make_run(tmp_path / "joint", learner="joint", inner={"num_steps": 2}))
    plain = maml_rl.load(make_run(tmp_path / "plain", inner={"num_steps": 0}))
    for name, value in plain.belief.items():
        torch.testing.assert_close(joint.belief[name], value, rtol=0, atol=0)
    rows = (tmp_path / "joint" / "progress.csv").read_text().splitlines()
    assert "return_after_0" in rows[0]
    assert "return_after_1" not in rows[0]
    task = {"goal_x": 0.3, "goal_y": 0.2}
    assert plain.adapt(task=task).num_adaptation_steps == 0
    adapted, expected = joint.adapt(task=task), plain.adapt(task=task, num_steps=2)
    assert adapted.num_adaptation_steps == 2
    for name, value in expected.belief.items():
        torch.testing.assert_close(adapted.belief[name], value, rtol=0, atol=0)


def test_what_only_adaptation_could_train_is_refused() -> None:
    with pytest.raises(ValueError, match="learned_step_size"):
        Config(learner=JointConfig(), inner=InnerConfig(learned_step_size="scalar"))
    with pytest.raises(ValueError, match="reptile"):
        Config(learner=JointConfig(), outer=ReptileConfig())


# --- what each baseline is ---


def test_the_random_one_has_new_parameters_of_its_seed(run: Path) -> None:
    config = baseline_config(run, "random", seed=5, device="cpu")
    folder = make_policy_baseline("random", config)
    agent, trained = maml_rl.load(folder), maml_rl.load(run)
    spaces = agent.observation_space, agent.action_space
    fresh = parameters(make_policy(agent.config.policy, *spaces, 5))
    for name, value in fresh.items():
        torch.testing.assert_close(agent.belief[name][0], value, rtol=0, atol=0)
        assert trained.belief[name][0].shape == value.shape
    assert agent.config.inner == trained.config.inner
    assert sorted(path.name for path in folder.parent.iterdir()) == ["random"]


@pytest.mark.slow
def test_pretrained_and_oracle_follow_the_run(run: Path) -> None:
    meta = run_config(run)
    for name in ("pretrained", "oracle"):
        config = baseline_config(run, name, device="cpu")
        assert (
            config.num_iterations == 3 * meta.num_iterations
        )  # two inner steps: three collections each
        assert config.inner == meta.inner
        assert config.env.observe_task == (name == "oracle")
        assert config.learner.name == "joint"
        kept = {"meta_batch_size", "num_episodes", "horizon", "policy", "outer", "baseline"}
        assert all(getattr(config, field) == getattr(meta, field) for field in kept)
        folder = make_policy_baseline(name, config)
        assert folder == run / "baselines" / name
        agent = maml_rl.load(folder)
        assert agent.config == config
        assert agent.observation_space.shape == ((4,) if name == "oracle" else (2,))
        assert np.isfinite(evaluate(agent, num_tasks=3, num_episodes=2, num_steps=1).returns).all()
        assert agent.adapt(task={"goal_x": 0.1, "goal_y": 0.2}).num_adaptation_steps == 2
    steps = [
        json.loads(path.read_text())["num_env_steps"]
        for path in run.glob("**/00000[26]/values.json")
    ]
    assert len(steps) == 3
    assert max(steps) <= 2 * 3 * 2 * 2 * 5


def test_a_run_that_was_stopped_has_baselines_of_the_steps_that_it_took(
    tmp_path: Path, finished: Path
) -> None:
    run, done = shutil.copytree(finished, tmp_path / "run"), run_config(finished).num_iterations
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(values | {"num_iterations": 10 * done}))
    assert baseline_config(run, "oracle").num_iterations == 3 * done
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"no checkpoint yet: .*--num_iterations"):
        baseline_config(run, "oracle")
    assert baseline_config(run, "oracle", num_iterations=4).num_iterations == 4


def test_a_saved_agent_does_not_say_how_long_it_was_trained(tmp_path: Path, finished: Path) -> None:
    saved = maml_rl.load(finished).save(tmp_path / "saved")
    with pytest.raises(UserError, match=r"how long it was trained: .*--num_iterations"):
        baseline_config(saved, "oracle")
    assert baseline_config(saved, "oracle", num_iterations=4).num_iterations == 4
    with pytest.raises(UserError, match=r"num_iterations must be .*, got 0"):
        baseline_config(saved, "oracle", num_iterations=0)


@pytest.mark.slow
def test_after_a_learner_without_inner_steps_baselines_take_as_many_control_steps(
    tmp_path: Path,
) -> None:
    settings = {"name": "rl2", "hidden_size": 4, "num_episodes": 3, "num_minibatches": 1}
    sizes = {"meta_batch_size": 2, "num_episodes": 4, "horizon": 5, "num_iterations": 4}
    quiet = {"final_evaluation": False, "final_video": False}
    config = load_config(env="PointNavigation", learner=settings, logging=quiet, **sizes)
    run = maml_rl.train(dataclasses.replace(config, output=str(tmp_path / "run"), device="cpu"))
    num_env_steps = 4 * 2 * 3 * 5
    assert baseline_config(run, "pretrained").num_iterations == num_env_steps // (2 * 4 * 5)
    assert baseline_config(run, "random").num_iterations == 4


def test_a_baseline_has_none(tmp_path: Path) -> None:
    joint = make_run(tmp_path / "joint", learner="joint")
    with pytest.raises(UserError, match="was trained without adaptation"):
        baseline_config(joint, "random")


@pytest.mark.slow
def test_what_a_baseline_cannot_share_with_its_run(tmp_path: Path) -> None:
    start = make_run(tmp_path / "start", inner={"learned_step_size": "scalar"})
    inner = {"learned_step_size": "scalar", "step_size": 0.2}
    run = make_run(tmp_path / "run", outer="reptile", inner=inner, init_from=str(start))
    config = baseline_config(run, "pretrained")
    assert config.outer == TRPOConfig()
    assert config.inner == InnerConfig(step_size=0.2)
    assert config.init_from is None
    random_config = baseline_config(run, "random")
    assert random_config.inner == run_config(run).inner
    assert random_config.init_from is None
    inner |= {"learned_per_step": True, "advantage": "sum", "shared_advantage_scale": True}
    learned = make_run(tmp_path / "learned", inner=inner | {"max_kl": 0.1})
    assert baseline_config(learned, "pretrained").inner == InnerConfig(step_size=0.2, max_kl=0.1)
    other = make_run(tmp_path / "other", outer={"name": "adam", "step_size": 0.5})
    assert baseline_config(other, "oracle").outer == AdamConfig(step_size=0.5)
    # A step size that falls does so over as many episodes.
    falls = {"name": "adam", "decay_factor": 0.1, "decay_iterations": 5}
    run = make_run(tmp_path / "falls", outer=falls, inner={"num_steps": 2})
    assert baseline_config(run, "pretrained").outer.decay_iterations == 15


@pytest.mark.thorough
def test_an_oracle_is_better_and_cannot_be_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {
        "meta_batch_size": 20,
        "num_episodes": 10,
        "horizon": 12,
        "policy": {"hidden_sizes": [16]},
    }
    run = make_run(tmp_path / "run", **sizes)
    returns = {}
    for name in ("random", "pretrained", "oracle"):
        config = baseline_config(run, name, num_iterations=25, device="cpu")
        agent = maml_rl.load(make_policy_baseline(name, config))
        returns[name] = evaluate(agent, num_tasks=20, num_episodes=10, num_steps=0).mean[0]
    # To stand still returns −12 times the distance of the goal, −4.6 on average.
    assert returns["random"] < returns["pretrained"] < -3
    assert returns["oracle"] > -2
    with pytest.raises(UserError, match="its observations include the task"):
        record(agent, tmp_path / "video.mp4")
    with pytest.raises(UserError, match="its observations include the task"):
        agent.adapt(gym.make("maml_rl/PointNavigation-v0"), task={"goal_x": 0.1, "goal_y": 0.2})
    logging = {"final_evaluation": False, "final_video": True}
    env = {"name": "PointNavigation", "observe_task": True}
    caplog.set_level("INFO", "maml_rl")
    maml_rl.train(
        load_config(**{**SIZES, "env": env, "logging": logging, "output": str(tmp_path / "o")})
    )
    (line,) = [text for text in caplog.messages if "no video will be made" in text]
    assert "observation includes the task" in line


def test_ppo_trains_on_the_first_tasks_of_an_evaluation(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "maml_rl")
    path = train_ppo(run, num_tasks=2, num_env_steps=40, seed=3, settings=TINY_PPO)
    results = json.loads(path.read_text())
    tasks = evaluate(maml_rl.load(run), num_episodes=1, num_steps=0, seed=3).tasks
    assert [entry["task"] for entry in results["tasks"]] == list(tasks[:2])
    assert (results["env"], results["horizon"], results["seed"]) == ("PointNavigation", 5, 3)
    assert results["hyperparameters"] == dataclasses.asdict(TINY_PPO)
    for entry in results["tasks"]:
        assert entry["num_env_steps"] == [0, 16, 32, 48]
        assert np.isfinite(entry["returns"]).all()
        distance = np.hypot(entry["task"]["goal_x"], entry["task"]["goal_y"])
        assert abs(entry["returns"][0] + 5 * distance) < 5 * 0.3
    assert len([text for text in caplog.messages if "return" in text]) == 2


def test_ppo_continues_with_the_missing_tasks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Any] = []

    def curve(env: Any, task: Any, horizon: int, **options: Any) -> LearningCurve:
        if len(played) == 1:
            played.append("stopped")
            raise KeyboardInterrupt
        played.append((task, options["seed"]))
        return LearningCurve([0, 10], [-1.0, float(len(played))])

    monkeypatch.setattr(baseline_runs, "ppo_learning_curve", curve)
    train = functools.partial(train_ppo, run, num_env_steps=10)
    with pytest.raises(KeyboardInterrupt):
        train(num_tasks=3)
    path = run / "baselines" / "ppo" / "results.json"
    first = json.loads(path.read_text())["tasks"]
    assert len(first) == 1
    assert train(num_tasks=3) == path
    after = json.loads(path.read_text())["tasks"]
    assert after[:1] == first
    assert len(after) == 3
    assert len(played) == 4
    assert len({seed for _, seed in (entry for entry in played if entry != "stopped")}) == 3
    train(num_tasks=2)
    assert json.loads(path.read_text())["tasks"] == after
    for changed in ({"num_env_steps": 20}, {"seed": 1}, {"settings": TINY_PPO}):
        with pytest.raises(UserError, match="delete the file to train from scratch"):
            train_ppo(run, **{"num_tasks": 3, "num_env_steps": 10, **changed})
    with pytest.raises(UserError, match="at most 40"):
        train(num_tasks=41)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        train(num_tasks=3)


# --- the command ---


@pytest.mark.thorough
def test_the_command_makes_all_and_a_second_call_keeps_them(
    run: Path, cli: Callable[..., Result]
) -> None:
    arguments = (
        run,
        "--num_iterations",
        2,
        "--num_tasks",
        1,
        "--ppo_env_steps",
        20,
        "--device",
        "cpu",
    )
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert "PPO, goal_x" in out
    assert err == ""  # no progress bar, which is for terminals
    assert {path.name for path in (run / "baselines").iterdir()} == {
        "random",
        "pretrained",
        "oracle",
        "ppo",
    }
    before = contents(run / "baselines")
    assert cli(*arguments).code == 0
    assert contents(run / "baselines") == before
    for name in ("random", "pretrained", "oracle"):
        assert (
            main(["evaluate", str(run / "baselines" / name), "--num_tasks=2", "--num_episodes=2"])
            == 0
        )
    code, _, err = cli(run, "--baseline", "pretrained", "--seed", 1)
    assert code == 2
    assert "exists with seed 0, not 1: delete the folder" in err


def test_a_stopped_baseline_resumes_as_if_it_had_not_stopped(
    run: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (run, "--baseline", "pretrained", "--num_iterations", 3, "--device", "cpu")
    assert cli(*arguments).code == 0
    folder = run / "baselines" / "pretrained"
    whole = maml_rl.load(folder).belief
    folder.rename(run.parent / "whole")
    iterate = MAML.iteration

    def stopped_at_two(self: MAML, state: LearnerState, *args: Any) -> Iteration:
        if state.counters["iteration"] == 2:
            raise KeyboardInterrupt
        return iterate(self, state, *args)

    monkeypatch.setattr(MAML, "iteration", stopped_at_two)
    code, out, _ = cli(*arguments)
    assert (code, "stopped after iteration 2" in out) == (130, True)
    monkeypatch.setattr(MAML, "iteration", iterate)
    code, out, _ = cli(*arguments)
    assert (code, "after iteration 2" in out) == (0, True)
    for name, value in maml_rl.load(folder).belief.items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


@pytest.mark.thorough
def test_the_documents_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/point"))
    make_run(Path("runs/short"))
    curve = LearningCurve([0, 16], [-1.0, -0.5])
    monkeypatch.setattr(baseline_runs, "ppo_learning_curve", lambda *_, **__: curve)
    document = (Path(__file__).resolve().parents[2] / "docs" / "baselines.md").read_text()
    blocks = "".join(re.findall(r"```sh\n(.*?)```", document, flags=re.DOTALL))
    commands = re.findall(r"^python -m maml_rl\.(.*?)(?:\s+#.*)?$", blocks, flags=re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"baselines", "evaluate", "train"}
    for command in commands:
        # The run that a command would train for minutes is there.
        only_parsed = ["--print_config"] if command.startswith("train") else []
        assert main([*command.split(), *only_parsed]) == 0, command
    (example,) = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["model"].n_envs == 16
    names["env"].close()


def test_mistakes_are_refused_before_anything_is_written(
    tmp_path: Path, run: Path, cli: Callable[..., Result]
) -> None:
    alone = make_run(tmp_path / "alone", env="Pendulum-v1")
    for arguments, words in (
        ((tmp_path / "none",), ["no run folder", "none"]),
        (
            (run, "--baseline", "orcale"),
            ["'orcale'", "Did you mean oracle?", "random, pretrained, oracle, ppo"],
        ),
        ((run, "--num_iterations", 0), ["--num_iterations", "at least 1"]),
        ((run, "--num_iterations", 10**10), ["num_iterations must be"]),
        ((run, "--seed", 10**20 - 1), ["seed must be"]),
        ((run, "--num_task", 0), ["--num_tasks"]),
        (
            (run, "--baseline", "random", "--num_iterations", 3),
            ["--num_iterations is for --baseline pretrained and oracle, got random"],
        ),
        (
            (run, "--baseline", "oracle", "pretrained", "--ppo_env_steps", 3),
            ["--ppo_env_steps is for --baseline ppo, got oracle, pretrained"],
        ),
        ((run, "--num_tasks", 41), ["num_tasks must be at most 40", "got 41"]),
        ((alone,), ["Pendulum-v1", "draws no tasks"]),
    ):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert err.count("error: ") == 1
        assert all(word in err for word in words), err
    assert not (alone / "baselines").exists()
    assert not (run / "baselines").exists()


def test_results_of_another_ppo_are_refused_before_anything_is_trained(
    run: Path, cli: Callable[..., Result]
) -> None:
    path = run / "baselines" / "ppo" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"seed": 5, "tasks": []}))
    before = contents(run)
    result = cli(str(run))
    assert "use the same value, or delete the file" in str(result)
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.slow
def test_baselines_of_other_settings_have_a_row_of_their_own(run: Path, tmp_path: Path) -> None:
    """Two runs of equal settings, whose baselines were trained with different step sizes."""
    subjects = []
    for seed, step_size in ((0, "0.1"), (1, "0.7")):
        folder = tmp_path / f"run{seed}"
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("baselines"))
        config = baseline_config(folder, "random", seed=seed)
        baseline = make_policy_baseline("random", config)
        settings = yaml.safe_load((baseline / "config.yaml").read_text())
        settings["inner"]["step_size"] = float(step_size)
        (baseline / "config.yaml").write_text(yaml.safe_dump(settings))
        subjects.append(Subject("maml", folder, maml_rl.load(folder), 1))
    baselines = subjects_of_baselines(subjects, torch.device("cpu"), None, with_oracle=True)
    assert [one.label for one in baselines] == [
        "random, step_size 0.1",
        "random, step_size 0.7",
    ]


def test_baselines_of_a_pretrained_policy_are_found_by_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Result],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        baseline_runs, "ppo_learning_curve", lambda *_, **__: LearningCurve([0, 5], [-1.0, -2.0])
    )
    packaged = contents(find_run("PointNavigation"))
    result = cli("PointNavigation", "--baseline", "random", "ppo", "--num_tasks=1")
    assert result.code == 0, result.err
    folder = Path("runs/PointNavigation/baselines")
    assert sorted(path.name for path in folder.iterdir()) == ["ppo", "random"]
    assert contents(find_run("PointNavigation")) == packaged
    assert main(["evaluate", "PointNavigation", "--num_episodes=2", "--num_steps=1"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("meta-trained", "random", "PPO from scratch"))
