"""Export policies for use without this package: plain module, ONNX, TorchScript, torch.export."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from maml_rl.errors import UserError, in_one_line
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
        if observation_space.shape != plain.observation_shape:
            self.network = nn.Sequential(nn.Flatten(), plain.network)
        self.discrete = plain.log_std is None
        self.with_distribution = with_distribution
        # Standard deviation and bounds of Box actions.
        if plain.log_std is not None:
            assert isinstance(action_space, spaces.Box), "a Gaussian policy has Box actions"
            self.register_buffer("log_std", plain.log_std.clone())
            for name in ("low", "high"):
                bound = getattr(action_space, name).astype(np.float32)
                self.register_buffer(name, torch.from_numpy(bound))

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
        output = self.network(observation)
        if self.discrete:
            return output if self.with_distribution else output.argmax(-1)
        if self.with_distribution:
            return output, self.log_std.exp().expand_as(output)
        return output.clamp(self.low, self.high)


def export(module: PlainPolicy, observation_shape: tuple[int, ...], path: Path) -> None:
    """Write a module to a file, atomically, in the format of the file's suffix.

    The exported program accepts any batch size.

    Args:
        module: the policy. This switches it to evaluation mode and freezes its parameters.
        observation_shape: of one observation.
        path: ends in ``.onnx``, ``.ts`` (TorchScript) or ``.pt2`` (torch.export).

    Raises:
        UserError: if the suffix is not one of these, the folder does not exist, the file cannot be
            written, the packages for ONNX are not installed, or torch cannot export the network.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"cannot export to {path}: the suffix must be one of {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"cannot export to {path}: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with unwritable_refused(path), atomic_replace(path, temporary):
        example = torch.zeros(2, *observation_shape)
        try:
            _WRITERS[path.suffix](module.eval().requires_grad_(False), example, temporary)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # whatever torch's exporters raise for a network of the user's
            raise UserError(
                f"torch cannot export this policy to {path}: {in_one_line(error)}"
            ) from error


def _write_onnx(module: PlainPolicy, example: Tensor, path: Path) -> None:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}: install them with pip install 'maml-rl[export]'"
        )
    # torch.onnx logs that torchvision is missing, and its exporter warns about torch itself.
    with warnings.catch_warnings(), _only_errors_of("torch.onnx"):
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=["observation"],
            output_names=module.output_names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            dynamo=True,
        )


@contextlib.contextmanager
def _only_errors_of(name: str) -> Iterator[None]:
    """Let the logger ``name`` pass errors only inside the context."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_torchscript(module: PlainPolicy, example: Tensor, path: Path) -> None:
    # torch recommends torch.export instead, which is .pt2.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, example).save(str(path))


def _write_program(module: PlainPolicy, example: Tensor, path: Path) -> None:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (example,), dynamic_shapes=(batch,))
    torch.export.save(program, path)


_WRITERS: dict[str, Callable[[PlainPolicy, Tensor, Path], None]] = {
    ".onnx": _write_onnx,
    ".ts": _write_torchscript,
    ".pt2": _write_program,
}
