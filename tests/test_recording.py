"""Videos: the same start before and after adaptation, side by side, under a caption."""

from __future__ import annotations

import gc
import sys
import warnings
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

import maml_rl
from maml_rl import recording
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.meta_policy import MetaPolicy
from maml_rl.recording import describe_task, make_rendering_env, record, rendering_problem
from maml_rl.task_vector_env import EnvConfig

HORIZON = 6
FAR = {"goal_x": 0.5, "goal_y": -0.5}


def make_run(output: Path, env: dict) -> Path:
    config = maml_rl.load_config(
        env=env,
        device="cpu",
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=2,
        horizon=HORIZON,
        policy={"hidden_sizes": [8], "action_scale": 1.0},
        logging={"final_evaluation": False, "final_video": False},
        output=str(output),
    )
    return maml_rl.train(config)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> MetaPolicy:
    return maml_rl.load(make_run(tmp_path_factory.mktemp("recording") / "run", {"name": "PointNavigation"}))


def frame_size(config: EnvConfig) -> tuple[int, int]:
    env = make_rendering_env(config)
    env.reset(seed=0)
    height, width, _ = env.render().shape
    env.close()
    return height, width


def read(path: Path) -> tuple[np.ndarray, dict]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the reader leaves its pipes to the garbage collector
        with imageio.get_reader(path) as reader:
            result = np.stack([frame[..., :3] for frame in reader]), reader.get_meta_data()
        del reader
        gc.collect()
    return result


def captured(monkeypatch, policy: MetaPolicy, path: Path, **options) -> np.ndarray:
    """The frames as they go to the codec."""
    kept = []
    original = recording._write
    with monkeypatch.context() as patched:
        patched.setattr(recording, "_write", lambda p, frames, fps: (kept.append(frames), original(p, frames, fps)))
        record(policy, path, **options)
    return kept[0]


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_video_has_two_panels_and_plays(policy, tmp_path, ending):
    path = tmp_path / "new" / f"video.{ending}"
    assert record(policy, path, task=FAR) == path
    frames, meta = read(path)
    height, width = frame_size(policy.config.env)
    assert 1 < len(frames) <= HORIZON
    assert frames.shape[2] == 2 * width
    assert frames.shape[1] > height
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    env = make_rendering_env(policy.config.env)
    fps = env.metadata["render_fps"]
    env.close()
    if ending == "mp4":
        assert meta["fps"] == pytest.approx(fps)
    else:
        assert meta["duration"] == pytest.approx(1000 / fps)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 100


def test_the_caption_says_task_step_and_return(policy, tmp_path, monkeypatch):
    drawn: list[list[str]] = []
    original = recording._captioned
    monkeypatch.setattr(recording, "_captioned", lambda frame, lines: (drawn.append(lines), original(frame, lines))[1])
    frames = captured(monkeypatch, policy, tmp_path / "video.mp4", task=FAR)
    height, width = frame_size(policy.config.env)
    strip = frames[:, :-height]
    for panel in (strip[:, :, :width], strip[:, :, width:]):
        bright = panel.min(axis=-1) > 200
        assert bright.any(axis=(1, 2)).all()
        assert 0.001 < bright.mean() < 0.3
    assert not np.array_equal(strip[0], strip[-1])
    assert len(drawn) == 2 * HORIZON
    for i, lines in enumerate(drawn):
        text = "   ".join(lines)
        for part in ("PointNavigation", "goal x 0.50 m", "goal y -0.50 m", f"step {i % HORIZON + 1} ", "return -"):
            assert part in text + " "
        assert ("before adaptation" in text) == (i < HORIZON)
        assert ("after 1 step " in text) == (i >= HORIZON)


def test_both_panels_start_in_the_same_state(policy, tmp_path, monkeypatch):
    """With an environment whose start is random, so that it means something."""
    starts: list[np.ndarray] = []
    shown: list[list[np.ndarray]] = []
    reset = recording.TaskSetter.reset

    def recorded_reset(self, **options):
        observation, info = reset(self, **options)
        starts.append(np.array(observation))
        return observation, info

    cheetah = maml_rl.load(make_run(tmp_path / "run", {"name": "HalfCheetahDir"}))
    monkeypatch.setattr(recording, "_write", lambda *args: None)
    monkeypatch.setattr(recording.TaskSetter, "render", lambda self: np.zeros((8, 80, 3), np.uint8))
    monkeypatch.setattr(recording.TaskSetter, "reset", recorded_reset)
    monkeypatch.setattr(cheetah.__class__, "adapt", lambda self, **options: self)
    for seed in (0, 1):
        starts.clear()
        record(cheetah, tmp_path / "video.mp4", seed=seed)
        shown.append(starts[-2:])
    (first, again), (other, other_again) = shown
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(other, other_again)
    assert not np.array_equal(first, other)


