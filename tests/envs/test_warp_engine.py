"""The engine on MuJoCo Warp simulates what MuJoCo in C simulates, up to float32 rounding.

Runs on the GPU if torch has one, else on Warp's CPU backend. Compiling the kernels of a robot takes
up to a minute; Warp caches them.
"""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import maml_envs
import mujoco
import numpy as np
import pytest
import torch
from helpers.scripts import ROOT
from maml_envs.engines.mujoco import DERIVED_FIELDS, MujocoRobot
from maml_envs.engines.mujoco_engines import MujocoBatchEngine
from maml_envs.family import sample_tasks, stack_tasks

pytest.importorskip("mujoco_warp", reason="the extra gpu is not installed")

from maml_envs.engines.warp import Sizes, WarpEngine, measured_sizes

pytestmark = pytest.mark.warp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="atomic sums on a GPU are not reproducible")


class Tolerance(NamedTuple):
    """Largest difference from MuJoCo in C; of the first two, relative to 1 + the largest entry."""

    qpos: float
    """After 10 control steps."""
    qvel: float
    """After 10 control steps."""
    median_qpos: float
    """After 50 control steps, median over the simulations of the largest difference."""


# In float32 a start differs by 1e-7. Without contacts it stays so; each impact multiplies it, in
# MuJoCo in C as well: some cheetahs whose starts differ by 1e-6 differ by 0.1 m/s after ten steps,
# and after 50 steps of random actions, cheetahs and ants by centimetres (docs/gpu.md). So 10 steps
# are compared tightly, apart from ten times the difference of such a perturbed start in C, and
# after 50 steps the median is compared.
TOLERANCES = {
    "ant.xml": Tolerance(2e-5, 5e-4, 0.3),
    "half_cheetah.xml": Tolerance(5e-5, 1e-3, 0.3),
    "hopper.xml": Tolerance(5e-6, 2e-5, 1e-4),
    "humanoid.xml": Tolerance(5e-6, 1e-4, 1e-3),
    "reacher.xml": Tolerance(5e-6, 2e-5, 1e-4),
    "swimmer.xml": Tolerance(5e-6, 2e-5, 1e-4),
    "walker2d_v5.xml": Tolerance(5e-5, 5e-4, 1e-3),
}
FAMILIES = {
    name: family for name, family in maml_envs.FAMILIES.items() if not name.startswith("Point")
}
ANT = maml_envs.FAMILIES["AntVel"]()
CHEETAH = maml_envs.FAMILIES["HalfCheetahVel"]()
HUMANOID = maml_envs.FAMILIES["HumanoidDir"]()


def make_engine(robot: MujocoRobot, num_sims: int, derived: Any = (), **options: Any) -> WarpEngine:
    return WarpEngine(robot.model, robot.frame_skip, num_sims, DEVICE, derived, **options)


def on_device(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name: torch.as_tensor(value, dtype=torch.float32, device=DEVICE)
        for name, value in values.items()
    }


def initial_states(family: Any, num_sims: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = [family.initial_state(rng) for _ in range(num_sims)]
    return {name: np.stack([state[name] for state in states]) for name in states[0]}


def random_actions(robot: MujocoRobot, num_steps: int, num_sims: int, seed: int = 0) -> np.ndarray:
    """(num_steps, num_sims, action_size), over the whole action space."""
    space = robot.action_space
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_sims, *space.shape)
    return rng.uniform(space.low, space.high, shape).astype(np.float32)


def reset_all(engine: WarpEngine, initial: dict[str, np.ndarray]) -> None:
    everything = torch.ones(engine.num_sims, dtype=torch.bool, device=DEVICE)
    engine.reset(everything, on_device(initial))


def play(engine: WarpEngine, actions: np.ndarray) -> None:
    for action in torch.as_tensor(actions, device=DEVICE):
        engine.step(action)


def snapshot(engine: WarpEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.state.items()}


