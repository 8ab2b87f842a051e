"""Several policies on the same tasks: the table, the files, and resuming after an interrupt."""

from __future__ import annotations

import csv
import dataclasses
import html
import importlib.metadata
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluations import made_up_description
from helpers.runs import tiny
from helpers.scripts import ROOT
from matplotlib.axes import Axes
from PIL import Image

import maml_rl
from maml_rl.analysis.comparison import saved_evaluations
from maml_rl.analysis.comparison.compare import Comparison, Condition, Subject, compare
from maml_rl.analysis.comparison.entries import Entry, learner_notes
from maml_rl.analysis.comparison.figures import (
    adaptation_figure,
    grid_figure,
    scratch_figure,
    sweep_figure,
)
from maml_rl.analysis.comparison.scratch import Scratch
from maml_rl.analysis.comparison.subjects import subjects_of_baselines, subjects_of_runs
from maml_rl.analysis.evaluation import Evaluation, evaluate
from maml_rl.analysis.report.files import write_report
from maml_rl.analysis.statistics import difference, mean_interval
from maml_rl.analysis.tasks.figures import tasks_figures
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.system.atomic_files import write_whole

SMALL = ["--num_tasks=3", "--num_episodes=2", "--num_steps=1", "--device=cpu"]


def make_run(output: Path, seed: int, env: dict) -> Path:
    config = maml_rl.load_config(
        env=env,
        device="cpu",
        seed=seed,
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=2,
        horizon=4,
        policy={"hidden_sizes": [4]},
        logging={"final_evaluation": False, "final_video": False},
        output=str(output),
    )
    return maml_rl.train(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("comparison")
    return [make_run(folder / f"seed{seed}", seed, {"name": "HalfCheetahVel"}) for seed in (0, 1)]


def subjects(runs: list[Path], *labels: str) -> list[Subject]:
    return [
        Subject(label, run, maml_rl.load(run), 1) for label, run in zip(labels, runs, strict=True)
    ]


CONDITION = Condition(lambda agent: agent.config.env)


def make_evaluation(returns: np.ndarray, tasks: list[dict[str, float]]) -> Evaluation:
    description = made_up_description(
        len(tasks), task_units={"goal": "m"}, learner={"name": "maml", "step_size": 0.1}
    )
    return Evaluation(tasks, returns, np.full(returns.shape, np.nan), description)


def made_up(sources: int = 1, num_tasks: int = 4, names: tuple[str, ...] = ("goal",)) -> Comparison:
    rng = np.random.default_rng(0)
    tasks = [
        {name: float(value) for name, value in zip(names, rng.normal(size=2), strict=False)}
        for _ in range(num_tasks)
    ]
    entries = []
    versions: list[dict[str, float]] = [
        {},
        {"mass": 1.0},
        {"mass": 2.0},
        {"slope": 0.0},
        {"slope": 0.1},
    ]
    versions += [{"mass": m, "slope": s} for m in (1.0, 2.0) for s in (0.0, 0.1)]
    for swept in versions:
        evaluations = [
            make_evaluation(rng.normal(size=(3, num_tasks, 2)), tasks) for _ in range(sources)
        ]
        entries.append(
            Entry("ours", tuple(Path(f"run{i}") for i in range(sources)), tuple(evaluations), swept)
        )
    return Comparison(entries)


@pytest.mark.parametrize(
    ("tasks", "is_given", "text"),
    [
        ([{"goal": 0.1}, {"goal": 0.2}], False, "2 fresh tasks"),
        ([{"direction": 1.0}, {"direction": -1.0}] * 2, False, "4 tasks (2 different)"),
        ([{"direction": 1.0}] * 2, True, "2 given tasks"),
    ],
)
def test_tasks_that_repeat_are_not_called_fresh(tasks, is_given, text):
    evaluation = make_evaluation(np.zeros((2, len(tasks), 2)), tasks)
    if is_given:
        evaluation.description["tasks_are_given"] = True
    result = Comparison([Entry("ours", (Path("run"),), (evaluation,), {})])
    assert result.tasks_text == text
    assert f"mean over {text}" in adaptation_figure(result).get_suptitle().replace("\n", " ")


def test_a_run_that_has_not_ended_has_its_iteration_in_the_output(tmp_path, capsys):
    run = tmp_path / "run"
    maml_rl.train(tiny(run, num_iterations=3, logging={"checkpoint_every": 1}))
    small = ["--num_tasks=1", "--num_episodes=2", "--num_steps=1", "--device=cpu"]
    assert main(["evaluate", str(run), *small]) == 0
    assert "has not ended" not in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints" / "000003")
    assert main(["evaluate", str(run), *small]) == 0
    expected = f"{run} has not ended: it is evaluated after iteration 2 of 3\n"
    assert expected in capsys.readouterr().out
    assert main(["evaluate", str(run), *small, "--iteration=1"]) == 0
    assert "has not ended" not in capsys.readouterr().out


class Stops(maml_rl.Callback):
    """Ends a run after its first iteration."""

    def on_iteration(self, run, metrics):
        run.stop("long enough")


def test_a_run_that_was_stopped_early_has_its_iteration_in_the_output(tmp_path, capsys):
    config = {"num_iterations": 2, "horizon": 4}
    runs = [
        maml_rl.train(tiny(tmp_path / "whole", seed=0, **config)),
        maml_rl.train(tiny(tmp_path / "short", seed=1, **config), callbacks=[Stops()]),
    ]
    budget = maml_rl.train(tiny(tmp_path / "budget", seed=2, max_env_steps=1, **config))
    capsys.readouterr()
    small = ["--num_tasks=1", "--num_episodes=2", "--num_steps=1", "--device=cpu"]
    assert main(["evaluate", *map(str, runs), "--output", str(tmp_path / "both"), *small]) == 0
    expected = f"{runs[1]} was stopped early: it is evaluated after iteration 1 of 2\n"
    out = capsys.readouterr().out
    assert expected in out
    assert out.count("stopped early") == 1
    assert main(["evaluate", str(budget), *small]) == 0  # it ended as its settings say
    assert "stopped early" not in capsys.readouterr().out


def test_a_saved_agent_is_not_a_seed_of_a_run_with_its_settings(runs, tmp_path):
    saved = maml_rl.load(runs[1]).save(tmp_path / "saved")
    both = subjects_of_runs([runs[0], saved], torch.device("cpu"), 1, None, None)
    assert [subject.label for subject in both] == ["own run", "saved agent"]


def test_every_agent_sees_the_same_tasks_as_alone(runs):
    several = compare(subjects(runs, "a", "b"), [CONDITION], num_tasks=3, num_episodes=2, seed=4)
    assert [entry.label for entry in several.main] == ["a", "b"]
    for run, entry in zip(runs, several.main, strict=True):
        alone = evaluate(maml_rl.load(run), num_tasks=3, num_episodes=2, num_steps=1, seed=4)
        np.testing.assert_array_equal(entry.evaluations[0].returns, alone.returns)
        assert list(entry.evaluations[0].tasks) == list(alone.tasks)
        np.testing.assert_array_equal(entry.center, alone.mean)
        np.testing.assert_array_equal(entry.interval, alone.interval)


def test_seeds_of_one_method_make_one_row(runs):
    (entry,) = compare(
        subjects(runs, "a", "a"), [CONDITION], num_tasks=3, num_episodes=2, seed=0
    ).main
    scores = np.stack([evaluation.task_returns for evaluation in entry.evaluations], axis=1)
    np.testing.assert_allclose(entry.center, scores.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(entry.task_returns, scores.mean(axis=1))
    np.testing.assert_allclose(entry.run_returns, scores.mean(axis=2).T, rtol=1e-6)
    np.testing.assert_allclose(entry.interval, mean_interval(scores.mean(axis=2)), rtol=1e-5)
    assert entry.over == "runs"
    for step, k in zip(entry.interval, range(2), strict=True):
        assert (step[0] <= entry.run_returns[:, k]).all(), "two runs are inside their own interval"
        assert (entry.run_returns[:, k] <= step[1]).all()


def test_runs_with_other_tasks_are_refused(runs):
    first, second = subjects(runs, "a", "b")
    env = dataclasses.replace(first.agent.config.env, kwargs={"high": 1.0})
    other = dataclasses.replace(
        second.agent, config=dataclasses.replace(second.agent.config, env=env)
    )
    finished: list[str] = []
    with pytest.raises(UserError, match="different tasks"):
        compare(
            [first, dataclasses.replace(second, agent=other), second],
            [CONDITION],
            num_tasks=3,
            num_episodes=2,
            seed=0,
            progress=finished.append,
        )
    assert finished == ["a"], "refused at the first difference"


@pytest.mark.slow
def test_an_interrupted_evaluation_resumes(runs, tmp_path, monkeypatch):
    """Ctrl-C in the second evaluation keeps the first; the result does not depend on it."""
    output = tmp_path / "out"
    flags = ["evaluate", *map(str, runs), *SMALL, "--output", str(output)]
    played = []
    original = saved_evaluations.evaluate

    def interrupted(agent, **options):
        if played:
            raise KeyboardInterrupt
        played.append(agent.config.seed)
        return original(agent, **options)

    with monkeypatch.context() as patched:
        patched.setattr(saved_evaluations, "evaluate", interrupted)
        assert main(flags) == 130
    assert len(list((output / "unfinished").iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(
            saved_evaluations,
            "evaluate",
            lambda agent, **options: (
                played.append(agent.config.seed),
                original(agent, **options),
            )[1],
        )
        assert main(flags) == 0
    assert played == [0, 1]
    assert not (output / "unfinished").exists()
    assert main([*flags[:-1], str(tmp_path / "whole")]) == 0
    for name in ("results.json", "results.csv", "adaptation.svg"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    facts = re.compile(r"<dt>(date|command)</dt><dd>[^<]*</dd>")  # when, and where to
    folders = output, tmp_path / "whole"
    first, second = (facts.sub("", (part / "report.html").read_text()) for part in folders)
    assert first == second


def test_a_damaged_part_is_named(runs, tmp_path):
    first = subjects(runs[:1], "a")
    sizes = {"num_tasks": 3, "num_episodes": 2, "seed": 0, "finished": tmp_path}
    compare(first, [CONDITION], **sizes)
    (part,) = tmp_path.iterdir()
    part.write_text(part.read_text()[:-20])
    with pytest.raises(UserError, match=r"damaged.*delete it"):
        compare(first, [CONDITION], **sizes)


def test_other_parameters_are_not_taken_for_the_same(runs, tmp_path):
    for run in runs:
        compare(
            subjects([run], "a"),
            [CONDITION],
            num_tasks=3,
            num_episodes=2,
            seed=0,
            finished=tmp_path,
        )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_part_that_another_run_left_has_the_facts_of_this_run(runs, tmp_path):
    (first,) = subjects(runs[:1], "a")
    counters = {**first.agent.state.counters, "iteration": 7}
    agent = dataclasses.replace(first.agent, state=first.agent.state._replace(counters=counters))
    for subject, expected in ((first, 1), (dataclasses.replace(first, agent=agent), 7)):
        sizes = {"num_tasks": 3, "num_episodes": 2, "seed": 0, "finished": tmp_path}
        (entry,) = compare([subject], [CONDITION], **sizes).main
        assert entry.evaluations[0].description["num_iterations"] == expected
    assert len(list(tmp_path.iterdir())) == 1


def test_a_saved_agent_does_not_say_how_long_it_was_trained(runs, tmp_path):
    agent = maml_rl.load(runs[0])
    assert agent.num_iterations == 1
    assert maml_rl.load(agent.save(tmp_path / "saved")).num_iterations is None


@pytest.mark.slow
def test_a_sweep_sets_each_value_and_a_grid_each_pair(runs, tmp_path, capsys):
    flags = ["--dynamics", "body_mass=0.5:2:3,slope=0:0.1:2", "--dynamics", "gravity=9"]
    assert main(["evaluate", str(runs[0]), *SMALL, "--output", str(tmp_path), *flags]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    masses, slopes = [0.5, 1.25, 2.0], [0.0, 0.1]
    expected = [{}, *({"body_mass": m} for m in masses), *({"slope": s} for s in slopes)]
    expected += [{"body_mass": m, "slope": s} for m in masses for s in slopes]
    assert [result["swept"] for result in results] == expected
    for result in results:
        assert all(
            entry["task"].items() >= {**result["swept"], "gravity": 9.0}.items()
            for entry in result["tasks"]
        )
    for name in ("sweep_body_mass", "sweep_slope", "grid_body_mass_slope"):
        assert (tmp_path / f"{name}.png").exists()
    assert re.search(r"^ +0.5 +meta-trained", capsys.readouterr().out, re.MULTILINE)
    assert main(["evaluate", str(runs[0]), *SMALL, "--output", str(tmp_path)]) == 0
    assert not list(tmp_path.glob("sweep_*")) + list(tmp_path.glob("grid_*"))


@pytest.mark.slow
def test_results_without_a_number_are_null(tmp_path):
    """JSON has no NaN: all tasks have failed after the last step."""
    comparison = made_up()
    for entry in comparison.entries:
        entry.evaluations[0].returns[2] = np.nan
    write_report(tmp_path, comparison)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    for name in ("return", "std_over_tasks"):
        assert [value is None for value in content["results"][0][name]] == [False, False, True]


@pytest.mark.slow
def test_the_files_agree_with_the_comparison(tmp_path):
    comparison = made_up()
    write_report(tmp_path, comparison, {"mass": (0.5, 1.5), "slope": (0.0, 0.0)})
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content.items() >= {"env": "Test", "num_tasks": 4, "seed": 0}.items()
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == len(comparison.entries) * 4 * 3
    for entry, result in zip(comparison.entries, content["results"], strict=True):
        returns = entry.evaluations[0].returns.mean(axis=2)
        np.testing.assert_allclose(result["return"], returns.mean(axis=1))
        np.testing.assert_allclose(result["std_over_tasks"], returns.std(axis=1))
        assert result["success"] == [None] * 3
        assert result["episodes_used"] == [0, 2, 4]
        for i, task in enumerate(result["tasks"]):
            np.testing.assert_allclose(task["returns"], returns[:, i])
        written = [
            row
            for row in rows
            if all(row[f"swept_{k}"] == str(entry.swept.get(k, "")) for k in ("mass", "slope"))
        ]
        np.testing.assert_allclose([float(row["return"]) for row in written], returns.T.ravel())
        assert [row["step"] for row in written] == ["0", "1", "2"] * 4


@pytest.mark.slow
def test_the_report_holds_everything_it_shows(tmp_path):
    write_report(tmp_path, made_up(), {"mass": (0.5, 1.5), "slope": (0.0, 0.0)})
    page = (tmp_path / "report.html").read_text()
    links = re.findall(r"(?:src|href)=[\"']([^\"']{,30})", page)
    assert len(links) == 5  # adaptation, tasks, two sweeps, a grid
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    first = made_up().main[0]
    assert f"{first.center[1]:.1f}" in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


@pytest.mark.slow
def test_the_report_says_what_made_it(runs, tmp_path, monkeypatch):
    """Command, date, versions, and seed and length of each run."""
    monkeypatch.chdir(runs[0].parent)
    flags = [*SMALL, "--output", str(tmp_path / "an output")]
    assert main(["evaluate", "seed0", str(runs[1]), *flags]) == 0
    page = html.unescape((tmp_path / "an output" / "report.html").read_text())
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))
    typed = ["python", "-m", "maml_rl.evaluate", "seed0", str(runs[1]), *flags]
    assert shlex.split(facts["command"]) == typed
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d [+-]\d{4}", facts["date"])
    assert f"torch {importlib.metadata.version('torch')}" in facts["versions"]
    assert ("commit" in facts) == (ROOT / ".git").exists()
    for seed in ("0", "1"):
        # Training, and as many for the choice of step sizes: 2 stages x 2 tasks x 2 episodes x 4.
        cells = ["meta-trained", f"seed{seed}", "maml", seed, "1", "64"]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    result = json.loads((tmp_path / "an output" / "results.json").read_text())["results"][0]
    assert (result["training_seeds"], result["num_iterations"]) == ([0, 1], [1, 1])
    assert result["num_env_steps"] == [64, 64]


@pytest.mark.slow
def test_a_pretrained_policy_is_named_without_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "PointNavigation", *SMALL, "--output", "out"]) == 0
    folder = str(Path(maml_rl.__file__).parent)
    for name in ("report.html", "results.json", "results.csv"):
        assert folder not in (tmp_path / "out" / name).read_text(), name
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>PointNavigation</td><td>maml</td><td>10</td><td>100</td>" in page
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert result["sources"] == ["PointNavigation"]


def test_a_name_is_escaped(tmp_path):
    comparison = made_up()
    entries = [
        dataclasses.replace(entry, label="<script>alert(1)</script>") for entry in comparison.main
    ]
    write_report(tmp_path, Comparison(entries))
    assert "<script" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("sources", "num_bands", "num_lines"),
    [(1, 1, 1), (2, 0, 3), (3, 0, 4), (4, 1, 1)],
)
def test_the_curve_shows_what_the_table_says(sources, num_bands, num_lines):
    comparison = made_up(sources)
    (axes,) = adaptation_figure(comparison).axes
    (entry,) = comparison.main
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), np.stack([[0, 2, 4], entry.center], axis=1)
    )
    assert (len(axes.collections), len(axes.lines)) == (num_bands, num_lines)
    title = adaptation_figure(comparison).get_suptitle()
    assert ("over tasks" in title, "over runs" in title) == (sources == 1, sources == 4)
    if num_lines > 1:
        assert "single runs" in title
        thin = [line.get_ydata() for line in axes.lines[1:]]
        np.testing.assert_allclose(thin, entry.run_returns)
    else:
        band = axes.collections[0].get_datalim(axes.transData)
        np.testing.assert_allclose([band.y0, band.y1], [entry.interval.min(), entry.interval.max()])


