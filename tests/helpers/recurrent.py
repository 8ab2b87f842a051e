"""Float64 recurrent policies, trials, and an independent reference of the policy.

The functions ``plain_*`` compute one trial at a time, step by step, over its real steps only. They
form the weights that a hypernetwork generates. They share no code with the package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as td

from maml_rl.learners.base import LearnerState
from maml_rl.learners.recurrent.actor import RecurrentActor
from maml_rl.learners.recurrent.batch import TrialBatch
from maml_rl.learners.recurrent.sequence import TrialSequence, trial_sequence
from maml_rl.learners.teacher_student.networks import Student
from maml_rl.learners.trials import sample_tasks
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.sampling.episodes import Episodes
from maml_rl.system.random_streams import RandomStreams
from maml_rl.training.compose import Training

OBSERVATION_SIZE = 3
HEADS = {
    "continuous": ActionHead(2),
    "discrete": ActionHead(3, discrete=True),
    "multi": ActionHead(5, discrete=True, num_choices=(3, 2)),
}
LENGTHS = ([[4], [4], [2], [1]], [[1], [3], [4], [4]])
"""Steps of episode 1 and 2 of four trials, each (T, E), with a horizon of 4."""
HORIZON = 4

VARIANTS: dict[str, dict[str, Any]] = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "discrete": {"head": "discrete"},
    "multi": {"head": "multi", "cell": "lstm"},
    "hypernetwork": {"generated": ("policy",), "latent_size": 3},
    "two_hypernetworks": {
        "generated": ("policy", "value"),
        "latent_size": 3,
        "cell": "lstm",
        "task_size": 2,
    },
    "critic": {"task_size": 2},
    "discrete_hypernetwork": {
        "generated": ("policy", "value"),
        "latent_size": 2,
        "head": "discrete",
    },
}
"""Arguments of :func:`make_policy`."""

Theta = Mapping[str, Tensor]


def make_policy(head: str = "continuous", **options: Any) -> RecurrentPolicy:
    """A small policy."""
    settings: dict[str, Any] = {
        "cell": "gru",
        "hidden_size": 4,
        "hidden_sizes": (5,),
        "nonlinearity": "tanh",
        "init_std": 0.7,
    }
    return RecurrentPolicy(
        observation_size=OBSERVATION_SIZE, action_head=HEADS[head], **settings | options
    )


def make_theta(policy: RecurrentPolicy, seed: int = 0) -> dict[str, Tensor]:
    """Parameters of which none is at its initial value, float64."""
    rng = np.random.default_rng(seed)
    return {
        name: value.double() + torch.from_numpy(0.3 * rng.standard_normal(value.shape))
        for name, value in policy.initial_parameters(rng).items()
    }


def moved(theta: Theta, size: float, seed: int = 5) -> dict[str, Tensor]:
    """Parameters nearby."""
    rng = np.random.default_rng(seed)
    return {
        name: value + size * torch.from_numpy(rng.standard_normal(value.shape))
        for name, value in theta.items()
    }


def make_stage(
    policy: RecurrentPolicy,
    lengths: list[list[int]],
    rng: np.random.Generator,
    garbage: float = 0.0,
) -> Episodes:
    """Random episodes of T tasks, with ``garbage`` in masked steps.

    Args:
        policy: its action head says what an action is.
        lengths: real steps of each episode, (T, E).
        rng: of all values.
        garbage: float values of masked steps.
    """
    sizes = (*np.shape(lengths), HORIZON)
    mask = torch.from_numpy(np.arange(HORIZON) < np.array(lengths)[..., None]).double()

    def draw(*shape: int) -> Tensor:
        values = torch.from_numpy(rng.standard_normal((*sizes, *shape)))
        return torch.where(mask.reshape(*sizes, *[1] * len(shape)) > 0, values, garbage)

    head = policy.action_head
    if head.num_choices:
        chosen = [torch.from_numpy(rng.integers(0, n, sizes)) for n in head.num_choices]
        actions = torch.stack(chosen, dim=-1)
    elif head.discrete:
        actions = torch.from_numpy(rng.integers(0, head.size, sizes))
    else:
        actions = draw(head.size)
    nothing = torch.zeros(sizes, dtype=torch.float64)
    return Episodes(
        observations=draw(policy.observation_size),
        actions=actions,
        rewards=draw(),
        mask=mask,
        distribution=(),
        log_probs=nothing,
        cause=torch.zeros(sizes[:2], dtype=torch.int8),
        success=torch.full(sizes[:2], torch.nan, dtype=torch.float64),
        terminated=nothing[..., 0],
        last_observations=nothing[..., :1].expand(-1, -1, policy.observation_size),
        advantages=nothing,
        inner_advantages=nothing,
    )


def make_stages(policy: RecurrentPolicy, seed: int = 1, garbage: float = 0.0) -> list[Episodes]:
    """Two episodes of each of four tasks; some end early."""
    rng = np.random.default_rng(seed)
    return [make_stage(policy, lengths, rng, garbage) for lengths in LENGTHS]


def nothing_before(policy: RecurrentPolicy, num_trials: int = 4) -> Tensor:
    """What came before the first step of a trial."""
    return torch.zeros(num_trials, policy.previous_size, dtype=torch.float64)


def make_sequence(policy: RecurrentPolicy, seed: int = 1, garbage: float = 0.0) -> TrialSequence:
    """The trials of :func:`make_stages`."""
    stages = make_stages(policy, seed, garbage)
    return trial_sequence(stages, nothing_before(policy), policy.action_head)


def along_trials(
    policy: RecurrentPolicy,
    theta: Theta,
    sequence: TrialSequence,
    tasks: Tensor | None = None,
    truncation: int | None = None,
) -> tuple[Any, Tensor]:
    """The policy's distributions (N, L) and values (N, L)."""
    return policy.along_trials(theta, sequence.observations, sequence.previous, tasks, truncation)