def difference(engine: WarpEngine, in_c: MujocoBatchEngine, name: str) -> np.ndarray:
    """Largest absolute difference of a state field, (num_sims,)."""
    ours = engine.state[name].cpu().numpy()
    assert ours.dtype == np.float32
    assert ours.shape == in_c.state[name].shape
    return np.abs(ours - in_c.state[name]).reshape(len(ours), -1).max(1)


def both_engines(
    family: Any, num_sims: int, tasks: dict[str, np.ndarray], derived: Any = ()
) -> tuple[WarpEngine, MujocoBatchEngine]:
    """Engines with the dynamics of ``tasks`` at the same initial states."""
    engine = make_engine(family.robot, num_sims, derived)
    in_c = family.robot.batch_engine(num_sims, 1, derived)
    initial = initial_states(family, num_sims)
    dynamics = {name: tasks[name] for name in tasks if name in family.robot.parameters}
    engine.set_dynamics(dynamics)
    in_c.set_dynamics(dynamics)
    reset_all(engine, initial)
    in_c.reset(np.arange(num_sims), initial)
    return engine, in_c


@pytest.mark.parametrize("name", FAMILIES)
def test_fifty_steps_of_every_family_equal_mujoco_in_c(name: str) -> None:
    family = FAMILIES[name]()
    tolerance = TOLERANCES[family.robot.model_file]
    model = bytes_of(family.robot.model)
    tasks = stack_tasks(family, sample_tasks(family, np.random.default_rng(0), 8))
    engine, in_c = both_engines(family, 8, tasks, family.derived_fields)
    start = in_c.state["qpos"].copy()
    perturbed = family.robot.batch_engine(8, 1, ())
    perturbed.set_dynamics({key: tasks[key] for key in tasks if key in family.robot.parameters})
    initial = initial_states(family, 8)
    noise = 1e-6 * np.random.default_rng(1).standard_normal(initial["qpos"].shape)
    perturbed.reset(np.arange(8), initial | {"qpos": initial["qpos"] + noise})
    for i, action in enumerate(random_actions(family.robot, 50, 8)):
        engine.step(torch.as_tensor(action, device=DEVICE))
        in_c.step(None, action)
        perturbed.step(None, action)
        if i + 1 == 10:
            for key, bound in (("qpos", tolerance.qpos), ("qvel", tolerance.qvel)):
                largest = bound * (1 + np.abs(in_c.state[key]).max(1))
                sensitivity = np.abs(perturbed.state[key] - in_c.state[key]).max(1)
                assert (difference(engine, in_c, key) < largest + 10 * sensitivity).all()
                assert np.median(sensitivity) < np.median(largest)  # mostly the bound decides
    assert np.median(difference(engine, in_c, "qpos")) < tolerance.median_qpos
    assert np.abs(in_c.state["qpos"] - start).max() > 1.0  # the robots have moved
    assert not engine.failure.any()
    assert bytes_of(family.robot.model) == model


def bytes_of(model: mujoco.MjModel) -> bytes:
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


@pytest.mark.parametrize("family", [ANT, HUMANOID], ids=["ant", "humanoid"])
def test_derived_fields_equal_those_of_mujoco_in_c(family: Any) -> None:
    engine, in_c = both_engines(family, 4, {}, DERIVED_FIELDS)
    low = initial_states(family, 4)
    low["qpos"][:, 2] -= 0.35 if family is ANT else 0.2  # feet on the ground
    reset_all(engine, low)
    in_c.reset(np.arange(4), low)
    assert np.abs(in_c.state["cfrc_ext"]).max() > 10.0
    for action in [None, *random_actions(family.robot, 3, 4)]:
        if action is not None:
            engine.step(torch.as_tensor(action, device=DEVICE))
            in_c.step(None, action)
        for name in DERIVED_FIELDS:
            largest = np.abs(in_c.state[name]).max()
            assert difference(engine, in_c, name).max() < 1e-3 * (1.0 + largest), name