@pytest.mark.parametrize(
    ("sources", "over"),
    [(1, "over tasks"), (2, "single runs"), (4, "over runs")],
)
def test_the_figure_of_a_sweep_says_what_its_spread_is(sources, over):
    figure = sweep_figure(made_up(sources), "mass", (0.5, 1.5))
    assert over in figure.get_suptitle()
    num_runs = sources if sources == 2 else 0
    assert len(figure.axes[0].lines) == 2 * (1 + num_runs)


@pytest.mark.parametrize(
    ("numbers", "is_noted"),
    [((12_000, 18_000), False), ((12_000, 18_001), True), ((12_000, None), False)],
)
def test_unequal_control_steps_of_training_are_a_line(numbers, is_noted):
    entries = []
    for label, number in zip(("maml", "rl2"), numbers, strict=True):
        evaluation = make_evaluation(np.zeros((3, 2, 2)), [{"goal": 0.0}, {"goal": 1.0}])
        evaluation.description["num_env_steps"] = number
        entries.append(Entry(label, (Path(label),), (evaluation,), {}))
    lines = Comparison(entries).table().splitlines()
    assert ("control steps in training differ: maml 12,000, rl2 18,001" in lines) == is_noted
    assert any("control steps" in line for line in lines) == is_noted


def test_notes_of_runs_that_differ_name_the_seed() -> None:
    evaluations = []
    for seed, note in ((3, "steps of 0.1"), (4, "steps of 0.1"), (5, "steps of 0.2")):
        evaluation = make_evaluation(np.zeros((3, 2, 2)), [{"goal": 0.0}, {"goal": 1.0}])
        evaluation.description.update(training_seed=seed, learner={"name": "maml", "note": note})
        evaluations.append(evaluation)
    several = Entry("maml", (Path("a"),) * 3, tuple(evaluations), {})
    alike = Entry("maml", (Path("a"),) * 2, tuple(evaluations[:2]), {})
    assert learner_notes([several, alike]) == [
        "maml (3 runs): seed 3: steps of 0.1; seed 4: steps of 0.1; seed 5: steps of 0.2",
        "maml (2 runs): steps of 0.1",
    ]