def make_batch(
    policy: RecurrentPolicy, theta: Theta, seed: int = 1, garbage: float = 0.0
) -> TrialBatch:
    """A batch of the trials of :func:`make_stages`, with random advantages and targets.

    Args:
        policy: the architecture.
        theta: with which the actions were sampled, as far as the ratio knows.
        seed: of all values.
        garbage: float values in the padding, of all but the distribution.
    """
    sequence = make_sequence(policy, seed, garbage)
    rng = np.random.default_rng(seed + 100)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape))

    num_trials = len(sequence.mask)
    tasks = draw(num_trials, policy.task_size) if policy.task_size else None
    dist, _ = along_trials(policy, theta, sequence, tasks)
    is_real = sequence.mask > 0
    return TrialBatch(
        sequence=sequence,
        tasks=tasks,
        distribution=tuple(value.detach() for value in dist),
        log_probs=torch.where(is_real, dist.log_prob(sequence.actions).detach(), garbage),
        advantages=torch.where(is_real, draw(*sequence.mask.shape), garbage),
        targets=torch.where(is_real, draw(*sequence.mask.shape), garbage),
    )


def plain_encoded(head: ActionHead, action: Tensor) -> Tensor:
    """An action as a vector (size,): choices as one-hot."""
    if not head.discrete:
        return action
    numbers = head.num_choices or (head.size,)
    parts = [torch.zeros(number, dtype=torch.float64) for number in numbers]
    for part, chosen in zip(parts, action.reshape(-1).tolist(), strict=True):
        part[chosen] = 1.0
    return torch.cat(parts)


def plain_cell(policy: RecurrentPolicy, theta: Theta, memory: Tensor, x: Tensor) -> Tensor:
    """The equations of torch.nn.GRUCell and torch.nn.LSTMCell for one state."""
    n = policy.hidden_size
    h = memory[:n]
    of_input = theta["cell_weight_ih"] @ x + theta["cell_bias_ih"]
    of_memory = theta["cell_weight_hh"] @ h + theta["cell_bias_hh"]
    if policy.cell == "gru":
        r = torch.sigmoid(of_input[:n] + of_memory[:n])
        z = torch.sigmoid(of_input[n : 2 * n] + of_memory[n : 2 * n])
        new = torch.tanh(of_input[2 * n :] + r * of_memory[2 * n :])
        return (1 - z) * new + z * h
    i, f, g, o = (of_input + of_memory).split(n)
    c = torch.sigmoid(f) * memory[n:] + torch.sigmoid(i) * torch.tanh(g)
    return torch.cat([torch.sigmoid(o) * torch.tanh(c), c])