DYNAMICS = {
    "body_mass": [0.5, 1.0, 2.0, 3.0],
    "body_mass/torso": [0.5, 1.0, 2.0, 3.0],
    "body_inertia": [0.5, 1.0, 2.0, 3.0],
    "geom_friction": [0.2, 1.0, 2.0, 3.0],
    "dof_damping": [0.1, 1.0, 3.0, 5.0],
    "actuator_gear": [0.1, 0.5, 1.0, 1.5],
    "actuator_strength": [0.1, 0.5, 1.0, 1.5],
    "gravity": [5.0, 9.81, 12.0, 0.0],
    "slope": [-0.3, 0.0, 0.3, 0.5],
    "disabled_actuator": [-1, 0, 1, 2],
    "disabled_joint": [-1, 0, 1, 2],
    "disabled_limb": [-1, 0, 1, 1],
}


@pytest.mark.parametrize("name", DYNAMICS)
def test_every_quantity_of_the_dynamics_equals_mujoco_in_c(name: str) -> None:
    tasks = {name: np.array(DYNAMICS[name], float)}
    engine, in_c = both_engines(CHEETAH, 4, tasks)
    nominal = CHEETAH.robot.batch_engine(4, 1, ())
    nominal.reset(np.arange(4), initial_states(CHEETAH, 4))
    for action in random_actions(CHEETAH.robot, 10, 4):
        engine.step(torch.as_tensor(action, device=DEVICE))
        in_c.step(None, action)
        nominal.step(None, action)
    # the quantity matters in at least one simulation, a hundred times more than the tolerance
    tolerance = 5e-3
    assert np.abs(in_c.state["qvel"] - nominal.state["qvel"]).max() > 100 * tolerance
    assert difference(engine, in_c, "qvel").max() < tolerance


def test_every_quantity_of_the_model_is_compared() -> None:
    names = {name for name in CHEETAH.robot.parameters if "/" not in name}
    of_environment = {"action_delay", "observation_noise", "change_episode", "change_step"}
    assert names - of_environment - {"push_velocity"} <= DYNAMICS.keys()


LIMITS_AND_PAIR = """
<mujoco>
  <option gravity="0 0 -9.81"/>
  <worldbody>
    <geom name="floor" type="plane" size="9 9 1"/>
    <body pos="0 0 2"> <joint name="elbow" axis="0 1 0" actuatorfrcrange="-1 1"/>
      <inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/> </body>
    <body pos="0 5 2"> <joint name="wrist" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/> </body>
    <body pos="0 0 0.1"> <joint type="slide" axis="1 0 0"/> <joint type="slide" axis="0 0 1"/>
      <geom name="puck" type="sphere" size="0.1" mass="1"/> </body>
  </worldbody>
  <contact> <pair geom1="floor" geom2="puck" friction="0.2 0.2"/> </contact>
  <tendon> <fixed name="cord" actuatorfrcrange="-1 1"><joint joint="wrist" coef="1"/></fixed>
  </tendon>
  <actuator>
    <motor joint="elbow" ctrlrange="-9 9"/> <motor tendon="cord" ctrlrange="-9 9"/>
  </actuator>
</mujoco>
"""


