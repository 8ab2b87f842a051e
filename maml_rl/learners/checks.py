"""Check what learners, outer steps and callbacks return, above all those of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.base import BELIEF, Belief, Iteration, Learner, LearnerState
from maml_rl.runs.checkpoint_files import LARGEST_COUNTER, RESERVED_VALUES
from maml_rl.runs.progress_table import ITERATION
from maml_rl.sampling.failures import Failure
from maml_rl.settings.ranges import Integer
from maml_rl.system.safe_yaml import check_plain


def check_start(learner: Learner, name: str) -> None:
    """Refuse a learner of the user's own whose initial state or prior is not one.

    Args:
        learner: the learner.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    state = learner.initial_state()
    _check_state(state, f"initial_state of learner {name}")
    if state.counters["iteration"] or state.counters["num_env_steps"]:
        raise UserError(
            f"initial_state of learner {name} must be made by LearnerState.initial, got the "
            f"counters {dict(state.counters)}"
        )
    learner.check(state, Path(f"the initial state of {name}"))
    acting = learner.ACTING
    optional = Learner.ACTING  # the default: a state may lack one of them
    if (
        not isinstance(acting, (tuple, list))
        or not any(state.tensors.get(one) for one in acting)
        or not {*acting} <= {*state.tensors, *optional}
    ):
        raise UserError(
            f"ACTING of learner {name} must name the groups of the state on which acting depends, "
            f"of {', '.join(state.tensors)}; got {acting!r:.100}"
        )
    description = learner.describe(state)
    if not isinstance(description, dict):
        raise UserError(f"describe of learner {name} must return a dict, got {description!r:.100}")
    check_plain(description, f"describe of learner {name}")
    if not isinstance(description.get("note", ""), str):
        raise UserError(
            f"describe of learner {name}: note must be text, got {description['note']!r:.100}"
        )
    for attribute, least in (("num_adaptation_steps", 0), ("num_training_stages", 1)):
        number = getattr(learner, attribute)
        if not Integer(least, None).accepts(number):
            raise UserError(
                f"{attribute} of learner {name} must be an integer of at least {least}, got "
                f"{number!r:.100}"
            )
    prior = learner.prior(state, 2)
    what = f"prior of learner {name}"
    if not isinstance(prior, Mapping) or not prior:
        raise UserError(f"{what} must be a mapping with at least one tensor, got {prior!r:.100}")
    for key, value in prior.items():
        _check_tensor(value, f"{what}: {key}")
        if value.shape[:1] != (2,):
            raise UserError(
                f"{what}: {key} must have the leading axis (2,) for two tasks, got "
                f"{tuple(value.shape)}"
            )


def check_belief(belief: Belief, before: Belief) -> None:
    """Refuse a belief after an update whose names, shapes, types or devices have changed.

    Args:
        belief: what ``update`` of a learner returned.
        before: the belief before, (T, ...).

    Raises:
        UserError: at the first difference.
    """
    _check_kept(belief, before, "update of a learner", "the belief")


def check_outer_state(state: Any, theta: Mapping[str, Tensor], name: str) -> None:
    """Refuse a state before the first outer step that no checkpoint can hold.

    Args:
        state: what ``initial_state`` of an outer step of the user's own returned.
        theta: the initial parameters, on whose device the state must be.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    what = f"initial_state of {name}"
    if not isinstance(state, dict):
        raise UserError(f"{what} must return a dict of tensors, got {type(state).__name__}")
    device = next(iter(theta.values())).device
    for key, value in state.items():
        _check_name(key, what)
        _check_tensor(value, f"{what}: {key}")
        if value.device != device:
            raise UserError(f"{what}: {key} must be on {device}, got {value.device}")
        if not value.isfinite().all():
            raise UserError(f"{what}: {key} must be finite, got {value.tolist()!r:.100}")


def check_outer_step(
    result: Any, theta: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str
) -> None:
    """Refuse the result of an outer step that cannot be logged, saved and continued.

    Args:
        result: what ``step`` of an outer step of the user's own returned.
        theta: the parameters before it.
        state: the state before it.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    what = f"step of {name}"
    if not isinstance(result, tuple) or len(result) != 3:
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise UserError(f"{what} must return (theta, state, metrics), got {got}")
    new_theta, new_state, metrics = result
    _check_kept(new_theta, theta, what, "theta")
    _check_kept(new_state, state, what, "the state")
    check_metrics(metrics, what)