OWN_FILES = (
    *("tasks.yaml", "tasks_hard.yaml", "tasks_hard.png", "scratch.py", "change.md"),
    *("sweep_mass.sh", "parallel.txt"),
)


@pytest.mark.parametrize("is_again", [False, True])
def test_files_of_the_users_in_the_folder_of_a_report_stay(tmp_path: Path, is_again: bool) -> None:
    comparison = Comparison(made_up().main)
    if is_again:
        write_report(tmp_path, made_up(), {})
    own = [*OWN_FILES, *(() if is_again else ("learning_curves.png",))]
    for name in own:
        (tmp_path / name).write_text("mine")
    write_report(tmp_path, comparison)
    assert [name for name in own if not (tmp_path / name).exists()] == []
    assert not (tmp_path / "sweep_mass.svg").exists()


@pytest.mark.parametrize("label", ["a $_$", "_old"])
def test_labels_are_written_as_they_are(label: str, tmp_path: Path) -> None:
    (ours,) = made_up().main
    comparison = Comparison([dataclasses.replace(ours, label=label), ours])
    figure = adaptation_figure(comparison)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [label, "ours"]
    write_report(tmp_path, comparison)
    assert (tmp_path / "report.html").exists()


def test_a_plot_that_cannot_be_drawn_leaves_the_earlier_report_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, made_up())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments: object) -> bytes:
        raise ValueError("no such font")

    monkeypatch.setattr("maml_rl.analysis.report.files.encoded", fail)
    with pytest.raises(ValueError, match="no such font"):
        write_report(tmp_path, made_up(num_tasks=3))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_method_alone_that_does_not_adapt_is_a_line() -> None:
    evaluation = make_evaluation(np.ones((1, 3, 2)), [{"goal": float(i)} for i in range(3)])
    (axes,) = adaptation_figure(Comparison([Entry("oracle", (Path("a"),), (evaluation,), {})])).axes
    assert np.ptp(axes.lines[0].get_xdata()) > 0


