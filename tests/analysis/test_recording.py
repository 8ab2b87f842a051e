"""Videos: tasks as rows, adaptation steps as columns, each panel under its caption."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import av
import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.runs import tiny
from PIL import Image, ImageSequence

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.analysis import recording
from maml_rl.analysis.recording import play, record
from maml_rl.analysis.tasks.words import task_in_words
from maml_rl.analysis.video import grid as grid_module
from maml_rl.analysis.video.files import playable_fps
from maml_rl.analysis.video.grid import Clip, Frame, Grid, steps_shown
from maml_rl.analysis.video.rendering import make_rendering_env, rendering_problem, rgb_pixels
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.make import make_learner
from maml_rl.settings.config import LoggingConfig
from maml_rl.settings.env import EnvConfig
from maml_rl.training.start import resume, train

HORIZON = 6
FAR, NEAR = {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": 0.1, "goal_y": 0.2}


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
def agent(tmp_path_factory) -> Agent:
    return maml_rl.load(
        make_run(tmp_path_factory.mktemp("recording") / "run", {"name": "PointNavigation"})
    )


@pytest.fixture(scope="module")
def cheetah_run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("recording") / "cheetah", {"name": "HalfCheetahDir"})


@pytest.fixture(scope="module")
def cheetah(cheetah_run) -> Agent:
    return maml_rl.load(cheetah_run)


def read(path: Path) -> tuple[np.ndarray, dict]:
    """Every frame, and frames per second of an MP4 or milliseconds per frame of a GIF."""
    if path.suffix == ".gif":
        with Image.open(path) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
            return np.stack(frames), {"duration": image.info["duration"]}
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), {"fps": float(container.streams.video[0].average_rate)}


def played(agent: Agent, **options) -> Grid:
    return play(agent, "gif", **options)


def pictures(clip: Clip) -> np.ndarray:
    return np.stack([frame.pixels() for frame in clip.frames.values()])


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_video_is_a_grid_that_plays_in_real_time(agent, tmp_path, ending):
    path = tmp_path / "new" / f"video.{ending}"
    assert record(agent, path, tasks=[FAR, NEAR], num_steps=2, size=(160, 128)) == path
    frames, meta = read(path)
    assert frames.shape[2] >= 3 * 160
    assert 2 * 128 < frames.shape[1] < 2 * 128 + 200
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert len(frames) == HORIZON + 1
    if ending == "mp4":
        assert meta["fps"] == pytest.approx(10)  # a point moves once in 0.1 s
    else:
        assert meta["duration"] == pytest.approx(100)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 100


def test_rows_are_tasks_and_columns_are_adaptation_steps(agent):
    grid = played(agent, tasks=[FAR, NEAR], num_steps=2)
    labels = ["before adaptation", "after 1 step, 2 episodes", "after 2 steps, 4 episodes"]
    assert grid.labels == labels
    assert grid.tasks == [["goal x 0.50 m", "goal y -0.50 m"], ["goal x 0.10 m", "goal y 0.20 m"]]
    assert [len(row) for row in grid.clips] == [3, 3]
    for row in grid.clips:
        first, *others = [pictures(clip) for clip in row]
        for other in others:
            np.testing.assert_array_equal(first[0], other[0])
            assert not np.array_equal(first, other)
    assert played(agent, num_tasks=3, num_steps=0).labels == ["before adaptation"]
    assert len(played(agent, num_tasks=3, num_steps=0).clips) == 3


def test_an_adapted_agent_counts_on(agent):
    adapted = agent.adapt(task=drawn_task(agent), num_steps=2)
    assert played(adapted, num_steps=1).labels == [
        "after 2 steps",
        "after 3 steps",
    ]


@pytest.mark.parametrize("inner", [{}, {"test_step_sizes": [0.3, 0.1]}, {"surrogate": "dice"}])
def test_single_steps_equal_one_call(agent, inner):
    config = dataclasses.replace(
        agent.config, inner=dataclasses.replace(agent.config.inner, **inner)
    )
    learner = make_learner(config, agent.observation_space, agent.action_space, agent.device)
    agent = dataclasses.replace(agent, config=config, learner=learner)
    shown = list(recording.adapted_agents(agent, FAR, 3, 4, seed=5))
    for k, adapted in enumerate(shown):
        at_once = agent.adapt(task=FAR, num_steps=k, num_episodes=4, seed=5)
        assert adapted.num_adaptation_steps == k
        for name, value in at_once.belief.items():
            assert torch.equal(value, adapted.belief[name]), (k, name)
    assert not all(
        torch.equal(value, shown[2].belief[name]) for name, value in shown[3].belief.items()
    )


@pytest.mark.slow
def test_tasks_of_direction_families_alternate(cheetah):
    grid = played(cheetah, num_tasks=2, num_steps=0, size=(128, 128))
    assert grid.tasks == [["forward"], ["backward"]]


def test_captions_are_those_of_the_environment(agent, monkeypatch):
    grid = played(agent, tasks=[FAR], num_steps=0)
    first, last = (grid.clips[0][0].frames[step] for step in (0, HORIZON))
    assert first.caption == f"distance to the goal {np.hypot(0.5, 0.5):.2f} m"
    assert last.caption != first.caption
    written = []
    monkeypatch.setattr(
        grid_module._Layout, "_write", lambda self, draw, text, *rest, **more: written.append(text)
    )
    next(grid.images(10))
    assert first.caption in written


@pytest.mark.parametrize("has_caption", [False, True])
def test_captions_have_a_line_of_their_own(has_caption):
    frame = Frame.of(np.zeros((128, 128, 3), np.uint8), 0.0, "far" if has_caption else "")
    grid = Grid("title", [["goal 1"]], ["before"], [[Clip({0: frame}, ended=False)]], dt=0.1)
    layout = grid_module._Layout(grid, 128, 128)
    assert layout.strip == (2 + layout.return_below + has_caption) * layout.line + 2 * layout.pad


def test_a_caption_that_is_no_text_is_refused(agent, monkeypatch):
    single = maml_envs.FamilyEnv
    monkeypatch.setattr(single, "frame_caption", property(lambda self: 3.0))
    with pytest.raises(UserError, match=r"frame_caption of .* must be a string, got 3\.0"):
        played(agent, tasks=[FAR], num_steps=0)


@pytest.mark.slow
def test_by_default_tasks_differ(agent, cheetah):
    grid = played(cheetah, num_steps=0, size=(128, 128))
    assert grid.tasks == [["backward"], ["forward"]]
    grid = played(agent, num_steps=0)
    assert grid.tasks == played(agent, num_steps=0).tasks
    assert len({tuple(task) for task in grid.tasks}) == 3


@pytest.mark.slow
def test_the_final_video_shows_tasks_that_differ(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Grid, "save", lambda grid, file, fps=None: shown.append(grid.tasks))
    logging = {"final_video": True, "video_every": 1}
    train(tiny(tmp_path / "run", num_iterations=1, logging=logging))
    assert [len(tasks) for tasks in shown] == [1, 3]
    assert len({tuple(task) for task in shown[1]}) == 3


def test_every_panel_says_task_step_and_return_and_the_grid_the_time(agent, monkeypatch):
    written: list[tuple[str, float]] = []
    original = grid_module._Layout._write

    def write(self, draw, text, position, room, *rest, **more):
        written.append((text, self.font.getlength(text) - room))
        original(self, draw, text, position, room, *rest, **more)

    monkeypatch.setattr(grid_module._Layout, "_write", write)
    grid = played(agent, tasks=[FAR, NEAR], size=(200, 150))
    list(grid.images(10.0))
    texts = [text for text, _ in written]
    assert all(excess <= 0 for _, excess in written), "no text was made smaller or cut"
    for part in ("before adaptation", "after 1 step, 2 episodes"):
        assert texts.count(part) == 2 * (HORIZON + 1)
    assert texts.count("goal x 0.50 m, goal y -0.50 m") == 2 * (HORIZON + 1)
    assert texts.count("PointNavigation") == HORIZON + 1
    assert [text for text in texts if text.startswith("t = ")] == [
        f"t = {step / 10:.2f} s" for step in range(7)
    ]
    totals = [float(text.split()[1].rstrip(",")) for text in texts if text.startswith("return")]
    assert len(totals) == 4 * (HORIZON + 1)
    assert totals[-4:] == [
        round(clip.frames[clip.last].total, 1) for row in grid.clips for clip in row
    ]


@pytest.mark.parametrize(("width", "height"), [(128, 128), (480, 130), (201, 133)])
def test_captions_fit_their_panel_and_do_not_overlap(width, height):
    """There is no text at the edges of a panel, and a dark line between any two lines of text."""
    tasks = [[f"body mass/thigh left {i}.25" for i in range(30)]]
    clip = Clip({0: Frame.of(np.zeros((height, width, 3), np.uint8), -1234.5)}, ended=True)
    grid = Grid(
        "my_package:MyVeryLongEnvironmentName-v0",
        tasks,
        ["before adaptation", "after 10 steps"],
        [[clip] * 2],
        1.0,
    )
    layout = grid_module._Layout(grid, width, height)
    image = layout.image(0)
    assert image.shape[0] % 2 == image.shape[1] % 2 == 0
    assert layout.tasks[0][-1].endswith("more")
    for column in range(2):
        left = column * (width + 4)
        strip = (
            image[layout.header : layout.header + layout.strip, left : left + width].max(axis=-1)
            > 120
        )
        assert not strip[:2].any()
        assert not strip[-2:].any()
        assert not strip[:, :2].any()
        assert not strip[:, -2:].any()
        bands = np.diff(np.flatnonzero(strip.any(axis=1)))
        assert (bands > 1).sum() + 1 >= 1 + layout.return_below + len(layout.tasks[0])
    assert not (image[: layout.header, -3:].max(axis=-1) > 120).any()


def test_an_episode_that_ended_waits_for_the_others():
    long = Clip(
        {step: Frame.of(np.full((128, 128, 3), 40 * step, np.uint8), step) for step in range(5)},
        ended=False,
    )
    short = Clip(
        {step: Frame.of(np.full((128, 128, 3), 40 * step, np.uint8), step) for step in range(3)},
        ended=True,
    )
    images = list(Grid("x", [[]], ["a", "b"], [[short, long]], 0.5).images(2.0))
    assert [int(image[-5, 5, 0]) for image in images[:3]] == [0, 40, 80]
    assert images[3][-5, 5, 0] == images[4][-5, 5, 0] != 80  # dimmed
    assert [int(image[-5, 140, 0]) for image in images] == [0, 40, 80, 120, 160]


@pytest.mark.parametrize(
    ("num_steps", "dt", "fps", "expected"),
    [
        (4, 0.1, 10, [0, 1, 2, 3, 4]),
        (4, 0.1, 5, [0, 2, 4]),
        (5, 0.1, 5, [0, 2, 4, 5]),
        (2, 0.1, 20, [0, 0, 1, 1, 2]),
        (10, 0.008, 41.6666667, [0, 3, 6, 9, 10]),
    ],
)
def test_a_video_stays_in_real_time(num_steps, dt, fps, expected):
    assert steps_shown(num_steps, dt, fps) == expected


@pytest.mark.parametrize(
    ("fps", "dt", "file_format", "expected"),
    [
        (None, 0.05, "mp4", 20),
        (None, 0.008, "mp4", 60),
        (None, 0.008, "gif", 50),
        (30, 0.05, "mp4", 30),
        (30, 0.05, "gif", 100 / 3),
    ],
)
def test_frames_per_second(fps, dt, file_format, expected):
    assert playable_fps(fps, dt, file_format) == pytest.approx(expected)


def test_only_frames_that_are_shown_are_drawn(agent, tmp_path):
    path = tmp_path / "video.mp4"
    record(agent, path, tasks=[FAR], fps=5, size=(128, 128))
    frames, meta = read(path)
    assert (len(frames), meta["fps"]) == (HORIZON // 2 + 1, 5)
    assert set(play(agent, "mp4", tasks=[FAR], fps=5).clips[0][0].frames) == {0, 2, 4, 6}


def test_the_same_seed_gives_the_same_video(agent):
    def shown(**options) -> list[np.ndarray]:
        return [pictures(clip) for row in played(agent, **options).clips for clip in row]

    def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    first = shown(seed=3, deterministic=False)
    assert same(first, shown(seed=3, deterministic=False))
    assert not same(first, shown(seed=4, deterministic=False))
    assert not same(first, shown(seed=3))


@pytest.mark.slow
def test_cameras(cheetah):
    def shown(camera: str | None) -> np.ndarray:
        grid = played(
            cheetah, tasks=[{"direction": 1.0}], num_steps=0, camera=camera, size=(144, 128), fps=1
        )
        return pictures(grid.clips[0][0])

    assert shown(None).shape[1:] == (128, 144, 3)
    np.testing.assert_array_equal(shown(None), shown("track"))
    assert not np.array_equal(shown(None), shown("free"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"camera": "trakc"}, ["trakc", "track, free"]),
        ({"camera": ""}, ["track, free"]),
        ({"size": (480, 20)}, ["480x20", "128 to 2048"]),
        ({"size": 5}, ["size", "5"]),
        ({"size": "480x480"}, ["size", "'480x480'"]),
        ({"fps": "a"}, ["fps", "'a'"]),
        ({"fps": 0.0}, ["fps", "0.0"]),
        ({"fps": float("nan")}, ["fps", "nan"]),
        ({"fps": 0.001}, ["fps must be from 0.1 to 1000", "0.001"]),
        ({"fps": 1e9}, ["fps must be from 0.1 to 1000"]),
        ({"num_tasks": 0}, ["num_tasks", "0"]),
        ({"num_tasks": "2"}, ["num_tasks", "'2'"]),
        ({"num_tasks": 1.5}, ["num_tasks", "1.5"]),
        ({"num_steps": -1}, ["num_steps", "-1"]),
        ({"num_episodes": 0}, ["num_episodes", "at least 1", "0"]),
        ({"tasks": 5, "num_tasks": 2}, ["tasks must be a list", "5"]),
        ({"num_steps": 1.5}, ["num_steps", "1.5"]),
        ({"num_episodes": 0, "num_steps": 1}, ["num_episodes", "0"]),
        ({"tasks": []}, ["at least one task"]),
        ({"tasks": {"direction": 1.0}}, ["list"]),
        ({"tasks": 5}, ["list", "5"]),
        ({"tasks": [1.0]}, ["list", "1.0"]),
        ({"tasks": [{"direction": 1.0}], "num_tasks": 2}, ["tasks or num_tasks", "1 tasks", "2"]),
        ({"tasks": [{"direction": 1.0}, {"goal_velocity": 1.0}]}, ["goal_velocity", "direction"]),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(cheetah, tmp_path, options, parts):
    with pytest.raises(UserError) as refused:
        record(cheetah, tmp_path / "new" / "er" / "video.mp4", **options)
    for part in parts:
        assert part in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_point_has_no_cameras(agent, tmp_path):
    with pytest.raises(UserError, match=r"PointNavigation.*no cameras.*'track'"):
        record(agent, tmp_path / "video.mp4", camera="track")


def test_a_file_that_cannot_be_written_leaves_nothing(agent, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        record(agent, tmp_path / "file" / "new" / "video.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match="cannot be written"):
        record(agent, tmp_path / f"{'x' * 300}.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_recording_leaves_nothing(agent, tmp_path, monkeypatch):
    def interrupt(self, file, fps):
        file.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Grid, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(agent, tmp_path / "new" / "video.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--camera up", ["up", "track, free"]),
        ("--size 480", ["480x480", "'480'"]),
        ("--size 0x480", ["0x480", "128"]),
        ("--size 4.5x480", ["4.5x480"]),
        ("--fps fast", ["fast"]),
        ("--fps 0", ["fps"]),
        ("--format avi", ["avi", "mp4", "gif"]),
        ("--format gif --output new/video.mp4", ["gif", "new/video.mp4", "contradicts"]),
        ("--num_tasks 2 --task direction=1", ["--num_tasks", "--task"]),
        ("--num_tasks 0", ["--num_tasks"]),
        ("--task direction=1 --task goal=1", ["goal", "direction"]),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    cheetah_run, tmp_path, monkeypatch, capsys, flags, parts
):
    monkeypatch.chdir(tmp_path)
    assert main(["record", str(cheetah_run), *flags.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_takes_every_option(cheetah_run, tmp_path, capsys):
    flags = "--task direction=1 --task direction=-1 --num_steps 1 --num_episodes 2 "
    flags += "--camera free --size 160x128 --fps 10"
    path = tmp_path / "video.gif"
    assert (
        main(
            [
                "record",
                str(cheetah_run),
                *flags.split(),
                "--stochastic",
                "--format",
                "gif",
                "--output",
                str(path),
            ]
        )
        == 0
    )
    assert str(path) in capsys.readouterr().out
    frames, meta = read(path)
    assert frames.shape[2] == 2 * 160 + 4
    assert meta["duration"] == 100
    assert len(frames) == 4  # 6 steps of 0.05 s at 10 frames/s, and the start


def test_the_small_gif_of_tensorboard(agent):
    gif, height, width = played(agent, tasks=[FAR]).small_gif(panel_width=150, max_frames=4)
    image = Image.open(io.BytesIO(gif))
    assert image.size == (width, height) == (2 * 150 + 4, height)
    assert image.n_frames <= 4
    assert len(gif) < 100_000


def test_an_existing_video_is_replaced_whole(agent, tmp_path, monkeypatch):
    path = tmp_path / "video.mp4"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(av, "open", fail)
        with pytest.raises(UserError, match="no space"):
            record(agent, path)
    assert path.read_text() == "old"
    record(agent, path)
    assert len(read(path)[0]) == HORIZON + 1


@pytest.mark.parametrize("name", ["video.avi", "video", "video.mp4.txt"])
def test_another_ending_is_refused(agent, tmp_path, name):
    with pytest.raises(UserError, match=r"\.mp4 or \.gif"):
        record(agent, tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", [{"goal": 1.0}, {"goal_x": float("nan"), "goal_y": 0.0}])
def test_a_task_of_another_family_is_refused(agent, tmp_path, task):
    with pytest.raises(UserError, match="goal_x"):
        record(agent, tmp_path / "video.mp4", tasks=[task])
    assert list(tmp_path.iterdir()) == []


def test_a_task_in_words():
    env = make_rendering_env(EnvConfig(name="PointNavigation"))
    assert task_in_words(env.unwrapped, {"goal_x": 0.25, "goal_y": -1.0}) == [
        "goal x 0.25 m",
        "goal y -1.00 m",
    ]
    assert task_in_words(env.unwrapped, {}) == []
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


@pytest.mark.slow
def test_progress_names_every_panel(agent, tmp_path) -> None:
    panels: list[str] = []
    record(
        agent,
        tmp_path / "video.gif",
        tasks=[NEAR, FAR],
        num_steps=1,
        num_episodes=2,
        progress=panels.append,
    )
    assert panels == [
        f"task {row} of 2 {column}"
        for row in (1, 2)
        for column in ("before adaptation", "after 1 step, 2 episodes")
    ]


def moving(height: int = 130, width: int = 146, num_frames: int = 20) -> Grid:
    """A pattern that moves, whose size is not a multiple of the encoder's blocks."""
    gray = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    pattern = gray[..., None].repeat(3, axis=2)
    frames = {i: Frame.of(np.roll(pattern, 5 * i, axis=1), float(i)) for i in range(num_frames)}
    return Grid("moving", [["a task"]], ["before adaptation"], [[Clip(frames, ended=False)]], 0.05)