def _check_kept(new: Any, old: Mapping[str, Tensor], what: str, role: str) -> None:
    """Refuse tensors with other names, shapes, types or devices than the old ones.

    Args:
        new: what a method of the user's returned.
        old: the tensors before.
        what: beginning of the message.
        role: of the tensors, for the message.

    Raises:
        UserError: at the first difference.
    """
    if not isinstance(new, Mapping) or new.keys() != old.keys():
        names = f"{[*new]}" if isinstance(new, Mapping) else type(new).__name__
        raise UserError(f"{what} must return {role} {sorted(old)}, got {names}")
    for name, before in old.items():
        value = new[name]
        _check_tensor(value, f"{what}: {name}")
        expected = f"{tuple(before.shape)} {before.dtype} on {before.device}"
        got = f"{tuple(value.shape)} {value.dtype} on {value.device}"
        if got != expected:
            raise UserError(f"{what} must keep {name} {expected}, got {got}")


def check_iteration(
    iteration: Iteration, before: LearnerState, learner: Learner, name: str
) -> None:
    """Refuse the result of an iteration that cannot be logged, saved and continued.

    Args:
        iteration: what a learner of the user's own returned.
        before: the state before it.
        learner: the learner.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    what = f"iteration of learner {name}"
    if not isinstance(iteration, Iteration):
        raise UserError(f"{what} must return an Iteration, got {type(iteration).__name__}")
    state, metrics, failures = iteration
    _check_next_state(state, before, what)
    _check_history(state, before, learner, what)
    number, expected = state.counters["iteration"], before.counters["iteration"] + 1
    if number != expected:
        raise UserError(
            f"{what} must return a state after iteration {expected}, got {number}: make it by "
            "state.after_iteration"
        )
    learner.check(state, Path(f"the state after iteration {number} of {name}"))
    # What is logged.
    check_metrics(metrics, what)
    if not isinstance(failures, list) or not all(isinstance(row, Failure) for row in failures):
        raise UserError(f"{what}: failures must be a list of Failure, got {failures!r:.100}")


def _check_history(state: LearnerState, before: LearnerState, learner: Learner, what: str) -> None:
    """Refuse a history that is not the end of the old one and one more entry.

    Args:
        state: after an iteration.
        before: the state before it.
        learner: the learner.
        what: beginning of the message.

    Raises:
        UserError: if it is refused.
    """
    is_tuple = isinstance(state.history, tuple)
    if is_tuple and len(state.history) == len(before.history) == 0:
        return
    kept = state.history[:-1] if is_tuple else ()
    old = before.history[len(before.history) - len(kept) :]
    is_end = len(kept) == len(old) and all(a is b for a, b in zip(kept, old, strict=True))
    if not is_tuple or not state.history or not is_end:
        raise UserError(
            f"{what} must append one entry to the history, and may drop the oldest ones: expected "
            f"a tuple that ends the old one of {len(before.history)} entries and has one more"
        )
    entry = state.history[-1]
    if not isinstance(entry, Mapping):
        raise UserError(f"{what}: the history must be of mappings, got {entry!r:.100}")
    for name, value in entry.items():
        _check_tensor(value, f"{what}: {name} of the history")
    learner.check_history_entry(entry, Path(f"the history after {what}"))


def check_after_training(
    state: LearnerState, before: LearnerState, learner: Learner, name: str
) -> None:
    """Refuse a state from ``after_training`` that cannot be saved and continued.

    Args:
        state: what a learner of the user's own returned.
        before: the state after the last iteration.
        learner: the learner.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    what = f"after_training of learner {name}"
    _check_next_state(state, before, what)
    if state.history is not before.history:
        raise UserError(f"{what} must keep the history")
    if state.counters != before.counters:
        raise UserError(
            f"{what} must keep the counters {dict(before.counters)}, got {dict(state.counters)}"
        )
    learner.check(state, Path(f"the state after {what}"))