def test_a_band_is_drawn_and_named_only_where_there_is_one() -> None:
    returns = np.random.default_rng(0).normal(size=(3, 2, 2))
    returns[2, 1] = np.nan  # one task is left after two steps
    tasks = [{"goal": 0.0}, {"goal": 1.0}]
    (one,) = (Entry("a", (Path("a"),), (make_evaluation(returns, tasks),), {}),)
    figure = adaptation_figure(Comparison([one]))
    assert "band" in figure.get_suptitle()
    assert len(figure.axes[0].collections) == 1
    single = make_evaluation(returns[:, :1], tasks[:1])
    figure = adaptation_figure(Comparison([Entry("a", (Path("a"),), (single,), {})]))
    assert "band" not in figure.get_suptitle()
    assert len(figure.axes[0].collections) == 0


@pytest.mark.parametrize(
    ("scale", "digits"), [(0.1, 2), (1.0, 1), (100.0, 0)], ids=["small", "one", "large"]
)
def test_numbers_of_a_grid_tell_its_cells_apart(scale: float, digits: int) -> None:
    comparison = made_up()
    entries = [entry for entry in comparison.entries if len(entry.swept) == 2]
    for i, entry in enumerate(entries):
        entry.evaluations[0].returns[:] = scale * i / (len(entries) - 1)
    figure = grid_figure(Comparison([*comparison.main, *entries]), ("mass", "slope"))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {len(text.partition(".")[2]) for text in texts} == {digits}


def test_curves_of_tasks_that_repeat_belong_to_different_ones(tmp_path: Path) -> None:
    tasks = [{"direction": value} for value in (1.0, 1.0, -1.0, 1.0, -1.0)]
    curves = [
        {"task": task, "num_env_steps": [0, 10], "returns": [0.0, float(i)]}
        for i, task in enumerate([*tasks[:4], {"direction": 1.0}])
    ]
    (tmp_path / "ppo.json").write_text(json.dumps({"tasks": curves}))
    scratch = Scratch.read(tmp_path / "ppo.json", tasks)
    assert scratch is not None
    assert scratch.tasks == (0, 1, 2, 3)
    assert scratch.returns[:, 1].tolist() == [0, 1, 2, 3]


@pytest.mark.thorough
@pytest.mark.parametrize(("sources", "over"), [(1, "tasks"), (2, "runs"), (4, "runs")])
def test_every_interval_says_over_what_it_is(sources, over, tmp_path):
    comparison = made_up(sources)
    head, *rows = comparison.table().splitlines()
    assert head.split()[-1] == "over"
    assert {row.split()[-1] for row in rows[:3]} == {over}
    assert ("each run after 1 step, 2 episodes:" in comparison.table()) == (sources == 2)
    write_report(tmp_path, comparison, {"mass": (0.5, 1.5), "slope": (0.0, 0.0)})
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert {result["interval_over"] for result in results} == {over}
    for result, entry in zip(results, comparison.entries, strict=True):
        np.testing.assert_allclose(result["interval_95"], entry.interval)
        np.testing.assert_allclose(result["run_returns"], entry.run_returns)
    page = (tmp_path / "report.html").read_text()
    assert "<th>interval over</th>" in page
    assert f"<td>{over}</td>" in page


# --- a method against another ---


