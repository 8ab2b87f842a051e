"""Write a learner's state and a belief to checkpoints; read and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gymnasium import spaces
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.base import BELIEF, Belief, Learner, LearnerState, check_group
from maml_rl.policies.action_map import actions_text
from maml_rl.runs.checkpoint_files import NUM_ADAPTATION_STEPS, Checkpoint

ACTIONS = "actions"
"""Key of the action space in what identifies a checkpoint's run."""


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: LearnerState
    belief: Belief
    """About one task, (1, ...); the prior if the agent has not adapted."""
    num_adaptation_steps: int
    """Updates that led to the belief."""


def agent_content(
    learner: Learner, state: LearnerState, belief: Belief, num_adaptation_steps: int
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, int]]:
    """Return tensors and values of the checkpoint of an agent, which no run continues.

    Args:
        learner: whose state and belief it is.
        state: only the groups on which acting depends are kept.
        belief: about one task, (1, ...).
        num_adaptation_steps: updates that led to it; 0 for the prior, which is not written.
    """
    tensors = {name: state.tensors[name] for name in learner.ACTING if name in state.tensors}
    if num_adaptation_steps:
        tensors[BELIEF] = belief
    counters = learner.initial_state().counters
    return tensors, {**counters, NUM_ADAPTATION_STEPS: num_adaptation_steps}


def check_actions(checkpoint: Checkpoint, space: spaces.Space[Any]) -> None:
    """Refuse a checkpoint whose agent was trained with other actions.

    Args:
        checkpoint: the checkpoint; one of an earlier version does not know its actions.
        space: of the actions of its environment now.

    Raises:
        UserError: if they differ: outputs of the policy would mean other actions.
    """
    run, now = checkpoint.values.get("run"), actions_text(space)
    written = run.get(ACTIONS, now) if isinstance(run, dict) else now
    if written != now:
        raise UserError(
            f"checkpoint {checkpoint.path} was written with the actions {written}, but those of "
            f"its environment are now {now}: the policy would act differently"
        )


def restored(checkpoint: Checkpoint, learner: Learner) -> Restored:
    """Return state and belief in a checkpoint, in the learner's order of names.

    Args:
        checkpoint: the checkpoint.
        learner: made from the settings of the run.

    Raises:
        UserError: if they do not fit the learner, or are not finite.
    """
    initial = learner.initial_state()
    tensors = {name: dict(group) for name, group in checkpoint.tensors.items()}
    is_saved_agent = NUM_ADAPTATION_STEPS in checkpoint.values
    num_adaptation_steps = checkpoint.counter(NUM_ADAPTATION_STEPS) if is_saved_agent else 0
    # The belief. Earlier versions wrote adapted parameters in place of the meta-parameters.
    belief = tensors.pop(BELIEF, {})
    if is_saved_agent and not belief:
        theta = tensors.get("theta", {})
        belief = {name: value[None] for name, value in theta.items()}
        if "context" not in initial.tensors.get("theta", {}):
            theta.pop("context", None)
    # The state.
    counters = {
        name: checkpoint.counter(name)
        for name in initial.counters
        # Earlier versions lack some of the learners' own counters.
        if name in checkpoint.values or name in ("iteration", "num_env_steps")
    }
    absent = set(learner.OPTIONAL)
    if is_saved_agent:  # it has what acting depends on
        absent |= initial.tensors.keys() - set(learner.ACTING)
    for name in absent:
        tensors[name] = {**initial.tensors[name], **tensors.get(name, {})}
    state = LearnerState(
        {name: _ordered(tensors.get(name, {}), like) for name, like in initial.tensors.items()},
        {**initial.counters, **counters},
    )
    learner.check(state, checkpoint.path)
    prior = learner.prior(state, 1)
    if not num_adaptation_steps:
        return Restored(state, prior, 0)
    check_group(belief, prior, BELIEF, checkpoint.path)
    return Restored(state, _ordered(belief, prior), num_adaptation_steps)


def _ordered(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in the order of ``like``, then those with other names."""
    known = {name: tensors[name] for name in like if name in tensors}
    return known | dict(tensors)
