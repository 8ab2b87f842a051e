"""Meta-reinforcement learning for robotics: policies that adapt within a few episodes."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
from typing import TYPE_CHECKING, Any

from maml_rl.system.process_environment import ignore_missing_backend, let_idle_threads_sleep

if TYPE_CHECKING:
    from maml_rl.agents.agent import Agent as Agent
    from maml_rl.agents.episode_log import EpisodeLog as EpisodeLog
    from maml_rl.agents.load import load as load
    from maml_rl.agents.sb3_import import from_sb3 as from_sb3
    from maml_rl.analysis.evaluation import evaluate as evaluate
    from maml_rl.analysis.plots import plot_evaluation as plot_evaluation
    from maml_rl.analysis.plots import plot_learning_curves as plot_learning_curves
    from maml_rl.analysis.plots import plot_tasks as plot_tasks
    from maml_rl.analysis.recording import record as record
    from maml_rl.errors import UserError as UserError
    from maml_rl.runs.pretrained import pretrained_names as pretrained_names
    from maml_rl.settings.config import Config as Config
    from maml_rl.settings.parser import load_config as load_config
    from maml_rl.training.callbacks import Callback as Callback
    from maml_rl.training.reporting import Interrupted as Interrupted
    from maml_rl.training.seeds import train_seeds as train_seeds
    from maml_rl.training.start import resume as resume
    from maml_rl.training.start import train as train

    __version__: str

# Imported on first use, so that importing the package does not import torch.
_HOMES = {
    "Agent": "agents.agent",
    "Callback": "training.callbacks",
    "Config": "settings.config",
    "EpisodeLog": "agents.episode_log",
    "Interrupted": "training.reporting",
    "UserError": "errors",
    "evaluate": "analysis.evaluation",
    "from_sb3": "agents.sb3_import",
    "load": "agents.load",
    "load_config": "settings.parser",
    "plot_evaluation": "analysis.plots",
    "plot_learning_curves": "analysis.plots",
    "plot_tasks": "analysis.plots",
    "pretrained_names": "runs.pretrained",
    "record": "analysis.recording",
    "resume": "training.start",
    "train": "training.start",
    "train_seeds": "training.seeds",
}

__all__ = [
    "Agent",
    "Callback",
    "Config",
    "EpisodeLog",
    "Interrupted",
    "UserError",
    "__version__",
    "evaluate",
    "from_sb3",
    "load",
    "load_config",
    "plot_evaluation",
    "plot_learning_curves",
    "plot_tasks",
    "pretrained_names",
    "record",
    "resume",
    "train",
    "train_seeds",
]

let_idle_threads_sleep()
ignore_missing_backend()


class _Package(types.ModuleType):
    """Keeps ``maml_rl.train`` the function after the module ``maml_rl.train`` is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("maml-rl")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"maml_rl.{_HOMES[name]}"), name)
