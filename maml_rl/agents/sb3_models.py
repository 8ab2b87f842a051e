"""Policies as models of Stable-Baselines3, and what such models compute."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from maml_rl.agents.from_scratch import _check_bounded
from maml_rl.agents.sb3_env import SB3Env
from maml_rl.errors import UserError, did_you_mean
from maml_rl.policies.mlp import ACTIVATIONS
from maml_rl.policies.plain_network import PlainNetwork

Model = OnPolicyAlgorithm
"""A model of Stable-Baselines3 with an actor and a value network."""


_ALGORITHMS: dict[str, type[Model]] = {"PPO": PPO, "A2C": A2C}


_SAID_BY_THE_ACTOR = ("policy", "policy_kwargs", "use_sde")


def model_of(
    network: PlainNetwork, env: SB3Env, algorithm: str | type[Model], settings: Mapping[str, Any]
) -> OnPolicyAlgorithm:
    """A model whose actor is ``network``, with a new value network of the same hidden sizes.

    Raises:
        UserError: another algorithm than PPO and A2C, or settings that would give it another actor.
    """
    chosen = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else algorithm
    if chosen is None or chosen not in _ALGORITHMS.values():
        name = getattr(algorithm, "__name__", algorithm)
        raise UserError(
            f"algorithm {name} is not supported: a meta-policy can become the actor of PPO or A2C"
        )
    _check_bounded(env.action_space)
    _check_settings(chosen, settings)
    hidden = [len(bias) for _, bias in network.layers[:-1]]
    policy_kwargs = {
        "net_arch": {"pi": hidden, "vf": hidden},
        "activation_fn": ACTIVATIONS[network.nonlinearity],
    }
    model = chosen("MlpPolicy", env, policy_kwargs=policy_kwargs, **settings)
    with torch.no_grad():
        for linear, (weight, bias) in zip(_actor_layers(model.policy), network.layers, strict=True):
            linear.weight.copy_(weight.T)
            linear.bias.copy_(bias)
        if network.log_std is not None:
            model.policy.log_std.copy_(network.log_std)
    return model


def _check_settings(algorithm: type[Model], settings: Mapping[str, Any]) -> None:
    refused = [name for name in settings if name in _SAID_BY_THE_ACTOR]
    if refused:
        raise UserError(f"{', '.join(refused)}: the meta-policy says what the actor is")
    valid = [
        name
        for name in inspect.signature(algorithm).parameters
        if name not in ("env", *_SAID_BY_THE_ACTOR)
    ]
    for name in settings:
        if name not in valid:
            hint = did_you_mean(name, valid, "'")
            raise UserError(
                f"{algorithm.__name__} has no setting {name!r}.{hint} Valid are {', '.join(valid)}"
            )


def network_of(model: object) -> PlainNetwork:
    """The actor of a model.

    Raises:
        UserError: it is no PPO or A2C with a multilayer perceptron; what does not fit is named.
    """
    if type(model) not in _ALGORITHMS.values():
        raise UserError(f"a policy can be taken from PPO or A2C, not from {type(model).__name__}")
    policy: Any = model.policy  # type: ignore[attr-defined]
    normalized = model.get_vec_normalize_env()  # type: ignore[attr-defined]
    names = {activation: name for name, activation in ACTIVATIONS.items()}
    obstacles = {
        f"its policy is a {type(policy).__name__}, not an MlpPolicy": type(policy)
        is not ActorCriticPolicy,
        "its exploration depends on the state (use_sde)": policy.use_sde,
        f"its features come from a {type(policy.features_extractor).__name__}": type(
            policy.features_extractor
        )
        is not FlattenExtractor,
        f"its activation {policy.activation_fn} is none of {', '.join(names.values())}": policy.activation_fn
        not in names,
        "its observations are normalised by VecNormalize": normalized is not None
        and normalized.norm_obs,
    }
    for obstacle, applies in obstacles.items():
        if applies:
            raise UserError(
                f"this {type(model).__name__} model cannot become a meta-policy: {obstacle}"
            )
    return PlainNetwork(
        layers=tuple(
            (linear.weight.detach().cpu().T.clone(), linear.bias.detach().cpu().clone())
            for linear in _actor_layers(policy)
        ),
        log_std=policy.log_std.detach().cpu().clone() if hasattr(policy, "log_std") else None,
        nonlinearity=names[policy.activation_fn],
    )


def _actor_layers(policy: Any) -> list[nn.Linear]:
    return [
        layer
        for layer in [*policy.mlp_extractor.policy_net, policy.action_net]
        if isinstance(layer, nn.Linear)
    ]