@pytest.mark.parametrize(
    ("name", "columns", "sign"), [("actuator_strength", [0, 1], 1), ("geom_friction", [2], -1)]
)
def test_limits_and_pairs_equal_mujoco_in_c(
    name: str, columns: list[int], sign: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.xml"
    path.write_text(LIMITS_AND_PAIR)
    robot = MujocoRobot(str(path), frame_skip=5, camera_name=None)
    engine, in_c = make_engine(robot, 3), robot.batch_engine(3, 1, ())
    start = {"qpos": np.zeros((3, 4)), "qvel": np.tile([0.0, 0.0, 1.0, 0.0], (3, 1))}
    for one in (engine, in_c):
        one.set_dynamics({name: np.array([0.5, 1.0, 2.0])})
    reset_all(engine, start)
    in_c.reset(np.arange(3), start)
    for _ in range(10):
        engine.step(torch.full((3, 2), 9.0, device=DEVICE))
        in_c.step(None, np.full((3, 2), 9.0))
    assert difference(engine, in_c, "qvel").max() < 1e-4
    # each simulation has a factor of its own
    assert (sign * np.diff(in_c.state["qvel"][:, columns], axis=0) > 0.01).all()


def test_a_disabled_limb_of_the_ant_is_a_stump() -> None:
    engine, in_c = both_engines(ANT, 4, {"disabled_limb": np.array([0.0, 1.0, 2.0, 3.0])})
    for action in random_actions(ANT.robot, 15, 4):
        engine.step(torch.as_tensor(action, device=DEVICE))
        in_c.step(None, action)
    assert difference(engine, in_c, "qvel").max() < 1e-2
    assert not engine.failure.any()


def test_constants_follow_from_the_masses() -> None:
    engine = make_engine(CHEETAH.robot, 3)
    engine.set_dynamics({"body_mass": np.array([1.0, 2.0, 0.5])})
    for i, factor in enumerate([1.0, 2.0, 0.5]):
        expected = with_mass(CHEETAH.robot.model, factor)
        for name in ("body_subtreemass", "body_invweight0", "dof_invweight0"):
            ours = getattr(engine._model, name).numpy()[i]
            np.testing.assert_allclose(ours, getattr(expected, name), rtol=1e-4, atol=1e-5)


def with_mass(model: mujoco.MjModel, factor: float) -> mujoco.MjModel:
    result = copy.copy(model)
    result.body_mass[:] *= factor
    result.body_inertia[:] *= factor
    mujoco.mj_setConst(result, mujoco.MjData(result))
    return result


def test_new_dynamics_start_from_the_untouched_model() -> None:
    engine = make_engine(CHEETAH.robot, 4)
    engine.set_dynamics({"body_mass": np.array([1.0, 2.0, 1.0, 3.0])})
    engine.set_dynamics({"gravity": np.full(4, 9.81)})
    masses = engine._fields["body_mass"].cpu().numpy()
    np.testing.assert_allclose(masses, np.tile(CHEETAH.robot.model.body_mass, (4, 1)), rtol=1e-6)


def test_contact_frames_of_upright_capsules_are_those_of_mujoco_in_c() -> None:
    """The friction pyramid is aligned with the contact frame; the ant's shins are steep.

    MuJoCo Warp takes the y-axis as tangent if a capsule is within 30 degrees of the normal. With
    its frames, the ant's velocities differ by 0.1 m/s and more after a few control steps.
    """
    actions = random_actions(ANT.robot, 8, 8)
    differences = []
    for has_filter in (True, False):
        engine, in_c = both_engines(ANT, 8, {})
        if not has_filter:
            engine._model.callback.contactfilter = None
            engine._capture()
        for action in actions:
            engine.step(torch.as_tensor(action, device=DEVICE))
            in_c.step(None, action)
        differences.append(difference(engine, in_c, "qvel").max())
    assert differences[0] < 1e-3
    assert differences[1] > 0.1


def test_state_tensors_stay_the_same() -> None:
    engine = make_engine(ANT.robot, 2, ("xpos",))
    tensors = dict(engine.state)
    reset_all(engine, initial_states(ANT, 2))
    play(engine, random_actions(ANT.robot, 2, 2))
    engine.set_dynamics({"body_mass": np.array([1.0, 2.0])})
    assert all(engine.state[name] is tensor for name, tensor in tensors.items())


def test_a_masked_reset_keeps_the_other_rows() -> None:
    derived = ("xpos", "xmat", "subtree_com", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    engine, reference = make_engine(ANT.robot, 4, derived), make_engine(ANT.robot, 4, derived)
    # A GPU adds sums in any order. From the ground, few steps have contacts already, and rounding
    # grows to 1e-5; 30 steps and a fall multiply it by up to 1e5.
    actions = random_actions(ANT.robot, 12, 4)
    start, initial = initial_states(ANT, 4), initial_states(ANT, 4, seed=1)
    for state in (start, initial):
        state["qpos"][:, 2] -= 0.5  # on the ground
    for either in (engine, reference):
        reset_all(either, start)
        play(either, actions[:8])
    # reset rows 1 and 3; the other rows of the initial state are ignored
    before = snapshot(engine)
    is_reset = torch.tensor([False, True, False, True], device=DEVICE)
    initial["qpos"][[0, 2]] = np.nan
    engine.reset(is_reset, on_device(initial))
    for name, tensor in engine.state.items():
        assert torch.equal(tensor[~is_reset], before[name][~is_reset]), name
        assert not torch.equal(tensor[is_reset], before[name][is_reset]), name
    np.testing.assert_allclose(
        engine.state["qpos"][is_reset].cpu().numpy(), initial["qpos"][[1, 3]], rtol=1e-6
    )
    # the other rows continue as if nothing had happened
    play(engine, actions[8:])
    play(reference, actions[8:])
    atol = 0.0 if DEVICE == "cpu" else 1e-3
    for name in ("qpos", "qvel"):
        ours, expected = engine.state[name][~is_reset], reference.state[name][~is_reset]
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=atol)


@on_cpu
def test_the_same_start_gives_the_same_bits() -> None:
    engine = make_engine(ANT.robot, 3)
    states = []
    for _ in range(2):
        reset_all(engine, initial_states(ANT, 3))
        play(engine, random_actions(ANT.robot, 20, 3))
        states.append(snapshot(engine))
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])


