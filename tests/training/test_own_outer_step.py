"""An outer step of the user's own trains, resumes and is checked as a built-in one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.own_modules import working_folder
from helpers.runs import assert_equal_runs, last, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.maml.outer import outer_step_of
from maml_rl.policies.parameters import flatten, unflatten
from maml_rl.settings.learners import OuterConfig, outer_class
from maml_rl.settings.ranges import Positive, Range
from maml_rl.training.compose import open_training

MODULE = __name__
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/algorithms.md"


@dataclass(frozen=True, kw_only=True)
class Momentum(OuterConfig):
    """Gradient ascent with momentum."""

    step_size: float = 0.1
    """Multiple of the mean gradient."""
    decay: float = 0.5
    """Weight of the earlier gradients."""

    RANGES: ClassVar[dict[str, Range]] = {**OuterConfig.RANGES, "step_size": Positive()}

    def initial_state(self, theta):
        return {"mean": torch.zeros_like(flatten(theta))}

    def step(self, theta, state, objective):
        _, gradient = objective.surrogate_and_gradient(theta)
        mean = self.decay * state["mean"] + gradient.to(state["mean"])
        metrics = {"outer/gradient_norm": float(gradient.norm()), "outer/size": self.step_size}
        return unflatten(flatten(theta) + self.step_size * mean, theta), {"mean": mean}, metrics


def outer(**methods: Any) -> str:
    """The name of a class with other methods."""
    cls = type("Wrong", (Momentum,), {"__module__": MODULE, **methods})
    globals()["Wrong"] = dataclass(frozen=True, kw_only=True)(cls)
    return f"{MODULE}:Wrong"


def returning(value: Any) -> Callable[..., Any]:
    return lambda *args: value


def changed(change: Callable[..., Any]) -> Callable[..., Any]:
    """A step whose result is changed."""
    return lambda self, *args: change(*Momentum.step(self, *args))


def test_it_learns_resumes_and_is_loaded(tmp_path: Path) -> None:
    settings = {"name": f"{MODULE}:Momentum", "step_size": 0.05}
    whole = maml_rl.train(tiny(tmp_path / "whole", outer=settings, num_iterations=3))
    part = maml_rl.train(tiny(tmp_path / "part", outer=settings, num_iterations=1))
    maml_rl.resume(part, 3)
    assert_equal_runs(part, whole)
    values = last(whole)
    assert values.tensors["outer"]["mean"].abs().sum() > 0
    start = maml_rl.load(part, iteration=1).state.tensors["theta"]
    assert any((values.tensors["theta"][name] != start[name]).any() for name in start)
    agent = maml_rl.load(whole)
    assert agent.config.outer == Momentum(step_size=0.05)


def test_a_rejected_step_changes_neither_theta_nor_the_state(tmp_path: Path) -> None:
    def rejected(theta: Any, state: Any, metrics: Any) -> Any:
        return theta, state, {**metrics, "outer/accepted": 0.0}

    name = outer(step=changed(rejected))
    with open_training(tiny(tmp_path, outer=name)) as training:
        before = training.agent.state.tensors
        after = training.iterate()
    assert after.metrics["outer/failed"] == 1
    for group in ("theta", "outer"):
        for key, value in before[group].items():
            assert after.state.tensors[group][key].equal(value)


def test_its_step_is_the_equation() -> None:
    """Two steps of momentum with a constant gradient move by 1 + (1 + decay) times it."""

    class Constant:
        def surrogate_and_gradient(self, theta):
            return 0.0, torch.ones(sum(value.numel() for value in theta.values()))

    config = Momentum(step_size=0.1, decay=0.5)
    step = outer_step_of(config)
    theta = {"a": torch.zeros(2), "b": torch.zeros(1, 3)}
    state = step.initial_state(theta, config)
    for _ in range(2):
        theta, state, _ = step.step(theta, state, Constant(), config)
    assert flatten(theta).tolist() == pytest.approx([0.25] * 5)


def test_its_size_falls(tmp_path: Path) -> None:
    settings = {"name": f"{MODULE}:Momentum", "decay_factor": 0.25, "decay_iterations": 2}
    run = maml_rl.train(tiny(tmp_path / "run", outer=settings, num_iterations=3))
    lines = (run / "progress.csv").read_text().splitlines()
    column = lines[0].split(",").index("outer/size")
    sizes = [float(line.split(",")[column]) for line in lines[1:]]
    assert sizes == pytest.approx([0.1, 0.05, 0.025])


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"step": returning(None)}, "step of .*:Wrong must return (theta, state, metrics), got No"),
        ({"step": changed(lambda t, s, m: (t, s))}, "must return (theta, state, metrics), got 2 v"),
        ({"step": changed(lambda t, s, m: ({}, s, m))}, "must return theta ['bias_0'"),
        ({"step": changed(lambda t, s, m: (t, {}, m))}, "must return the state ['mean'], got []"),
        (
            {"step": changed(lambda t, s, m: ({k: v.double() for k, v in t.items()}, s, m))},
            "float32 on cpu, got",
        ),
        ({"step": changed(lambda t, s, m: (t, s, {"loss": "high"}))}, "metrics must be numbers"),
        ({"step": lambda *args: 1 / 0}, "step of .*:Wrong raised ZeroDivisionError"),
        ({"initial_state": returning([])}, "initial_state of .*:Wrong must return a dict"),
        ({"initial_state": returning({"mean": 1})}, "mean must be a torch.Tensor, got int"),
        ({"initial_state": returning({"mean": torch.tensor(torch.inf)})}, "mean must be finite"),
        ({"initial_state": returning({1: torch.zeros(1)})}, "printable ASCII text, got 1"),
        (
            {"initial_state": returning({"a": torch.zeros(1, device="meta")})},
            "dense tensor of real",
        ),
        ({"initial_state": returning({"a": torch.zeros(1).cfloat()})}, "dense tensor of real"),
        ({"step": changed(lambda t, s, m: ({**t, 1: s}, s, m))}, "must return theta ["),
        ({"initial_state": lambda *args: 1 / 0}, "initial_state of .*:Wrong raised ZeroDivision"),
    ],
)
def test_nonsense_is_one_line(methods: dict[str, Any], message: str, tmp_path: Path) -> None:
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(UserError, match=pattern):
        maml_rl.train(tiny(tmp_path / "run", outer={"name": outer(**methods)}))


def test_a_large_metric_is_logged(tmp_path: Path) -> None:
    name = outer(step=changed(lambda t, s, m: (t, s, {**m, "outer/count": 2**70})))
    run = maml_rl.train(tiny(tmp_path / "run", outer={"name": name}, num_iterations=1))
    assert "outer/count" in (run / "progress.csv").read_text()


def test_errors_of_a_mixin_are_named(tmp_path: Path) -> None:
    class Mixin:
        def step(self, theta, state, objective):
            raise RuntimeError("of mine")

    cls = type("Mixed", (Mixin, OuterConfig), {"__module__": MODULE})
    globals()["Mixed"] = dataclass(frozen=True, kw_only=True)(cls)
    with pytest.raises(UserError, match=r"step of .*:Mixed raised RuntimeError: of mine"):
        maml_rl.train(tiny(tmp_path / "run", outer={"name": f"{MODULE}:Mixed"}))


def test_a_name_in_the_class_does_not_hide_its_own() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Named(OuterConfig):
        name: ClassVar[str] = "trpo"

    assert Named.name.endswith(":test_a_name_in_the_class_does_not_hide_its_own.<locals>.Named")
    assert Named().is_own


def test_a_failed_step_keeps_theta(tmp_path: Path) -> None:
    def step(self, theta, state, objective):
        for tensor in (*theta.values(), *state.values()):
            tensor.fill_(torch.nan)
        raise FloatingPointError("too steep,\nand too far")

    run = maml_rl.train(tiny(tmp_path / "run", outer={"name": outer(step=step)}, num_iterations=2))
    assert last(run).values["failed_outer_steps"] == 2
    with open_training(tiny(tmp_path / "other")) as training:
        initial = training.agent.state.tensors["theta"]
    kept = last(run).tensors["theta"]
    assert all(torch.equal(kept[name], value) for name, value in initial.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("momentm", "unknown outer step 'momentm'.*or module:Class"),
        (f"{MODULE}:Momntum", "Did you mean '.*:Momentum'"),
        (f"{MODULE}:tiny", "must be a subclass of maml_rl.settings.learners.OuterConfig, got"),
        ("maml_rl.settings.learners:OuterConfig", "must define step(self, theta, state, objective"),
        ("steps.py:Step", r"'steps.py:Step': leave out .py: steps:Step"),
        ("no_such_module:Step", "module 'no_such_module' cannot be imported"),
    ],
)
def test_what_is_not_one(name: str, message: str) -> None:
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(UserError, match=pattern):
        outer_class(name)


def test_a_schedule_needs_a_size() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sizeless(OuterConfig):
        def step(self, theta, state, objective): ...

    with pytest.raises(ValueError, match="Sizeless has no setting step_size"):
        Sizeless(decay_factor=0.5, decay_iterations=3)


def test_the_documents_example(tmp_path: Path) -> None:
    section = DOCUMENT.read_text().partition("#### An outer step of your own")[2]
    section = section.partition("\n####")[0]
    [code] = re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    [command] = re.findall(r"^```sh\n(.*?)\n```", section, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "ascent.py").write_text(code)
    flags = ["--num_iterations=2", "--meta_batch_size=2", "--num_episodes=3", "--horizon=5"]
    quiet = ["--logging.final_evaluation=false", "--logging.final_video=false", "--output=run"]
    words = command.removeprefix("python -m maml_rl.").split()
    with working_folder(tmp_path):
        assert main([*words, *flags, *quiet]) == 0
    assert "name: ascent:Ascent" in (tmp_path / "run/config.yaml").read_text()
