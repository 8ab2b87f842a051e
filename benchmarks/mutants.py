"""Mutation testing of the mathematics.

Every mutant changes one expression of a loss, an estimator, an advantage, a mask or an outer step:
a sign, a term, a detach, a sum for a mean, an index off by one. The tests run on a copy of the
repository until one fails. Prints each mutant and whether it survives; the exit status is 1 if any
does.

    python benchmarks/mutants.py
    python benchmarks/mutants.py --file maml_rl/learners/maml/objective.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_LONGEST_S = 3600
_OWN_TEST = "tests/test_architecture.py::test_every_mutant_changes_one_place"
"""It looks for the text that a mutant replaces, so it fails on every mutant."""


class Mutant(NamedTuple):
    """A change of one expression, and what it breaks."""

    file: str
    old: str
    new: str
    what: str


MUTANTS = [
    Mutant("maml_rl/compare.py", "        _check_start(config, args.seeds)\n", "", "a mistake in a variant that is found after other runs"),
    Mutant("maml_rl/training/callbacks.py", "tag not in metrics or _differ(metrics[tag], before[tag])", "False", "a callback that changes metrics"),
    Mutant("maml_rl/runs/seeds.py", "if listed.run(seed) not in runs]", "if False]", "a seed that is missing without a warning"),
    Mutant("maml_rl/training/compose.py", "[flatdim(space) for space in pair]", "[0 for space in pair]", "a start from another robot"),
    Mutant("maml_rl/agents/predict_arguments.py", " or (values.astype(bool) != values).any()", "", "two as a truth value"),
    Mutant("maml_rl/errors.py", '" ".join(line.strip() for line in lines) if lines[1:] else str(message)', "str(message)", "a message of several lines"),
    Mutant("maml_rl/cli.py", "with StopFlag().handling():", "if True:", "an empty folder after SIGTERM"),
    Mutant("envs/engines/dynamics.py", "own = {name: model_field(model, name)[None] for name in varied}", "own: dict[str, np.ndarray] = {}", "the dynamics of the task before"),
    Mutant("maml_rl/env_flags.py", "if close in family.task_units and close not in parameters:", "if False:", "a task value that is called unknown dynamics"),
    Mutant("envs/engines/mujoco.py", "if not self._root_moves_along_x:", "if False:", "the velocity of another joint"),
    Mutant("envs/engines/mujoco.py", "or model.jnt_bodyid[0] != ROOT_BODY", "", "the velocity of another body"),
    Mutant("envs/engines/rendering.py", "subtree_com[1, :2]", "subtree_com[0, :2]", "a camera that follows objects"),
    Mutant("envs/engines/dynamics.py", "model.geom_type != mujoco.mjtGeom.mjGEOM_MESH", "model.geom_type >= 0", "a limb with moved meshes"),
    Mutant("envs/engines/dynamics.py", "& ~has_plugin", "", "strength without effect on a plugin"),
    Mutant("maml_rl/analysis/learning_curves.py", "end = min(one.x[-1] for one in series)", "end = max(one.x[-1] for one in series)", "a mean beyond the end of a run"),
    Mutant("maml_rl/analysis/run_labels.py", '"own run" if (run / "progress.csv").exists() else "saved agent"', '"own run"', "a saved agent as a seed of a run"),
    Mutant("maml_rl/analysis/comparison/subjects.py", 'if name == "oracle" and not with_oracle:', "if False:", "an oracle of other dynamics"),
    Mutant("maml_rl/analysis/comparison/saved_evaluations.py", "config.horizon,", "", "a saved evaluation of another horizon"),
    Mutant("envs/engines/dynamics.py", 'multiply("jnt_actfrcrange", joints, values)', "pass", "strength without the limit of the joint"),
    Mutant("envs/engines/dynamics.py", "multiply(others, slice(None), values)", "pass", "friction without that of pairs"),
    Mutant("envs/engines/dynamics.py", "z * np.sin(slope)", "np.sin(slope)", "a slope that goes downhill"),
    Mutant("maml_rl/sampling/single_env.py", 'dtype.kind == "f" and np.can_cast', "np.can_cast", "integers that wrap around"),
    Mutant("maml_rl/sampling/environments.py", '(env, *getattr(env.unwrapped, "envs", ()))', "(env,)", "normalised observations in a vector environment"),
    Mutant("maml_rl/agents/learner_checkpoint.py", "if written != now:", "if False:", "actions with other bounds than in training"),
    Mutant("maml_rl/policies/action_map.py", "bound.astype(np.float32).tolist()", "bound.tolist()", "equal bounds of other types are different"),
    Mutant("envs/engines/dynamics.py", "[first, *lower])] /= 2", "lower)] /= 2", "a disabled limb with its whole upper part"),
    Mutant("envs/engines/dynamics.py", 'field("geom_pos")[i, shrinks & np.isin(model.geom_bodyid, lower)] /= 2', "pass", "a disabled limb in two pieces"),
    Mutant("envs/engines/dynamics.py", 'field("actuator_gear")[i, actuators] = 0', "pass", "a disabled limb with forces"),
    Mutant("maml_rl/policies/distributions.py", "-0.5 * (z * z)", "0.5 * (z * z)", "sign of the log-probability's square"),
    Mutant("maml_rl/policies/distributions.py", "- constant", "", "log-probability without its normalisation"),
    Mutant("maml_rl/policies/distributions.py", "(self.mean - other.mean) ** 2) * precision", "0) * precision", "KL without means"),
    Mutant("maml_rl/policies/distributions.py", "+ other.log_std - self.log_std", "", "KL without the log ratio of deviations"),
    Mutant("maml_rl/policies/distributions.py", "-2 * other.log_std)", "-2 * self.log_std)", "KL with the other precision"),
    Mutant("maml_rl/policies/distributions.py", "w_log_std * 2 * d_log_std", "w_log_std * d_log_std", "Fisher matrix of log sigma"),
    Mutant("maml_rl/policies/distributions.py", "torch.exp(-2 * self.log_std), w", "torch.exp(-self.log_std), w", "Fisher of the mean"),
    Mutant("maml_rl/policies/distributions.py", "(d_logits - (p *", "(d_logits + 0 * (p *", "categorical Fisher without p pT"),
    Mutant("maml_rl/policies/distributions.py", "of_actions + is_first * self.latent.log_prob(latents)", "of_actions", "z without a log-probability"),
    Mutant("maml_rl/policies/distributions.py", "of_actions + self[3] * self.latent.kl(other.latent)", "of_actions + self.latent.kl(other.latent)", "KL of z at every step"),
    Mutant("maml_rl/policies/distributions.py", "(weights * self[3]).sum(1", "weights.sum(1", "Fisher matrix of z at every step"),
    Mutant("maml_rl/policies/latent.py", "noise[:, :, 0, -latent", "noise[:, :1, 0, -latent", "the same z in all episodes"),
    Mutant("maml_rl/learners/maml/inner_step.py", "sizes[name] * support.mean_length[:, None]", "sizes[name]", "gradient of z averaged over steps"),
    Mutant("maml_rl/learners/maml/objective.py", "(-self.inner.latent_kl_weight", "(self.inner.latent_kl_weight", "sign of the KL of z"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "support.every(inner_stride, with_first=objective.policy.latent_size > 0)", "support.every(inner_stride)", "z of few episodes in the Hessian of inner steps"),
    Mutant("maml_rl/policies/mlp.py", "torch.baddbmm(bias.mT, weight.mT,", "torch.baddbmm(0 * bias.mT, weight.mT,", "layer without its bias"),
    Mutant("maml_rl/policies/mlp.py", "weight.mT, self.activation(x)", "weight.mT.detach(), self.activation(x)", "weight cut off from its gradient"),
    Mutant("maml_rl/policies/mlp.py", 'bounded_log_std(stack["log_std"]).detach().exp()', 'bounded_log_std(stack["log_std"]).detach()', "log of the deviation for the deviation"),
    Mutant("maml_rl/policies/mlp.py", "added if noise is None else added[t]", "head_bias.numpy()", "no exploration"),
    Mutant("maml_rl/policies/mlp.py", "added[t]", "added[0]", "the same noise at every step"),
    Mutant("maml_rl/policies/mlp.py", "x = (x - mean) / std", "x = x - mean", "NumPy's observations not scaled"),
    Mutant("maml_rl/policies/policy.py", "x = x if normalizer is None else normalizer.normalize(x)", "pass", "torch's observations not normalised"),
    Mutant("maml_rl/policies/policy.py", "dist.mode() if noise is None else dist.sample(noise[t])", "dist.mode()", "torch's actions without noise"),
    Mutant("maml_rl/sampling/actors.py", "observations = self._normalizer.normalize(observations)", "pass", "the learner's observations not normalised"),
    Mutant("maml_rl/sampling/actors.py", "noise[:, episodes]", "noise[:, : episodes.stop - episodes.start]", "the same noise in every round"),
    Mutant("maml_rl/sampling/actors.py", "value[start:stop] for", "value[: stop - start] for", "log-probabilities of another block's parameters"),
    Mutant("maml_rl/policies/network_policy.py", "name.removeprefix(_PREFIX): value", "name.removeprefix(_PREFIX): value.detach()", "networks of users cut off from their gradient"),
    Mutant("maml_rl/policies/plain_network.py", "(observation - self.mean) / self.std", "observation - self.mean", "exported networks do not scale"),
    Mutant("maml_rl/training/saving.py", "value > best.value", "value < best.value", "the worst iteration kept for the best"),
    Mutant("maml_rl/training/callbacks.py", "if value > self._best + self.min_delta:", "if value > self._best:", "a plateau that rises by rounding errors"),
    Mutant("maml_rl/training/callbacks.py", "run.num_env_steps >= self._max", "run.iteration >= self._max", "a budget of iterations for one of steps"),
    Mutant("maml_rl/learners/trials.py", "played.without(failed.mask & (failed.stage < stage))", "played", "returns of failed tasks with mean actions"),
    Mutant("maml_rl/learners/maml/losses.py", "return -(episodes", "return (episodes", "sign of the inner loss"),
    Mutant("maml_rl/learners/maml/losses.py", "log_prob - episodes.flat", "log_prob.detach() - episodes.flat", "detached ratio"),
    Mutant("maml_rl/learners/maml/losses.py", "(until.exp() - (until - log_ratio).exp())", "until.exp()", "DiCE without its difference"),
    Mutant("maml_rl/learners/maml/losses.py", "log_ratio.cumsum(-1)", "log_ratio.cumsum(1)", "DiCE over episodes in place of time"),
    Mutant("maml_rl/learners/maml/losses.py", "episodes.flat(episodes.mask) == 0, 0.0", "episodes.flat(episodes.mask) < 0, 0.0", "ratio unmasked"),
    Mutant("maml_rl/learners/maml/losses.py", "old.kl(dist)", "dist.kl(old)", "KL the other way round"),
    Mutant("maml_rl/learners/maml/adapt.py", "value - along(alpha[name], value) * gradient", "value + along(alpha[name], value) * gradient", "ascent"),
    Mutant("maml_rl/learners/maml/adapt.py", "create_graph=is_function and not first_order", "create_graph=False", "always first order"),
    Mutant("maml_rl/learners/maml/adapt.py", "create_graph=is_function and not first_order", "create_graph=is_function", "never first order"),
    Mutant("maml_rl/learners/maml/adapt.py", "theta[name] if theta[name].requires_grad else _leaf(theta[name])", "_leaf(theta[name])", "adaptation cut off from theta"),
    Mutant("maml_rl/learners/maml/objective.py", "step_ratio(dist, episodes)).sum(-1)", "step_ratio(dist, episodes)).mean(-1)", "surrogate averaged twice"),
    Mutant("maml_rl/learners/maml/objective.py", "self.policy.distribution(self.stacks[-1], query", "self.policy.distribution(self.stacks[0], query", "theta for theta'"),
    Mutant("maml_rl/learners/maml/objective.py", "self.inner_step(stacks[-1], support, step)", "self.inner_step(stacks[0], support, step)", "every inner step starts at theta"),
    Mutant("maml_rl/learners/maml/outer/promp.py", "torch.stack(kls).mean(0)", "torch.stack(kls).sum(0)", "inner KL summed over steps"),
    Mutant("maml_rl/learners/maml/objective.py", "return total * credit", "return total", "E-MAML's term without credit"),
    Mutant("maml_rl/learners/maml/objective.py", "value + weight * term", "value - weight * term", "sign of E-MAML's term"),
    Mutant("maml_rl/learners/maml/objective.py", "returns - of_all.mean()", "returns", "credit that is not centred"),
    Mutant("maml_rl/learners/maml/outer/reptile.py", "end[name] - value for", "value - end[name] for", "movement the other way"),
    Mutant("maml_rl/learners/maml/objective.py", "self.credit[tasks]", "self.credit.flip(0)[tasks]", "credit of other tasks"),
    Mutant("maml_rl/learners/maml/inner_step.py", "min(step, len(inner.test_step_sizes) - 1)", "0", "only the first step size of the test"),
    Mutant("maml_rl/learners/maml/step_schedule.py", "scores.index(max(scores))", "scores.index(min(scores))", "the worst schedule"),
    Mutant("maml_rl/learners/maml/step_schedule.py", "torch.stack(returns, dim=1)[valid]", "torch.stack(returns, dim=1)", "tasks that failed before adaptation in the choice"),
    Mutant("maml_rl/learners/maml/step_schedule.py", "mean if math.isfinite(mean) else -math.inf", "math.inf if math.isnan(mean) else mean", "schedules with failed tasks chosen"),
    Mutant("maml_rl/learners/maml/step_schedule.py", "returns.masked_fill(failed.mask, torch.nan)", "returns", "tasks that failed in the first step in the choice"),
    Mutant("maml_rl/learners/maml/step_schedule.py", "first_stage=1", "first_stage=0", "the first factor twice"),
    Mutant("maml_rl/learners/maml/step_schedule.py", "num_adaptation_steps=learner.num_adaptation_steps + 1,", "num_adaptation_steps=2,", "a choice on three steps only"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "value[name] + (end - end.detach())", "value[name] + 2 * (end - end.detach())", "Jacobian twice as large"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "value[name] + (end - end.detach())", "value[name]", "Jacobian cut off from theta"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "value[name] + (end - end.detach())", "end", "theta' of the chosen states only"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "support.every(inner_stride, with_first", "support.every(1, with_first", "Hessians of all states where some were asked for"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "dist.fisher_product(of_dist, weights)", "dist.fisher_product(of_dist, torch.ones_like(weights))", "Fisher matrix over padding"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "inner.surrogate == \"dice\" or ", "", "thinned DiCE"),
    Mutant("maml_rl/learners/advantages.py", "discount * next_values - values", "discount * next_values", "advantage without V(s_t)"),
    Mutant("maml_rl/learners/advantages.py", "values[..., 1:], torch.zeros_like(values[..., :1])", "values[..., 1:], values[..., -1:]", "value after the end"),
    Mutant("maml_rl/learners/advantages.py", "discount * gae_lambda)", "gae_lambda)", "lambda without gamma"),
    Mutant("maml_rl/learners/advantages.py", "(advantages - mean) * mask", "advantages - mean", "normalisation unmasked"),
    Mutant("maml_rl/learners/advantages.py", "centred / torch.where(std == 0, 1.0, std)", "centred", "advantages not scaled"),
    Mutant("maml_rl/learners/advantages.py", "_ROUNDING = 1e-6", "_ROUNDING = 1e-4", "a small signal beside a large constant reward is dropped"),
    Mutant("maml_rl/learners/linear_baseline.py", "torch.add(reward, running, alpha=discount)", "torch.add(reward, running)", "returns without discount"),
    Mutant("maml_rl/learners/linear_baseline.py", "returns[::-1]", "returns", "returns in reversed time"),
    Mutant("maml_rl/learners/linear_baseline.py", "dtype=torch.float64, device=observations.device) / 100", "dtype=torch.float64, device=observations.device) / 10", "unit of time"),
    Mutant("maml_rl/learners/linear_baseline.py", "[s, s**2, time]", "[s, s, time]", "features without squares"),
    Mutant("maml_rl/learners/linear_baseline.py", "features.mul_(episodes.mask[:, None])", "features", "baseline fitted to padding"),
    Mutant("maml_rl/learners/linear_baseline.py", "torch.ones_like(t)]", "torch.zeros_like(t)]", "no constant among the features"),
    Mutant("maml_rl/learners/linear_baseline.py", "returns_to_go(mask.amax(dim=1).to(t), discount)", "mask.amax(dim=1).to(t)", "no return of a constant reward among the features"),
    Mutant("maml_rl/learners/advantages.py", "std <= smallest", "std < 0", "rounding errors of size 1"),
    Mutant("maml_rl/learners/linear_baseline.py", "gram + ridges * eye", "gram", "no ridge"),
    Mutant("maml_rl/sampling/episodes.py", "self.mask / self.num_steps", "1 / self.num_steps", "weights of padding"),
    Mutant("maml_rl/sampling/episodes.py", "(self.mask / self.num_steps.clamp(min=1)[:, None, None])", "self.mask", "sum over steps for a mean"),
    Mutant("maml_rl/sampling/episodes.py", "mask=thin(self.mask) * inside", "mask=thin(self.mask)", "last steps counted twice when thinned"),
    Mutant("maml_rl/sampling/episodes.py", "(self.rewards * self.mask).sum(-1)", "self.rewards.sum(-1)", "returns over padding"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "residual - step * a_direction", "residual + step * a_direction", "sign in conjugate gradient"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "(squared / previous)", "(previous / squared)", "conjugate direction"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "+ damping * vector", "", "no damping"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "(2 * config.max_kl / curvature) ** 0.5", "(config.max_kl / curvature) ** 0.5", "length of the step"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "surrogate > old_surrogate and kl", "kl", "line search without improvement"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "surrogate > old_surrogate and kl <= config.max_kl", "surrogate > old_surrogate", "line search without bound"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "line_search_shrink**i", "line_search_shrink ** (i + 1)", "line search off by one"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "block.stacks[step + 1]", "block.stacks[step]", "the adapted policy at theta's value"),
    Mutant("maml_rl/learners/maml/outer/ppo.py", "torch.minimum(ratio", "torch.maximum(ratio", "the optimistic bound"),
    Mutant("maml_rl/learners/maml/outer/ppo.py", "ratio.clamp(1 - clip_range, 1 + clip_range)", "ratio.clamp(max=1 + clip_range)", "clipped above only"),
    Mutant("maml_rl/learners/maml/outer/ppo.py", "gradient = objective.surrogate_and_gradient(theta, surrogate)", "gradient = objective.surrogate_and_gradient(theta)", "no clipping"),
    Mutant("maml_rl/learners/maml/outer/promp.py", "clipped(adapted) - float(eta)", "clipped(adapted) + float(eta)", "sign of the penalty"),
    Mutant("maml_rl/learners/maml/outer/promp.py", "eta = eta * 2", "eta = eta / 2", "the weight never grows"),
    Mutant("maml_rl/learners/maml/outer/promp.py", "eta.clamp(min(least, config.kl_coefficient), max(most, config.kl_coefficient))", "eta", "the weight grows without end"),
    Mutant("maml_rl/learners/adam.py", "maximize=True", "maximize=False", "downhill"),
    Mutant("maml_rl/learners/adam.py", '"exp_avg", "exp_avg_sq", "step")}', '"exp_avg", "exp_avg_sq", "step")} | {"step": torch.ones(())}', "Adam's step count forgotten"),
    Mutant("maml_rl/learners/maml/outer/reptile.py", "+ config.step_size * movement", "+ movement", "Reptile's step size ignored"),
    Mutant("maml_rl/system/distributed.py", "total[:-1] / total[-1]", "total[:-1]", "sum over tasks for a mean"),
    Mutant("maml_rl/policies/normalizer.py", "self.squares + ranks.sum(deviations) + between", "self.squares + ranks.sum(deviations)", "variance between batches"),
    Mutant("maml_rl/sampling/episodes.py", "self.observations[self.mask > 0]", "self.observations[self.mask >= 0]", "statistics of padding"),
    Mutant("maml_rl/sampling/recording.py", "live &= ~is_over", "live &= ~terminated", "episodes that do not end at the horizon"),
    Mutant("maml_rl/sampling/recording.py", "        self.mask[t] = self.live\n", "        self.mask[t] = True\n", "mask of finished episodes"),
    Mutant("maml_rl/sampling/collector.py", "actor.observe(recording.rewards[t], ~recording.live)", "pass", "the actor does not see rewards"),
    Mutant("maml_rl/sampling/device_rollout.py", "self._live = self._live & ~is_over", "self._live = self._live & ~truncated", "episodes on a device that do not end in a terminal state"),
    Mutant("maml_rl/sampling/device_rollout.py", "recorded.mask[t].copy_(self._live)", "recorded.mask[t].fill_(True)", "mask of finished episodes on a device"),
    Mutant("maml_rl/sampling/device_rollout.py", "masked_fill_(self._live & failed, CODES[what])", "masked_fill_(failed, CODES[what])", "failures on a device after the end of an episode"),
    Mutant("maml_rl/sampling/device_rollout.py", "actor.observe_tensors(rewards[t], ~self._live)", "pass", "on a device the actor does not see rewards"),
    Mutant("maml_rl/sampling/device_rollout.py", "torch.where(is_reported, reported, recorded.success)", "reported", "success on a device after the end of an episode"),
    Mutant("maml_rl/sampling/collector.py", "streams.action_seed(stage, self.first_task + i)", "streams.action_seed(stage, i)", "noise on a device that depends on how tasks are grouped"),
    Mutant("maml_rl/learners/trials.py", "learner.draw_noise, streams, stage, learner", "learner.draw_noise, streams, 0, learner", "the same noise after every inner step"),
    Mutant("maml_rl/learners/trials.py", "learner.actor(state, beliefs[-1], noise)", "learner.actor(state, beliefs[0], noise)", "every stage played with the prior"),
    Mutant("maml_rl/learners/trials.py", "learner.update(state, beliefs[-1], usable, ", "learner.update(state, beliefs[0], usable, ", "every update of the prior"),
    Mutant("maml_rl/learners/trials.py", "torch.where(is_failed, belief[name], value)", "value", "beliefs about failed tasks"),
    Mutant("maml_rl/learners/trials.py", "~is_fitted, BASELINE, stage", "~is_fitted & False, BASELINE, stage", "advantages that are not finite"),
    Mutant("maml_rl/learners/trials.py", "episodes = episodes.without(failed.mask)", "pass", "episodes of failed tasks"),
    Mutant("maml_rl/learners/base.py", '"iteration": self.counters["iteration"] + 1', '"iteration": self.counters["iteration"]', "iterations not counted"),
    Mutant("maml_rl/learners/base.py", '"num_env_steps": self.counters["num_env_steps"] + num_env_steps', '"num_env_steps": num_env_steps', "control steps of the last iteration only"),
    Mutant("maml_rl/learners/base.py", "                **counters,\n", "", "the learner's own counters not advanced"),
    Mutant("maml_rl/learners/base.py", "{**self.tensors, **tensors}", "{**tensors, **self.tensors}", "the state of the first iteration kept"),
    Mutant("maml_rl/learners/base.py", "_replace(tensors={**initial.tensors, **taken})", "_replace()", "a new run that starts from nothing"),
    Mutant("maml_rl/learners/maml/learner.py", "belief[name][0] for name in names", "state.tensors['theta'][name] for name in names", "a new run that starts before adaptation"),
    Mutant("maml_rl/learners/base.py", "(*self.ACTING, *self.CARRIED)", "self.ACTING", "units of the values not taken"),
    Mutant("maml_rl/learners/base.py", 'for name in ("num_states", "squares")', 'for name in ("num_states",)', "negative squares accepted"),
    Mutant("maml_rl/settings/learners/pearl.py", "self.num_stages + num_groups * self.num_initial_episodes", "self.num_stages", "initial episodes beyond the capacity"),
    Mutant("maml_rl/learners/maml/learner.py", "batch.chosen(~failed)", "batch", "failed tasks in the outer step"),
    Mutant("maml_rl/learners/maml/learner.py", "for stage in (*batch.supports, batch.query)\n            ]", "for stage in (batch.query,)\n            ]", "statistics of the last stage only"),
    Mutant("maml_rl/learners/metrics.py", "values[:, k].nanmean()", "values[:, 0].nanmean()", "metrics of the first stage"),
    Mutant("maml_rl/agents/agent.py", "self._actor(self.belief, noise, memory)", "self._actor(self.belief, noise)", "predict forgets"),
    Mutant("maml_rl/agents/predict_arguments.py", "np.where(starts.reshape(-1, *[1] * (old.ndim - 1)), new, old)", "old", "memory kept over an episode's end"),
    Mutant("maml_rl/agents/agent.py", "first_stage=self.num_adaptation_steps", "first_stage=0", "the same episodes in every call of adapt"),
    Mutant("maml_rl/analysis/evaluation.py", "[task for task in tasks for _ in range(num_trials)]", "[task for _ in range(num_trials) for task in tasks]", "trials of a task counted for another one"),
    Mutant("maml_rl/analysis/evaluation.py", '"episodes_per_step": collector.num_episodes', '"episodes_per_step": num_trials * collector.num_episodes', "episodes of all trials for those of one"),
    Mutant("maml_rl/sampling/failures.py", "first = failed & (self.cause == 0)", "first = failed", "the last failure of a task"),
    Mutant("maml_rl/sampling/failures.py", "(failed_at >= stage)", "(failed_at > stage)", "no row for the episodes of the stage in which a task fails"),
    Mutant("maml_rl/learners/maml/inner_step.py", "min(step, _num_learned_steps(inner) - 1)", "0", "the first step size in every step"),
    Mutant("maml_rl/learners/maml/inner_step.py", 'inner.advantage != "gae" and step == 0', 'inner.advantage != "gae"', "the offset in every step"),
    Mutant("maml_rl/learners/maml/inner_step.py", "learned + support.inner_advantages if", "learned if", "the sum without estimated advantages"),
    Mutant("maml_rl/learners/maml/inner_step.py", "(max_kl / kl.clamp(min=max_kl)).sqrt()", "max_kl / kl.clamp(min=max_kl)", "the divergence taken for the length of the step"),
    Mutant("maml_rl/learners/maml/inner_step.py", "(max_kl / kl.clamp(min=max_kl)).sqrt()", "(max_kl / kl.clamp(min=max_kl)).sqrt().detach()", "the bound cut off from its gradient"),
    Mutant("maml_rl/learners/maml/inner_step.py", "dist.kl(new)).sum(-1)", "dist.kl(new)).sum(-1).mean(0, keepdim=True).expand(len(support.mask))", "one scale for all tasks"),
    Mutant("maml_rl/learners/maml/learned_advantage.py", "torch.where(has_next[..., None] > 0, following, states)", "following", "observations after an episode's end"),
    Mutant("maml_rl/learners/maml/learned_advantage.py", "torch.arange(horizon, dtype=states.dtype, device=states.device) / 100", "torch.arange(horizon, dtype=states.dtype, device=states.device)", "time in other units"),
    Mutant("maml_rl/learners/maml/objective.py", "self.sampled[1:]]", "self.sampled]", "the loss before adaptation counted"),
    Mutant("maml_rl/learners/maml/objective.py", "total / (1 + self.early_weight * len(early))", "total", "a weighted sum for a weighted mean"),
    Mutant("maml_rl/learners/maml/objective.py", "factor = 1 / self.advantage_std", "factor = 1.0", "training without the shared scale"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "thinned.step_weights * (weight / total)", "thinned.step_weights", "every KL with the same weight"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", ' or inner.advantage != "gae"', "", "learned advantages of thinned episodes"),
    Mutant("maml_rl/learners/maml/outer/trpo.py", "stages = (*objective.batch.supports, objective.batch.query)", "stages = (objective.batch.query,)", "the stride looks at episodes after adaptation only"),
    Mutant("maml_rl/policies/export.py", "is_outside = single < bound if name == \"low\" else single > bound", "is_outside = single != single", "exported bounds may be outside of the space"),
    Mutant("maml_rl/policies/mlp.py", "input_module(normalizer), *linear_modules(network)", "*linear_modules(self.plain_network(theta, normalizer, action_map))", "normalisation folded in single precision"),
    Mutant("maml_rl/training/seeds.py", "resume(run, config.num_iterations, max_env_steps=config.max_env_steps)", "resume(run)", "an interrupted extension is forgotten"),
    Mutant("maml_rl/agents/learner_checkpoint.py", "absent |= initial.tensors.keys() - set(learner.ACTING)", "pass", "a saved agent needs what only training needs"),
    Mutant("maml_rl/learners/maml/learner.py", 'factor /= float(adaptation["advantage_std"])', "pass", "evaluation without the shared scale"),
    Mutant("maml_rl/learners/maml/learner.py", "torch.where(std > 0, std, adaptation", "torch.where(std >= 0, std, adaptation", "a scale of zero while no reward is found"),
    Mutant("maml_rl/learners/advantages.py", "centred_per_task if shares_scale else normalize", "normalize", "each task's own scale in place of the shared one"),
    Mutant("maml_rl/learners/advantages.py", "gae_lambda=config.gae_lambda if inner.gae_lambda is None", "gae_lambda=config.gae_lambda if True", "lambda of inner steps ignored"),
    Mutant("maml_rl/settings/learners/outer.py", "self.decay_factor**share", "self.decay_factor * share", "an outer step that grows"),
    Mutant("maml_rl/settings/learners/outer.py", "min(1.0, iteration / self.decay_iterations)", "iteration / self.decay_iterations", "decay that never ends"),
    Mutant("maml_rl/settings/learners/maml.py", "max(0.0, 1 - iteration / self.early_loss_iterations)", "1 - iteration / self.early_loss_iterations", "negative weights of early losses"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "torch.ones_like(values) if across else 1 - sequence.ends", "1 - sequence.ends", "credit never crosses an episode's end"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "torch.ones_like(values) if across else 1 - sequence.ends", "torch.ones_like(values)", "credit always crosses an episode's end"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "future * next_value - values", "discount * next_value - values", "the value of the next episode counted"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "sequence.times.diff().clamp(min=1)", "1", "an episode that ends early brings the next one sooner"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "gae_lambda * future * next_advantage", "future * next_advantage", "advantages without lambda"),
    Mutant("maml_rl/learners/recurrent/sequence.py", " * sequence.mask[:, t]", "", "advantages of padding"),
    Mutant("maml_rl/policies/recurrent/gru.py", "torch.lerp(n, h, z[t], out", "torch.lerp(h, n, z[t], out", "update gate of the GRU reversed"),
    Mutant("maml_rl/policies/recurrent/gru.py", "new[t].addcmul_(r[t], from_h)", "new[t].add_(from_h)", "GRU without its reset gate"),
    Mutant("maml_rl/policies/recurrent/gru.py", "+ bias_hh[: 2 * size]", "", "gates of the GRU without the memory's bias"),
    Mutant("maml_rl/policies/recurrent/gru.py", "of_memories[-1] += of_last", "pass", "no gradient of the last memory"),
    Mutant("maml_rl/policies/recurrent/gru.py", "of_memories[t].addcmul_(of_next, z[t])", "of_memories[t]", "no gradient through the part of the memory that is kept"),
    Mutant("maml_rl/policies/recurrent/gru.py", "_tanh_backward(1 - z, new)", "_tanh_backward(z, new)", "derivative by the new state with the other gate"),
    Mutant("maml_rl/policies/recurrent/gru.py", "torch.cat([of_sums[: 2 * size], of_new.sum(0)])", "of_sums", "gradient of the bias inside the reset gate for the one outside"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "values = values * sequence.mask", "pass", "the value of padding after the last step"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "torch.cat([previous[:, None], outcomes[:, :-1]], dim=1)", "outcomes", "each step sees its own action and reward"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "torch.cat([previous[:, None], outcomes[:, :-1]], dim=1)", "torch.cat([0 * previous[:, None], outcomes[:, :-1]], dim=1)", "a stage that forgets the step before it"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "torch.stack([rewards, ends], dim=-1)", "torch.stack([0 * rewards, ends], dim=-1)", "the learner does not see rewards"),
    Mutant("maml_rl/learners/recurrent/sequence.py", "torch.stack([rewards, ends], dim=-1)", "torch.stack([rewards, 0 * ends], dim=-1)", "the learner does not see ends of episodes"),
    Mutant("maml_rl/learners/recurrent/actor.py", "self._belief[name].repeat_interleave", "(0 * self._belief[name]).repeat_interleave", "every episode starts with an empty memory"),
    Mutant("maml_rl/learners/recurrent/actor.py", "torch.stack([rewards, ended.to(rewards)], dim=1)", "0 * torch.stack([rewards, ended.to(rewards)], dim=1)", "the recurrent actor does not see rewards"),
    Mutant("maml_rl/learners/recurrent/actor.py", "torch.where(live, new, self._memory)", "new", "memory that changes after an episode's end"),
    Mutant("maml_rl/learners/recurrent/actor.py", 'belief["memory"][start:stop]', '0 * belief["memory"][start:stop]', "memory reset at the border of episodes"),
    Mutant("maml_rl/learners/recurrent/actor.py", "torch.where(is_real[:, None] > 0, new, memory)", "new", "memory of padding"),
    Mutant("maml_rl/learners/recurrent/batch.py", "targets=scale.normalize(targets) * sequence.mask", "targets=targets * sequence.mask", "targets in units of the reward"),
    Mutant("maml_rl/learners/recurrent/batch.py", "values = scale.denormalize(values)", "pass", "values in units of the scale for rewards"),
    Mutant("maml_rl/learners/recurrent/batch.py", "of_advantages.normalize(advantages) * sequence.mask", "advantages", "advantages not normalised"),
    Mutant("maml_rl/learners/recurrent/batch.py", "targets = advantages + values", "targets = advantages", "errors for targets"),
    Mutant("maml_rl/learners/recurrent/iteration.py", "update = Update({}, metrics, OUTER_STEP, str(error))", "update = Update({'value_scale': scale._asdict()}, metrics, OUTER_STEP, str(error))", "the scale of a failed update kept"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "        -terms.surrogate", "        terms.surrogate", "sign of the surrogate of trials"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "- config.entropy_coefficient * terms.entropy", "+ config.entropy_coefficient * terms.entropy", "sign of the entropy"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "torch.minimum(ratio * batch.advantages, clipped * batch.advantages)", "ratio * batch.advantages", "ratios of trials not clipped"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "torch.where(is_real, term, 0.0).sum(1)", "term.sum(1)", "terms of padding"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "torch.exp(torch.where(is_real, log_ratio, 0.0))", "torch.exp(log_ratio)", "ratios of padding that overflow"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "old.kl(dist)", "dist.kl(old)", "KL of trials the other way round"),
    Mutant("maml_rl/policies/recurrent/memory.py", "memory.unroll(theta, state.detach(), part)", "memory.unroll(theta, state, part)", "backpropagation never truncated"),
    Mutant("maml_rl/policies/recurrent/memory.py", "memory.unroll(theta, state.detach(), part)", "memory.unroll(theta, 0 * state, part)", "memory lost where backpropagation is cut"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "batch.tasks, config.truncation", "batch.tasks, None", "the setting of truncation ignored"),
    Mutant("maml_rl/learners/recurrent/trial_gradient.py", "ranks.sum(rows) / num_steps", "ranks.sum(rows) / len(mask)", "mean over trials for a mean over steps"),
    Mutant("maml_rl/learners/recurrent/trial_gradient.py", "min(1.0, max_norm / norm)", "1.0", "gradient of any norm"),
    Mutant("maml_rl/learners/recurrent/trial_gradient.py", "-scale * gradient", "scale * gradient", "an update that ascends its loss"),
    Mutant("maml_rl/learners/recurrent/trial_gradient.py", "rng.permutation(num_trials)", "np.arange(num_trials)", "the same minibatches in every epoch"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "float(terms.kl) > config.target_kl", "False", "updates beyond the target KL"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "if steps and float", "if float", "no first step"),
    Mutant("maml_rl/learners/recurrent/value_scale.py", "_DECAY * self.weight", "self.weight", "statistics of targets that never forget"),
    Mutant("maml_rl/learners/recurrent/value_scale.py", "self.square - self.mean.square()", "self.square", "root mean square for the deviation"),
    Mutant("maml_rl/policies/recurrent/hypernetwork.py", "torch.zeros(latent_size,", "torch.randn(latent_size,", "a hypernetwork without Bias-HyperInit"),
    Mutant("maml_rl/policies/recurrent/hypernetwork.py", "torch.ones_like(x[..., :1])", "torch.zeros_like(x[..., :1])", "generated layers without a bias"),
    Mutant("maml_rl/policies/recurrent/network.py", "shared + generated_layer(", "generated_layer(", "a hypernetwork without its bias"),
    Mutant("maml_rl/policies/recurrent/network.py", "torch.cat([outputs, inputs], dim=-1)", "torch.cat([outputs, 0 * inputs], dim=-1)", "no skip connection"),
    Mutant("maml_rl/policies/recurrent/memoryless.py", "observations, torch.zeros_like(previous)", "observations, previous", "a policy without a memory that knows the last reward"),
    Mutant("maml_rl/policies/recurrent/memoryless.py", "torch.zeros_like(memory), inputs)", "memory, inputs)", "a policy without a memory that remembers"),
    Mutant("maml_rl/policies/recurrent/cell.py", "hidden_size, dim=-1)]\n", "hidden_size, dim=-1)][::-1]\n", "output and cell state exchanged"),
    Mutant("maml_rl/learners/teacher_student/networks.py", "_network(theta, \"policy\", outputs, observations)", "_network(theta, \"policy\", 0 * outputs, observations)", "a teacher that does not know z"),
    Mutant("maml_rl/learners/teacher_student/networks.py", "return steps - starts", "return steps", "a teacher's value that counts time over episodes"),
    Mutant("maml_rl/learners/teacher_student/networks.py", "self.latents(theta, tasks)[:, None].expand(", "self.latents(theta, tasks).detach()[:, None].expand(", "no gradient to the encoder of tasks"),
    Mutant("maml_rl/learners/teacher_student/networks.py", "return self.teacher.means_or_logits(theta, self.estimates(theta, outputs), observations)", "return self.teacher.means_or_logits(theta, 0 * self.estimates(theta, outputs), observations)", "a student that does not use its estimate"),
    Mutant("maml_rl/learners/teacher_student/window.py", "memory[:, self._input_size :], inputs", "memory[:, : -self._input_size], inputs", "a window that keeps its oldest steps"),
    Mutant("maml_rl/learners/teacher_student/window.py", "before[:, 1:], inputs", "before[:, :-1], inputs", "a window that drops the wrong step"),
    Mutant("maml_rl/learners/teacher_student/window.py", "windows.transpose(2, 3)", "windows", "entries of a window in another order"),
    Mutant("maml_rl/learners/teacher_student/window.py", "return outputs, outputs[:, -1]", "return outputs, outputs[:, 0]", "the first window for the last"),
    Mutant("maml_rl/learners/teacher_student/regression.py", "torch.where(sequence.mask > 0, errors, 0.0)", "errors", "errors of padding"),
    Mutant("maml_rl/learners/teacher_student/regression.py", "(estimates - batch.latents[:, None])", "(estimates + batch.latents[:, None])", "sign of z in the student's loss"),
    Mutant("maml_rl/learners/teacher_student/regression.py", ".square().mean(-1)", ".square().sum(-1)", "sum over entries of z for the mean"),
    Mutant("maml_rl/learners/teacher_student/learner.py", 'counters["iteration"] >= num_iterations', 'counters["iteration"] > num_iterations', "one more iteration for the teacher"),
    Mutant("maml_rl/learners/teacher_student/learner.py", 'or counters["num_env_steps"] >= num_env_steps', "", "a teacher that takes the student's control steps"),
    Mutant("maml_rl/learners/teacher_student/learner.py", "return not has_student and not is_over", "return not is_over", "a teacher that learns again after the student"),
    Mutant("maml_rl/learners/teacher_student/learner.py", "new = old.updated([self._vectors(tasks)], Ranks(), are_normalized=False)", "new = old", "tasks not normalised"),
    Mutant("maml_rl/learners/teacher_student/learner.py", "across=False,  # the teacher learns", "across=True,  # the teacher learns", "the teacher's credit crosses episodes"),
    Mutant("maml_rl/learners/teacher_student/learner.py", "self._observed(state, trials.tasks)", "self._observed(state, trials.played.tasks[: len(trials.tasks)])", "tasks of other trials for the teacher"),
    Mutant("maml_rl/learners/teacher_student/learner.py", "latents = self._latents(state, trials.tasks)", "latents = self._latents(state, trials.played.tasks[: len(trials.tasks)])", "z of other trials"),
    Mutant("maml_rl/learners/teacher_student/learner.py", "ranks.mean(latents.square()) - ranks.mean(latents).square()", "ranks.mean(latents.square())", "mean square of z for its variance"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "precision.sum(1)", "precision.mean(1)", "mean of precisions for the product of Gaussians"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "(precision * mean).sum(1)", "mean.sum(1)", "means of factors not weighted"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "mask[..., None] / variance", "1 / variance", "factors of padding"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", 'Posterior(variance * belief["weighted_mean"], variance)', 'Posterior(belief["weighted_mean"], variance)', "mean of the product not normalised"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "torch.where(is_empty, 1.0, precision)", "precision", "an empty context has no posterior"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "self.mean + self.variance.sqrt() * noise", "self.mean + self.variance * noise", "variance for the deviation of z"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "+ self.mean.square() - 1 - self.variance.log()", "+ self.mean.square() - 1", "KL of z without the log of the variance"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "self.variance + self.mean.square() - 1", "self.variance - 1", "KL of z without its mean"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "torch.where(is_empty, 0.0, mean), torch.where(is_empty, 1.0, variance)", "mean, variance", "a GRU without context has no prior"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", '"encoder_gru", belief["memory"], x', '"encoder_gru", 0 * belief["memory"], x', "the GRU forgets earlier episodes"),
    Mutant("maml_rl/learners/pearl/context_encoder.py", "outputs.gather(1, last)[:, 0]", "outputs[:, -1]", "the GRU reads padding"),
    Mutant("maml_rl/learners/pearl/networks.py", "(of_gaussian - log_slope)", "of_gaussian", "log-probability without the slope of tanh"),
    Mutant("maml_rl/learners/pearl/networks.py", "- self.log_std - 0.5 * math.log(2 * math.pi)", "- 0.5 * math.log(2 * math.pi)", "log-probability of an action without its deviation"),
    Mutant("maml_rl/learners/pearl/sac.py", "(1 - batch.terminated) * (values", "(values", "terminal states have a value"),
    Mutant("maml_rl/learners/pearl/sac.py", "networks.values(learned.targets,", "networks.values(learned.critics,", "critics for their targets"),
    Mutant("maml_rl/learners/pearl/sac.py", "batch.next_observations, actions, z).amin(0)", "batch.next_observations, actions, z).amax(0)", "the larger target critic"),
    Mutant("maml_rl/learners/pearl/sac.py", "(values - alpha * log_probs)", "(values + alpha * log_probs)", "sign of the entropy in the targets"),
    Mutant("maml_rl/learners/pearl/sac.py", "config.reward_scale * batch.rewards + config.discount * future", "batch.rewards + config.discount * future", "rewards not scaled"),
    Mutant("maml_rl/learners/pearl/sac.py", "+ config.discount * future", "+ future", "future not discounted"),
    Mutant("maml_rl/learners/pearl/sac.py", "    with torch.no_grad():\n        z = _of_each_step(latents, batch.rewards)", "    with torch.enable_grad():\n        z = _of_each_step(latents, batch.rewards)", "gradient through the targets"),
    Mutant("maml_rl/learners/pearl/sac.py", "(values - targets).square().mean(-1).sum(0)", "(values - targets).square().mean(-1)[0]", "only one critic learns"),
    Mutant("maml_rl/learners/pearl/sac.py", "z = _of_each_step(latents.detach(), noise[..., 0])", "z = _of_each_step(latents, noise[..., 0])", "the actor's loss reaches z"),
    Mutant("maml_rl/learners/pearl/sac.py", "fixed = {name: value.detach() for name, value in critics.items()}", "fixed = critics", "the actor's loss reaches the critics"),
    Mutant("maml_rl/learners/pearl/sac.py", "log_alpha.detach().exp() * log_probs - values", "log_alpha.exp() * log_probs - values", "the actor's loss reaches the temperature"),
    Mutant("maml_rl/learners/pearl/sac.py", "log_alpha.detach().exp() * log_probs - values", "log_alpha.detach().exp() * log_probs + values", "sign of the value in the actor's loss"),
    Mutant("maml_rl/learners/pearl/sac.py", "log_alpha.detach().exp() * log_probs - values", "- values", "actor without entropy"),
    Mutant("maml_rl/learners/pearl/sac.py", "networks.values(fixed, observations, actions, z).amin(0)", "networks.values(fixed, observations, actions, z)[0]", "the actor climbs one critic"),
    Mutant("maml_rl/learners/pearl/sac.py", "-log_alpha * (log_probs.detach() + target_entropy)", "log_alpha * (log_probs.detach() + target_entropy)", "sign of the temperature's loss"),
    Mutant("maml_rl/learners/pearl/sac.py", "-log_alpha * (log_probs.detach() + target_entropy)", "-log_alpha * (log_probs + target_entropy)", "the temperature's loss reaches the actor"),
    Mutant("maml_rl/learners/pearl/sac.py", "error + config.kl_weight * kl, terms", "error, terms", "encoder without KL"),
    Mutant("maml_rl/learners/pearl/sac.py", "error + config.kl_weight * kl, terms", "error - config.kl_weight * kl, terms", "sign of the KL of z in the loss"),
    Mutant("maml_rl/learners/pearl/sac.py", "critic_loss(networks, theta, part.transitions, z, targets)", "critic_loss(networks, theta, part.transitions, z.detach(), targets)", "the encoder does not learn from the critics"),
    Mutant("maml_rl/learners/pearl/sac.py", "networks=networks, critics=critics, config", "networks=networks, critics=learned.critics, config", "the actor climbs the old critics"),
    Mutant("maml_rl/learners/pearl/sac.py", "approached(learned.targets, critics, config.polyak)", "dict(critics)", "targets that do not lag"),
    Mutant("maml_rl/learners/pearl/sac.py", "value.lerp(critics[name], share)", "critics[name].lerp(value, share)", "shares of critic and target exchanged"),
    Mutant("maml_rl/learners/pearl/sac.py", "[ranks.rank :: ranks.number]", "[ranks.rank :]", "processes compute the same blocks"),
    Mutant("maml_rl/learners/pearl/replay.py", "newer < context_window", "newer >= 0", "the context's window has no end"),
    Mutant("maml_rl/learners/pearl/replay.py", "prior = of_known[is_prior[of_known]]", "prior = of_known", "episodes of the posterior in the context's window"),
    Mutant("maml_rl/learners/pearl/replay.py", "_window(of_known, tasks, lengths, first_rows, known)", "_window(newest, tasks, lengths, first_rows, known)", "actor and critics learn from the context's window"),
    Mutant("maml_rl/learners/pearl/replay.py", 'entry["observations"][index + 1]', 'entry["observations"][index]', "the next observation is the same one"),
    Mutant("maml_rl/learners/pearl/replay.py", "first_rows = np.cumsum(lengths + 1) - (lengths + 1)", "first_rows = np.cumsum(lengths) - lengths", "rows of last observations drawn"),
    Mutant("maml_rl/learners/pearl/replay.py", "terminated = is_end & (stage.terminated > 0)[..., None]", "terminated = is_end", "time limits are terminal states"),
    Mutant("maml_rl/learners/pearl/replay.py", "stage.mask.sum(-1).long() - (~has_last).long()", "stage.mask.sum(-1).long()", "steps without a next observation kept"),
    Mutant("maml_rl/learners/pearl/replay.py", "action_scale * _with_one_more(stage.actions)[is_row]", "_with_one_more(stage.actions)[is_row]", "outputs for actions in the replay"),
    Mutant("maml_rl/learners/pearl/replay.py", "if total > capacity and number > 0:", "if False:", "a replay without bound"),
    Mutant("maml_rl/learners/pearl/actor.py", "noise[:, :, 0, size:]", "noise[:, :1, 0, size:]", "the same z in all episodes of a round"),
    Mutant("maml_rl/learners/pearl/actor.py", "actions / self._action_scale", "actions", "actions scaled twice"),
    Mutant("maml_rl/learners/pearl/learner.py", "torch.where(explores, 0.0, value)", "value", "no episodes with z from the prior"),
    Mutant("maml_rl/learners/pearl/learner.py", "if name != _EPISODES\n        }\n        return LatentActor", "if name != _EPISODES\n        }\n        known = dict(belief)\n        return LatentActor", "the actor explores never"),
    Mutant("maml_rl/learners/pearl/context.py", "following = torch.where(is_last[..., None], last[:, None], shifted)", "following = shifted", "the last next observation is the one before"),
    Mutant("maml_rl/learners/pearl/context.py", "mask = mask * is_known", "pass", "unknown next observations read as zeros"),
    Mutant("maml_rl/learners/pearl/updates.py", "drawn_rows(rng, replay.everything, tasks, config.batch_size)", "drawn_rows(rng, replay.prior, tasks, config.batch_size)", "updates of actor and critics from the context's window"),
    Mutant("maml_rl/learners/pearl/updates.py", "draw(rng, replay.prior, tasks, config.context_size)", "draw(rng, replay.everything, tasks, config.context_size)", "context from all data"),
    Mutant("maml_rl/learners/pearl/updates.py", "return Updates(before, {}, str(error))", "return Updates(learned, {}, str(error))", "half an iteration's updates kept after a failure"),
    Mutant("maml_rl/learners/pearl/learner.py", "always = RandomStreams(self.seed, Phase.INITIALISATION)", "always = streams", "other training tasks in every iteration"),
    Mutant("maml_rl/learners/pearl/plain_module.py", "biases[0] + latent.cpu().double() @ of_latent", "biases[0]", "the exported policy ignores z"),
    Mutant("maml_rl/settings/learners/trial_ppo.py", "share = num_env_steps / self.decay_env_steps", "share = iteration / self.decay_env_steps", "a step size that falls with iterations where control steps are meant"),
    Mutant("maml_rl/learners/recurrent/value_scale.py", "variance > 1e-12 * self.square", "variance > 1e-12", "a variance that depends on the unit of the reward"),
    Mutant("maml_rl/learners/pearl/learner.py", "played.trial.valid_episodes,", "played.trial.episodes,", "PEARL learns from failed tasks"),
    Mutant("maml_rl/analysis/evaluation.py", "failures = trial.failures.gathered(ranks)", "failures = trial.failures", "failures of an evaluation of one process only"),
    Mutant("maml_rl/analysis/comparison/entries.py", "return [(0, j) for j in range(len(other.episodes_used))]", "return [(0, 0)]", "a method without adaptation compared with step 0 only"),
    Mutant("maml_rl/analysis/comparison/response.py", "num_recovered=int((lasts & has_recovered).sum())", "num_recovered=int(sum(has_recovered))", "a fallen robot has recovered"),
    Mutant("maml_rl/settings/learners/trial_ppo.py", "min(1.0, share)", "share", "a step size below the final one"),
    Mutant("maml_rl/agents/agent.py", "before.observe(rewards, ends)", "before.observe(rewards, 0 * ends)", "predict does not see ends of episodes"),
    Mutant("envs/engines/changes.py", "has_come = in_episode & (self._num_steps >= self._change_step)", "has_come = in_episode & (self._num_steps > self._change_step)", "a change one control step late"),
    Mutant("envs/engines/changes.py", "has_come |= self._episode > self._change_episode", "pass", "dynamics changed in one episode only"),
    Mutant("envs/engines/changes.py", "        has_come &= self._is_different\n", "", "equal values counted as a change"),
    Mutant("envs/engines/changes.py", "self._num_steps[ids] = 0", "pass", "control steps counted over episodes"),
    Mutant("envs/engines/changes.py", "np.where(self.is_changed, self.after[name], value)", "self.after[name]", "changed values in force in all simulations"),
    Mutant("envs/gym/simulations.py", "continues = live & ~unstable", "continues = ~unstable", "finished simulations that reach their change"),
    Mutant("envs/gym/simulations.py", "[pushed, 0] += velocities", "[pushed, 0] -= velocities", "pushes backward"),
    Mutant("envs/gym/simulations.py", "self.engine.derive(pushed)", "pass", "derived quantities of the velocities before the push"),
    Mutant("envs/engines/changes.py", "is_now &= self._num_steps[ids] == self._change_step[ids]", "pass", "a push in every control step"),
    Mutant("envs/engines/changes.py", "is_now = self._episode[ids] == self", "is_now = self._episode[ids] >= self", "a push in every later episode"),
    Mutant("envs/engines/changes.py", "if before == after and not task.get(PUSH):", "if before == after:", "no measurement around a push"),
    Mutant("envs/families/tasks.py", 'self.directions == "forward"', 'self.directions == "backward"', "the wrong direction"),
    Mutant("maml_rl/settings/dynamics_study/varied_dynamics.py", "min(low, nominal), max(high, nominal)", "low, high", "a sweep without the nominal value"),
    Mutant("maml_rl/settings/dynamics_study/varied_dynamics.py", "first**2 / nominal", "first**2", "a sweep of a nominal value that is not 1"),
    Mutant("maml_rl/settings/dynamics_study/varied_dynamics.py", "2 * first - nominal", "first", "a sweep only as far as training"),
    Mutant("maml_rl/settings/dynamics_study/varied_dynamics.py", "values.get(name, parameter.nominal)", "parameter.nominal", "an argument that is not swept"),
    Mutant("maml_rl/settings/dynamics_study/study.py", "sorted({sweep[0], ", "sorted({sweep[1], ", "two quantities not at their ends"),
    Mutant("envs/gym/simulations.py", "                self.engine.derive(switched)\n", "", "derived quantities of the dynamics before the change"),
    Mutant("envs/gym/simulations.py", 'longest = np.maximum(delay, self._change.after["action_delay"])', "pass", "no room for a longer delay"),
    Mutant("envs/gym/imperfections.py", "self._num_steps[ids] = self._active_delay[ids] = num_steps", "self._num_steps[ids] = num_steps", "a changed delay that waits for a reset"),
    Mutant("envs/engines/mujoco_engines.py", "            self.batch.expand(name)[rows] =", "            self.batch.expand(name)[:] =", "the change of one simulation in all"),
    Mutant("maml_rl/sampling/collector.py", 'options = {"episode": stage} if', 'options = {"episode": 0} if', "every stage the first episode of its task"),
    Mutant("maml_rl/sampling/task_in_observation.py", "self._env.is_changed[:, None], self._changed_values, values", "self._env.is_changed[:, None], values, self._changed_values", "observed dynamics before the change after it"),
    Mutant("maml_rl/analysis/dynamics/robustness.py", " or (is_nominal and has_nominal):", ":", "nominal dynamics counted in every sweep"),
    Mutant("maml_rl/analysis/dynamics/robustness.py", "{**self.nominal, **entry.swept}", "{**{n: r[0] for n, r in self.trained.items()}, **entry.swept}", "only the swept quantity must be inside its range"),
    Mutant("maml_rl/analysis/dynamics/robustness.py", "valid[: math.ceil(len(valid) / 10)]", "valid[-math.ceil(len(valid) / 10) :]", "the best tenth for the worst"),
    Mutant("maml_rl/analysis/dynamics/robustness.py", "/ np.ptp(x)", "/ len(x)", "area under a curve over the number of points"),
    Mutant("maml_rl/analysis/recording.py", '{"episode": agent.num_adaptation_steps}', '{"episode": 0}', "the first episode of a task in every panel"),
    Mutant("maml_rl/analysis/comparison/response.py", "aligned = np.take_along_axis(rewards, change_steps[:, None] + steps, axis=1)", "aligned = rewards[:, steps + change_steps.min()]", "tasks not aligned at their change"),
    Mutant("maml_rl/analysis/comparison/response.py", "row[max(0, step - WINDOW) : step].mean()", "row[step - WINDOW : step].mean()", "an empty window before an early change"),
    Mutant("maml_rl/analysis/comparison/response.py", "running[lowest:] >= target", "running >= target", "recovered before the reward was lowest"),
    Mutant("maml_rl/analysis/evaluation.py", "rewards.sum(1) / is_valid.sum(1)", "rewards.mean(1)", "rewards over discarded episodes"),
    Mutant("maml_rl/learners/maml/learner.py", "return unchanged._replace(metrics=metrics, failure=LINE_SEARCH)", "return Update({'theta': theta, 'outer': outer_state}, metrics, LINE_SEARCH)", "a rejected outer step taken"),
    Mutant("maml_rl/learners/maml/objective.py", "torch.where(is_constant, 0.0, centred / std.clamp(min=1e-8))", "centred / std.clamp(min=1e-8)", "E-MAML's credit from rounding errors"),
    Mutant("maml_rl/learners/maml/inner_step.py", '_LATENT if inner.adapts == "latent" else policy.head_names', "policy.head_names", "the head adapts instead of the latent variable"),
    Mutant("maml_rl/learners/pearl/learner.py", "math.ceil(self.config.num_updates * num_transitions(last.entry) / most)", "self.config.num_updates", "as many updates after short episodes"),
    Mutant("maml_rl/learners/iteration_result.py", "samplings[-1].metrics()", "samplings[0].metrics()", "returns of PEARL's initial episodes reported"),
    Mutant("maml_rl/learners/iteration_result.py", "sum(sampling.num_env_steps for sampling in samplings)", "samplings[-1].num_env_steps", "PEARL's initial episodes not counted"),
    Mutant("maml_rl/learners/iteration_result.py", "state.counters[FAILED_OUTER_STEPS] + 1", "1", "failed outer steps never add up"),
    Mutant("envs/gym/simulations.py", "        self._change = None\n        if has", "        if has", "the old tasks' change in new tasks"),
    Mutant("envs/gym/simulations.py", '        self._delay = None\n        if "', '        if "', "the old tasks' delay in new tasks"),
    Mutant("envs/gym/simulations.py", '        self._noise = None\n        if "', '        if "', "the old tasks' noise in new tasks"),
    Mutant("envs/gym/device_env.py", '        self._delay = None\n        if "', '        if "', "the old tasks' delay in new tasks, on a device"),
    Mutant("envs/gym/device_env.py", '        self._noise = None\n        if "', '        if "', "the old tasks' noise in new tasks, on a device"),
    Mutant("envs/gym/single_env.py", 'options.get("episode")', "None", "the index of an episode ignored"),
    Mutant("envs/gym/seeding.py", "(s is None or not is_reset)", "s is None", "a partial reset seeds all sub-environments"),
    Mutant("envs/gym/seeding.py", "spawn_key=spawn_key)", "spawn_key=parent.spawn_key)", "the first task and the initial state from the same numbers"),
    Mutant("maml_rl/policies/normalizer.py", "self.denormalize(block) if are_normalized else block.double()", "block.double()", "statistics of normalised observations"),
    Mutant("maml_rl/learners/pearl/updates.py", "observations=normalizer.normalize(batch.observations)", "observations=batch.observations", "PEARL learns from raw observations"),
    Mutant("maml_rl/learners/pearl/updates.py", "encoder_inputs(context, normalizer, reads_next)", "encoder_inputs(context, None, reads_next)", "PEARL's context of raw observations"),
    Mutant("maml_rl/learners/pearl/updates.py", "make_replay(history, config.context_window)", "make_replay(history, 2)", "the context window of the settings ignored"),
    Mutant("maml_rl/learners/pearl/updates.py", 'consecutive_rows if config.encoder == "gru" else drawn_rows', "drawn_rows", "PEARL's GRU reads transitions out of order"),
    Mutant("maml_rl/learners/pearl/updates.py", "float(np.mean([step[name] for step in steps]))", "steps[0][name]", "PEARL's metrics of its first update"),
    Mutant("maml_rl/learners/pearl/learner.py", "drawn_tasks(streams.tasks(), number", "drawn_tasks(always.tasks(), number", "PEARL plays the same training tasks in every iteration"),
    Mutant("maml_rl/learners/pearl/replay.py", "part = _rows(stage, tasks, number < num_prior_stages, action_scale)\n        parts.append({name: ranks.gather(value) for name, value in part.items()})\n    return concatenated(parts)", "parts.append(_rows(stage, tasks, number < num_prior_stages, action_scale))\n    return {name: ranks.gather(value) for name, value in concatenated(parts).items()}", "PEARL's replay in the order of processes"),
    Mutant("maml_rl/learners/recurrent/ppo.py", "float(np.mean([step[name] for step in steps]))", "steps[-1][name]", "RL²'s metrics of its last update"),
    Mutant("maml_rl/learners/teacher_student/regression.py", "latent_loss(student, leaves, trials, config.truncation)", "latent_loss(student, leaves, trials, None)", "the student's truncation ignored"),
    Mutant("maml_rl/learners/teacher_student/regression.py", "float(np.mean(errors))", "errors[-1]", "the student's error of its last update"),
    Mutant("maml_rl/learners/teacher_student/networks.py", "math.log(self.init_std)", "0.0", "the teacher's initial deviation ignored"),
    Mutant("maml_rl/learners/trials.py", "num_updates_before + stage)", "stage)", "an adapted agent evaluated from its first inner step"),
    Mutant("maml_rl/analysis/evaluation.py", "held_out(agent.config.env) if env is None", "agent.config.env if env is None", "evaluation on the tasks of training"),
    Mutant("maml_rl/analysis/comparison/saved_evaluations.py", 'if file["sha256"] != _digest(content):', "if False:", "a changed number in a saved evaluation"),
    Mutant("maml_rl/training/start.py", "number = next(_run_numbers)", "number = 0", "a second run takes the folder of the first"),
    Mutant("maml_rl/system/safe_yaml.py", "if twice:", "if False:", "a YAML key twice"),
    Mutant("maml_rl/agents/sb3_env.py", "is_normalized = normalizer is not None and normalizer.norm_obs", "is_normalized = False", "an actor of normalised observations"),
    Mutant("maml_rl/agents/sb3_import.py", "sorted(policy.keys() & architecture.keys())", "[]", "settings of the network in place of the model's"),
    Mutant("maml_rl/agents/learner_checkpoint.py", 'if "context" not in initial.tensors.get("theta", {}):', "if True:", "a saved learner without its context"),
    Mutant("maml_rl/runs/pretrained.py", "folder = run.resolve()", "folder = run", "results written into the package"),
    Mutant("maml_rl/analysis/run_labels.py", '"warp" if config.engine == "warp" else "mujoco"', "config.engine", "two names of one engine as different settings"),
    Mutant("maml_rl/env_flags.py", "if name in names:", "if False:", "dynamics set twice"),
    Mutant("envs/engines/mujoco.py", "np.allclose(data.xaxis[0], (1.0, 0.0, 0.0))", "np.allclose(model.jnt_axis[0], (1.0, 0.0, 0.0))", "a push along the body's axis"),
    Mutant("maml_rl/agents/episode_log.py", "np.logical_or.reduce(list(flags.values()))", "list(flags.values())[-1]", "only the last flag ends an episode of a log"),
    Mutant("maml_rl/agents/from_scratch.py", "total += live * reward", "total += reward", "PPO's return of later episodes"),
    Mutant("maml_rl/agents/from_scratch.py", "float(total[~unstable].mean())", "float(total.mean())", "PPO's return of unstable episodes"),
    Mutant("maml_rl/training/callbacks.py", "if self.stop_reason is None:", "if True:", "the last reason to stop counts"),
    Mutant("maml_rl/training/callbacks.py", "if has_failed or self._best_iteration > 0:", "if self._best_iteration > 0:", "a failed update ends a run with StopOnPlateau"),
    Mutant("maml_rl/errors.py", "or frames[-1:]", "", "no line of an error of a library"),
]  # fmt: skip

_MAML = [
    "learners/test_maml.py",
    "learners/test_estimators.py",
    "learners/test_inner_steps.py",
    "learners/test_meta_learners.py",
    "learners/test_latent_learning.py",
    "learners/test_outer_steps.py",
]
_CHANGES = ["envs/test_changes.py", "envs/test_imperfections.py"]
_RL2 = ["policies/test_recurrent.py", "learners/test_rl2.py"]
_PEARL = [
    "learners/test_pearl.py",
    "learners/test_pearl_replay.py",
    "learners/test_pearl_learner.py",
]
_TEACHER = ["learners/test_teacher_student.py"]
TESTS = {
    "maml_rl/cli.py": ["test_cli.py"],
    "maml_rl/compare.py": ["test_compare.py"],
    "maml_rl/runs/seeds.py": ["training/test_seeds.py"],
    "maml_rl/training/compose.py": ["training/test_training.py"],
    "maml_rl/settings/learners/pearl.py": ["settings/test_learner_settings.py"],
    "envs/families/tasks.py": ["envs/test_robots.py", "envs/test_half_cheetah.py"],
    "maml_rl/policies/recurrent/gru.py": ["policies/test_gru.py"],
    "maml_rl/settings/dynamics_study/study.py": ["settings/test_dynamics_study.py"],
    "maml_rl/settings/dynamics_study/varied_dynamics.py": ["settings/test_dynamics_study.py"],
    "envs/engines/changes.py": _CHANGES,
    "envs/engines/mujoco_engines.py": _CHANGES,
    "envs/gym/imperfections.py": _CHANGES,
    "envs/gym/simulations.py": _CHANGES,
    "envs/gym/device_env.py": ["envs/test_device_env.py"],
    "envs/gym/single_env.py": _CHANGES,
    "envs/gym/seeding.py": ["envs/test_vector_env.py", "envs/test_contract.py"],
    "maml_rl/policies/recurrent/hypernetwork.py": _RL2,
    "maml_rl/policies/recurrent/cell.py": _RL2,
    "maml_rl/policies/recurrent/memoryless.py": ["policies/test_memoryless.py"],
    "maml_rl/policies/recurrent/memory.py": _RL2,
    "maml_rl/policies/recurrent/network.py": _RL2,
    "maml_rl/learners/recurrent/sequence.py": _RL2,
    "maml_rl/learners/recurrent/actor.py": _RL2,
    "maml_rl/learners/recurrent/batch.py": _RL2,
    "maml_rl/learners/recurrent/ppo.py": _RL2,
    "maml_rl/learners/recurrent/trial_gradient.py": _RL2,
    "maml_rl/learners/recurrent/value_scale.py": _RL2,
    "maml_rl/learners/recurrent/iteration.py": ["policies/test_normalizer.py", *_RL2],
    "maml_rl/settings/learners/trial_ppo.py": _RL2,
    "maml_rl/learners/teacher_student/learner.py": _TEACHER,
    "maml_rl/learners/teacher_student/networks.py": _TEACHER,
    "maml_rl/learners/teacher_student/regression.py": _TEACHER,
    "maml_rl/learners/teacher_student/window.py": _TEACHER,
    "maml_rl/learners/pearl/actor.py": _PEARL,
    "maml_rl/learners/pearl/context_encoder.py": _PEARL,
    "maml_rl/learners/pearl/context.py": _PEARL,
    "maml_rl/learners/pearl/learner.py": _PEARL,
    "maml_rl/learners/pearl/updates.py": _PEARL,
    "maml_rl/learners/pearl/networks.py": _PEARL,
    "maml_rl/learners/pearl/plain_module.py": _PEARL,
    "maml_rl/learners/pearl/replay.py": [*_PEARL, "system/test_distributed.py"],
    "maml_rl/learners/pearl/sac.py": _PEARL,
    "maml_rl/policies/distributions.py": [
        "policies/test_mlp.py",
        "policies/test_latent.py",
        "learners/test_latent_learning.py",
        "learners/test_maml.py",
    ],
    "maml_rl/policies/latent.py": ["policies/test_latent.py"],
    "maml_rl/policies/mlp.py": [
        "policies/test_mlp.py",
        "policies/test_export.py",
        "sampling/test_actors.py",
        "learners/test_maml.py",
    ],
    "maml_rl/policies/policy.py": ["sampling/test_actors.py"],
    "maml_rl/sampling/actors.py": ["sampling/test_actors.py", "sampling/test_collector.py"],
    "maml_rl/learners/maml/losses.py": _MAML,
    "maml_rl/learners/maml/adapt.py": _MAML,
    "maml_rl/learners/maml/objective.py": _MAML,
    "maml_rl/learners/maml/learned_advantage.py": ["learners/test_inner_steps.py"],
    "maml_rl/settings/learners/maml.py": [
        "settings/test_learner_settings.py",
        "learners/test_inner_steps.py",
    ],
    "maml_rl/settings/learners/outer.py": ["settings/test_learner_settings.py"],
    "maml_rl/learners/maml/inner_step.py": [
        "learners/test_inner_steps.py",
        "learners/test_latent_learning.py",
        "learners/test_meta_learners.py",
        "agents/test_agent.py",
    ],
    "maml_rl/learners/maml/step_schedule.py": ["learners/test_step_schedule.py"],
    "maml_rl/learners/maml/outer/trpo.py": [
        "learners/test_inner_steps.py",
        "learners/test_trpo.py",
        "learners/test_maml.py",
        "learners/test_latent_learning.py",
        "learners/test_meta_learners.py",
    ],
    "maml_rl/learners/advantages.py": ["learners/test_advantages.py"],
    "maml_rl/learners/linear_baseline.py": [
        "learners/test_linear_baseline.py",
        "learners/test_advantages.py",
    ],
    "maml_rl/sampling/episodes.py": [
        "sampling/test_episodes.py",
        "learners/test_maml.py",
        "policies/test_normalizer.py",
    ],
    "maml_rl/sampling/failures.py": ["sampling/test_failures.py"],
    "maml_rl/system/distributed.py": ["learners/test_maml.py"],
    "maml_rl/policies/normalizer.py": ["policies/test_normalizer.py"],
    "maml_rl/sampling/collector.py": [
        "sampling/test_collector.py",
        "sampling/test_device_rollout.py",
        "learners/test_trials.py",
    ],
    "maml_rl/sampling/recording.py": ["sampling/test_collector.py", "learners/test_trials.py"],
    "maml_rl/sampling/device_rollout.py": ["sampling/test_device_rollout.py"],
    "maml_rl/sampling/task_in_observation.py": ["sampling/test_task_values.py"],
    "maml_rl/analysis/dynamics/robustness.py": ["analysis/test_robustness.py"],
    "maml_rl/analysis/recording.py": ["analysis/test_rewards_around_changes.py"],
    "maml_rl/analysis/comparison/response.py": ["analysis/test_rewards_around_changes.py"],
    "maml_rl/analysis/statistics.py": ["analysis/test_statistics.py"],
    "maml_rl/policies/network_policy.py": [
        "policies/test_network_policy.py",
        "policies/test_export.py",
    ],
    "maml_rl/policies/plain_network.py": [
        "policies/test_network_policy.py",
        "policies/test_export.py",
        "policies/test_export_memory.py",
    ],
    "maml_rl/policies/export.py": ["policies/test_export.py"],
    "maml_rl/training/seeds.py": ["training/test_seeds.py"],
    "maml_rl/training/saving.py": ["training/test_best.py"],
    "maml_rl/training/callbacks.py": ["training/test_callbacks.py"],
    "maml_rl/learners/base.py": [
        "learners/test_base.py",
        "learners/test_learner_contract.py",
        "sampling/test_failures.py",
    ],
    "maml_rl/learners/metrics.py": ["learners/test_metrics.py"],
    "maml_rl/learners/iteration_result.py": [
        "learners/test_pearl_learner.py",
        "sampling/test_failures.py",
    ],
    "maml_rl/learners/maml/learner.py": [
        "training/test_own_outer_step.py",
        "learners/test_inner_steps.py",
        "learners/test_trials.py",
        "training/test_training.py",
        "sampling/test_failures.py",
    ],
    "maml_rl/agents/episode_log.py": ["agents/test_episode_log.py"],
    "maml_rl/agents/from_scratch.py": ["agents/test_sb3.py"],
    "maml_rl/errors.py": ["test_errors.py"],
    "maml_rl/agents/predict_arguments.py": ["agents/test_agent_of_own_learner.py"],
    "maml_rl/agents/agent.py": [
        "agents/test_predict_with_rewards.py",
        "learners/test_learner_contract.py",
        "agents/test_agent.py",
    ],
    "maml_rl/analysis/evaluation.py": [
        "learners/test_base.py",
        "learners/test_learner_contract.py",
        "analysis/test_evaluation.py",
        "analysis/test_rewards_around_changes.py",
        "system/test_distributed.py",
    ],
    "maml_rl/training/start.py": ["system/test_distributed.py"],
    "maml_rl/system/safe_yaml.py": ["test_fuzzing.py"],
    "maml_rl/agents/sb3_env.py": ["agents/test_sb3.py"],
    "maml_rl/agents/sb3_import.py": ["agents/test_sb3.py"],
    "maml_rl/agents/learner_checkpoint.py": [
        "agents/test_agent_of_own_learner.py",
        "agents/test_learner_checkpoint.py",
    ],
    "maml_rl/policies/action_map.py": ["agents/test_learner_checkpoint.py"],
    "maml_rl/sampling/single_env.py": ["sampling/test_odd_environments.py::TestObservations"],
    "maml_rl/sampling/environments.py": ["sampling/test_odd_environments.py::TestObservations"],
    "maml_rl/runs/pretrained.py": ["runs/test_pretrained.py"],
    "maml_rl/analysis/run_labels.py": [
        "analysis/test_comparison.py",
        "training/test_engine.py",
        "training/test_callbacks.py",
    ],
    "maml_rl/analysis/learning_curves.py": ["analysis/test_learning_curves.py"],
    "maml_rl/analysis/comparison/subjects.py": ["analysis/test_comparison.py"],
    "maml_rl/env_flags.py": ["analysis/test_sweeps.py", "test_cli.py"],
    "envs/engines/dynamics.py": ["envs/test_dynamics.py"],
    "envs/engines/mujoco.py": ["envs/test_own_families.py"],
    "maml_rl/analysis/comparison/saved_evaluations.py": [
        "analysis/test_deterministic.py",
        "analysis/test_episodes_used.py",
    ],
    "maml_rl/analysis/comparison/entries.py": ["analysis/test_episodes_used.py"],
    "maml_rl/learners/trials.py": [
        "learners/test_trials.py",
        "sampling/test_failures.py",
        "agents/test_agent.py",
        "training/test_training.py",
        "analysis/test_evaluation.py",
        "analysis/test_deterministic.py",
    ],
}
"""Tests to run first for the mutants of a file; ``_OUTER`` for files that are not listed.

