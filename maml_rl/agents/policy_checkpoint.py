"""Write a policy's parameters and normaliser to checkpoints; read and check them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.maml.inner_step import initial_theta
from maml_rl.policies.mlp import MLPPolicy, initial_context
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.runs.checkpoint import Checkpoint
from maml_rl.settings.config import Config
from maml_rl.settings.learners import InnerConfig


def policy_tensors(
    theta: Params, normalizer: ObservationNormalizer | None
) -> dict[str, dict[str, Tensor]]:
    """Return a policy's tensors in groups, as checkpoints store them."""
    return {"theta": dict(theta), "normalizer": {} if normalizer is None else normalizer._asdict()}


def policy_state(
    checkpoint: Checkpoint, policy: MLPPolicy, config: Config, path: Path
) -> tuple[Params, ObservationNormalizer | None]:
    """Return the parameters and the normaliser in a checkpoint.

    Args:
        checkpoint: the checkpoint.
        policy: the architecture.
        config: settings of the run.
        path: path of the checkpoint, for messages.

    Returns:
        The parameters in the policy's order, and the normaliser, or ``None`` if the policy has
        none.

    Raises:
        UserError: if they do not fit the policy or the configuration, or are not finite.
    """
    # Parameters.
    theta = checkpoint.tensors.get("theta", {})
    ordered = {name: theta[name] for name in check_parameters(policy, config.inner, theta, path)}
    _check_finite(ordered, path)
    if not config.policy.normalize_observations:
        return ordered, None
    # Normaliser: counts and sums of squares are non-negative.
    device = next(iter(ordered.values())).device
    empty = ObservationNormalizer.empty(policy.observation_size, device)
    tensors = checkpoint.tensors.get("normalizer", {})
    expected = {name: (value.shape, value.dtype) for name, value in empty._asdict().items()}
    if {name: (value.shape, value.dtype) for name, value in tensors.items()} != expected:
        raise UserError(f"checkpoint {path} is damaged: its normalizer must hold {expected}")
    _check_finite(tensors, path)
    if any((tensors[name] < 0).any() for name in ("num_states", "squares")):
        raise UserError(
            f"checkpoint {path} is damaged: its normalizer has negative counts or squares"
        )
    return ordered, ObservationNormalizer(**tensors)


def check_parameters(
    policy: MLPPolicy, inner: InnerConfig, theta: Params, source: Path
) -> list[str]:
    """Check that parameters have the names, shapes and dtypes that a policy needs.

    Args:
        policy: the architecture.
        inner: inner settings; learned step sizes are parameters too.
        theta: the parameters; include ``context`` if adaptation has changed it.
        source: file or run of the parameters, for the message.

    Returns:
        The names, in the policy's order.

    Raises:
        UserError: if a parameter is missing, unknown, or differs in shape or dtype.
    """
    valid = initial_theta(policy, inner)
    if "context" in theta:  # the policy has adapted
        valid |= {name: value[0] for name, value in initial_context(policy, 1).items()}
    expected = _shapes_and_dtypes(valid)
    actual = _shapes_and_dtypes(theta)
    if actual != expected:
        name, *others = sorted(
            name
            for name in expected.keys() | actual.keys()
            if expected.get(name) != actual.get(name)
        )
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(
            f"the parameters in {source} do not fit the policy: {name} is "
            f"{actual.get(name, 'missing')}, expected "
            f"{expected.get(name, 'no parameter of that name')}{more}"
        )
    return list(expected)


def _shapes_and_dtypes(theta: Params) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in theta.items()}


def _check_finite(tensors: Params, path: Path) -> None:
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"checkpoint {path} cannot be used: {name} is not finite")
