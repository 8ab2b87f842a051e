"""Play episodes of T tasks in a vector environment, E of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.sampling.actors import Actor, check_actor
from maml_rl.sampling.device_rollout import DeviceRollout
from maml_rl.sampling.episodes import Episodes, zero_masked
from maml_rl.sampling.failures import ACTION, CODES
from maml_rl.sampling.recording import Recorded, Recording
from maml_rl.sampling.task_vector_env import TaskVectorEnv, assign_tasks, is_on_device
from maml_rl.settings.drawn_tasks import Task
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.thread_pool import map_blocks
from maml_rl.system.torch_runtime import torch_threads

Values = TypeVar("Values", Sequence[Task], np.ndarray)


@dataclass(frozen=True, kw_only=True)
class Collector:
    """How episodes are collected: everything that stays the same over a run.

    Args:
        env: sub-environments in the order of the tasks, equally many for each. With fewer than T·E
            of them, episodes are played in rounds.
        num_tasks: T.
        num_episodes: E, per task.
        horizon: H, the longest episode.
        action_map: from outputs to actions.
        device: of the episodes.
        first_task: index of this process's first task among the tasks of all processes. It selects
            the random streams.
        num_tasks_of_all: number of tasks of all processes; default is T.
        dtype: of the episodes.
        check_stop: called before each collection; may raise to stop the run.
        progress: called with a text that says what is done: before each control step, and after the
            stage.

    Raises:
        UserError: if the sub-environments cannot be divided evenly among the tasks, or simulate on
            another device.
    """

    env: TaskVectorEnv
    num_tasks: int
    num_episodes: int
    horizon: int
    action_map: ActionMap
    device: torch.device
    first_task: int = 0
    num_tasks_of_all: int | None = None
    dtype: torch.dtype = torch.float32
    check_stop: Callable[[], None] = lambda: None
    progress: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.env.num_envs % self.num_tasks or self.num_episodes % self.episodes_per_round:
            raise UserError(
                f"{self.num_tasks} tasks with {self.num_episodes} episodes each cannot be played "
                f"in equal rounds on {self.env.num_envs} sub-environments"
            )
        env: Any = self.env
        if is_on_device(env) and env.device.type != self.device.type:
            raise UserError(
                f"the environment simulates on {env.device}, and the policy is on {self.device}: "
                "use one device, or the engine mujoco"
            )

    @property
    def meta_batch_size(self) -> int:
        """Number of tasks of all processes."""
        return self.num_tasks_of_all or self.num_tasks

    def of_this_process(self, of_all: Values) -> Values:
        """Return the entries for the T tasks of this process.

        Args:
            of_all: one entry for each task of all processes.
        """
        return of_all[self.first_task : self.first_task + self.num_tasks]

    @property
    def episodes_per_round(self) -> int:
        """Episodes of a task that are played at the same time."""
        return self.env.num_envs // self.num_tasks

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give each of the T tasks to the sub-environments that play it.

        Raises:
            UserError: if the environment refuses a task.
        """
        assign_tasks(self.env, [task for task in tasks for _ in range(self.episodes_per_round)])

    def noise(
        self,
        draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
        streams: RandomStreams,
        stage: int,
        draw_on_device: Callable[[torch.Generator, tuple[int, ...]], Tensor] | None = None,
    ) -> Tensor:
        """Draw the noise of a stage, (T, E, H, ...), from each task's own stream.

        Args:
            draw: (generator, leading axes) -> noise with these axes.
            streams: of random numbers, for this iteration.
            stage: number of updates before; it selects the streams.
            draw_on_device: does the same, with other values, for simulations on a GPU; default is
                to copy the noise there.

        Raises:
            UserError: if the noise has another type or shape.
        """
        if draw_on_device is not None and is_on_device(self.env) and self.device.type == "cuda":
            return self.noise_on_device(draw_on_device, streams, stage).to(self.dtype)

        def of_task(i: int) -> np.ndarray:
            return draw(streams.actions(stage, i), (self.num_episodes, self.horizon))

        noise = map_blocks(of_task, [(self.first_task + i,) for i in range(self.num_tasks)])
        self._check_noise(noise, np.ndarray, "draw_noise")
        return torch.from_numpy(np.stack(noise)).to(self.device, self.dtype)

    def noise_on_device(
        self,
        draw: Callable[[torch.Generator, tuple[int, ...]], Tensor],
        streams: RandomStreams,
        stage: int,
    ) -> Tensor:
        """Draw the noise of a stage on the device, from a generator seeded for each task."""
        rng = torch.Generator(self.device)
        seeds = (streams.action_seed(stage, self.first_task + i) for i in range(self.num_tasks))
        sizes = (self.num_episodes, self.horizon)
        noise = [draw(rng.manual_seed(seed), sizes) for seed in seeds]
        self._check_noise(noise, Tensor, "draw_noise_on_device")
        return torch.stack(noise)

    def _check_noise(
        self, noise: Sequence[Any], kind: type[np.ndarray] | type[Tensor], method: str
    ) -> None:
        """Check the noise that a learner's ``method`` drew for each task."""
        sizes = (self.num_episodes, self.horizon)
        for values in noise:
            if not isinstance(values, kind) or values.shape[:2] != sizes:
                raise UserError(
                    f"{method} of a learner must return {kind.__name__} of shape "
                    f"{(*sizes, '...')}, got {getattr(values, 'shape', type(values).__name__)}"
                )

    @torch.no_grad()
    def collect(self, actor: Actor, streams: RandomStreams, stage: int) -> Episodes:
        """Play E episodes of every task.

        An episode is discarded if its simulation breaks down, or if an observation, action or
        reward is not finite. Other episodes do not depend on it.

        Args:
            actor: chooses the actions.
            streams: of random numbers, for this iteration.
            stage: number of updates before; it selects the streams.

        Returns:
            The episodes, without advantages.
        """
        self.check_stop()
        check_actor(actor)
        # Play.
        seeds = self._reset_seeds(streams, stage)
        with torch_threads(1):  # idle torch threads busy-wait on the simulator's CPUs
            rounds = list(self._rounds(actor, seeds, stage))
        self.progress(f"learning from stage {stage + 1}")
        played = rounds[0]
        if len(rounds) > 1:
            played = Recorded._make(torch.cat(parts, dim=1) for parts in zip(*rounds, strict=True))
        # Compute the actor's inputs; set masked steps to zero.
        inputs = actor.inputs(played.observations)
        if not played.mask.all():
            zero_masked(inputs, played.mask)
            zero_masked(played.actions, played.mask)
        # Compute log-probabilities; discard episodes where they overflow.
        log_probs, dist = actor.densities(inputs, played.actions)
        has_log_probs = (log_probs.isfinite() | (played.mask == 0)).all(-1)
        if not has_log_probs.all():
            played = _without(played, ~has_log_probs)
            log_probs = log_probs.masked_fill(played.mask == 0, 0.0)
        return Episodes(
            observations=inputs,
            actions=played.actions,
            rewards=played.rewards,
            mask=played.mask,
            distribution=dist,
            log_probs=log_probs,
            cause=played.cause,
            success=played.success,
            terminated=played.terminated,
            last_observations=played.last_observations,
            advantages=torch.zeros_like(played.rewards),
            inner_advantages=torch.zeros_like(played.rewards),
        )

    def _rounds(self, actor: Actor, seeds: np.ndarray, stage: int) -> Iterator[Recorded]:
        """Play all episodes, ``episodes_per_round`` of each task at a time.

        Args:
            actor: chooses the actions.
            seeds: of the resets, (T, E).
            stage: number of updates before.
        """
        num_rounds = self.num_episodes // self.episodes_per_round
        for first in range(0, self.num_episodes, self.episodes_per_round):
            part = slice(first, first + self.episodes_per_round)
            actor.start(part)
            number = f", round {first // self.episodes_per_round + 1}" if num_rounds > 1 else ""
            recorded = self._play(actor, seeds[:, part], stage, f"stage {stage + 1}{number}")
            yield self._by_task(recorded)

    def _play(self, actor: Actor, seeds: np.ndarray, stage: int, name: str) -> Recorded:
        """Play one episode in every sub-environment.

        Args:
            actor: chooses the actions.
            seeds: of the resets, (T, E of a round).
            stage: number of updates before.
            name: of the stage and round, for ``progress``.
        """
        # Reset. Consecutive seeds are passed as one integer, for environments that take no list.
        is_consecutive = np.count_nonzero(np.diff(seeds.ravel()) != 1) == 0
        options = {"episode": stage} if getattr(self.env, "takes_episode", False) else None
        with torch.enable_grad():  # the environment may need gradients
            observation, _ = self.env.reset(
                seed=int(seeds.flat[0]) if is_consecutive else seeds.ravel().tolist(),
                options=options,
            )

        def progress(t: int) -> None:
            self.progress(f"{name}: control step {t + 1} of {self.horizon}")

        if is_on_device(self.env):
            rollout = DeviceRollout(self.env, self.horizon, self.dtype, self.action_map)
            return rollout.play(observation, actor, progress)
        return self._play_on_cpu(observation, actor, progress)

    def _play_on_cpu(
        self, observation: Any, actor: Actor, progress: Callable[[int], None]
    ) -> Recorded:
        """Play one episode in every sub-environment, whose observations are NumPy arrays."""
        space = self.env.single_observation_space
        assert space.shape is not None, "as_task_vector_env refuses other observations"
        recording = Recording(
            self.horizon,
            self.env.num_envs,
            space.shape,
            self.dtype,
            self.device.type == "cuda",
            self.action_map,
        )
        # Step until all episodes have ended.
        for t in range(self.horizon):
            progress(t)
            outputs = recording.act(t, observation, actor)
            actions = self.action_map(outputs)
            with torch.enable_grad():
                observation, reward, terminated, truncated, info = self.env.step(actions)
            recording.record(t, observation, reward, terminated, truncated, info)
            actor.observe(recording.rewards[t], ~recording.live)
            if not np.count_nonzero(recording.live):
                break
        return recording.finished()

    def _by_task(self, recorded: Recorded) -> Recorded:
        """Arrange a round in task order, on the device."""
        is_valid = recorded.cause == 0
        mask = recorded.mask & is_valid
        last = recorded.last_observations[None]  # as one more step
        return Recorded(
            observations=self._of_tasks(recorded.observations),
            actions=self._of_tasks(recorded.actions),
            rewards=self._of_tasks(torch.where(mask, recorded.rewards, 0.0)),
            mask=self._of_tasks(mask).to(self.dtype),
            cause=self._of_tasks(recorded.cause),
            success=self._of_tasks(recorded.success.masked_fill(~is_valid, torch.nan)).to(
                self.dtype
            ),
            terminated=self._of_tasks(recorded.terminated & is_valid).to(self.dtype),
            last_observations=self._of_tasks(last)[:, :, 0].to(self.dtype),
        )

    def _of_tasks(self, values: Tensor) -> Tensor:
        """Split the axis of sub-environments into tasks and episodes, on the device.

        Args:
            values: (N,) or (H, N, ...).

        Returns:
            (T, E) or (T, E, H, ...), where E is the number of episodes per task in a round.
        """
        sizes = (self.num_tasks, self.episodes_per_round)
        values = values.to(self.device)
        if values.ndim == 1:
            return values.unflatten(0, sizes)
        return values.unflatten(1, sizes).movedim(0, 2).contiguous()

    def _reset_seeds(self, streams: RandomStreams, stage: int) -> np.ndarray:
        """The reset seed of every episode, (T, E), independent of the division into rounds."""
        num_seeds = self.meta_batch_size * self.num_episodes
        # The seeds of this process start at its first task.
        start = streams.reset_seed(stage, num_seeds) + self.first_task * self.num_episodes
        sizes = (self.num_tasks, self.num_episodes)
        return np.arange(start, start + self.num_tasks * self.num_episodes).reshape(sizes)


def _without(played: Recorded, overflows: Tensor) -> Recorded:
    """Discard the episodes (T, E) bool in which the log-probability of an action overflows.

    The actions themselves are finite; only extreme parameters cause such an overflow.
    """
    return played._replace(
        mask=played.mask * ~overflows[..., None],
        cause=played.cause.masked_fill(overflows, CODES[ACTION]),
        success=played.success.masked_fill(overflows, torch.nan),
        terminated=played.terminated.masked_fill(overflows, 0.0),
    )