def _check_next_state(state: Any, before: LearnerState, what: str) -> None:
    """Refuse a state that no checkpoint can hold, or with other names than the one before."""
    _check_state(state, f"the state after {what}")
    for part, old, new in (
        ("tensors", before.tensors, state.tensors),
        ("counters", before.counters, state.counters),
    ):
        if old.keys() != new.keys():
            raise UserError(f"{what} must keep the {part} {sorted(old)}, got {sorted(new)}")


def _check_state(state: Any, what: str) -> None:
    """Refuse a state that no checkpoint can hold."""
    if not isinstance(state, LearnerState):
        raise UserError(f"{what} must be a LearnerState, got {type(state).__name__}")
    if not isinstance(state.tensors, Mapping):
        raise UserError(f"{what}: tensors must be a mapping of groups, got {state.tensors!r:.100}")
    for group, tensors in state.tensors.items():
        _check_name(group, what)
        if "/" in group:
            raise UserError(f"{what}: the name of a group must not contain /, got {group!r}")
        if group == BELIEF:
            raise UserError(f"{what}: a group must not be called {BELIEF}")
        if not isinstance(tensors, Mapping):
            raise UserError(f"{what}: group {group} must be a mapping, got {tensors!r:.100}")
        for name, value in tensors.items():
            _check_name(name, f"{what}: {group}")
            _check_tensor(value, f"{what}: {group} {name}")
    reserved = sorted(RESERVED_VALUES & state.counters.keys())
    if reserved:
        raise UserError(f"{what}: a counter must not be called {' or '.join(reserved)}")
    expected = Integer(0, LARGEST_COUNTER)
    for name in ("iteration", "num_env_steps", *state.counters):
        counter = state.counters.get(name)
        if not expected.accepts(counter):
            raise UserError(f"{what}: counter {name} must be {expected}, got {counter!r:.100}")


def _check_name(name: Any, what: str) -> None:
    """Refuse a name of a group or tensor that a checkpoint cannot hold."""
    if not isinstance(name, str) or not name.isascii() or not name.isprintable():
        raise UserError(f"{what}: a name must be printable ASCII text, got {name!r:.100}")


def _check_tensor(value: Any, what: str) -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"{what} must be a torch.Tensor, got {type(value).__name__}")
    is_plain = value.layout == torch.strided and not (value.is_quantized or value.is_complex())
    if not is_plain or value.is_meta:
        raise UserError(
            f"{what} must be a dense tensor of real numbers, got {value.dtype} {value.layout} on "
            f"{value.device}"
        )


def check_metrics(metrics: Any, what: str) -> None:
    """Refuse metrics that cannot be logged.

    Args:
        metrics: by tag.
        what: where they come from, for the message.

    Raises:
        UserError: if a tag is not a printable string, or a value not a number.
    """
    if not isinstance(metrics, dict):
        raise UserError(f"{what}: metrics must be a dict of numbers by tag, got {metrics!r:.100}")
    for tag, value in metrics.items():
        is_tag = isinstance(tag, str) and tag.isprintable() and tag not in ("", ITERATION)
        if not (is_tag and _is_number(value)):
            raise UserError(
                f"{what}: metrics must be numbers, by a printable tag other than {ITERATION!r}; "
                f"got {tag!r:.100}: {value!r:.100}"
            )


def _is_number(value: Any) -> bool:
    """Whether a file can hold a value as a float."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if not is_number or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
    return True