def two_methods(num_ours: int, num_others: int) -> Comparison:
    rng = np.random.default_rng(1)
    tasks = [{"goal": float(i)} for i in range(5)]
    entries = []
    methods = ("ours", num_ours, 3), ("others", num_others, 3), ("oracle", 1, 1)
    for label, number, steps in methods:
        returns = rng.normal(size=(number, steps, 5, 2))
        evaluations = [make_evaluation(each, tasks) for each in returns]
        sources = tuple(Path(f"{label}{i}") for i in range(number))
        entries.append(Entry(label, sources, tuple(evaluations), {}))
    return Comparison(entries)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ours", "num_others", "over"),
    [(1, 1, "tasks"), (3, 1, "runs"), (3, 2, "runs")],
)
def test_the_first_method_is_compared_with_each_other_one(num_ours, num_others, over, tmp_path):
    comparison = two_methods(num_ours, num_others)
    ours, others, _ = comparison.main
    scores = [np.stack([e.task_returns for e in m.evaluations], axis=1) for m in comparison.main]
    write_report(tmp_path, comparison)
    first, second = json.loads((tmp_path / "results.json").read_text())["differences"]
    assert (first["first"], first["second"], second["second"]) == ("ours", "others", "oracle")
    for k in range(3):
        # The oracle has one stage.
        for written, there in ((first, scores[1][k]), (second, scores[2][0])):
            expected, step = difference(scores[0][k], there), written["steps"][k]
            assert step["return"] == pytest.approx(expected.mean)
            np.testing.assert_allclose(step["interval_95"], expected.interval)
            assert step["probability_of_improvement"] == pytest.approx(expected.probability)
    assert first["steps"][0]["interval_over"] == over
    expected = difference(scores[0][1], scores[1][1])
    name, number = f"{ours.name} − {others.name}", f"{expected.mean:.1f}"
    line = next(line for line in comparison.table().splitlines() if line.strip().startswith(name))
    assert line.replace(name, "").split()[:3] == ["1", "2", number]
    assert line.split()[-2:] == [over, f"{expected.probability:.2f}"]
    assert f"<td>{name}</td>" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_one_method_has_no_differences(tmp_path):
    comparison = made_up()
    assert "difference" not in comparison.table()
    write_report(tmp_path, comparison, {"mass": (0.5, 1.5), "slope": (0.0, 0.0)})
    assert json.loads((tmp_path / "results.json").read_text())["differences"] == []
    assert "Differences" not in (tmp_path / "report.html").read_text()


# --- figures ---


def test_an_oracle_is_a_horizontal_line():
    comparison = made_up()
    (entry,) = comparison.main
    oracle = dataclasses.replace(
        entry,
        label="oracle",
        evaluations=(
            make_evaluation(entry.evaluations[0].returns[:1], entry.evaluations[0].tasks),
        ),
    )
    (axes,) = adaptation_figure(Comparison([entry, oracle])).axes
    np.testing.assert_allclose(
        axes.lines[1].get_xydata(), [[0, oracle.center[0]], [4, oracle.center[0]]]
    )
    assert axes.lines[1].get_linestyle() == "--"
    assert axes.lines[1].get_marker() == ""  # it used no episodes


def test_the_axis_of_episodes_says_where_it_is_logarithmic():
    (entry,) = made_up().main
    (axes, *_) = adaptation_figure(Comparison([entry])).axes
    assert axes.get_xlabel() == "episodes used per task"
    (evaluation,) = entry.evaluations
    description = {**evaluation.description, "episodes_per_step": 8}
    longer = dataclasses.replace(evaluation, description=description)
    other = dataclasses.replace(entry, label="other", evaluations=(longer,))
    (axes, *_) = adaptation_figure(Comparison([entry, other])).axes
    assert axes.get_xlabel() == "episodes used per task (linear up to 2, then logarithmic)"
    assert axes.get_xscale() == "symlog"


def test_tasks_are_shown_by_their_parameters():
    (curve,) = tasks_figures(made_up())
    assert curve.axes[0].get_xlabel() == "goal (m)"
    returns = made_up().main[0].task_returns
    np.testing.assert_allclose(
        curve.axes[0].lines[1].get_ydata(), returns[1]
    )  # as many steps as in training
    (goals,) = tasks_figures(made_up(names=("goal", "other")))
    np.testing.assert_allclose(
        goals.axes[1].collections[0].get_array(),
        made_up(names=("goal", "other")).main[0].task_returns[1],
    )
    assert tasks_figures(made_up(num_tasks=1)) == []


def with_tasks(tasks: list[dict]) -> Comparison:
    """Two methods on these tasks, and one without adaptation."""
    rng = np.random.default_rng(2)
    entries = []
    for label, num_stages in (("ours", 3), ("random", 3), ("oracle", 1)):
        evaluation = make_evaluation(rng.normal(size=(num_stages, len(tasks), 2)), tasks)
        entries.append(Entry(label, (Path(label),), (evaluation,), {}))
    return Comparison(entries)


@pytest.mark.thorough
@pytest.mark.parametrize("num_values", [1, 2, 3, 6])
def test_each_method_has_its_figure_of_the_tasks(num_values, tmp_path):
    rng = np.random.default_rng(0)
    tasks = [{f"value_{i}": float(rng.normal()) for i in range(num_values)} for _ in range(5)]
    comparison = with_tasks(tasks)
    figures = tasks_figures(comparison)
    for entry, figure in zip(comparison.main, figures, strict=True):
        assert entry.label in figure.get_suptitle()
        stages = entry.task_returns[: 2 if len(entry.center) > 1 else 1]
        if num_values == 2:
            panels = figure.axes[: len(stages)]
            shown = [axes.collections[0].get_array() for axes in panels]
            np.testing.assert_allclose(shown, stages)
        else:
            names = [f"value {i}" for i in range(num_values)]
            assert [axes.get_xlabel() for axes in figure.axes] == names
            for i, axes in enumerate(figure.axes):
                values = [task[f"value_{i}"] for task in tasks]
                np.testing.assert_allclose(axes.lines[0].get_xdata(), values)
                np.testing.assert_allclose([line.get_ydata() for line in axes.lines], stages)
    write_report(tmp_path, comparison)
    written = {path.stem for path in tmp_path.glob("tasks*.svg")}
    assert written == {"tasks", "tasks_2", "tasks_3"}
    assert (tmp_path / "report.html").read_text().count('alt="tasks') == 3
    write_report(tmp_path, Comparison(comparison.main[:1]))
    assert {path.name for path in tmp_path.glob("tasks*.svg")} == {"tasks.svg"}