def test_only_adaptation_sets_the_panels_apart(policy, tmp_path, monkeypatch):
    """Without adaptation both panels show the same; with it, the left one stays as it was."""
    frames = captured(monkeypatch, policy, tmp_path / "video.mp4", task=FAR, num_steps=0)
    height, width = frame_size(policy.config.env)
    pictures = frames[:, -height:]
    np.testing.assert_array_equal(pictures[:, :, :width], pictures[:, :, width:])
    adapted = captured(monkeypatch, policy, tmp_path / "video.mp4", task=FAR)[:, -height:]
    np.testing.assert_array_equal(adapted[:, :, :width], pictures[:, :, :width])
    assert not np.array_equal(adapted[:, :, :width], adapted[:, :, width:])


def test_the_same_seed_gives_the_same_video(policy, tmp_path, monkeypatch):
    def frames(**options) -> np.ndarray:
        return captured(monkeypatch, policy, tmp_path / "video.mp4", **options)

    first = frames(seed=3, deterministic=False)
    np.testing.assert_array_equal(first, frames(seed=3, deterministic=False))
    other = frames(seed=4, deterministic=False)
    assert first.shape != other.shape or not np.array_equal(first, other)
    shown = frames(seed=3)
    assert first.shape != shown.shape or not np.array_equal(first, shown)


def test_a_clip_that_ends_early_waits_for_the_other(policy, tmp_path, monkeypatch):
    lengths = iter((2, 5))
    monkeypatch.setattr(
        recording, "_clip", lambda *args: np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(next(lengths))])
    )
    frames = captured(monkeypatch, policy, tmp_path / "video.gif")
    assert frames.shape == (5, 8, 16, 3)
    assert frames[:, 0, 0, 0].tolist() == [0, 10, 10, 10, 10]
    assert frames[:, 0, 8, 0].tolist() == [0, 10, 20, 30, 40]


def test_an_existing_video_is_replaced_whole(policy, tmp_path, monkeypatch):
    path = tmp_path / "video.mp4"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(imageio, "get_writer", fail)
        with pytest.raises(UserError, match="no space"):
            record(policy, path)
    assert path.read_text() == "old"
    record(policy, path)
    assert len(read(path)[0]) <= HORIZON


@pytest.mark.parametrize("name", ["video.avi", "video", "video.mp4.txt"])
def test_another_ending_is_refused(policy, tmp_path, name):
    with pytest.raises(UserError, match=r"\.mp4 or \.gif"):
        record(policy, tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", [{"goal": 1.0}, {"goal_x": float("nan"), "goal_y": 0.0}])
def test_a_task_of_another_family_is_refused(policy, tmp_path, task):
    with pytest.raises(UserError, match="goal_x"):
        record(policy, tmp_path / "video.mp4", task=task)
    assert list(tmp_path.iterdir()) == []


def test_a_task_in_words():
    env = make_rendering_env(EnvConfig(name="PointNavigation"))
    assert describe_task(env, {"goal_x": 0.25, "goal_y": -1.0}) == "goal x 0.25 m, goal y -1.00 m"
    assert describe_task(env, {}) == ""
    env.close()


def test_a_family_can_be_drawn():
    assert rendering_problem(EnvConfig(name="PointNavigation")) is None


def test_a_missing_library_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)  # as where it is not installed
    problem = rendering_problem(EnvConfig(name="CartPole-v1"))
    assert problem is not None
    assert "pygame" in problem
    run = make_run(tmp_path / "run", {"name": "CartPole-v1"})
    assert main(["record", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1
    assert "pygame" in err
    assert not (run / "videos").exists()


def test_the_picture_goes_on_to_the_policys_horizon():
    env = make_rendering_env(EnvConfig(name="HalfCheetahVel"), horizon=130)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(130)]
    env.close()
    assert ends == [False] * 129 + [True]
