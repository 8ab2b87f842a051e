"""Export policies for use without this package: plain module, ONNX, TorchScript, torch.export."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from maml_rl.errors import UserError, errors_named
from maml_rl.policies.plain_network import PlainModule
from maml_rl.system.atomic_files import atomic_replace, unwritable_refused

_ONNX_PACKAGES = ("onnx", "onnxscript")


class PlainPolicy(nn.Module):
    """A module from raw observations to the environment's actions that needs only torch.

    Args:
        plain: the policy.
        observation_space: of the environment.
        action_space: of the environment. Actions are clipped to its bounds.
        with_distribution: return the parameters of the action distribution instead of the most
            probable action.
    """

    low: Tensor
    high: Tensor
    log_std: Tensor

    def __init__(
        self,
        plain: PlainModule,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        with_distribution: bool = False,
    ) -> None:
        super().__init__()
        self.network = plain.network
        self.observation_shape = observation_space.shape or ()
        self.flattens = observation_space.shape != plain.observation_shape
        self.discrete = isinstance(action_space, spaces.Discrete)
        self.with_distribution = with_distribution
        # Standard deviation and bounds of Box actions.
        if plain.log_std is not None:
            self.register_buffer("log_std", plain.log_std.clone())
        if not self.discrete:
            for name, inwards in (("low", np.inf), ("high", -np.inf)):
                bound = getattr(action_space, name)
                single = bound.astype(np.float32)
                # A float64 bound may be rounded outwards.
                is_outside = single < bound if name == "low" else single > bound
                single = np.where(is_outside, np.nextafter(single, np.float32(inwards)), single)
                self.register_buffer(name, torch.from_numpy(single))

    def examples(self) -> dict[str, Tensor]:
        """Inputs of the forward pass by name, each (2, ...)."""
        return {"observation": torch.zeros(2, *self.observation_shape)}

    @property
    def output_names(self) -> list[str]:
        """Names of what the forward pass returns."""
        if not self.with_distribution:
            return ["action"]
        return ["logits"] if self.discrete else ["mean", "std"]

    def forward(self, observation: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the most probable actions, or parameters of the action distribution.

        Args:
            observation: raw observations, (N, *observation_shape) float32.

        Returns:
            Actions: (N, action_size) float32 within the bounds, or (N,) int64 if discrete. With
            ``with_distribution``: mean and standard deviation before clipping, (N, action_size)
            each, or logits (N, number of choices) if discrete.
        """
        output: Tensor = self.network(self._inputs(observation))
        if not self.with_distribution:
            return self._actions(output)
        if self.discrete:
            return output
        return output, self.log_std.exp().expand_as(output)

    def _inputs(self, observation: Tensor) -> Tensor:
        """Observations in the network's shape."""
        return observation.flatten(1) if self.flattens else observation

    def _actions(self, output: Tensor) -> Tensor:
        """The most probable actions within the bounds."""
        return output.argmax(-1) if self.discrete else output.clamp(self.low, self.high)