@pytest.mark.parametrize("where", ["qpos", "qvel", "action", "large qvel"])
def test_a_non_finite_simulation_fails_alone(where: str) -> None:
    engine, reference = make_engine(CHEETAH.robot, 3), make_engine(CHEETAH.robot, 3)
    actions = random_actions(CHEETAH.robot, 8, 3)
    for either in (engine, reference):
        reset_all(either, initial_states(CHEETAH, 3))
        play(either, actions[:2])
    broken = actions[2:].copy()
    if where == "action":
        broken[0, 1, 0] = np.nan
    else:
        value = 1e20 if where == "large qvel" else np.nan
        engine.state[where.removeprefix("large ")][1, 4] = value
    play(engine, broken)
    play(reference, actions[2:])
    assert engine.failure.tolist() == [0, 1, 0]
    assert not reference.failure.any()
    atol = 0.0 if DEVICE == "cpu" else 1e-3
    for name, tensor in engine.state.items():
        torch.testing.assert_close(tensor[::2], reference.state[name][::2], rtol=0.0, atol=atol)
    # a reset ends the failure
    reset_all(engine, initial_states(CHEETAH, 3))
    reset_all(reference, initial_states(CHEETAH, 3))
    play(engine, actions)
    play(reference, actions)
    assert not engine.failure.any()
    torch.testing.assert_close(engine.state["qpos"], reference.state["qpos"], rtol=0.0, atol=atol)


def test_a_failed_simulation_continues_from_the_models_pose() -> None:
    """There, joints of the ant are at their limits, so NaN left in the solver would return."""
    engine = make_engine(ANT.robot, 2)
    reset_all(engine, initial_states(ANT, 2))
    engine.state["qpos"][1] = np.nan
    idle = np.zeros((1, 2, 8), np.float32)
    pose = torch.as_tensor(ANT.robot.model.qpos0, dtype=torch.float32, device=DEVICE)
    play(engine, idle)
    assert torch.equal(engine.state["qpos"][1], pose)
    play(engine, idle)
    assert engine.state["qpos"][1].isfinite().all()
    assert not torch.equal(engine.state["qpos"][1], pose)
    assert engine.failure.tolist() == [0, 1]


def one_in_the_air(num_sims: int) -> dict[str, np.ndarray]:
    """The first cheetah is 5 m above the ground, the others are on it."""
    initial = initial_states(CHEETAH, num_sims)
    initial["qpos"][0, 1] = 5.0
    return initial


