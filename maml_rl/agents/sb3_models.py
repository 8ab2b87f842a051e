"""Convert plain networks to models of Stable-Baselines3 and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from maml_rl.agents.sb3_env import SB3Env, check_bounded
from maml_rl.errors import UserError, did_you_mean, in_one_line
from maml_rl.policies.mlp import ACTIVATIONS
from maml_rl.policies.plain_network import PlainNetwork

Model = OnPolicyAlgorithm
"""A model of Stable-Baselines3 with an actor and a value network."""

_ALGORITHMS: dict[str, type[Model]] = {"PPO": PPO, "A2C": A2C}

_NONLINEARITIES = {module: name for name, module in ACTIVATIONS.items()}

_SET_BY_THE_ACTOR = ("policy", "policy_kwargs", "use_sde")
"""Settings of an algorithm that the agent determines."""


def model_of(
    network: PlainNetwork, env: SB3Env, algorithm: str | type[Model], settings: Mapping[str, Any]
) -> Model:
    """Return a model whose actor is ``network``; its value network has the same hidden sizes.

    Args:
        network: the actor.
        env: the environment to train on.
        algorithm: PPO or A2C, by name or class.
        settings: settings of the algorithm.

    Raises:
        UserError: if the algorithm is neither PPO nor A2C, a setting is unknown, refused by the
            algorithm or would change the actor, or actions are not bounded.
    """
    chosen = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else algorithm
    if chosen is None or chosen not in _ALGORITHMS.values():
        name = getattr(algorithm, "__name__", algorithm)
        raise UserError(
            f"algorithm {name} is not supported: an agent can become the actor of PPO or A2C"
        )
    check_bounded(env.action_space)
    _check_settings(chosen, settings)
    hidden = [len(bias) for _, bias in network.layers[:-1]]
    policy_kwargs = {
        "net_arch": {"pi": hidden, "vf": hidden},
        "activation_fn": ACTIVATIONS[network.nonlinearity],
    }
    try:
        model = chosen("MlpPolicy", env, policy_kwargs=policy_kwargs, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(
            f"{chosen.__name__} refuses the settings {dict(settings)}: {in_one_line(error)}"
        ) from error
    # Replace the initial weights of the actor.
    with torch.no_grad():
        for linear, (weight, bias) in zip(_actor_layers(model.policy), network.layers, strict=True):
            linear.weight.copy_(weight.T)
            linear.bias.copy_(bias)
        if network.log_std is not None:
            model.policy.log_std.copy_(network.log_std)
    return model


def _check_settings(algorithm: type[Model], settings: Mapping[str, Any]) -> None:
    refused = [name for name in settings if name in _SET_BY_THE_ACTOR]
    if refused:
        raise UserError(f"leave out {', '.join(refused)}: the agent determines the actor")
    excluded = ("env", "_init_setup_model", *_SET_BY_THE_ACTOR)
    valid = [name for name in inspect.signature(algorithm).parameters if name not in excluded]
    for name in settings:
        if name not in valid:
            hint = did_you_mean(name, valid, "'")
            raise UserError(
                f"{algorithm.__name__} has no setting {name!r}.{hint} Valid are {', '.join(valid)}"
            )


def network_of(model: object) -> PlainNetwork:
    """Return the actor of a model, on the CPU.

    Raises:
        UserError: if the model is not PPO or A2C, or its actor is not a multilayer perceptron.
    """
    if type(model) not in _ALGORITHMS.values():
        raise UserError(f"a policy can be taken from PPO or A2C, not from {type(model).__name__}")
    policy: Any = model.policy  # type: ignore[attr-defined]
    normalizer = model.get_vec_normalize_env()  # type: ignore[attr-defined]
    obstacle = _obstacle(policy, normalizer)
    if obstacle is not None:
        raise UserError(
            f"this {type(model).__name__} model cannot become a policy of MAML: {obstacle}"
        )
    layers = [(linear.weight, linear.bias) for linear in _actor_layers(policy)]
    return PlainNetwork(
        layers=tuple((_copy_of(weight).T, _copy_of(bias)) for weight, bias in layers),
        log_std=_copy_of(policy.log_std) if hasattr(policy, "log_std") else None,
        nonlinearity=_NONLINEARITIES[policy.activation_fn],
    )


def _obstacle(policy: Any, normalizer: VecNormalize | None) -> str | None:
    """Return why a model's policy cannot become a policy of MAML, or ``None``."""
    if type(policy) is not ActorCriticPolicy:
        return f"its policy is a {type(policy).__name__}, not an MlpPolicy"
    if policy.use_sde:
        return "its exploration depends on the state (use_sde)"
    if type(policy.features_extractor) is not FlattenExtractor:
        return f"its features come from a {type(policy.features_extractor).__name__}"
    if policy.activation_fn not in _NONLINEARITIES:
        supported = ", ".join(_NONLINEARITIES.values())
        return f"its activation {policy.activation_fn} is not one of {supported}"
    if normalizer is not None and normalizer.norm_obs:
        return "its observations are normalised by VecNormalize"
    return None


def _copy_of(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _actor_layers(policy: Any) -> list[nn.Linear]:
    modules = [*policy.mlp_extractor.policy_net, policy.action_net]
    return [module for module in modules if isinstance(module, nn.Linear)]