class PlainMemoryPolicy(PlainPolicy):
    """A :class:`PlainPolicy` with a memory, which is an input and an output.

    The memory begins as ``initial_memory`` (M,) where ``episode_start`` is true. It includes the
    action that the module has returned, so that action must be played.
    """

    initial_memory: Tensor
    initial_result: Tensor

    def __init__(
        self,
        plain: PlainModule,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        super().__init__(plain, observation_space, action_space)
        assert plain.start is not None, "the network has a memory"
        memory, result = plain.start
        self.register_buffer("initial_memory", memory)
        self.register_buffer("initial_result", result)

    @property
    def output_names(self) -> list[str]:
        """Names of what the forward pass returns."""
        return ["action", "next_memory"]

    def examples(self) -> dict[str, Tensor]:
        """Inputs of the forward pass by name, each (2, ...)."""
        return {
            **super().examples(),
            "reward": torch.zeros(2),
            "ended": torch.zeros(2, dtype=torch.bool),
            "episode_start": torch.ones(2, dtype=torch.bool),
            "memory": self.initial_memory.repeat(2, 1),
        }

    def forward(  # type: ignore[override]  # it has more inputs
        self,
        observation: Tensor,
        reward: Tensor,
        ended: Tensor,
        episode_start: Tensor,
        memory: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable actions, and the memory for the next call.

        The arguments have the meaning of those of ``Agent.predict``.

        Args:
            observation: raw observations, (N, *observation_shape) float32.
            reward: of the last actions, (N,) float32.
            ended: (N,) bool: where the last action ended an episode.
            episode_start: (N,) bool: where to begin with the agent's belief, whatever ``memory``,
                ``reward`` and ``ended`` are.
            memory: (N, M) float32, from the last call.

        Returns:
            Actions: (N, action_size) float32 within the bounds, or (N,) int64 if discrete. And the
            memory, (N, M) float32.
        """
        start = episode_start[:, None]
        result = torch.stack([reward, ended.to(reward)], dim=-1)
        output, memory = self.network(
            self._inputs(observation),
            torch.where(start, self.initial_memory, memory),
            torch.where(start, self.initial_result, result),
        )
        return self._actions(output), memory


def plain_policy(
    plain: PlainModule,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    with_distribution: bool,
) -> PlainPolicy:
    """Return the module for users; the arguments are those of :class:`PlainPolicy`.

    Raises:
        UserError: if a policy with a memory, or one whose distribution has other parameters, is
            asked for its distribution.
    """
    if with_distribution and plain.log_std is None and isinstance(action_space, spaces.Box):
        raise UserError(
            "with_distribution must be False for this policy: the standard deviation of its "
            "actions depends on the observation, and they are squashed"
        )
    if plain.start is None:
        return PlainPolicy(plain, observation_space, action_space, with_distribution)
    if with_distribution:
        raise UserError(
            "with_distribution must be False for a policy with a memory: it remembers its actions, "
            "and cannot know one that is sampled outside"
        )
    return PlainMemoryPolicy(plain, observation_space, action_space)


def export(module: PlainPolicy, path: Path) -> None:
    """Write a module to a file, atomically, in the format of the file's suffix.

    The exported program accepts any batch size.

    Args:
        module: the policy. This switches it to evaluation mode and freezes its parameters.
        path: ends in ``.onnx``, ``.ts`` (TorchScript) or ``.pt2`` (torch.export).

    Raises:
        UserError: if the suffix is not one of these, the folder does not exist, the file cannot be
            written, the packages for ONNX are not installed, or torch cannot export the network.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"cannot export to {path}: the suffix must be one of {', '.join(_WRITERS)}")
    if not os.path.isdir(path.parent):
        raise UserError(f"cannot export to {path}: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    # Whatever torch's exporters raise for a network of the user's becomes one line.
    named = errors_named(f"torch cannot export this policy to {path}:", OSError)
    with unwritable_refused(path), atomic_replace(path, temporary), named:
        _WRITERS[path.suffix](module.eval().requires_grad_(False), temporary)


def _write_onnx(module: PlainPolicy, path: Path) -> None:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}: install them with pip install 'maml-rl[export]'"
        )
    examples = module.examples()
    # torch.onnx logs that torchvision is missing, and its exporter warns about torch itself.
    with warnings.catch_warnings(), _only_errors_of_onnx():
        warnings.simplefilter("ignore", FutureWarning)
        # The first axis of several inputs has the same name, which is meant.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        torch.onnx.export(
            module,
            tuple(examples.values()),
            path,
            input_names=list(examples),
            output_names=module.output_names,
            dynamic_shapes=_any_batch_size(module),
            external_data=False,
            verbose=False,
            dynamo=True,
        )


@contextlib.contextmanager
def _only_errors_of_onnx() -> Iterator[None]:
    """Let the logger of torch.onnx pass errors only inside the context."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _any_batch_size(module: PlainPolicy) -> tuple[dict[int, Any], ...]:
    """The first axis of every input, which may have any size."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in module.examples())


def _write_torchscript(module: PlainPolicy, path: Path) -> None:
    # torch recommends torch.export instead, which is .pt2.
    examples = tuple(module.examples().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, examples)
        # Tracing makes constants of what Python reads as numbers.
        others = tuple(torch.cat([value, value[:1]]) for value in examples)
        with errors_named("TorchScript keeps the number of observations that it was traced with:"):
            traced(*others)
        traced.save(str(path))


def _write_program(module: PlainPolicy, path: Path) -> None:
    inputs = tuple(module.examples().values())
    program = torch.export.export(module, inputs, dynamic_shapes=_any_batch_size(module))
    torch.export.save(program, path)


_WRITERS: dict[str, Callable[[PlainPolicy, Path], None]] = {
    ".onnx": _write_onnx,
    ".ts": _write_torchscript,
    ".pt2": _write_program,
}
