"""Learning curves: grouping of runs, labels, lines, figures and error messages."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

import maml_rl
from maml_rl.analysis.learning_curve_figure import draw, save
from maml_rl.analysis.learning_curves import (
    Group,
    View,
    check_columns,
    group_runs,
    read_runs,
    running_mean,
    table,
)
from maml_rl.analysis.run_labels import group_settings, labels_of
from maml_rl.analysis.statistics import mean_interval
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.runs.pretrained import pretrained_folder
from maml_rl.settings.config import to_mapping
from maml_rl.settings.parser import load_config

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

VIEW = View(metric=None, x="iterations", smooth=1, before=False)
ADAPTED = "train/return_after_1_steps"
T_2 = 12.7062  # Student's t for 95 % of two runs, from a printed table


def columns_of(
    returns: Sequence[float], steps: float = 1e6, seconds: float = 1800
) -> dict[str, Any]:
    """What a run logs whose return after adaptation is ``returns``, and 10 lower before."""
    count = np.arange(1, len(returns) + 1)
    return {
        "time/iteration": count,
        "time/num_env_steps": steps * count,
        "time/meta_iteration_s": [seconds] * len(returns),
        "train/return_after_0_steps": np.array(returns) - 10,
        ADAPTED: returns,
    }


@functools.cache
def config_of(settings: str) -> dict[str, Any]:
    """Resolving takes long, and the tests need the same few again and again."""
    return to_mapping(load_config(**json.loads(settings)))


def write_run(name: str, columns: Mapping[str, Any], seed: int = 0, **settings: Any) -> Path:
    """A run folder as training leaves it, without checkpoints."""
    folder = Path(name)
    folder.mkdir()
    config = config_of(json.dumps({"env": "PointNavigation", **settings})) | {
        "seed": seed,
        "output": name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        ",".join(columns),
        *(",".join(str(value) for value in row) for row in zip(*columns.values(), strict=True)),
    ]
    (folder / "progress.csv").write_text("\n".join(rows) + "\n")
    return folder


def read_groups(*folders: Path) -> list[Group]:
    return group_runs(read_runs(folders))


def drawn(
    groups: Sequence[Group], view: View = VIEW, title: str | None = None
) -> tuple[Figure, Axes]:
    figure = draw(groups, labels_of([group.settings for group in groups]), view, title)
    (axes,) = figure.axes
    return figure, axes


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# --- which runs are one line ---


def test_a_pretrained_policy_and_a_run_with_its_settings_are_two_lines(tmp_path):
    mine = Path("mine")
    shutil.copytree(pretrained_folder("PointNavigation"), mine)  # even with the same seed
    groups = read_groups(Path("PointNavigation"), mine)
    assert labels_of([group.settings for group in groups]) == ["pretrained", "own run"]
    # Nothing is added where settings tell them apart.
    (alone,) = read_groups(Path("PointNavigation"))
    assert labels_of([alone.settings]) == ["PointNavigation"]
    other = write_run("other", columns_of([1.0]), horizon=7)
    groups = read_groups(Path("PointNavigation"), other)
    assert all("source" not in group.settings for group in groups)


def test_runs_that_differ_in_seed_alone_are_one_group():
    logging = {"checkpoint_every": 3, "final_video": False}
    runs = [
        write_run("a", columns_of([1]), seed=0, device="cpu", num_iterations=5),
        write_run("b", columns_of([2]), seed=0, horizon=50),
        write_run("c", columns_of([3]), seed=4, num_iterations=9, logging=logging, torch_threads=1),
        write_run("d", columns_of([4]), seed=1, env="maml_rl/PointNavigation-v0"),
    ]
    groups = read_groups(*runs)
    assert [[run.folder.name for run in group.runs] for group in groups] == [["a", "c", "d"], ["b"]]


@pytest.mark.parametrize(
    "settings",
    [
        {"horizon": 7},
        {"inner": {"step_size": 0.3}},
        {"outer": {"name": "promp"}},
        {"env": {"name": "PointNavigation", "high": 0.7}},
        {"init_from": "elsewhere"},
        {"policy": {"hidden_sizes": [8]}},
    ],
)
def test_runs_that_differ_in_anything_else_are_two(settings):
    runs = write_run("a", columns_of([1])), write_run("b", columns_of([1]), seed=1, **settings)
    assert len(read_groups(*runs)) == 2


def test_two_runs_with_the_same_seed_are_refused():
    runs = (
        write_run("a", columns_of([1]), seed=3),
        write_run("b", columns_of([1]), seed=3, num_iterations=7),
    )
    with pytest.raises(UserError, match=r"a and b .* same seed 3"):
        read_groups(*runs)


# --- what they are called ---


def labels_for(*settings: Mapping[str, Any]) -> list[str]:
    groups = read_groups(
        *(write_run(f"run{i}", columns_of([1]), **each) for i, each in enumerate(settings))
    )
    return labels_of([group.settings for group in groups])


def test_two_spellings_of_a_range_are_one_setting():
    def of(**dynamics):
        env = {"name": "HalfCheetahVel", "dynamics": dynamics}
        return group_settings(maml_rl.load_config(env=env))

    ends = {"low": 0.5, "high": 2}
    assert of(body_mass=[0.5, 2.0]) == of(body_mass=ends)
    assert of(body_mass=[0.5, 2.0]) != of(body_mass=ends | {"log": True})
    # A list of integers has all choices, a range of them only its ends.
    assert of(action_delay=[0, 1, 2]) == of(action_delay={"low": 0, "high": 2})
    assert of(action_delay=[0, 2]) != of(action_delay={"low": 0, "high": 2})
    pendulum = [
        maml_rl.load_config(env={"name": "Pendulum-v1", "kwarg_ranges": {"g": values}})
        for values in ([8, 12], {"low": 8, "high": 12})
    ]
    assert group_settings(pendulum[0]) == group_settings(pendulum[1])


def test_a_single_group_is_called_by_its_family():
    assert labels_for({"seed": 0}, {"seed": 1}) == ["PointNavigation"]


def test_labels_say_what_differs_and_nothing_else():
    promp = {"outer": {"name": "promp"}, "inner": {"first_order": True}}
    assert labels_for(promp, {}) == [
        "outer promp, first_order true",
        "outer trpo, first_order false",
    ]


def test_settings_of_an_outer_step_are_compared_within_it():
    settings = [{"outer": {"name": "promp", "step_size": size}} for size in (0.001, 0.003)]
    assert labels_for(*settings, {}) == [
        "outer promp, step_size 0.001",
        "outer promp, step_size 0.003",
        "outer trpo",
    ]


def test_where_families_differ_their_names_stand_first():
    labels = labels_for(
        {"env": "HopperVel"},
        {"env": "Walker2dVel"},
        {"env": "HopperVel", "horizon": 50},
    )
    assert labels == [
        "HopperVel, horizon 200",
        "Walker2dVel, horizon 200",
        "HopperVel, horizon 50",
    ]


@pytest.mark.slow
def test_two_settings_of_one_name_are_told_apart():
    settings = [
        {"outer": {"name": "adam", "step_size": size}, "inner": {"step_size": 2 * size}}
        for size in (0.1, 0.2)
    ]
    assert labels_for(*settings) == [
        "inner.step_size 0.2, outer.step_size 0.1",
        "inner.step_size 0.4, outer.step_size 0.2",
    ]


def test_what_a_group_does_not_have_is_said():
    heavy = {"env": {"name": "HalfCheetahVel", "dynamics": {"body_mass": [0.5, 2.0]}}}
    steps = {"inner": {"test_step_sizes": [0.1]}}
    labels = labels_for({"env": "HalfCheetahVel"}, heavy, {"env": "HalfCheetahVel", **steps})
    assert labels == [
        "no body_mass, no test_step_sizes",
        "body_mass [0.5, 2.0], no test_step_sizes",
        "no body_mass, test_step_sizes [0.1]",
    ]


# --- the numbers ---


def test_running_mean():
    values = np.array([1.0, 3.0, 8.0, 0.0])
    np.testing.assert_allclose(running_mean(values, 1), values)
    np.testing.assert_allclose(running_mean(values, 2), [1, 2, 5.5, 4])
    np.testing.assert_allclose(running_mean(values, 9), [1, 2, 4, 3])


def test_a_curve_is_the_mean_up_to_what_all_runs_reach():
    runs = (
        write_run("a", columns_of([1, 2, 3, 4]), seed=0),
        write_run("b", columns_of([3, 8], steps=3e6, seconds=5400), seed=1),
    )
    (group,) = read_groups(*runs)
    curve = group.curve(ADAPTED, "steps")  # of a at 1, 2, 3 and 4 million steps, of b at 3 and 6
    np.testing.assert_allclose(curve.x, [1, 2, 3, 4])
    np.testing.assert_allclose(curve.values, [[1, 2, 3, 4], [3, 3, 3, 3 + 5 / 3]])
    in_time = group.curve(ADAPTED, "time")  # of a at 0.5, 1, 1.5 and 2 hours, of b at 1.5 and 3
    np.testing.assert_allclose(in_time.x, [0.5, 1, 1.5, 2])
    np.testing.assert_allclose(in_time.values, [[1, 2, 3, 4], [3, 3, 3, 3 + 5 / 3]])
    by_iteration = group.curve(ADAPTED, "iterations")
    np.testing.assert_allclose(by_iteration.x, [1, 2])
    np.testing.assert_allclose(by_iteration.values, [[1, 2], [3, 8]])
    assert [len(one.y) for one in curve.series] == [4, 2]


def test_runs_of_one_budget_do_not_cut_each_other():
    """One curve, 100 times the share of 4 million steps, in 100 and in 400 iterations."""
    long = columns_of(np.arange(1, 101.0), steps=40_000)
    short = columns_of(np.arange(1, 401.0) / 4, steps=10_000)
    runs = write_run("a", long, seed=0), write_run("b", short, seed=1)
    (group,) = read_groups(*runs)
    curve = group.curve(ADAPTED, "steps")
    np.testing.assert_allclose(curve.x, np.arange(1, 401) / 100)
    np.testing.assert_allclose(curve.values[:, 3:], np.stack([25 * curve.x[3:]] * 2))
    row = table([group], ["both"], VIEW).splitlines()[1]
    assert row.split()[2:4] == ["100-400", "4"]


def test_smoothing_comes_before_the_mean_over_runs():
    runs = write_run("a", columns_of([0, 4, 8]), seed=0), write_run("b", columns_of([2, 2]), seed=1)
    curve = read_groups(*runs)[0].curve(ADAPTED, "iterations", smooth=2)
    np.testing.assert_allclose(curve.values, [[0, 2], [2, 2]])
    np.testing.assert_allclose(curve.series[0].y, [0, 2, 6])


def test_a_metric_that_is_logged_now_and_then():
    every_second = {"evaluation/return_after_1_steps": ["", 5, "", 7, "", 9]}
    every_fourth = {"evaluation/return_after_1_steps": ["", "", "", 3, "nan"]}
    runs = (
        write_run("a", columns_of(range(6)) | every_second, seed=0),
        write_run("b", columns_of(range(5)) | every_fourth, seed=1),
    )
    (group,) = read_groups(*runs)
    curve = group.curve("evaluation/return_after_1_steps", "steps")
    np.testing.assert_array_equal(curve.values, [[5, 7], [3, 3]])
    np.testing.assert_array_equal(curve.x, [2, 4])


def test_the_table():
    returns = np.arange(40.0)
    runs = (
        write_run("a", columns_of(returns), seed=0),
        write_run("b", columns_of([*(returns + 2), 1000.0]), seed=1),
        write_run("c", columns_of([5.0]), horizon=50),
    )
    groups = read_groups(*runs)
    text = table(groups, ["two", "one"], VIEW)
    two, one, *notes = text.splitlines()[1:]
    assert two.split()[:7] == [
        "two",
        "2",
        "40-41",
        "40",
        "20.2",
        "20",
        "39.5",
    ]  # the last two of 40: 38.5 and 40.5
    assert two.split("  ")[-1].strip() == f"[{39.5 - T_2:.4g}, {39.5 + T_2:.4g}]"
    assert one.split() == ["one", "1", "1", "1", "0.5", "20", "5"]
    assert "two: cut to the 40 million control steps" in notes[0]
    assert "longest has 41 million" in notes[0]
    assert ADAPTED in notes[1]
    assert "5 %" in notes[1]
    assert "Student's t" in notes[1]


# --- the figure ---


@pytest.fixture
def three_runs(in_an_empty_folder) -> list[Path]:
    """Two seeds of the same settings, and one of others."""
    return [
        write_run("a", columns_of([1, 2, 3]), seed=0),
        write_run("b", columns_of([3, 4, 5, 9]), seed=1),
        write_run("c", columns_of([2, 8, 2]), horizon=50),
    ]


@pytest.fixture
def two_groups(three_runs) -> list[Group]:
    return read_groups(*three_runs)


def test_lines_and_legend(two_groups):
    figure, axes = drawn(two_groups)
    lines = {line.get_linewidth(): [] for line in axes.lines}
    for line in axes.lines:
        lines[line.get_linewidth()].append(np.asarray(line.get_ydata()).tolist())
    assert lines == {1.8: [[2, 3, 4], [2, 8, 2]], 0.7: [[1, 2, 3], [3, 4, 5, 9]]}
    horizon = two_groups[0].settings["horizon"]
    assert legend_of(figure)[:2] == [f"horizon {horizon} (2 seeds)", "horizon 50"]
    assert legend_of(figure)[2:] == ["single runs"]
    low, high = axes.get_ylim()
    assert 0 < low < 1
    assert 9 < high < 10
    assert axes.get_title() == "PointNavigation"
    assert axes.get_ylabel() == "return after 1 step, 20 episodes"


@pytest.mark.parametrize("num_runs", [2, 3])
def test_the_interval_of_a_few_runs_is_not_a_band(num_runs):
    """It would fill the figure: for two runs it spans 18 standard deviations."""
    groups = read_groups(
        *(write_run(f"run{i}", columns_of([i, i]), seed=i) for i in range(num_runs)),
    )
    figure, axes = drawn(groups)
    assert not axes.collections
    assert legend_of(figure)[1:] == ["single runs"]
    low, high = axes.get_ylim()
    assert high - low < 1.2 * (num_runs - 1)
    text = table(groups, ["two"], VIEW)
    assert "95 % interval over runs" in text.splitlines()[0]


def test_the_return_before_adaptation_is_dashed(two_groups):
    figure, axes = drawn(two_groups, dataclasses.replace(VIEW, before=True))
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [np.asarray(line.get_ydata()).tolist() for line in dashed] == [
        [-8, -7, -6],
        [-8, -2, -8],
    ]
    colours = [line.get_color() for line in axes.lines if line.get_linewidth() == 1.8]
    assert [line.get_color() for line in dashed] == colours
    assert "before adaptation" in legend_of(figure)
    assert axes.get_ylim()[0] < -8
    assert axes.get_ylabel() == "return after 1 step, 20 episodes"


@pytest.mark.slow
def test_from_four_runs_on_the_band_stands_alone():
    groups = read_groups(*(write_run(f"run{i}", columns_of([i, 2 * i]), seed=i) for i in range(4)))
    figure, axes = drawn(groups)
    assert (len(axes.lines), len(axes.collections)) == (1, 1)
    (band,) = axes.collections
    (low, high), *_ = mean_interval(np.array([[0.0, 1, 2, 3]]))
    extent = band.get_datalim(axes.transData)
    np.testing.assert_allclose([extent.y0, extent.y1], [min(low, 2 * low), 2 * high])
    bottom, top = axes.get_ylim()
    assert (bottom < extent.y0) & (extent.y1 < top), "the band is inside the axes"
    assert legend_of(figure)[1:] == ["95 % interval over runs (Student's t)"]
    assert axes.get_title() == ""  # its label says the family


def test_a_single_run_has_no_band():
    figure, axes = drawn(read_groups(write_run("a", columns_of([3.0]))))
    assert (len(axes.lines), len(axes.collections)) == (1, 0)
    assert axes.lines[0].get_marker() == "o"  # of one row there is no line to see
    assert legend_of(figure) == ["PointNavigation"]


@pytest.mark.parametrize(
    ("x", "label", "values"),
    [
        ("steps", "control steps (millions)", [1, 2, 3]),
        ("time", "wall-clock hours", [0.5, 1, 1.5]),
        ("iterations", "meta-iterations", [1, 2, 3]),
    ],
)
def test_horizontal_axes(two_groups, x, label, values):
    _, axes = drawn(two_groups, dataclasses.replace(VIEW, x=x))
    assert axes.get_xlabel() == label
    np.testing.assert_allclose(axes.lines[-1].get_xdata(), values)


def test_another_metric_and_title(two_groups):
    figure, axes = drawn(
        two_groups, dataclasses.replace(VIEW, metric="time/num_env_steps"), title="Costs $5 a_b"
    )
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), [1e6, 2e6, 3e6])
    assert axes.get_ylabel() == "time/num_env_steps"
    assert axes.get_title() == "Costs $5 a_b"
    figure.canvas.draw()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log_x", "marked"),
    [(False, list(range(0, 80, 10))), (True, [0, 1, 2, 5, 8, 15, 26, 46])],
)
def test_markers_are_evenly_spaced_on_the_axis(log_x, marked):
    groups = read_groups(write_run("run", columns_of(range(81))))
    figure, axes = drawn(groups, dataclasses.replace(VIEW, log_x=log_x))
    assert axes.get_xscale() == ("log" if log_x else "linear")
    (line,) = axes.lines
    assert line.get_markevery() == marked
    figure.canvas.draw()
    assert "10" in [text.get_text() for text in axes.get_xticklabels()]  # not a power: $10^1$


@pytest.mark.parametrize(("num_points", "is_every_one"), [(2, True), (20, True), (21, False)])
def test_a_single_short_curve_has_every_marker(num_points, is_every_one):
    _, axes = drawn(read_groups(write_run("run", columns_of(range(num_points)))))
    (line,) = axes.lines
    assert (line.get_markevery() is None) == is_every_one


def test_many_groups_look_different_and_fit():
    (group,) = read_groups(write_run("run", columns_of([1, 2])))
    labels = [f"_{i} $\\nothing$ " + "long " * 30 for i in range(20)]
    figure = draw([group] * 20, labels, VIEW, None)
    (axes,) = figure.axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 20
    lightness = [np.dot(to_rgb(line.get_color()), [0.299, 0.587, 0.114]) for line in axes.lines[:3]]
    assert min(abs(a - b) for i, a in enumerate(lightness) for b in lightness[:i]) > 0.2
    figure.canvas.draw()
    (legend,) = figure.legends
    box, outer = legend.get_window_extent(), figure.bbox
    assert not box.overlaps(axes.get_tightbbox())
    assert (outer.x0, outer.y0) <= (box.x0, box.y0)
    assert box.x1 <= outer.x1
    assert box.y0 >= outer.y0
    assert axes.get_window_extent().height > 0.3 * 400
    assert [text.split()[0] for text in legend_of(figure)] == [f"_{i}" for i in range(20)]


@pytest.mark.parametrize("name", ["curve.png", "new/curve.SVG", "curve.pdf"])
def test_figures_are_written_whole(two_groups, name, tmp_path):
    figure, _ = drawn(two_groups)
    save(figure, Path(name))
    (path,) = (file for file in tmp_path.rglob("*curve*"))
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(begins[path.suffix.lower()])
    if path.suffix == ".png":
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=int)
        for colour in ("#0072B2", "#E69F00"):
            near = np.abs(pixels - np.round(255 * np.array(to_rgb(colour)))).max(axis=-1) < 8
            assert near.sum() > 500


@pytest.mark.slow
def test_a_figure_that_cannot_be_written_leaves_the_old_one(two_groups, monkeypatch, tmp_path):
    figure, _ = drawn(two_groups)
    path = tmp_path / "curve.png"
    path.write_text("old")

    write = os.write

    def fail(descriptor, content):
        write(descriptor, b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(UserError, match="no space"):
        save(figure, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["curve.png"]
    with pytest.raises(UserError, match="cannot be written"):
        save(figure, path / "curve.png")


# --- the command ---


@pytest.fixture
def plot(capsys) -> Callable[..., tuple[int, str, str]]:
    def run(*argv: str) -> tuple[int, str, str]:
        code = main(["plot", *argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(plot, tmp_path) -> Callable[..., str]:
    """The message of a command that must fail as a user's mistake, and write nothing."""

    def check(*argv: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = plot(*argv)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return check


@pytest.mark.slow
def test_runs_of_training_are_plotted(plot, tmp_path):
    small: Any = {
        "num_iterations": 2,
        "meta_batch_size": 2,
        "num_episodes": 2,
        "horizon": 4,
        "device": "cpu",
    }
    logging = {"final_evaluation": False, "final_video": False}
    runs = [
        str(
            maml_rl.train(
                load_config(
                    env="PointNavigation", seed=seed, output=f"run{seed}", logging=logging, **small
                )
            )
        )
        for seed in (0, 1)
    ]
    flags = ["--before", "--smooth", "2", "--x", "time", "--log_x", "--labels", "mine", "--title"]
    code, out, err = plot(*runs, *flags, "a title")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:3] == ["mine", "2", "2"]
    assert "written to learning_curve.png" in out
    with Image.open(tmp_path / "learning_curve.png") as picture:
        assert picture.width > 800
    assert {path.name for path in tmp_path.iterdir()} == {"run0", "run1", "learning_curve.png"}