@pytest.mark.slow
def test_more_values_than_panels_are_counted():
    tasks = [{f"value_{i}": float(i * j) for i in range(1, 51)} for j in range(3)]
    (figure, *_) = tasks_figures(with_tasks(tasks))
    assert len(figure.axes) == 40
    assert "the first 40 of 50 values" in figure.get_suptitle()


def test_values_of_tasks_that_are_not_numeric_are_named_and_not_drawn():
    tasks = [
        {"gait": "trot", "speed": 1.0, "links": [1]},
        {"gait": "walk", "speed": 2.0, "links": [2]},
    ]
    (figure, *_) = tasks_figures(with_tasks(tasks))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "speed"
    assert "gait, links" in figure.get_suptitle()


def test_tasks_without_numeric_values_are_reported_without_a_figure(tmp_path):
    tasks = [{"gait": "trot", "links": [1, 2]}, {"gait": "walk", "links": [1, 3]}]
    evaluation = make_evaluation(np.zeros((2, 2, 2)), tasks)
    comparison = Comparison([Entry("ours", (tmp_path,), (evaluation,), {})])
    assert tasks_figures(comparison) == []
    write_report(tmp_path / "out", comparison)
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]["tasks"][1][
            "task"
        ]
        == tasks[1]
    )


def test_long_labels_and_titles_fit_into_the_figures():
    comparison = made_up()
    entries = []
    for i in range(4):
        label = f"method {i}, " + ", ".join(f"setting_{j} {i / 7:.3f}" for j in range(14))
        entries += [dataclasses.replace(entry, label=label) for entry in comparison.entries]
        note = {"name": "maml", "note": "adaptation step sizes " + "0.1, " * 40}
        for evaluation in entries[-1].evaluations:
            evaluation.description["learner"] = note
    several = Comparison(entries)
    figures = [adaptation_figure(several), sweep_figure(several, "mass", None)]
    for figure in [*figures, grid_figure(several, ("mass", "slope")), *tasks_figures(several)]:
        renderer = figure.canvas.get_renderer()
        figure.canvas.draw()
        width, _ = figure.canvas.get_width_height()
        texts = [text for legend in figure.legends for text in legend.get_texts()]
        texts += [axes.title for axes in figure.axes if axes.get_title()]
        (title,) = [one for one in figure.texts if one.get_text() == figure.get_suptitle()]
        for text in [*texts, title]:
            box = text.get_window_extent(renderer)
            assert -1 < box.x0 < box.x1 < width + 1, text.get_text()
        assert figure.axes[0].get_window_extent(renderer).height > 90
    assert "adaptation step sizes" not in figures[0].get_suptitle()  # the tables have the notes


@pytest.mark.slow
def test_labels_of_runs_can_be_chosen(runs, tmp_path, capsys):
    inner = {"step_size": 0.3}
    other = tmp_path / "other"
    maml_rl.train(maml_rl.load_config(runs[0] / "config.yaml", inner=inner, output=str(other)))
    command = ["evaluate", *map(str, runs), str(other), *SMALL, "--output", str(tmp_path / "out")]
    assert main([*command, "--labels", "all", "fast"]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(one["policy"], len(one["sources"])) for one in content["results"]] == [
        ("all", 2),
        ("fast", 1),
    ]
    capsys.readouterr()
    for labels, message in (
        (["all"], "--labels needs 2 labels"),
        (["all", "all"], "--labels must be different"),
        (["all", "oracle"], "the names of baselines"),
    ):
        assert main([*command, "--labels", *labels]) == 2
        assert message in capsys.readouterr().err


def test_a_method_has_one_style_in_all_figures_even_if_another_one_is_absent():
    comparison = made_up()
    entries = []
    for label in ("first", "second", "third"):
        for entry in comparison.entries:
            if label != "first" or not entry.swept:  # it has no sweep
                entries.append(dataclasses.replace(entry, label=label))
    several = Comparison(entries)

    def style(axes: Axes, beginning: str) -> tuple[object, ...]:
        lines = [one for one in axes.lines if str(one.get_label()).startswith(beginning)]
        solid = [one for one in lines if one.get_alpha() is None]
        assert len(solid) == 1
        return (solid[0].get_color(), solid[0].get_marker(), solid[0].get_linestyle())

    (of_adaptation, *_) = adaptation_figure(several).axes
    (of_sweep,) = sweep_figure(several, "mass", None).axes
    assert len(of_sweep.lines) == 4  # both before and after adaptation
    for label in ("second", "third"):
        assert style(of_adaptation, label) == style(of_sweep, label)
    assert style(of_sweep, "second") != style(of_sweep, "third")
    before, after = of_sweep.lines[:2]
    assert before.get_color() == after.get_color()
    assert before.get_alpha() < 1


def test_a_sweep_shades_what_training_saw():
    comparison = made_up()
    figure = sweep_figure(comparison, "mass", (0.5, 1.5))
    np.testing.assert_allclose(sorted(figure.axes[0].lines[0].get_xdata()), [1.0, 2.0])
    assert [patch.get_width() for patch in figure.axes[0].patches] == [1.0]
    at_one_value = sweep_figure(comparison, "mass", (1.0, 1.0))
    assert not at_one_value.axes[0].patches
    before, after, trained = at_one_value.axes[0].lines
    np.testing.assert_allclose(trained.get_xdata(), 1.0)
    entries = comparison.sweep("mass")
    np.testing.assert_allclose(before.get_ydata(), [entry.center[0] for entry in entries])
    np.testing.assert_allclose(after.get_ydata(), [entry.center[1] for entry in entries])


@pytest.mark.parametrize(
    ("values", "is_log"),
    [
        ((0.25, 0.397, 0.63, 1.0, 1.59, 2.52, 4.0), True),  # as compare rounds them
        ((0.49, 0.621, 0.788, 1.0, 1.25, 1.41, 1.69), False),
        ((0.5, 1.0, 1.5, 2.0), False),
        ((0.0, 1.0, 2.0), False),
        ((1.0, 2.0), False),
    ],
)
def test_the_axis_of_factors_spaced_by_logarithms_is_logarithmic(values, is_log):
    (entry,) = made_up().main
    entry.evaluations[0].description["task_units"] = {"body_mass": "factor"}
    entries = [entry, *(dataclasses.replace(entry, swept={"body_mass": x}) for x in values)]
    figure = sweep_figure(Comparison(entries), "body_mass", (0.5, 2.0), "nominal")
    (axes,) = figure.axes
    assert axes.get_xscale() == ("log" if is_log else "linear")
    assert axes.get_xlabel() == "body mass (factor)"
    if is_log:
        assert axes.get_xticks().tolist() == list(values)
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == [f"{value:g}" for value in values]
    assert "body mass fixed, other values nominal" in figure.get_suptitle().replace("\n", " ")


