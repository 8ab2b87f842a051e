"""Policies for machines without this package: a plain module, ONNX, TorchScript, torch.export."""

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

from maml_rl.errors import UserError
from maml_rl.policies.plain_network import ACTIVATIONS, PlainNetwork
from maml_rl.system.atomic_files import atomic_replace, unwritable_refused

_ONNX_PACKAGES = ("onnx", "onnxscript")


class PlainPolicy(nn.Module):
    """From raw observations to the environment's actions, with nothing of this package inside.

    Args:
        network: the policy.
        action_space: whose bounds actions keep.
        with_distribution: give the parameters of the action distribution in place of the most
            probable action.
    """

    low: Tensor
    high: Tensor
    log_std: Tensor

    def __init__(
        self,
        network: PlainNetwork,
        action_space: spaces.Space[Any],
        with_distribution: bool = False,
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for weight, bias in network.layers:
            modules += [ACTIVATIONS[network.nonlinearity]()] if modules else []
            linear = nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias.clone()
            modules.append(linear)
        self.network = nn.Sequential(*modules)
        self.discrete = network.log_std is None
        self.with_distribution = with_distribution
        if network.log_std is not None:
            assert isinstance(action_space, spaces.Box), "a Gaussian policy has Box actions"
            self.register_buffer("log_std", network.log_std.clone())
            for name in ("low", "high"):
                self.register_buffer(
                    name, torch.from_numpy(getattr(action_space, name).astype(np.float32))
                )

    @property
    def output_names(self) -> list[str]:
        """What the forward pass returns."""
        if not self.with_distribution:
            return ["action"]
        return ["logits"] if self.discrete else ["mean", "std"]

    def forward(self, observation: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The most probable actions at observations (N, observation_size), or their distribution.

        Returns:
            Actions (N, action_size) float32 within their bounds, or (N,) int64 where discrete. With
            ``with_distribution`` mean and standard deviation of the actions before they are
            clipped, each (N, action_size), or logits (N, number of actions) where discrete.
        """
        output = self.network(observation)
        if self.discrete:
            return output if self.with_distribution else output.argmax(-1)
        if self.with_distribution:
            return output, self.log_std.exp().expand_as(output)
        return output.clamp(self.low, self.high)


def export(module: PlainPolicy, observation_size: int, path: Path) -> None:
    """Write the module to a file, whole or not at all, in the format that the ending names; any batch size.

    Raises:
        UserError: another ending, a folder that is not there, or packages that are missing.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"cannot export to {path}: the ending must be one of {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"cannot export to {path}: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with unwritable_refused(path), atomic_replace(path, temporary):
        example = torch.zeros(2, observation_size)
        _WRITERS[path.suffix](module.eval().requires_grad_(False), example, temporary)


def _write_onnx(module: PlainPolicy, example: Tensor, path: Path) -> None:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}: install them with pip install 'maml-rl[export]'"
        )
    with (
        warnings.catch_warnings(),
        _only_errors_of("torch.onnx"),
    ):  # it tells that torchvision is not there
        warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter about torch
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
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_torchscript(module: PlainPolicy, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # torch points to torch.export, which .pt2 is
        torch.jit.trace(module, example).save(str(path))


def _write_program(module: PlainPolicy, example: Tensor, path: Path) -> None:
    program = torch.export.export(
        module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, path)


_WRITERS: dict[str, Callable[[PlainPolicy, Tensor, Path], None]] = {
    ".onnx": _write_onnx,
    ".ts": _write_torchscript,
    ".pt2": _write_program,
}
