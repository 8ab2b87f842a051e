"""Settings of RL²."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.settings.ranges import Integer, Range

Cell = Literal["gru", "lstm"]


@dataclass(frozen=True, kw_only=True)
class RL2Config(TrialPPOConfig):
    """A recurrent policy whose memory adapts it, within an episode and over the next ones."""

    name: str = "rl2"
    cell: Cell = "gru"
    """The recurrent cell."""
    hidden_size: int = 128
    """Size of the cell's output."""
    memory: bool = True
    """Remember the steps before. false: the same networks without a memory, for comparison."""
    hypernetwork: bool = False
    """Generate the policy's weights from the memory at every step, by a hypernetwork."""
    hypernetwork_value: bool = False
    """Also generate the weights of the value network, by another hypernetwork."""
    latent_size: int = 25
    """Size of the hypernetwork's input, a linear map of the cell's output."""
    asymmetric_critic: bool = False
    """The value network observes the task; the policy does not."""
    credit_across_episodes: bool = True
    """An action also gets credit for rewards in later episodes of the trial."""

    IMPLEMENTATION: ClassVar[str] = "maml_rl.learners.rl2.make:rl2"
    ON_DEVICE: ClassVar[bool] = True
    RANGES: ClassVar[Mapping[str, Range]] = {
        **TrialPPOConfig.RANGES,
        "hidden_size": Integer(1, 1 << 12),
        "latent_size": Integer(1, 1 << 10),
    }

    def check(self, config: Any) -> None:
        """Refuse a hypernetwork of the value network alone, and what PPO on trials refuses."""
        super().check(config)
        if self.hypernetwork_value and not self.hypernetwork:
            raise ValueError("learner.hypernetwork_value needs learner.hypernetwork true")
