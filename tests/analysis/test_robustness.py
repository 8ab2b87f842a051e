"""Returns inside and outside the dynamics of training, against values computed by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluations import made_up_description

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.dynamics import tables
from maml_rl.analysis.dynamics.figures import unseen_adaptation_figure
from maml_rl.analysis.dynamics.robustness import Origin, Robustness
from maml_rl.analysis.evaluation import Evaluation
from maml_rl.analysis.figures import new_figure
from maml_rl.analysis.report.files import write_report

TASKS = [{"goal": float(i)} for i in range(5)]
MASSES = (0.5, 1.0, 2.0, 4.0)
DELAYS = (0.0, 2.0)
TRAINED = {"mass": (0.5, 2.0), "delay": (0.0, 1.0)}
NOMINAL = {"mass": 1.0, "delay": 0.0}


def entry(label: str, returns: list[float], swept: dict[str, float]) -> Entry:
    """One run for each return, which it has in every task after its only step."""
    description = made_up_description(len(TASKS))
    evaluations = []
    for value in returns:
        # -1000 before adaptation; the tasks differ by 1, and their mean is the value.
        after = value + np.arange(len(TASKS)) - 2.0
        both = np.stack([np.full(len(TASKS), -1000.0), after])[..., None].repeat(2, axis=2)
        evaluations.append(Evaluation(TASKS, both, np.full(both.shape, np.nan), description))
    sources = tuple(Path(f"{label}{i}") for i in range(len(returns)))
    return Entry(label, sources, tuple(evaluations), swept)


def robustness(oracle: float = 200.0) -> Robustness:
    entries = [entry("oracle", [oracle], {}), entry("ours", [90.0, 110.0], {})]
    for i, mass in enumerate(MASSES):
        entries.append(entry("oracle", [oracle], {"mass": mass}))
        entries.append(entry("ours", [10.0 * i, 10.0 * i + 20], {"mass": mass}))
    for delay in DELAYS:
        entries.append(entry("oracle", [oracle], {"delay": delay}))
        entries.append(entry("ours", [-delay, -delay], {"delay": delay}))
    origins = {
        "oracle": Origin("the task", [4_000_000], [1.0]),
        "ours": Origin("nothing", [4_000_000, 4_100_000], [1.5, 2.5]),
    }
    return Robustness(Comparison(entries), origins, TRAINED, NOMINAL, "oracle", 4_100_000)


def changed(entries: list[Entry], trained: dict[str, tuple[float, float]] = TRAINED) -> Robustness:
    """The same with other entries."""
    return dataclasses.replace(robustness(), comparison=Comparison(entries), trained=trained)


def test_the_table_of_methods():
    header, oracle, ours = tables.summary(robustness())
    assert len(header) == len(oracle) == len(ours)
    assert oracle == [
        "oracle",
        "the task",
        "4",
        "2",
        "200.0",
        "200.0",
        "100",
        "200.0",
        "100",
        "198.0",
    ]
    # Runs 90 and 110. Inside: masses 0.5, 1 and 2, so 0, 10, 20, and 20 more for the second run: 10
    # and 30. Delay 0 is nominal, as is mass 1, and does not count again. Outside: 30 and -2, and 50
    # and -2: 14 and 24. Student's t of two values is their half difference times 12.706.
    assert ours[:5] == ["ours (2 runs)", "nothing", "4 to 4.1", "2", "100.0 [-27.1, 227.1]"]
    assert ours[5:9] == ["20.0 [-107.1, 147.1]", "10", "19.0 [-44.5, 82.5]", "10"]
    # 25 points and tasks; the lowest three of both runs: -4, -3 and -2 at delay 2.
    assert ours[9] == "-3.0 [-3.0, -3.0]"


def test_a_point_is_inside_if_all_quantities_are():
    """If training had no nominal delay, no point of the sweep of masses was in training."""
    result = dataclasses.replace(robustness(), trained={"mass": (0.5, 2.0), "delay": (1.0, 2.0)})
    assert [entry.swept for entry in result.swept("ours", "inside")] == [{"delay": 2.0}]
    outside = [entry.swept for entry in result.swept("ours", "outside")]
    assert outside == [{"mass": mass} for mass in MASSES]


def test_the_table_of_two_quantities():
    assert tables.pairs(robustness()) == []
    entries = [entry("oracle", [200.0], {}), entry("ours", [90.0, 110.0], {})]
    entries.append(entry("oracle", [150.0], {"mass": 4.0, "delay": 2.0}))
    entries.append(entry("ours", [10.0, 30.0], {"mass": 4.0, "delay": 2.0}))
    result = changed(entries)
    assert tables.pairs(result) == [
        ["mass", "delay", "oracle", "ours"],
        ["4", "2", "150.0", "20.0"],
    ]


def test_the_area_is_the_mean_height_of_the_curve():
    result = robustness()
    # Means over runs 10, 20, 30, 40 at 0.5, 1, 2, 4; each doubling counts alike.
    assert result.area("ours", "mass") == pytest.approx((15 + 25 + 35) / 3)
    assert result.area("ours", "delay") == pytest.approx(-1)
    assert tables.areas(result) == [
        ["policy", "mass", "delay"],
        ["oracle", "200.0", "200.0"],
        ["ours (2 runs)", "25.0", "-1.0"],
    ]
    # On a linear axis without even spacing of logarithms: (15·0.5 + 25·1 + 35·2) / 3.5.
    entries = [
        dataclasses.replace(one, swept={"mass": one.swept["mass"] - 0.5})
        for one in result.comparison.sweep("mass")
    ]
    linear = changed(entries, {})
    assert linear.area("ours", "mass") == pytest.approx(102.5 / 3.5)


def test_each_method_is_compared_with_the_reference_inside_and_outside():
    result = robustness()
    # The means of the runs of ours are 10 and 30 inside, 14 and 24 outside; the oracle is one
    # run, a constant: Student's t of two values is their half difference times 12.706.
    assert tables.differences(result) == [
        ["difference", "inside", "95 % interval", "outside", "95 % interval"],
        [
            "ours (2 runs) − oracle",
            "-180.0",
            "[-307.1, -52.9]",
            "-181.0",
            "[-244.5, -117.5]",
        ],
    ]
    of_oracle, of_ours = [one["minus_reference"] for one in result.values()]
    assert of_oracle is None
    assert of_ours["reference"] == "oracle"
    assert of_ours["inside"]["return"] == pytest.approx(-180)
    assert of_ours["outside"]["interval_95"] == pytest.approx([-244.5, -117.5], abs=0.1)
    alone = [one for one in result.comparison.entries if one.label == "oracle"]
    assert tables.differences(changed(alone)) == []


def test_gains_by_adaptation():
    # Before adaptation, all returns are -1000. The means of the runs of ours are 10 and 30
    # inside: Student's t of two values is their half difference times 12.706.
    header, oracle, ours = tables.gains(robustness())
    assert header[:4] == ["policy", "episodes used", "inside: before", "after"]
    assert len(header) == len(oracle) == len(ours)
    assert ours[:5] == ["ours (2 runs)", "2", "-1000.0", "20.0", "1020.0"]
    assert ours[5] == "[892.9, 1147.1]"
    assert ours[6:9] == ["-1000.0", "19.0", "1019.0"]
    # The oracle has a single run, and its returns on several points are not independent.
    assert oracle[2:6] == ["-1000.0", "200.0", "1200.0", "–"]


def test_gains_are_over_the_tasks_that_failed_in_no_run():
    result = robustness()
    entries = [one for one in result.comparison.entries if one.label == "ours"]
    # In the first run, task 0 with a mass of 1 fails in the step; the mean of the others is 0.5
    # higher.
    (nominal,) = (one for one in entries if one.swept == {"mass": 1.0})
    nominal.evaluations[0].returns[1, 0] = np.nan
    _, ours = tables.gains(changed(entries))
    before, after, gain = map(float, ours[2:5])
    # Three points of equal weight, with mean returns of 10, 20.5 and 30, as in the first table.
    assert (before, after) == (-1000.0, round((10 + 20.5 + 30) / 3, 1))
    assert gain == pytest.approx(after - before, abs=0.11)
    assert after == round(float(result.curves("ours", "inside")[:, 1].mean()), 1)


def test_success_is_over_the_tasks_of_the_return():
    one = entry("ours", [90.0, 110.0], {})
    first, second = one.evaluations
    for evaluation, success in ((first, 1.0), (second, 0.0)):
        evaluation.success[:] = success
    first.returns[1, 0] = np.nan
    second.success[1, 0] = 1.0
    assert one.success.tolist() == [0.5, 0.5]


def test_the_adaptation_curve_inside_and_outside(tmp_path):
    result = robustness()
    # The means of the runs of ours after the step are 10 and 30 inside, 14 and 24 outside.
    assert result.curves("ours", "inside").tolist() == [[-1000, 10], [-1000, 30]]
    assert result.curves("ours", "outside").tolist() == [[-1000, 14], [-1000, 24]]
    # Student's t of two values is their half difference times 12.706; one run has no interval.
    assert tables.adaptation(result) == [
        [
            *["policy", "steps", "episodes used"],
            *["inside", "95 % interval", "outside", "95 % interval"],
        ],
        ["oracle", "0", "0", "-1000.0", "–", "-1000.0", "–"],
        ["oracle", "1", "2", "200.0", "–", "200.0", "–"],
        ["ours (2 runs)", "0", "0", *["-1000.0", "[-1000.0, -1000.0]"] * 2],
        ["ours (2 runs)", "1", "2", "20.0", "[-107.1, 147.1]", "19.0", "[-44.5, 82.5]"],
    ]
    figure = unseen_adaptation_figure(result)
    assert [axes.get_title() for axes in figure.axes] == [
        "inside the ranges of training",
        "outside the ranges of training",
    ]
    outside = {line.get_label(): line for line in figure.axes[1].lines}["ours (2 runs)"]
    assert outside.get_xydata().tolist() == [[0, -1000], [2, 19]]
    title = figure.get_suptitle()
    assert title.endswith("\nthin lines: single runs")  # the oracle, a single run, has no band
    write_report(tmp_path, result.comparison, TRAINED, "python", result)
    assert 'alt="unseen adaptation"' in (tmp_path / "report.html").read_text()
    assert (tmp_path / "unseen_adaptation.png").exists()
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["robustness"][1]["adaptation"] == {
        "episodes_used": [0, 2],
        "inside": [[-1000, 10], [-1000, 30]],
        "outside": [[-1000, 14], [-1000, 24]],
    }


def test_a_method_without_adaptation_is_a_dashed_line_in_the_adaptation_curve():
    entries = []
    for swept in ({}, {"mass": 1.0}, {"mass": 4.0}):
        entries += [without_adaptation("plain", [5.0], swept), entry("ours", [7.0], swept)]
    result = changed(entries, {"mass": (0.5, 2.0)})
    assert tables.adaptation(result)[1] == ["plain", "0", "0", "5.0", "–", "5.0", "–"]
    figure = unseen_adaptation_figure(result)
    assert figure.get_suptitle().endswith("mean over points and tasks of all sweeps")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["plain"].get_xydata().tolist() == [[0, 5], [2, 5]]
    assert lines["plain"].get_linestyle() == "--"


def without_adaptation(label: str, returns: list[float], swept: dict[str, float]) -> Entry:
    """As :func:`entry`, but without a step."""
    other = entry(label, returns, swept)
    evaluations = [dataclasses.replace(e, returns=e.returns[1:]) for e in other.evaluations]
    return dataclasses.replace(other, evaluations=tuple(evaluations))


def test_a_method_without_adaptation_has_no_gain():
    entries = []
    for swept in ({}, {"mass": 1.0}, {"mass": 4.0}):
        entries.append(without_adaptation("plain", [5.0], swept))
    trained = {"mass": (0.5, 2.0)}
    assert tables.gains(changed(entries, trained)) == []
    assert tables.adaptation(changed(entries, trained)) == []
    assert unseen_adaptation_figure(changed(entries, trained)) is None
    entries += [entry("ours", [7.0], entry_.swept) for entry_ in entries]
    _, plain, ours = tables.gains(changed(entries, trained))
    assert plain == ["plain", "0", "–", "5.0", "–", "–", "–", "5.0", "–", "–"]
    assert ours[2:5] == ["-1000.0", "7.0", "1007.0"]


@pytest.mark.thorough
def test_the_hours_of_training_are_reported(tmp_path):
    result = robustness()
    assert tables.training(result) == [
        ["policy", "control steps (M)", "hours of training"],
        ["oracle", "4", "1"],
        ["ours (2 runs)", "4 to 4.1", "2"],
    ]
    assert result.values()[1]["training_hours"] == [1.5, 2.5]
    figure = new_figure(3, 3)
    write_report(tmp_path, result.comparison, TRAINED, "python", result, figure)
    page = (tmp_path / "report.html").read_text()
    assert page.index("hours of training") < page.index('alt="learning curves"')
    write_report(tmp_path, result.comparison, TRAINED, "python", result)
    assert not list(tmp_path.glob("learning_curves.*"))


def test_runs_that_exceed_their_budget_are_named(tmp_path):
    whole = robustness()  # 4 million control steps, and up to 4.1 of ours
    assert tables.budget_notes(dataclasses.replace(whole, budget=4_000_000)) == []
    short = dataclasses.replace(whole, budget=3_900_000)
    (note,) = tables.budget_notes(short)
    assert note.startswith(
        "more control steps in training than the 3,900,000 of --num_env_steps: ours (4,100,000); "
    )
    write_report(tmp_path, short.comparison, TRAINED, "python", short)
    assert "than the 3,900,000 of --num_env_steps" in (tmp_path / "report.html").read_text()


def test_the_difference_of_two_single_runs_has_no_interval():
    entries = []
    for swept in ({}, {"mass": 1.0}, {"mass": 4.0}):
        entries.append(entry("oracle", [200.0], swept))
        entries.append(entry("ours", [190.0 if swept else 0.0], swept))
    result = changed(entries, {"mass": (0.5, 2.0)})
    assert tables.differences(result)[1][1:] == ["-10.0", "–", "-10.0", "–"]
    assert result.values()[1]["minus_reference"]["inside"]["interval_95"] is None


def test_the_share_of_a_negative_return_is_not_computed():
    assert [row[6] for row in tables.summary(robustness(oracle=-5.0))] == ["% of oracle", "–", "–"]


def test_there_is_no_share_of_an_oracle_that_is_not_the_best_without_adaptation():
    whole = robustness()
    # Another method without adaptation: 201 inside, -1000 outside.
    entries = list(whole.comparison.entries)
    for one in whole.comparison.entries:
        if one.label == "oracle":
            is_outside = one.swept in ({"mass": 4.0}, {"delay": 2.0})
            value = -1000.0 if is_outside else 201.0
            entries.append(without_adaptation("randomised", [value], dict(one.swept)))
    origins = {**whole.origins, "randomised": Origin("nothing", [1], [1.0])}
    _, *rows = tables.summary(dataclasses.replace(changed(entries), origins=origins))
    assert [row[6] for row in rows] == ["–"] * 3
    assert [row[8] for row in rows] == ["100", "10", "-500"]


def test_without_an_oracle_there_are_no_shares():
    whole = robustness()
    ours = [entry for entry in whole.comparison.entries if entry.label == "ours"]
    result = changed(ours)
    assert [row[8] for row in tables.summary(result)] == ["% of oracle", "–"]


def test_failures_have_a_table_each_and_say_why_the_oracle_is_absent(tmp_path):
    whole = robustness()
    entries = list(whole.comparison.entries)
    for swept in ({"change_step": 12.0}, {"body_mass": 4.0, "change_step": 12.0}):
        plain = entry("ours", [10.0, 20.0], swept)
        tasks = [{**task, "change_step": 12, "changed/disabled_actuator": 0} for task in TASKS]
        failing = [
            dataclasses.replace(
                one,
                tasks=tasks,
                rewards=np.concatenate([np.full((2, 5, 12), i), np.zeros((2, 5, 12))], axis=2),
                lasting=np.ones((2, 5)),
                description={**one.description, "env": "HalfCheetahDir", "horizon": 24},
            )
            for i, one in enumerate(plain.evaluations, 1)
        ]
        entries.append(dataclasses.replace(plain, evaluations=tuple(failing)))
    result = changed(entries)
    titles = [title for title, _ in tables.failures(result)]
    assert titles == [
        "An actuator fails in control step 12",
        "An actuator fails in control step 12 (body mass × 4)",
    ]
    for _, (header, row) in tables.failures(result):
        assert header[0] == "policy"  # no columns of sweeps
        # The rewards of the runs are 1 and 2 before the failure, and 0 after it. Student's t of
        # two values is their half difference times 12.706.
        assert row[:3] == ["ours (2 runs)", "0", "1.5 [-4.85, 7.85]"]
        assert row[3:] == ["0 [0, 0]", "0 [0, 0]", "not in the episode", "0 of 5"]
    assert tables.failure_notes(result)[1].startswith("oracle is left out")
    assert (tables.failures(whole), tables.failure_notes(whole)) == ([], [])
    write_report(tmp_path, result.comparison, TRAINED, "python", result)
    page = (tmp_path / "report.html").read_text()
    assert "An actuator fails in control step 12 (body mass × 4)" in page
    assert not (tmp_path / "grid_body_mass_change_step.png").exists()  # one mass is no grid


def test_without_points_outside_there_is_no_return_outside():
    everything = {"mass": (0.5, 4.0), "delay": (0.0, 2.0)}
    result = dataclasses.replace(robustness(), trained=everything)
    assert [row[7:9] for row in tables.summary(result)[1:]] == [["–", "–"], ["–", "–"]]
    assert result.values()[0]["run_returns"]["outside"] == []


def test_the_report_begins_with_the_tables(tmp_path):
    result = robustness()
    write_report(tmp_path, result.comparison, TRAINED, "python", result)
    page = (tmp_path / "report.html").read_text()
    assert "Differences to oracle" in page
    assert "Before and after adaptation" in page
    assert "Unseen dynamics of Test" in page
    assert page.index("4 to 4.1") < page.index("25.0") < page.index("Return after 0, 1")
    content = json.loads((tmp_path / "results.json").read_text())
    ours = content["robustness"][1]
    assert ours["policy"] == "ours"
    assert ours["num_env_steps"] == [4_000_000, 4_100_000]
    assert ours["run_returns"] == {
        "as_in_training": [90, 110],
        "inside": [10, 30],
        "outside": [14, 24],
        "worst_tenth": [-3, -3],
    }
    assert ours["areas"]["delay"] == -1