def test_an_argument_of_an_environment_is_not_called_a_factor():
    (entry,) = made_up().main
    values = (0.25, 0.397, 0.63, 1.0, 1.59, 2.52, 4.0)
    entries = [entry, *(dataclasses.replace(entry, swept={"mass": x}) for x in values)]
    (axes,) = sweep_figure(Comparison(entries), "mass", (0.5, 2.0), "nominal").axes
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "mass")


def test_a_grid_has_each_pair_in_its_place():
    comparison = made_up()
    figure = grid_figure(comparison, ("mass", "slope"))
    values = figure.axes[1].images[0].get_array()
    assert values is not None
    for entry in comparison.sweep("mass", "slope"):
        row, column = [0.0, 0.1].index(entry.swept["slope"]), [1.0, 2.0].index(entry.swept["mass"])
        assert values[row, column] == pytest.approx(entry.center[1])


def test_a_grid_of_several_methods_has_a_panel_for_each():
    rng = np.random.default_rng(0)
    entries = []
    for mass, slope in itertools.product((1.0, 2.0), (0.0, 0.1)):
        for label, num_stages in (("a", 3), ("b", 2), ("c", 1), ("d", 2), ("e", 1)):
            returns = rng.normal(size=(num_stages, 2, 2))
            evaluation = make_evaluation(returns, [{"goal": 0.0}, {"goal": 1.0}])
            swept = {"mass": mass, "slope": slope}
            entries.append(Entry(label, (Path(label),), (evaluation,), swept))
    figure = grid_figure(Comparison(entries), ("mass", "slope"))
    panels = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.images}
    assert list(panels) == ["a", "b", "c", "d", "e"]
    for entry in entries:
        row, column = [0.0, 0.1].index(entry.swept["slope"]), [1.0, 2.0].index(entry.swept["mass"])
        expected = entry.center[entry.adapted_step]
        assert panels[entry.label][row, column] == pytest.approx(expected)


def test_a_grid_draws_cells_without_any_task():
    comparison = made_up()
    for entry in comparison.sweep("mass", "slope")[:1]:
        for evaluation in entry.evaluations:
            evaluation.returns[:] = np.nan
    figure = grid_figure(comparison, ("mass", "slope"))
    assert "none" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.figures
@pytest.mark.thorough
def test_figures_are_not_blank(tmp_path):
    write_report(tmp_path, made_up(), {"mass": (0.5, 1.5), "slope": (0.0, 0.0)})
    files = sorted(tmp_path.glob("*.png"))
    assert len(files) == 5
    for path in files:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_the_same_run_twice_is_refused(runs, capsys):
    assert main(["evaluate", str(runs[0]), str(runs[0]), *SMALL]) == 2
    assert f"run {runs[0]} is given twice" in capsys.readouterr().err


def test_runs_of_two_families_are_refused(runs, tmp_path, capsys):
    other = make_run(tmp_path / "point", 0, {"name": "PointNavigation"})
    assert main(["evaluate", str(runs[0]), str(other), *SMALL]) == 2
    assert "HalfCheetahVel and PointNavigation" in capsys.readouterr().err


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(path, "new")
    assert path.read_text() == "old"


# --- baselines ---


@pytest.fixture(scope="module")
def run_with_baselines(tmp_path_factory) -> Path:
    run = make_run(tmp_path_factory.mktemp("baselines") / "run", 0, {"name": "PointNavigation"})
    assert (
        main(
            [
                "baselines",
                str(run),
                "--num_iterations=1",
                "--num_tasks=2",
                "--ppo_env_steps=4096",
                "--device=cpu",
            ]
        )
        == 0
    )
    return run


@pytest.mark.thorough
def test_baselines_are_evaluated_beside_the_run(run_with_baselines, tmp_path, capsys):
    flags = ["--num_tasks=40", "--num_episodes=2", "--num_steps=2", "--device=cpu"]
    assert main(["evaluate", str(run_with_baselines), *flags, "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    steps = {result["policy"]: len(result["return"]) for result in content["results"]}
    assert steps == {"meta-trained": 3, "random": 3, "pretrained": 3, "oracle": 1}
    assert content["scratch"]["tasks"] == [0, 1]
    first = content["results"][0]["tasks"]
    mean = np.mean([first[i]["returns"][1] for i in (0, 1)])
    said = capsys.readouterr().out
    assert re.search(rf"^ *meta-trained +8 +{mean:.1f}$", said, re.MULTILINE), (
        said
    )  # 2 episodes of 4 steps
    assert (tmp_path / "scratch.png").exists()
    assert "Comparison with learning from scratch" in (tmp_path / "report.html").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--no_baselines"], ["meta-trained"]),
        (["--tasks.high=1.0"], ["meta-trained", "random", "pretrained", "oracle"]),
        (["--seed=5"], ["meta-trained", "random", "pretrained", "oracle"]),
    ],
)
def test_learning_from_scratch_is_shown_on_its_own_tasks_alone(
    run_with_baselines, tmp_path, flags, expected
):
    assert (
        main(["evaluate", str(run_with_baselines), *SMALL, "--output", str(tmp_path), *flags]) == 0
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert [result["policy"] for result in content["results"]] == expected
    assert content["scratch"] is None
    assert not (tmp_path / "scratch.png").exists()


@pytest.mark.slow
def test_an_oracle_is_left_out_with_dynamics_that_it_has_not_observed(tmp_path):
    run = make_run(tmp_path / "run", 0, {"name": "HalfCheetahVel"})
    chosen = ["--baseline", "random", "oracle", "--num_iterations=1"]
    assert main(["baselines", str(run), *chosen, "--device=cpu"]) == 0
    for flags, expected in (
        ([], ["meta-trained", "random", "oracle"]),
        (["--dynamics=body_mass=2"], ["meta-trained", "random"]),
    ):
        output = ["--output", str(tmp_path / f"{len(flags)}")]
        assert main(["evaluate", str(run), *SMALL, *output, *flags]) == 0
        content = json.loads((tmp_path / f"{len(flags)}" / "results.json").read_text())
        assert [result["policy"] for result in content["results"]] == expected


def test_the_figure_of_learning_from_scratch_is_of_the_same_tasks():
    comparison = made_up()
    scratch = Scratch(
        "PPO",
        Path("results.json"),
        (1, 3),
        np.array([0.0, 50.0]),
        np.array([[1.0, 2.0], [3.0, 6.0]]),
    )
    (axes,) = scratch_figure(Comparison(comparison.main, scratch)).axes
    ours, from_scratch = axes.lines
    np.testing.assert_allclose(ours.get_xdata(), [0, 10, 20])  # 2 episodes of 5 steps each
    np.testing.assert_allclose(
        ours.get_ydata(), comparison.main[0].task_returns[:, [1, 3]].mean(axis=1)
    )
    np.testing.assert_allclose(from_scratch.get_ydata(), [2.0, 4.0])
    # A method with longer episodes uses more control steps.
    first = comparison.main[0]
    longer = [
        dataclasses.replace(one, description={**one.description, "horizon": 7})
        for one in first.evaluations
    ]
    long = dataclasses.replace(first, label="long", evaluations=tuple(longer))
    both = Comparison([first, long], scratch)
    assert [row[1] for row in both.scratch_rows()[1:3]] == ["10", "14"]
    lines = scratch_figure(both).axes[0].lines
    assert [line.get_xdata().tolist() for line in lines[:2]] == [[0, 10, 20], [0, 14, 28]]


@pytest.mark.parametrize(
    "content",
    ['{"tasks": [{"task"', '{"tasks": [{"task": {}, "num_env_steps": [0], "returns": [1.0]}]}'],
    ids=["cut", "one point"],
)
def test_a_damaged_learning_curve_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"results.json cannot be read"):
        Scratch.read(path, [{}])


