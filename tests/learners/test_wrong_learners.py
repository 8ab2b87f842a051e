"""A learner of the user's own that raises or returns nonsense is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.bandit import Bandit, BanditActor, BanditConfig
from helpers.runs import last, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.base import Iteration, LearnerState
from maml_rl.learners.maml.make import maml
from maml_rl.sampling.actors import Actor
from maml_rl.settings.learners import LearnerConfig, MAMLConfig

COUNTER = "counter num_tasks must be an integer from 0 to 9007199254740992, got"


def learner(**members: Any) -> type[Bandit]:
    """A bandit with other methods or attributes."""
    return type("Wrong", (Bandit,), {"__module__": __name__, **members})


def raising(*args: Any, **kwargs: Any) -> Any:
    raise KeyError("of mine")


def returning(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def changed(method: str, change: Callable[[Any], Any]) -> type[Bandit]:
    """A bandit of which one method returns something else."""
    return learner(**{method: lambda *args: change(getattr(Bandit, method)(*args))})


def acting(act: Callable[[np.ndarray], Any]) -> type[Bandit]:
    """A bandit whose actor returns something else."""

    class WrongActor(BanditActor):
        def act(self, observations: np.ndarray, t: int) -> Any:
            return act(super().act(observations, t))

    def actor(self, state, belief, noise, memory=None) -> Actor:
        made = Bandit.actor(self, state, belief, noise, memory)
        made.__class__ = WrongActor
        return made

    return learner(actor=actor)


def with_counters(**counters: Any) -> Callable[[Iteration], Iteration]:
    def change(result: Iteration) -> Iteration:
        state = result.state
        return result._replace(state=state._replace(counters={**state.counters, **counters}))

    return change


def with_tensors(tensors: Any) -> Callable[[Iteration], Iteration]:
    return lambda result: result._replace(state=result.state._replace(tensors=tensors))


def with_history(history: Any) -> Callable[[Iteration], Iteration]:
    return lambda result: result._replace(state=result.state._replace(history=history))


def with_metrics(**metrics: Any) -> Callable[[Iteration], Iteration]:
    return lambda result: result._replace(metrics={**result.metrics, **metrics})


def settings(**members: Any) -> type[Bandit]:
    """A bandit with other members of its settings."""
    cls = type("WrongSettings", (BanditConfig,), {"__module__": __name__, **members})
    return learner(Config=dataclass(frozen=True, kw_only=True)(cls))


def in_iteration(state: LearnerState) -> Iteration:
    return Iteration(state, {}, [])


def zeros(*sizes: int) -> torch.Tensor:
    return torch.zeros(sizes, dtype=torch.float64)


BEFORE_THE_RUN = {
    "initial_state raises": (learner(initial_state=raising), "raised KeyError: 'of mine'"),
    "no state": (learner(initial_state=returning(None)), "must be a LearnerState, got NoneType"),
    "no counters": (
        learner(initial_state=returning(LearnerState({"arms": {"mean_return": zeros(2)}}, {}))),
        "counter iteration must be",
    ),
    "half a task": (
        learner(initial_state=lambda self: LearnerState.initial({}, num_tasks=0.5)),
        f"{COUNTER} 0.5",
    ),
    "array": (
        learner(initial_state=lambda self: LearnerState.initial({"a": {"b": np.zeros(2)}})),
        "a b must be a torch.Tensor, got ndarray",
    ),
    "slash": (
        learner(initial_state=lambda self: LearnerState.initial({"a/b": {"c": zeros(2)}})),
        "must not contain /, got 'a/b'",
    ),
    "number as a group": (
        learner(initial_state=lambda self: LearnerState.initial({1: {"c": zeros(2)}})),
        "a name must be printable ASCII text, got 1",
    ),
    "number as a tensor's name": (
        learner(initial_state=lambda self: LearnerState.initial({"a": {1: zeros(2)}})),
        "a: a name must be printable ASCII text, got 1",
    ),
    "group with the name of a belief": (
        learner(initial_state=lambda self: LearnerState.initial({"belief": {"a": zeros(2)}})),
        "a group must not be called belief",
    ),
    "acts on no group": (
        learner(ACTING=("theta",)),
        "must name the groups of the state on which acting depends, of arms; got ('theta',)",
    ),
    "acts on a misspelled group, too": (
        learner(ACTING=("arms", "arsm")),
        "on which acting depends, of arms; got ('arms', 'arsm')",
    ),
    "acts on text": (learner(ACTING="arms"), "on which acting depends, of arms; got 'arms'"),
    "list as a group": (
        learner(initial_state=lambda self: LearnerState.initial({"a": [zeros(2)]})),
        "group a must be a mapping, got [tensor",
    ),
    "sparse": (
        learner(
            initial_state=lambda self: LearnerState.initial({"a": {"b": zeros(2).to_sparse()}})
        ),
        "a b must be a dense tensor of real numbers, got torch.float64 torch.sparse_coo",
    ),
    "reserved counter": (
        learner(initial_state=lambda self: LearnerState.initial({}, is_final=0)),
        "a counter must not be called is_final",
    ),
    "describes nothing": (learner(describe=returning(None)), "must return a dict, got None"),
    "describes by a number": (learner(describe=returning({"note": 3})), "note must be text, got 3"),
    "describes by a tensor": (
        learner(describe=returning({"x": zeros(2)})),
        ".x is tensor([0., 0.], dtype=torch.float64), a torch.Tensor, which a file cannot hold",
    ),
    "no number of adaptation steps": (
        learner(num_adaptation_steps="x"),
        "must be an integer of at least 0, got 'x'",
    ),
    "no stage": (learner(num_training_stages=0), "must be an integer of at least 1, got 0"),
    "nan": (
        learner(initial_state=lambda self: LearnerState.initial({"a": {"b": zeros(2) / 0}})),
        "a b is not finite",
    ),
    "counts already": (
        changed("initial_state", lambda state: state.after_iteration({}, 3)),
        "must be made by LearnerState.initial",
    ),
    "prior raises": (learner(prior=raising), "prior of test_wrong_learners:Wrong raised KeyError"),
    "no prior": (learner(prior=returning(None)), "with at least one tensor, got None"),
    "empty prior": (learner(prior=returning({})), "with at least one tensor, got {}"),
    "one task": (
        learner(prior=lambda self, state, num_tasks: {"a": zeros(1, 2)}),
        r"a must have the leading axis (2,) for two tasks, got (1, 2)",
    ),
    "no episode": (settings(stage_episodes=returning(0)), "divides num_episodes 2, got 0"),
    "no divisor": (settings(stage_episodes=returning(3)), "divides num_episodes 2, got 3"),
    "half an episode": (settings(stage_episodes=returning(0.5)), "positive integer"),
    "stage_episodes raises": (settings(stage_episodes=raising), "raised KeyError: 'of mine'"),
    "check raises": (settings(check=raising), "raised KeyError: 'of mine'"),
    "unknown range": (settings(RANGES={"x": None}), "RANGES must be a mapping from name, size"),
    "wrong default": (
        settings(size="big", __annotations__={"size": float}),
        "Config.size has the type float, but the default 'big'",
    ),
}

IN_THE_RUN = {
    "noise raises": (learner(draw_noise=raising), "draw_noise of test_wrong_learners:Wrong raised"),
    "noise shape": (learner(draw_noise=returning(np.zeros(3))), "draw_noise of a learner must"),
    "no actor": (learner(actor=returning(None)), "must return a maml_rl.sampling.actors.Actor"),
    "act raises": (acting(raising), "raised KeyError: 'of mine'"),
    "no action": (acting(returning(None)), "of (3, 2) numbers, got NoneType"),
    "one action": (acting(lambda outputs: outputs[:1]), "of (3, 2) numbers, got (1, 2) float32"),
    "tensor": (acting(torch.from_numpy), "of (3, 2) numbers, got Tensor"),
    "text": (acting(lambda outputs: outputs.astype(str)), "of (3, 2) numbers, got (3, 2) <U"),
    "no episodes": (learner(with_advantages=returning(None)), "must return Episodes, got NoneType"),
    "update raises": (learner(update=raising), "update of test_wrong_learners:Wrong raised"),
    "no belief": (learner(update=returning(None)), "['count', 'mean_return'], got None"),
    "names": (
        changed("update", lambda belief: {"count": belief["count"]}),
        "['count', 'mean_return'], got ['count']",
    ),
    "shape": (
        changed("update", lambda belief: {name: value[:1] for name, value in belief.items()}),
        "must keep mean_return (3, 2) torch.float64 on cpu, got (1, 2)",
    ),
    "dtype": (
        changed("update", lambda belief: {name: value.long() for name, value in belief.items()}),
        "must keep mean_return (3, 2) torch.float64 on cpu, got (3, 2) torch.int64",
    ),
    "iteration raises": (learner(iteration=raising), "iteration of test_wrong_learners:Wrong"),
    "nothing": (changed("iteration", returning(None)), "must return an Iteration, got NoneType"),
    "same iteration": (changed("iteration", with_counters(iteration=0)), "iteration 1, got 0"),
    "jump": (changed("iteration", with_counters(iteration=5)), "iteration 1, got 5"),
    "negative": (changed("iteration", with_counters(num_tasks=-1)), f"{COUNTER} -1"),
    "too large": (changed("iteration", with_counters(num_tasks=1 << 60)), COUNTER),
    "numpy counter": (changed("iteration", with_counters(num_tasks=np.int64(1))), COUNTER),
    "new counter": (changed("iteration", with_counters(other=1)), "must keep the counters"),
    "no tensors": (changed("iteration", with_tensors({})), "keep the tensors ['arms'], got []"),
    "new tensors": (
        changed("iteration", with_tensors({"arms": {"mean_return": zeros(2)}, "other": {}})),
        "keep the tensors ['arms'], got ['arms', 'other']",
    ),
    "other tensors": (
        changed("iteration", with_tensors({"arms": {"mean_return": zeros(3)}})),
        "the state after iteration 1",
    ),
    "nan in the state": (
        changed("iteration", with_tensors({"arms": {"mean_return": zeros(2) / 0}})),
        "arms mean_return is not finite",
    ),
    "history of numbers": (
        changed("iteration", with_history([1])),
        "must append one entry to the history",
    ),
    "history of a number": (
        changed("iteration", with_history((3,))),
        "the history must be of mappings, got 3",
    ),
    "two entries": (
        changed("iteration", with_history(({"a": zeros(1)}, {"a": zeros(1)}))),
        "must append one entry to the history",
    ),
    "array in the history": (
        changed("iteration", with_history(({"a": np.zeros(1)},))),
        "a of the history must be a torch.Tensor",
    ),
    "unchecked history": (
        changed("iteration", with_history(({"a": zeros(1)},))),
        "this learner has no history",
    ),
    "text as metric": (changed("iteration", with_metrics(x="high")), "got 'x': 'high'"),
    "array as metric": (changed("iteration", with_metrics(x=np.zeros(2))), "metrics must be"),
    "no metrics": (
        changed("iteration", lambda result: result._replace(metrics=None)),
        "metrics must be a dict",
    ),
    "no failures": (
        changed("iteration", lambda result: result._replace(failures=[1])),
        "failures must be a list of Failure, got [1]",
    ),
}


NAN = {"arms": {"mean_return": zeros(2) / 0}}
AFTER_THE_RUN = {
    "raises": (learner(after_training=raising), "after_training of test_wrong_learners:Wrong"),
    "nothing": (learner(after_training=returning(None)), "must be a LearnerState, got NoneType"),
    "counters": (
        changed("after_training", lambda state: with_counters(iteration=3)(in_iteration(state))[0]),
        "must keep the counters {'iteration': 2",
    ),
    "tensors": (
        changed("after_training", lambda state: with_tensors({})(in_iteration(state))[0]),
        "keep the tensors ['arms'], got []",
    ),
    "history": (
        changed("after_training", lambda state: state._replace(history=({"a": zeros(1)},))),
        "must keep the history",
    ),
    "nan": (
        changed("after_training", lambda state: state._replace(tensors=NAN)),
        "arms mean_return is not finite",
    ),
}


def refusal(cls: type[Bandit], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """Train with a learner; return the only line on stderr."""
    monkeypatch.setitem(globals(), "Chosen", cls)
    flags = ["--meta_batch_size=3", "--num_episodes=2", "--horizon=4", "--num_iterations=2"]
    name = f"--learner={__name__}:Chosen"
    end = ["--logging.final_evaluation=false", "--logging.final_video=false", "--device=cpu"]
    output = f"--output={run}"
    assert main(["train", "--env=PointNavigation", name, *flags, *end, output]) == 2
    err: str = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("cls", "message"), BEFORE_THE_RUN.values(), ids=BEFORE_THE_RUN)
def test_what_is_wrong_before_the_run_leaves_no_file(cls, message, tmp_path, monkeypatch, capsys):
    assert message in refusal(cls, tmp_path / "run", monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "message"), IN_THE_RUN.values(), ids=IN_THE_RUN)
def test_what_is_wrong_in_the_run_leaves_no_checkpoint(cls, message, tmp_path, monkeypatch, capsys):
    assert message in refusal(cls, tmp_path / "run", monkeypatch, capsys)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "message"), AFTER_THE_RUN.values(), ids=AFTER_THE_RUN)
def test_what_is_wrong_after_training_keeps_the_iterations(
    cls, message, tmp_path, monkeypatch, capsys
):
    assert message in refusal(cls, tmp_path / "run", monkeypatch, capsys)
    values = last(tmp_path / "run").values
    assert (values["iteration"], values["is_final"]) == (2, False)


@pytest.mark.slow
def test_an_error_keeps_finished_iterations_and_is_the_cause(tmp_path, monkeypatch) -> None:
    def iteration(self, state, *args) -> Iteration:
        return (
            Bandit.iteration(self, state, *args) if state.counters["iteration"] < 2 else raising()
        )

    monkeypatch.setitem(globals(), "Chosen", learner(iteration=iteration))
    config = tiny(tmp_path / "run", learner=f"{__name__}:Chosen", policy={})
    with pytest.raises(UserError, match="raised KeyError") as caught:
        maml_rl.train(config)
    assert isinstance(caught.value.__cause__, KeyError)
    assert last(tmp_path / "run").values["iteration"] == 2


@pytest.mark.slow
def test_an_actor_may_return_the_same_array_at_every_step(tmp_path, monkeypatch) -> None:
    buffer = np.zeros((3, 2), np.float32)
    seen: list[torch.Tensor] = []

    def act(outputs: np.ndarray) -> np.ndarray:
        buffer[:] = outputs
        return buffer

    def update(self, state, belief, episodes, stage):
        seen.append(episodes.actions)
        return Bandit.update(self, state, belief, episodes, stage)

    cls = acting(act)
    cls.update = update
    monkeypatch.setitem(globals(), "Chosen", cls)
    maml_rl.train(tiny(tmp_path / "run", learner=f"{__name__}:Chosen", policy={}, num_iterations=1))
    assert seen
    for actions in seen:  # they grow with every step
        assert (actions.abs().diff(dim=2) > 0).all()


class Inherits:
    """Settings that inherit those of MAML, for a learner that is not MAML."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MAMLConfig):
        """Settings of MAML."""

    calls: ClassVar[int] = 0

    def __new__(cls, *args: Any) -> Any:
        cls.calls += 1
        return maml(*args)


def test_a_learner_with_the_settings_of_maml_is_made_by_its_own_name(tmp_path) -> None:
    config = tiny(tmp_path / "run", learner=f"{__name__}:Inherits", num_iterations=1)
    assert isinstance(config.learner, LearnerConfig)
    maml_rl.train(config)
    assert Inherits.calls == 1