def test_too_many_constraints_fail_alone_and_get_memory(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(CHEETAH.robot, 2, sizes=Sizes(16, 2))
    tensors = dict(engine.state)
    reset_all(engine, one_in_the_air(2))
    idle = np.zeros((8, 2, 6), np.float32)
    play(engine, idle)
    assert engine.failure.tolist() == [0, 3]
    # other simulations keep their state at the reset that allocates memory
    before = snapshot(engine)
    with caplog.at_level(logging.WARNING):
        engine.reset(torch.tensor([False, True], device=DEVICE), on_device(one_in_the_air(2)))
    assert engine.sizes == Sizes(16, 4)
    assert len(caplog.records) == 1
    assert "from 16 contacts and 2 constraints to 16 and 4" in caplog.text
    for name, tensor in engine.state.items():
        assert tensor is tensors[name]
        assert torch.equal(tensor[0], before[name][0])
    assert engine.failure.tolist() == [0, 0]
    # until it is enough
    for _ in range(5):
        reset_all(engine, one_in_the_air(2))
        play(engine, idle)
        if not engine.failure.any():
            break
    enough = engine.sizes
    in_c = CHEETAH.robot.batch_engine(2, 1, ())
    in_c.reset(np.arange(2), one_in_the_air(2))
    for action in idle:
        in_c.step(None, action)
    assert not engine.failure.any()
    assert difference(engine, in_c, "qvel").max() < 5e-3
    reset_all(engine, one_in_the_air(2))
    assert engine.sizes == enough


def test_too_many_contacts_fail_everywhere_and_get_memory() -> None:
    """Simulations share the memory for contacts, so nobody knows whose contact was lost."""
    engine = make_engine(CHEETAH.robot, 4, sizes=Sizes(1, 64))
    initial = one_in_the_air(4)
    initial["qpos"][1:, 1] = -0.3  # several contacts each
    reset_all(engine, initial)
    play(engine, np.zeros((1, 4, 6), np.float32))
    assert engine.failure.tolist() == [2, 2, 2, 2]
    reset_all(engine, initial)
    assert engine.sizes == Sizes(2, 64)
    assert engine.failure.tolist() == [0, 0, 0, 0]


def test_memory_is_four_times_what_random_actions_need() -> None:
    contacts, constraints = measured_sizes(CHEETAH.robot.model)
    assert 16 <= contacts <= 32
    assert 40 <= constraints <= 100
    swimmer = maml_envs.FAMILIES["SwimmerVel"]().robot.model
    assert measured_sizes(swimmer) == Sizes(16, 16)  # no contacts at all


def test_an_engine_of_a_robot() -> None:
    engine = CHEETAH.robot.device_engine(2, torch.device(DEVICE), ("xpos",))
    assert engine.num_sims == 2
    assert engine.device.type == DEVICE
    assert engine.state["xpos"].shape == (2, CHEETAH.robot.model.nbody, 3)
    assert all(tensor.device.type == DEVICE for tensor in engine.state.values())
    assert engine.failure.dtype == torch.int8
    engine.close()


@pytest.mark.parametrize("package", ["warp", "mujoco_warp"])
def test_a_missing_package_is_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("maml_envs.engines.warp", "maml_envs.engines.warp_kernels"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r'pip install "maml-rl\[gpu\]"') as error:
        CHEETAH.robot.device_engine(2, torch.device("cpu"), ())
    assert "\n" not in str(error.value)


def test_the_check_for_gpus_runs_on_a_cpu() -> None:
    command = [sys.executable, "benchmarks/check_gpu.py", "--device", "cpu", "--quick"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    table = result.stdout[result.stdout.index("| what | result |") :]
    for what in ("tests of physics on a device | ok", "control steps per second, 8 sim"):
        assert f"| {what}" in table
    for what in ("last iteration", "shares", "final policy in MuJoCo in C"):
        assert f"| training: {what}" in table