@pytest.mark.thorough
def test_the_commands_of_the_document(runs, tmp_path, monkeypatch):
    """docs/evaluation.md, with small numbers."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()
    commands = [
        line.split()[3:]
        for line in text.splitlines()
        if line.startswith("python -m maml_rl.evaluate")
    ]
    monkeypatch.chdir(tmp_path)
    for name, run in (("point", runs[0]), ("point-seed1", runs[1]), ("masses", runs[0])):
        shutil.copytree(run, f"runs/{name}")
    assert len(commands) == 4
    for arguments in commands:
        assert main(["evaluate", *arguments, *SMALL[:2]]) == 0
    for folder in ("runs/point/evaluation", "runs/both", "runs/masses/evaluation"):
        assert (Path(folder) / "report.html").exists()


@pytest.mark.parametrize(
    "name", ["adaptation", "tasks", "scratch", "sweep_NAME", "report.html", "results.csv"]
)
def test_the_document_names_every_file(name):
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()
    assert f"`{name}`" in text


def test_copies_of_an_agent_are_not_two_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their spread is zero, and so would be the interval."""
    sizes = {
        "num_iterations": 1,
        "meta_batch_size": 2,
        "num_episodes": 2,
        "horizon": 5,
        "device": "cpu",
    }
    off = {"final_evaluation": False, "final_video": False}
    run = maml_rl.train(
        maml_rl.load_config(
            env="PointNavigation", output=str(tmp_path / "run"), logging=off, **sizes
        )
    )
    shutil.copytree(run, tmp_path / "copy")
    assert (
        main(
            [
                "evaluate",
                str(run),
                str(tmp_path / "copy"),
                "--num_tasks",
                "2",
                "--num_episodes",
                "2",
            ]
        )
        == 2
    )
    assert "holds the same agent as" in capsys.readouterr().err
    assert not (run / "evaluation").exists()


def test_baselines_that_are_one_agent_count_once(tmp_path: Path) -> None:
    sizes = {
        "num_iterations": 1,
        "meta_batch_size": 2,
        "num_episodes": 2,
        "horizon": 5,
        "device": "cpu",
    }
    off = {"final_evaluation": False, "final_video": False}
    runs = []
    for seed in (1, 2):
        folder = tmp_path / f"run{seed}"
        config = maml_rl.load_config(
            env="PointNavigation", seed=seed, output=str(folder), logging=off, **sizes
        )
        runs.append(maml_rl.train(config))
        shutil.copytree(runs[0], folder / "baselines" / "random")
    cpu = torch.device("cpu")
    of_runs = subjects_of_runs(runs, cpu, 1, None, None)
    subjects = subjects_of_baselines(of_runs, cpu, 1, with_oracle=True)
    assert [subject.label for subject in subjects] == ["random"]
    # Runs with different settings do not share their baselines.
    of_runs = [
        dataclasses.replace(one, label=label)
        for one, label in zip(of_runs, ("few steps", "many"), strict=True)
    ]
    subjects = subjects_of_baselines(of_runs, cpu, 1, with_oracle=True)
    assert [one.label for one in subjects] == ["random of few steps", "random of many"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_an_unfinished_folder_that_is_not_a_folder_is_refused_before_anything_is_played(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        (folder / "unfinished").symlink_to(tmp_path / "elsewhere")
    else:
        (folder / "unfinished").write_text("")
    arguments = [
        "PointNavigation",
        "--num_tasks",
        "2",
        "--num_episodes",
        "2",
        "--output",
        str(folder),
    ]
    assert main(["evaluate", *arguments]) == 2
    assert "unfinished is not a folder that can be written to: delete it" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_runs_of_different_lengths_are_separate_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        maml_rl.train(tiny(tmp_path / str(number), num_iterations=number, seed=5))
    assert main(["evaluate", "1", "2", "--num_tasks=2", "--num_episodes=2", "--num_steps=1"]) == 0
    text = capsys.readouterr().out
    assert "num_iterations 1  " in text
    assert "num_iterations 2  " in text


def test_two_runs_of_one_seed_are_refused(tmp_path, capsys):
    run = maml_rl.train(tiny(tmp_path / "run", num_iterations=2, logging={"checkpoint_every": 1}))
    other = shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(other / "checkpoints/000002")
    assert main(["evaluate", str(run), str(other), "--num_tasks=2"]) == 2
    assert "have the same settings and the same seed 0: name one" in capsys.readouterr().err