@pytest.mark.slow
def test_a_video_plays_everywhere_and_is_the_same_each_time(tmp_path):
    """H.264 in 4:2:0, the index in front of the frames, and the same bytes."""
    for i in range(16):
        moving().save(tmp_path / f"{i}.mp4")
    first, *others = [(tmp_path / f"{i}.mp4").read_bytes() for i in range(16)]
    assert all(other == first for other in others)
    assert 0 < first.find(b"moov") < first.find(b"mdat")
    with av.open(str(tmp_path / "0.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    frames, meta = read(tmp_path / "0.mp4")
    assert meta["fps"] == 20
    images = np.stack(list(moving().images(20.0)))
    assert frames.shape == images.shape
    assert np.abs(frames.astype(int) - images).mean() < 6


@pytest.mark.parametrize("fps", [7.5, 29.97, 1 / 0.024, 60.0])
def test_frames_per_second_of_a_file_may_be_fractions(tmp_path, fps):
    moving(num_frames=5).save(tmp_path / "video.mp4", fps)
    assert read(tmp_path / "video.mp4")[1]["fps"] == pytest.approx(fps, rel=1e-4)


def test_a_video_needs_no_process_of_its_own(agent, tmp_path, monkeypatch):
    """The fork of a large process is refused where memory is short, at the end of a training."""

    def refuse(*arguments, **options):
        raise MemoryError("fork")

    for name in ("Popen", "run", "_fork_exec"):
        monkeypatch.setattr(subprocess, name, refuse)
    for name in ("fork", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    assert len(read(record(agent, tmp_path / "video.mp4"))[0]) == HORIZON + 1


COLOURS = np.arange(2 * 3 * 3).reshape(2, 3, 3) * 10 + 5  # up to 175
GRAY = COLOURS[..., :1].repeat(3, axis=2)
OPAQUE = np.concatenate([COLOURS, np.full((2, 3, 1), 255)], axis=2)


@pytest.mark.parametrize(
    ("rendered", "expected"),
    [
        (COLOURS.astype(np.uint8), COLOURS),
        (COLOURS, COLOURS),
        (COLOURS.astype(np.float32), COLOURS),
        (COLOURS / 255, COLOURS),
        ((COLOURS / 255).astype(np.float32), COLOURS),
        (COLOURS / 175 * (1 + 1e-6), np.round(COLOURS / 175 * 255)),
        (COLOURS > 50, (COLOURS > 50) * 255),
        (COLOURS[..., 0], GRAY),
        (COLOURS[..., :1] / 255, GRAY),
        (OPAQUE.astype(np.uint8), COLOURS),
        ([COLOURS * 0, COLOURS], COLOURS),
        (COLOURS.tolist(), COLOURS),
        (np.zeros((2, 3, 3)), COLOURS * 0),
    ],
)
def test_what_render_returns_becomes_rgb(rendered, expected):
    pixels = rgb_pixels(rendered)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("rendered", "part"),
    [
        (None, "None"),
        ([], r"\[\]"),
        ("a frame", "a frame"),
        (3, "3"),
        (COLOURS - 100, "-95"),
        (COLOURS * 2, "350"),
        (COLOURS / 175 * 256, "256"),
        (COLOURS * float("nan"), "nan"),
        (COLOURS.astype(complex), "complex"),
        (COLOURS.astype(str), "U"),
        (COLOURS.astype(object), "object"),
        (np.zeros((3, 64, 64)), r"\(3, 64, 64\)"),
        (np.zeros((2, 2, 2)), r"\(2, 2, 2\)"),
        (np.zeros((0, 3, 3)), r"\(0, 3, 3\)"),
        (np.zeros(5), r"\(5,\)"),
    ],
)
def test_what_is_not_a_frame_is_refused(rendered, part):
    with pytest.raises(UserError, match=f"render returned .*{part}.*expected") as refused:
        rgb_pixels(rendered)
    assert "\n" not in str(refused.value)


class Drawn(gym.Env):
    """A step moves nothing; ``render`` returns what ``draw`` returns, or raises what it raises."""

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    draw: ClassVar[Any] = None

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.num_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.num_steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.num_steps += 1
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        return type(self).draw(self.num_steps)


@pytest.mark.parametrize(
    ("metadata", "modes"),
    [({"render_modes": []}, "empty"), ({"render_modes": ["human", "ansi"]}, "human, ansi")],
)
def test_an_environment_that_does_not_render_says_where_it_lists_its_modes(
    monkeypatch, metadata, modes
):
    monkeypatch.setattr(Drawn, "metadata", metadata)
    if "Drawn-v0" not in gym.registry:
        gym.register("Drawn-v0", entry_point=Drawn)
    problem = rendering_problem(EnvConfig(name="Drawn-v0"))
    expected = f'metadata["render_modes"] of its class is {modes}, expected rgb_array'
    assert expected in problem


def test_an_environment_that_fails_to_render_is_closed(monkeypatch):
    made, closed = [], []

    class Closing(Drawn):
        def __init__(self, render_mode: str | None = None) -> None:
            super().__init__(render_mode)
            made.append(self)

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(Closing, "draw", fails)
    monkeypatch.setitem(gym.registry, "Closing-v0", gym.envs.registration.EnvSpec("Closing-v0"))
    monkeypatch.setattr(gym.registry["Closing-v0"], "entry_point", Closing)
    assert "no display" in rendering_problem(EnvConfig(name="Closing-v0"))
    assert len(made) == 2
    assert closed == made


def fails_later(num_steps: int) -> np.ndarray:
    if num_steps == 2:
        raise KeyError("no such buffer")
    return np.zeros((160, 160, 3), np.uint8)


def fails(num_steps: int) -> np.ndarray:
    raise OSError("no display")


DRAWN = {
    "a list": (lambda num_steps: [np.zeros((160, 160, 3), np.uint8)], None),
    "floats": (lambda num_steps: np.full((160, 160, 3), num_steps / 10), None),
    "gray": (lambda num_steps: np.full((160, 160), num_steps), None),
    "None": (lambda num_steps: None, "render returned None"),
    "out of range": (lambda num_steps: np.full((160, 160, 3), -1), "values from -1 to -1"),
    "an error": (fails, "no display"),
    "an error in the middle": (fails_later, "no such buffer"),
}


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*[Rr]ender")
@pytest.mark.parametrize("kind", DRAWN)
def test_a_default_training_ends_well_whatever_render_returns(tmp_path, monkeypatch, capsys, kind):
    draw, problem = DRAWN[kind]
    monkeypatch.setattr(Drawn, "draw", draw)
    if "Drawn-v0" not in gym.registry:
        gym.register("Drawn-v0", entry_point=Drawn)
    flags = ["--env=Drawn-v0", "--num_iterations=2", "--meta_batch_size=2", "--num_episodes=2"]
    flags += ["--horizon=4"]
    flags += ["--policy.hidden_sizes=[4]", "--device=cpu", "--logging.final_evaluation=false"]
    run = tmp_path / "run"
    assert main(["train", *flags, "--logging.video_every=1", "--output", str(run)]) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    if problem is None:
        assert "no video" not in out
        assert len(read(run / "videos" / "final.mp4")[0]) == 5
    else:
        (line, *others) = [line for line in out.splitlines() if "no video" in line]
        assert problem in line
        assert len(others) == (2 if kind == "an error in the middle" else 0)
        assert not list((run / "videos").glob("*"))


@pytest.mark.slow
def test_a_video_that_cannot_be_written_ends_no_training(tmp_path, monkeypatch, caplog):
    config = dataclasses.replace(
        maml_rl.load_config(env="PointNavigation", num_iterations=2, meta_batch_size=2, horizon=4),
        output=str(tmp_path / "run"),
        device="cpu",
        logging=LoggingConfig(final_evaluation=False, video_every=1),
    )

    def fail(self, file, fps=None):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    caplog.set_level("INFO", "maml_rl")
    with monkeypatch.context() as patched:
        patched.setattr(Grid, "save", fail)
        run = train(config)
    failures = [text for text in caplog.messages if text.startswith("no video")]
    expected = [f"no video of iteration {i}" for i in (1, 2, 2)]
    assert [text[: text.index(":")] for text in failures] == expected
    assert all("Cannot allocate memory" in text and "\n" not in text for text in failures)
    resume(run)
    assert (run / "videos" / "final.mp4").exists()


@pytest.mark.slow
def test_what_a_killed_recording_left_is_removed(agent, tmp_path):
    """By the next recording of that file; one that is in progress stays, as all else does."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    killed = [tmp_path / f".video.{ended.pid}.tmp.{ending}" for ending in ("mp4", "gif")]
    kept = [
        tmp_path / f".video.{os.getppid()}.tmp.mp4",
        tmp_path / f".other.{ended.pid}.tmp.mp4",
        tmp_path / f"video.{ended.pid}.tmp.mp4",
        tmp_path / ".video.tmp.mp4",
    ]
    for path in [*killed, *kept]:
        path.write_text("")
    record(agent, tmp_path / "video.gif")
    expected = {path.name for path in kept} | {"video.gif"}
    assert {path.name for path in tmp_path.iterdir()} == expected


@pytest.mark.slow
def test_the_next_training_removes_what_a_killed_recording_left(cheetah_run):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    left = cheetah_run / "videos" / f".000001.{ended.pid}.tmp.mp4"
    left.parent.mkdir(exist_ok=True)
    left.write_text("")
    resume(cheetah_run)
    assert not left.exists()


@pytest.mark.parametrize("character", "×−²³→±°·…θäé")
def test_captions_have_the_characters_of_units_and_names(character: str) -> None:
    font = grid_module._font(20)
    missing = bytes(font.getmask("\ufffe"))
    assert bytes(font.getmask(character)) != missing
