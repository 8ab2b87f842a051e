"""Networks for ``policy.network``: some that can be used, and some that are refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn


class Convolutional(nn.Module):
    """A small network for images of values 0 to 255."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__()
        height, width, channels = observation_space.shape
        self.convolution = nn.Conv2d(channels, 4, 3, stride=2)
        num_features = 4 * ((height - 1) // 2) * ((width - 1) // 2)
        self.head = nn.Linear(num_features, num_outputs)

    def forward(self, observations: Tensor) -> Tensor:
        images = observations.movedim(-1, 1) / 255
        return self.head(torch.tanh(self.convolution(images)).flatten(1))


class Perceptron(nn.Module):
    """The built-in network with one hidden layer of four units."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(observation_space.shape[0], 4)
        self.last = nn.Linear(4, num_outputs)

    def forward(self, observations: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(observations)))


class Scaled(Perceptron):
    """It has a parameter without axes."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__(observation_space, num_outputs)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, observations: Tensor) -> Tensor:
        return self.scale * super().forward(observations)


class ReadsBatchSize(Perceptron):
    """It reads the number of observations as a number of Python."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations.reshape(len(observations), -1))


class Lazy(nn.Module):
    """Its first layer learns its size from the first observation."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__()
        self.hidden = nn.LazyLinear(4)
        self.last = nn.Linear(4, num_outputs)

    def forward(self, observations: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(observations)))


class _Odd(Perceptron):
    """A perceptron with one thing wrong."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__(observation_space, num_outputs)
        self.extra = self.make_extra()

    def make_extra(self) -> Any:
        return None


class BatchNorm(_Odd):
    def make_extra(self) -> nn.Module:
        return nn.BatchNorm1d(4)

    def forward(self, observations: Tensor) -> Tensor:
        return self.last(self.extra(self.hidden(observations)))


class Dropout(BatchNorm):
    def make_extra(self) -> nn.Module:
        return nn.Dropout(0.5)


class Mixing(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations - observations.mean(0))


class TooManyOutputs(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).repeat(1, 2)


class ReturnsTuple(Perceptron):
    def forward(self, observations: Tensor) -> Any:
        return super().forward(observations), 0


class DoublePrecision(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()


class Double(Perceptron):
    """Computes in float64, and returns float32."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__(observation_space, num_outputs)
        self.double()

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations.double()).float()


class Keeps(Perceptron):
    """Keeps its last output, as for a plot."""

    def forward(self, observations: Tensor) -> Tensor:
        self.outputs = super().forward(observations)
        return self.outputs


class Attention(nn.Module):
    """Has a first derivative only."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__()
        self.encode = nn.Linear(1, 4)
        self.attend = nn.MultiheadAttention(4, 1, batch_first=True)
        self.head = nn.Linear(4, num_outputs)

    def forward(self, observations: Tensor) -> Tensor:
        tokens = self.encode(observations[..., None])
        attended, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        return self.head(attended.mean(1))


class Normed(nn.Module):
    """Its last layer is parametrised."""

    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(observation_space.shape[0], 4)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, num_outputs))

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(observations)))


class Unused(_Odd):
    def make_extra(self) -> nn.Module:
        return nn.Linear(1, 1)


class Frozen(Perceptron):
    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__(observation_space, num_outputs)
        self.hidden.requires_grad_(False)


class Branches(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        outputs = super().forward(observations)
        return outputs if outputs.sum() > 0 else -outputs


class NoParameters(nn.Module):
    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, observations: Tensor) -> Tensor:
        return observations.flatten(1)[:, : self.num_outputs]


class NotFinite(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) / 0


class InPlace(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations.mul_(2))


class RaisesInForward(Perceptron):
    def forward(self, observations: Tensor) -> Tensor:
        raise ValueError("no idea")


class RaisesInConstructor(nn.Module):
    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        raise ValueError("not today")


class NotAModule:
    def __init__(self, observation_space: spaces.Box, num_outputs: int) -> None:
        pass


class Lights(gym.Env):
    """A light is on at the left or at the right; the task says which action is right then.

    Args:
        size: height and width of the image in pixels.
    """

    def __init__(self, size: int = 16) -> None:
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.sign = 1.0

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{"sign": float(sign)} for sign in self.np_random.choice([-1.0, 1.0], num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        self.sign = task["sign"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = -abs(float(action[0]) - self.sign * self.side)
        return self._image(), reward, False, False, {}

    def _image(self) -> np.ndarray:
        self.side = float(self.np_random.choice([-1, 1]))
        image = self.np_random.integers(0, 50, self.observation_space.shape, np.uint8)
        middle = image.shape[1] // 2
        lit = slice(0, middle) if self.side < 0 else slice(middle, None)
        image[:, lit] += 200
        return image


gym.register(id="Lights-v0", entry_point=Lights, max_episode_steps=4)