def plain_network(policy: RecurrentPolicy, theta: Theta, name: str, h: Tensor, x: Tensor) -> Tensor:
    """Outputs of ``policy`` or ``value`` at one step, with weights that are formed."""
    num_layers = len(policy.hidden_sizes) + 1
    is_generated = name in policy.generated
    if not is_generated:
        x = torch.cat([h, x])
    for i in range(num_layers):
        weight, bias = theta[f"{name}_{i}_weight"], theta[f"{name}_{i}_bias"]
        if is_generated:
            latent = h @ theta[f"{name}_latent_weight"] + theta[f"{name}_latent_bias"]
            for z, added in zip(latent, theta[f"{name}_{i}_hypernetwork"], strict=True):
                weight = weight + z * added[:-1]
                bias = bias + z * added[-1]
        x = x @ weight + bias
        x = torch.tanh(x) if i < num_layers - 1 else x
    return x


def plain_distribution(policy: RecurrentPolicy, theta: Theta, outputs: Tensor) -> Any:
    """Distribution of the actions of one step."""
    head = policy.action_head
    if not head.discrete:
        return td.Independent(td.Normal(outputs, theta["log_std"].exp()), 1)
    if head.num_choices:
        return [td.Categorical(logits=part) for part in outputs.split(head.num_choices)]
    return td.Categorical(logits=outputs)


class PlainStep:
    """What happens at one step of a trial: memory, distribution and value."""

    def __init__(
        self,
        policy: RecurrentPolicy,
        theta: Theta,
        memory: Tensor,
        observation: Tensor,
        previous: Tensor,
        task: Tensor | None,
    ) -> None:
        size = policy.action_head.size
        inputs = {
            "observation": observation,
            "action": previous[:size],
            "reward": previous[size:],
        }
        encoded = [
            torch.relu(x @ theta[f"{name}_encoder_weight"] + theta[f"{name}_encoder_bias"])
            for name, x in inputs.items()
        ]
        self.memory = plain_cell(policy, theta, memory, torch.cat(encoded))
        h = self.memory[: policy.hidden_size]
        self.outputs = plain_network(policy, theta, "policy", h, observation)
        self.dist = plain_distribution(policy, theta, self.outputs)
        of_value = observation if task is None else torch.cat([observation, task])
        self.value = plain_network(policy, theta, "value", h, of_value)[0]

    @property
    def dists(self) -> list[td.Distribution]:
        """The independent distributions of the parts of an action."""
        return self.dist if isinstance(self.dist, list) else [self.dist]

    def log_prob(self, action: Tensor) -> Tensor:
        parts = action if isinstance(self.dist, list) else [action]
        return sum(dist.log_prob(part) for dist, part in zip(self.dists, parts, strict=True))

    def entropy(self) -> Tensor:
        return sum(dist.entropy() for dist in self.dists)

    def kl_from(self, old: PlainStep) -> Tensor:
        """KL(old ‖ this)."""
        pairs = zip(old.dists, self.dists, strict=True)
        return sum(td.kl_divergence(before, after) for before, after in pairs)


def plain_trial(
    policy: RecurrentPolicy,
    theta: Theta,
    stages: list[Episodes],
    trial: int,
    task: Tensor | None = None,
) -> list[PlainStep]:
    """Every real step of one trial; the memory begins empty."""
    memory = torch.zeros(policy.memory_size, dtype=torch.float64)
    previous = torch.zeros(policy.previous_size, dtype=torch.float64)
    steps = []
    for stage in stages:
        for episode in range(stage.mask.shape[1]):
            length = int(stage.mask[trial, episode].sum())
            for t in range(length):
                at = (trial, episode, t)
                step = PlainStep(policy, theta, memory, stage.observations[at], previous, task)
                steps.append(step)
                memory = step.memory
                action = plain_encoded(policy.action_head, stage.actions[at])
                end = torch.tensor([float(t == length - 1)], dtype=torch.float64)
                previous = torch.cat([action, stage.rewards[at][None], end])
    return steps