If these pass, all tests run.
"""
_OUTER = ["learners/test_trpo.py", "learners/test_outer_steps.py", "learners/test_meta_learners.py"]


def main() -> int:
    """Test every selected mutant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", help="only mutants of this file")
    args = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if args.file in (None, mutant.file)]
    if not mutants:
        parser.error(f"--file {args.file} has no mutants")
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = _copy(Path(folder) / "tree")
        _check(tree, mutants)
        for mutant in mutants:
            started = time.perf_counter()
            where = TESTS.get(mutant.file, _OUTER)
            is_noticed = _is_noticed(
                tree, mutant, [f"tests/{name}" for name in where]
            ) or _is_noticed(tree, mutant, ["tests"])
            if not is_noticed:
                survivors.append(mutant)
            seconds = f"{time.perf_counter() - started:.0f} s"
            print(
                f"{'caught' if is_noticed else 'SURVIVES':<9} {seconds:>6}  {mutant.file}: {mutant.what}",
                flush=True,
            )
    print(f"{len(mutants)} mutants, {len(survivors)} survive")
    return int(bool(survivors))


def _copy(tree: Path) -> Path:
    """Copy the project to ``tree``, importable as if installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    for package, source in (("maml_envs", "envs"), ("maml_configs", "configs")):
        (tree / package).symlink_to(source)
    return tree


def _check(tree: Path, mutants: list[Mutant]) -> None:
    """Check that every mutant changes the code, and that the tests pass without mutants.

    Raises:
        SystemExit: if not; the message names the mutant.
    """
    for mutant in mutants:
        number = (tree / mutant.file).read_text().count(mutant.old)
        if number != 1:
            raise SystemExit(
                f"{mutant.file}: {mutant.old!r} occurs {number} times, expected 1: update the mutant"
            )
    print("running the tests without mutants ...", flush=True)
    names = {name for mutant in mutants for name in TESTS.get(mutant.file, _OUTER)}
    if not _passes(tree, [f"tests/{name}" for name in sorted(names)]):
        raise SystemExit("the tests fail without mutants")


def _is_noticed(tree: Path, mutant: Mutant, tests: list[str]) -> bool:
    """Whether one of ``tests`` fails on the mutant."""
    path = tree / mutant.file
    sound = path.read_text()
    path.write_text(sound.replace(mutant.old, mutant.new))
    try:
        return not _passes(tree, tests)
    finally:
        path.write_text(sound)


def _passes(tree: Path, tests: list[str]) -> bool:
    """Whether ``tests`` pass in ``tree``."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--deselect", _OWN_TEST]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, check=False, capture_output=True, timeout=_LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return False  # a timeout counts as a failure
    if done.returncode in (2, 3, 4, 5):  # as when a test file cannot be imported
        raise SystemExit(f"the tests did not run:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
