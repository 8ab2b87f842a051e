"""Episodes used: learners whose steps use different numbers of episodes, in one comparison."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.drawn import drawn_task
from helpers.evaluations import made_up_description
from helpers.runs import tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.analysis.comparison.compare import Comparison, Condition, Subject, compare
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.comparison.figures import adaptation_figure, sweep_figure
from maml_rl.analysis.comparison.saved_evaluations import read_evaluation, write_evaluation
from maml_rl.analysis.evaluation import Evaluation, evaluate
from maml_rl.analysis.learning_curve_figure import draw
from maml_rl.analysis.learning_curves import View, group_runs, read_runs, table
from maml_rl.analysis.recording import play
from maml_rl.analysis.report.files import write_report
from maml_rl.analysis.run_labels import group_settings, labels_of, stage_label
from maml_rl.analysis.statistics import difference
from maml_rl.analysis.tasks.figures import tasks_figures
from maml_rl.cli import main
from maml_rl.errors import UserError

BANDIT = "helpers.bandit:Bandit"
E = 4
TASKS = [{"goal": float(i)} for i in range(5)]
ARGUMENTS: dict[str, Any] = {
    "num_tasks": 2,
    "num_episodes": E,
    "num_steps": 1,
    "seed": 0,
    "deterministic": False,
    "deterministic_adaptation": False,
}


def make_run(folder: Path, **settings: Any) -> Path:
    return maml_rl.train(tiny(folder, **{"num_iterations": 1} | settings))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("episodes_used")
    learners = {"maml": "maml", "bandit": BANDIT}
    return {name: make_run(folder / name, learner=learner) for name, learner in learners.items()}


@pytest.fixture(scope="module")
def agents(runs: dict[str, Path]) -> dict[str, Agent]:
    return {name: maml_rl.load(run) for name, run in runs.items()}


@pytest.fixture(scope="module")
def both(runs: dict[str, Path], agents: dict[str, Agent]) -> Comparison:
    """MAML after 0 to 1 steps of 4 episodes, the bandit after 0 to 5 steps of one episode."""
    steps = {"maml": 1, "bandit": 5}
    subjects = [Subject(name, runs[name], agents[name], steps[name]) for name in steps]
    condition = Condition(lambda agent: agent.config.env)
    return compare(subjects, [condition], num_tasks=3, num_episodes=E, seed=0)


def method(
    label: str, episodes_per_step: int, num_steps: int, steps_in_training: int, **swept: float
) -> Entry:
    """A method with made-up returns."""
    description = made_up_description(
        len(TASKS),
        num_episodes=20,
        episodes_per_step=episodes_per_step,
        num_steps_in_training=steps_in_training,
        learner={"name": label},
    )
    rng = np.random.default_rng(len(label))
    returns = rng.normal(size=(num_steps + 1, len(TASKS), 20))
    evaluation = Evaluation(TASKS, returns, np.full(returns.shape, np.nan), description)
    return Entry(label, (Path(label),), (evaluation,), swept)


# --- an evaluation ---


def test_a_learner_with_short_stages_uses_fewer_episodes(both: Comparison) -> None:
    maml, bandit = both.main
    assert maml.episodes_used.tolist() == [0, 4]
    assert bandit.episodes_used.tolist() == [0, 1, 2, 3, 4, 5]
    assert [entry.evaluations[0].returns.shape[2] for entry in both.main] == [E, E]


def test_the_table_of_an_evaluation_has_them(agents: dict[str, Agent]) -> None:
    for name, expected in (("maml", [0, 4, 8]), ("bandit", [0, 1, 2])):
        result = evaluate(agents[name], num_tasks=2, num_episodes=E, num_steps=2)
        head, *rows = result.table().splitlines()
        assert re.split("  +", head.strip())[:2] == ["steps", "episodes used"]
        assert [int(row.split()[1]) for row in rows[: len(expected)]] == expected


def test_the_default_is_at_least_the_steps_of_training(tmp_path: Path) -> None:
    for num_steps, expected in ((1, 3), (5, 5)):
        agent = maml_rl.load(make_run(tmp_path / str(num_steps), inner={"num_steps": num_steps}))
        assert len(evaluate(agent, num_tasks=1, num_episodes=2).returns) == expected + 1


def test_a_saved_evaluation_is_read_again_unless_a_value_of_it_has_changed(
    agents: dict[str, Agent], tmp_path: Path
) -> None:
    agent = agents["bandit"]
    result = evaluate(agent, **ARGUMENTS)
    path = tmp_path / "part.json"
    write_evaluation(path, result)
    again = read_evaluation(path, agent)
    assert again.description == result.description
    assert list(again.tasks) == list(result.tasks)
    np.testing.assert_array_equal(again.returns, result.returns)
    np.testing.assert_array_equal(again.success, result.success)
    assert again.rewards is None
    text = path.read_text()
    for match in re.finditer(r"(?<=\.)[0-9]|[a-z]", text):
        other = "1" if match[0] != "1" else "2"
        path.write_text(text[: match.start()] + other + text[match.end() :])
        with pytest.raises(UserError, match=r"part.json of an interrupted evaluation is damaged"):
            read_evaluation(path, agent)


# --- differences ---


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        # Episodes used by the other method: 0, 20, 40.
        (method("equal", 20, 2, 1), [(0, 0), (1, 1), (2, 2)]),
        # 0, 10, 20, 30, 40, 50; 60 is not among them.
        (method("half", 10, 5, 2), [(0, 0), (1, 2), (2, 4)]),
        # 0, 1, 2, 3: the adapted steps are compared.
        (method("single", 1, 3, 2), [(0, 0), (1, 2)]),
        # 0, 40: the adapted steps are compared, although 40 are equal.
        (method("double", 40, 1, 1), [(0, 0), (1, 1), (2, 1)]),
        # Does not adapt.
        (method("oracle", 20, 0, 1), [(0, 0), (1, 0), (2, 0), (3, 0)]),
    ],
    ids=lambda value: value.label if isinstance(value, Entry) else "",
)
def test_methods_are_compared_after_equal_numbers_of_episodes(
    other: Entry, expected: list[tuple[int, int]]
) -> None:
    ours = method("ours", 20, 3, 1)
    differences = ours.minus(other)
    assert [(one.step, one.other_step) for one in differences] == expected
    for k, j, value in differences:
        returns = [entry.task_returns[None, step] for entry, step in ((ours, k), (other, j))]
        assert value.mean == pytest.approx(difference(*returns).mean)


def test_a_first_method_without_adaptation_is_compared_with_each_step() -> None:
    oracle, other = method("oracle", 20, 0, 1), method("ours", 20, 3, 2)
    differences = oracle.minus(other)
    assert [(one.step, one.other_step) for one in differences] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    for (_, j, value), (k, _, opposite) in zip(differences, other.minus(oracle), strict=True):
        assert j == k
        assert value.mean == pytest.approx(-opposite.mean)
    # Without all steps, with that after as many as in training.
    comparison = Comparison([oracle, other])
    assert [row[1] for row in comparison.difference_rows(all_steps=False)[1:]] == ["0 and 2"]


def test_the_table_of_differences_has_both_numbers() -> None:
    comparison = Comparison([method("ours", 20, 3, 1), method("single", 1, 3, 2)])
    head, *rows = comparison.difference_rows(all_steps=True)
    assert head[:4] == ["difference", "steps", "episodes used", "return (sampled actions)"]
    assert [row[1:3] for row in rows] == [["0", "0"], ["1 and 2", "20 and 2"]]
    assert comparison.difference_rows(all_steps=False) == [head, rows[1]]
    assert comparison.table().splitlines()[-1].split()[3:9] == ["1", "and", "2", "20", "and", "2"]


# --- files and figures ---


@pytest.mark.slow
def test_all_files_have_them(both: Comparison, tmp_path: Path) -> None:
    write_report(tmp_path, both)
    content = json.loads((tmp_path / "results.json").read_text())
    assert [result["episodes_used"] for result in content["results"]] == [[0, 4], list(range(6))]
    (written,) = content["differences"]
    assert [step["steps"] for step in written["steps"]] == [[0, 0], [1, 4]]
    assert [step["episodes_used"] for step in written["steps"]] == [[0, 0], [4, 4]]
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert {(row["policy"], row["step"], row["episodes_used"]) for row in rows} == {
        *(("maml", str(k), str(4 * k)) for k in range(2)),
        *(("bandit", str(k), str(k)) for k in range(6)),
    }
    page = html.unescape((tmp_path / "report.html").read_text())
    assert page.count("<th>steps</th><th>episodes used</th>") == 2
    assert "<td>maml</td><td>1</td><td>4</td>" in page
    assert "<td>bandit</td><td>5</td><td>5</td>" in page
    assert "<td>maml − bandit</td><td>1 and 4</td><td>4</td>" in page


def test_one_axis_of_episodes_for_all_learners(both: Comparison) -> None:
    (axes,) = adaptation_figure(both).axes
    label = "episodes used per task (linear up to 1, then logarithmic)"
    assert axes.get_xlabel() == label
    for line, entry in zip(axes.lines, both.main, strict=True):
        expected = np.stack([entry.episodes_used, entry.center], axis=1)
        np.testing.assert_allclose(line.get_xydata(), expected)
    assert axes.get_xscale() == "symlog"
    assert not axes.child_axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "4", "5"]


def test_a_second_axis_of_steps_if_they_use_equally_many() -> None:
    comparison = Comparison([method("one", 20, 3, 1), method("another", 20, 1, 1)])
    (axes,) = adaptation_figure(comparison).axes
    assert (axes.get_xscale(), axes.get_xticks().tolist()) == ("linear", [0, 20, 40, 60])
    (steps,) = axes.child_axes
    assert (steps.get_xlabel(), steps.get_xticks().tolist()) == ("adaptation steps", [0, 1, 2, 3])


def test_figures_name_them() -> None:
    entries = [method("ours", 20, 3, 1), method("ours", 20, 3, 1, mass=1.0)]
    comparison = Comparison(entries)
    for figure in (sweep_figure(comparison, "mass", None), tasks_figures(comparison)[0]):
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert [text.removeprefix("ours, ") for text in texts] == [
            "before adaptation",
            "after 1 step, 20 episodes",
        ]


@pytest.mark.parametrize("length", [35, 36, 60])
def test_a_legend_is_in_its_figure(length: int) -> None:
    settings = "learned_step_size per_layer, meta_batch_size 20, num_episodes 10"
    labels = [f"{name}, {settings}"[:length] for name in ("maml", "joint")]
    figure = adaptation_figure(Comparison([method(label, 20, 3, 1) for label in labels]))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_a_stage_names_its_episodes() -> None:
    assert stage_label(0, 0) == "before adaptation"
    assert stage_label(1, 1) == "after 1 step, 1 episode"
    assert stage_label(2, 40) == "after 2 steps, 40 episodes"
    assert stage_label(2) == "after 2 steps"
    assert stage_label(0, 0, is_episode=True) == "episode 1"
    assert stage_label(2, is_episode=True) == "episode 3"


def test_episodes_are_numbered_if_the_learner_adapts_in_them() -> None:
    entry = method("ours", 1, 3, 1)
    (evaluation,) = entry.evaluations
    description = {**evaluation.description, "stage_is_episode": True}
    evaluation = dataclasses.replace(evaluation, description=description)
    comparison = Comparison([dataclasses.replace(entry, evaluations=(evaluation,))])
    (axes,) = adaptation_figure(comparison).axes
    (numbers,) = axes.child_axes
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]
    assert (numbers.get_xlabel(), numbers.get_xticks().tolist()) == (
        "episode measured",
        [1, 2, 3, 4],
    )
    (legend,) = tasks_figures(comparison)[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["episode 1", "episode 2"]
    # Beside another learner, only episodes used are common to both.
    (axes,) = adaptation_figure(Comparison([*comparison.entries, method("maml", 20, 1, 1)])).axes
    assert not axes.child_axes


def test_captions_of_videos_name_them(agents: dict[str, Agent]) -> None:
    for name, last in (("maml", "after 2 steps, 6 episodes"), ("bandit", "after 2 steps, 2 ")):
        grid = play(agents[name], "gif", num_steps=2, num_episodes=3)
        assert grid.labels[0] == "before adaptation"
        assert grid.labels[2].startswith(last)
    # An agent that has adapted has used a number of episodes that is not known.
    adapted = agents["maml"].adapt(task=drawn_task(agents["maml"]), num_steps=1)
    assert play(adapted, "gif", num_steps=1).labels == ["after 1 step", "after 2 steps"]


def test_learning_curves_name_them(runs: dict[str, Path]) -> None:
    groups = group_runs(read_runs(list(runs.values())))
    labels = labels_of([group.settings for group in groups])
    assert labels == ["maml", BANDIT]
    view = View(metric=None, x="steps", smooth=1, before=False)
    figure = draw(groups, labels, view, None)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["maml, after 1 step, 2 episodes", f"{BANDIT}, after 2 steps, 2 episodes"]
    head, *rows = table(groups, labels, view).splitlines()
    assert "episodes used" in head
    assert [row.split()[5] for row in rows[:2]] == ["2", "2"]
    assert "episodes used" not in table(groups, labels, View("time/iteration", "steps", 1, False))


# --- labels of learners ---


def test_learners_are_labels() -> None:
    configs = [
        maml_rl.load_config(env="PointNavigation", learner=learner)
        for learner in ("maml", "joint", BANDIT)
    ]
    assert labels_of([group_settings(config) for config in configs]) == ["maml", "joint", BANDIT]


def test_sizes_are_compared_among_the_runs_of_a_learner() -> None:
    settings: list[dict[str, Any]] = [
        {"learner": "rl2", "meta_batch_size": 200, "num_episodes": 1},
        {"learner": "maml", "meta_batch_size": 20, "num_episodes": 10},
        {"learner": "maml", "meta_batch_size": 40, "num_episodes": 10},
    ]
    configs = [maml_rl.load_config(env="HalfCheetahVel", **one) for one in settings]
    groups = [group_settings(config) for config in configs]
    assert labels_of(groups) == ["rl2", "maml, meta_batch_size 20", "maml, meta_batch_size 40"]
    assert labels_of(groups[:2]) == ["rl2", "maml"]


def test_settings_of_the_policy_are_compared_among_the_runs_of_a_learner() -> None:
    settings: list[dict[str, Any]] = [
        {"learner": "rl2", "policy": {"action_scale": 0.5}, "horizon": 50},
        {"learner": "maml", "policy": {"action_scale": 0.1}},
        {"learner": "maml", "policy": {"action_scale": 0.2}},
    ]
    configs = [maml_rl.load_config(env="HalfCheetahVel", **one) for one in settings]
    groups = [group_settings(config) for config in configs]
    assert labels_of(groups) == [
        "rl2, horizon 50",
        "maml, horizon 100, action_scale 0.1",
        "maml, horizon 100, action_scale 0.2",
    ]
    assert labels_of(groups[:2]) == ["rl2, horizon 50", "maml, horizon 100"]


def test_settings_are_compared_among_the_learners_that_have_them() -> None:
    settings: list[dict[str, Any]] = [
        {"learner": "maml", "inner": {"step_size": 0.1}},
        {"learner": "maml", "inner": {"step_size": 0.2}},
        {"learner": BANDIT},
        {"learner": {"name": BANDIT, "size": 2.0}},
    ]
    configs = [maml_rl.load_config(env="PointNavigation", **one) for one in settings]
    assert labels_of([group_settings(config) for config in configs]) == [
        "maml, step_size 0.1",
        "maml, step_size 0.2",
        f"{BANDIT}, size 1.0",
        f"{BANDIT}, size 2.0",
    ]


@pytest.mark.slow
def test_the_command_compares_learners(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num_tasks=2", f"--num_episodes={E}", "--device=cpu", "--output", str(tmp_path)]
    assert main(["evaluate", str(runs["maml"]), str(runs["bandit"]), *flags]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for label, per_step in (("maml", E), (BANDIT, 1)):
        rows = [line[1:3] for line in lines if line[:1] == [label] and line[1].isdigit()]
        assert rows == [[str(k), str(k * per_step)] for k in range(4)]