class RecordingActor(RecurrentActor):
    """Keeps what it remembers after each action."""

    def start(self, episodes: slice) -> None:
        super().start(episodes)
        self.memories: list[np.ndarray] = []

    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        actions = super().act(observations, t)
        self.memories.append(self.memory[0].copy())
        return actions


class PlayedTrials(NamedTuple):
    """Trials of three episodes, played step by step, one episode per stage."""

    stages: list[Episodes]
    noises: list[Tensor]
    """Of each stage, (T, 1, H, A)."""
    memories: list[Tensor]
    """What the network remembered after each step, of each stage (T, H, memory size)."""

    @classmethod
    def of(
        cls,
        training: Training,
        state: LearnerState,
        network: RecurrentPolicy | Student,
        theta: Theta,
        streams: RandomStreams,
    ) -> PlayedTrials:
        """Play them; check that what is remembered at the end of an episode is the next belief."""
        learner = training.agent.learner
        collector = dataclasses.replace(training.collector, dtype=torch.float64)
        collector.set_tasks(sample_tasks(collector, streams))
        normalizer = ObservationNormalizer(**state.tensors["normalizer"])
        belief = learner.prior(state, collector.num_tasks)
        played = cls([], [], [])
        for stage in range(3):
            noise = collector.noise(learner.draw_noise, streams, stage)
            actor = RecordingActor(network, theta, belief, noise, normalizer)
            played.stages.append(collector.collect(actor, streams, stage))
            played.noises.append(noise)
            played.memories.append(torch.from_numpy(np.stack(actor.memories, axis=1)))
            belief = learner.update(state, belief, played.stages[-1], stage)
            for key, value in zip(("memory", "previous"), actor.memory, strict=True):
                torch.testing.assert_close(belief[key], torch.from_numpy(value))
        return played

    def assert_same_pass(
        self,
        network: RecurrentPolicy | Student,
        dist: Distribution,
        outputs: Tensor,
        actions: Tensor,
    ) -> None:
        """Compare the memories of each step, and its action, with a pass over whole trials."""
        for i, trial_actions in enumerate(actions):
            masks = [stage.mask[i, 0] > 0 for stage in self.stages]
            noise = torch.cat(
                [part[i, 0][mask] for part, mask in zip(self.noises, masks, strict=True)]
            )
            memory = torch.cat(
                [part[i, : int(m.sum())] for part, m in zip(self.memories, masks, strict=True)]
            )
            number = len(noise)
            part = type(dist)(*(value[i : i + 1, :number] for value in dist))
            torch.testing.assert_close(part.sample(noise[None])[0], trial_actions[:number])
            torch.testing.assert_close(network.outputs_of(memory), outputs[i, :number])


def assert_gradient(loss: Callable[[dict[str, Tensor]], Tensor], theta: dict[str, Tensor]) -> None:
    """Compare with finite differences, in random directions of each parameter tensor and of all."""
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
    gradient = dict(zip(theta, gradients, strict=True))
    rng = np.random.default_rng(0)
    everything = {
        name: torch.from_numpy(rng.standard_normal(value.shape)) for name, value in theta.items()
    }
    eps = 1e-6
    for direction in (everything, *({name: value} for name, value in everything.items())):
        ends = [
            {name: v + sign * eps * direction.get(name, 0 * v) for name, v in theta.items()}
            for sign in (1, -1)
        ]
        expected = float(loss(ends[0]) - loss(ends[1])) / (2 * eps)
        actual = sum(float((gradient[name] * d).sum()) for name, d in direction.items())
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-7), list(direction)
        assert actual != 0, list(direction)