@pytest.mark.slow
def test_labels_are_one_per_group(plot, refused, three_runs):
    assert "needs 2 labels, one per line of the plot, got 3" in refused(
        "a", "b", "c", "--labels", "x", "y", "z"
    )
    assert "horizon 50" in refused("a", "b", "c", "--labels", "x")
    code, out, _ = plot("c", "a", "b", "--labels", "one run", "two runs")
    assert code == 0
    assert [line.partition("  ")[0] for line in out.splitlines()[1:3]] == ["one run", "two runs"]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("", ["RUN"]),
        ("missing", ["no run folder missing"]),
        ("foreign", ["foreign is not a run folder", "config.yaml"]),
        ("a a", ["a is given twice"]),
        ("a ./b/../a", ["given twice", "also as a"]),
        ("a link", ["link is given twice", "also as a"]),
        ("a --x step", ["--x", "steps", "time", "iterations"]),
        ("a --smooth 0", ["--smooth", "at least 1"]),
        ("a --metrics outer/kl", ["--metrics", "--metric"]),
        ("a --metric outer/kll", ["a/progress.csv", "outer/kll", ADAPTED, "time/num_env_steps"]),
        ("a --metric train/return_after_0_steps --before", ["--before", "--metric"]),
        ("a --output curve.gif", ["curve.gif", ".png, .svg or .pdf"]),
        ("a --output curve", ["curve", ".png"]),
        ("a --output .png", [".png"]),
        ("a --output folder.png", ["folder.png"]),
        ("a --output a/config.yaml/curve.png", ["a/config.yaml/curve.png", "cannot be written"]),
    ],
)
def test_mistakes(refused, three_runs, flags, parts):
    Path("foreign").mkdir()
    Path("folder.png").mkdir()
    os.symlink("a", "link")
    message = refused(*flags.split())
    for part in parts:
        assert part in message


