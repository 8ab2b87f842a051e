"""A task of an agent's environment."""

from __future__ import annotations

import numpy as np

from maml_rl.agents.agent import Agent
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.drawn_tasks import Task


def drawn_task(agent: Agent) -> Task:
    """Draw a task of the environment that the agent was trained on."""
    with as_task_vector_env(None, agent.config.env, 1, agent.config.horizon, num_tasks=1) as env:
        env.np_random = np.random.default_rng(0)
        (task,) = env.sample_tasks(1)
    return task