def test_a_metric_that_some_runs_lack(refused):
    write_run("a", columns_of([1]) | {"outer/kl": [1]})
    write_run("b", columns_of([1]) | {"outer/kl": [""]}, seed=1)
    write_run("c", columns_of([1]), horizon=50)
    message = refused("a", "c", "--metric", "outer/kl")
    assert "c/progress.csv has no column 'outer/kl'" in message
    assert "outer/kl" not in message.partition("all runs have")[2]
    assert "b has no value of outer/kl" in refused("a", "b", "--metric", "outer/kl")


def test_the_return_after_the_last_step_of_each_group():
    three = {"train/return_after_3_steps": [7]}
    runs = (
        write_run("a", columns_of([1])),
        write_run("b", columns_of([1]) | three, inner={"num_steps": 3}),
    )
    groups = read_groups(*runs)
    check_columns(groups, VIEW)
    figure, axes = drawn(groups)
    assert [list(line.get_ydata()) for line in axes.lines] == [[1], [7]]
    assert axes.get_ylabel() == "return"
    stages = [text.partition(", ")[2] for text in legend_of(figure)]
    assert stages == ["after 1 step, 20 episodes", "after 3 steps, 60 episodes"]


def lines_of(columns: Mapping[str, Any]) -> list[str]:
    write_run("good", columns)
    return Path("good/progress.csv").read_text().splitlines()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda lines: None, ["no progress.csv"]),
        (lambda lines: [], ["no rows"]),
        (lambda lines: lines[:1], ["no rows"]),
        (lambda lines: [*lines[:2], "2,4"], ["line 3", "2 values for 5 columns"]),
        (lambda lines: [*lines[:2], lines[2] + ",5", lines[3]], ["line 3", "6 values"]),
        (lambda lines: [*lines[:2], "", *lines[2:]], ["line 3", "0 values"]),
        (lambda lines: [*lines[:3], lines[3].replace("3,", "three,", 1)], ["three"]),
        (lambda lines: [*lines, lines[1]], ["time/iteration", "increase"]),
        (
            lambda lines: [*lines[:3], "," + lines[3].partition(",")[2]],
            ["time/iteration must be finite"],
        ),
        (
            lambda lines: [lines[0].replace("num_env_steps", "steps"), *lines[1:]],
            ["time/num_env_steps"],
        ),
        (lambda lines: [*lines, "\udcff"], ["cannot be read"]),
    ],
)
def test_damaged_progress(refused, damage, parts):
    lines = damage(lines_of(columns_of([1, 2, 3])))
    write_run("bad", columns_of([1]), seed=1)
    path = Path("bad/progress.csv")
    path.unlink()
    if lines is not None:
        path.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
    message = refused("good", "bad")
    assert "bad" in message
    for part in parts:
        assert part in message
