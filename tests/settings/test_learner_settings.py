"""A learner is chosen by name: its settings, the groups it uses, and runs of earlier versions."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maml_configs
import numpy as np
import pytest
import yaml
from helpers.scripts import ROOT

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.runs.run_folder import run_config
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.env import load_object
from maml_rl.settings.learners import (
    LEARNER_CONFIGS,
    OUTER_CONFIGS,
    AdamConfig,
    InnerConfig,
    JointConfig,
    LearnerConfig,
    MAMLConfig,
    OuterConfig,
    PEARLConfig,
    ProMPConfig,
    ReptileConfig,
    RL2Config,
    TRPOConfig,
    episodes_per_stage,
    learner_class,
)
from maml_rl.settings.parser import load_config, parse_training_arguments, resolve
from maml_rl.settings.policy import PolicyConfig
from maml_rl.settings.sources import migrated, preset

DEFAULTS = {
    name: load_config(env="PointNavigation", learner=name).learner for name in ("rl2", "pearl")
}

MODULE = '''
from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import ClassVar, Literal

from maml_rl.settings.learners import InnerConfig, LearnerConfig
from maml_rl.settings.ranges import Positive

SPEED = 3


class Bandit:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        """Settings of a bandit."""

        rate: float = 0.25
        """How fast the bandit
        learns."""
        arms: tuple[int, ...] = (3, 4)
        """Arms to choose from."""
        rule: Literal["greedy", "thompson"] = "greedy"
        """How an arm is chosen."""

        GROUPS: ClassVar = ("baseline",)
        RANGES: ClassVar = {"rate": Positive(1)}

        def check(self, config):
            if self.rule == "thompson" and config.horizon > 50:
                raise ValueError("learner.rule must be greedy if horizon is above 50")


class Plain:
    pass


class NotAClass:
    Config = 3


class OfAnotherKind:
    Config = InnerConfig


class Undecorated:
    class Config(LearnerConfig):
        rate: float = 1.0


class UnknownGroup:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        GROUPS: ClassVar = ("policy",)


class GroupsAsText:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        GROUPS: ClassVar = "inner"


class NoDefault:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        rate: float


class UnknownType:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        rate: Rate = 3


class Nested:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        inside: InnerConfig = InnerConfig()


class NotPlain:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        arms: frozenset = frozenset({1})


class OfAClass:
    @dataclass(frozen=True, kw_only=True)
    class Config(LearnerConfig):
        path: pathlib.Path = pathlib.Path()
'''
BANDIT = "my_bandits:Bandit"
ENV = "--env=PointNavigation"


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_bandits.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_bandits", None)


def read_back(config: Config) -> Config:
    return resolve(yaml.safe_load(yaml.safe_dump(to_mapping(config))), [], source="test")


# --- built-in learners ---


def test_maml_is_the_default() -> None:
    assert load_config(env="PointNavigation").learner == MAMLConfig()
    assert to_mapping(Config())["learner"] == {"name": "maml"}


@pytest.mark.parametrize("name", LEARNER_CONFIGS)
def test_a_learner_is_chosen_by_its_name(name: str) -> None:
    Path("my.yaml").write_text(f"env: PointNavigation\nlearner: {name}\n")
    configs = [
        parse_training_arguments([ENV, "--learner", name]),
        parse_training_arguments([ENV, f"--learner.name={name}"]),
        parse_training_arguments(["--config=my.yaml"]),
        load_config("my.yaml"),
        load_config(env="PointNavigation", learner=name),
        load_config(env="PointNavigation", learner={"name": name}),
    ]
    assert all(config == configs[0] for config in configs)
    default = preset("PointNavigation", name).get("learner", {})
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in default.items()}
    assert configs[0].learner == LEARNER_CONFIGS[name](**values)
    assert configs[0].learner.name == name
    assert read_back(configs[0]) == configs[0]


def test_joint_keeps_the_settings_of_the_preset_that_need_no_adaptation() -> None:
    """They fine-tune its policy. From flags as from Python."""
    maml = to_mapping(load_config(env="HalfCheetahVel"))
    assert maml["inner"]["early_loss_weight"] == 1
    without = {"learned_step_size": "none", "learned_per_step": False, "early_loss_weight": 0.0}
    inner = maml["inner"] | without
    joint = load_config(env="HalfCheetahVel", learner="joint")
    assert to_mapping(joint) == maml | {"learner": {"name": "joint"}, "inner": inner}
    assert parse_training_arguments(["--env=HalfCheetahVel", "--learner=joint"]) == joint


def test_a_preset_of_a_paper_does_not_mix_with_that_of_the_family() -> None:
    """What it leaves out has the default in code."""
    paper = load_config("maml/HalfCheetahVel")
    assert not paper.policy.normalize_observations
    assert paper.inner == InnerConfig(num_steps=1, step_size=0.1, test_step_sizes=(0.1, 0.05))
    assert parse_training_arguments(["--config=maml/HalfCheetahVel"]) == paper
    # A file of the user's is merged over the preset of the family.
    Path("own.yaml").write_text("env: HalfCheetahVel\nseed: 4\n")
    assert load_config("own.yaml") == load_config(env="HalfCheetahVel", seed=4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"inner": InnerConfig(learned_step_size="scalar")}, "inner.learned_step_size"),
        ({"inner": InnerConfig(advantage="learned")}, "inner.advantage"),
        ({"inner": InnerConfig(shared_advantage_scale=True)}, "inner.shared_advantage_scale"),
        ({"inner": InnerConfig(exploration_credit=1.0)}, "inner.exploration_credit"),
        ({"outer": ReptileConfig()}, "outer.name"),
    ],
)
def test_joint_refuses_what_needs_adaptation(settings: dict[str, Any], name: str) -> None:
    assert Config(**settings).learner == MAMLConfig()
    with pytest.raises(ValueError, match=rf"^{name} must .* if learner\.name is joint"):
        Config(learner=JointConfig(), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"advantage": "learned", "first_order": True},
            "advantage learned must not be combined with inner.first_order",
        ),
        (
            {"advantage": "sum", "first_order": True},
            "advantage sum must not be combined with inner.first_order",
        ),
        (
            {"advantage": "learned", "shared_advantage_scale": True},
            "shared_advantage_scale is for estimated advantages",
        ),
        ({"num_steps": 0, "shared_advantage_scale": True}, "num_steps must be at least 1"),
        ({"num_steps": 0, "advantage": "sum"}, "num_steps must be at least 1"),
        (
            {"early_loss_iterations": 10},
            "early_loss_iterations needs an inner.early_loss_weight above 0",
        ),
        ({"discount": 1.5}, "discount must be .*1.5"),
        ({"gae_lambda": -0.1}, "gae_lambda must be .*-0.1"),
        ({"max_kl": 0.0}, "max_kl must be .*0.0"),
        ({"early_loss_weight": -1.0}, "early_loss_weight must be .*-1.0"),
    ],
)
def test_contradictions_and_ranges_of_inner_steps(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^inner\.{message}"):
        InnerConfig(**settings)


def test_the_command_line_refuses_a_contradiction_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--inner.advantage", "learned", "--inner.first_order", "true"]
    assert main(["train", ENV, *flags]) == 2
    error = capsys.readouterr().err
    assert "inner.advantage learned must not be combined with inner.first_order" in error
    assert "Traceback" not in error


def test_reptile_refuses_an_advantage_that_it_cannot_learn() -> None:
    assert Config(outer=ReptileConfig()).inner.advantage == "gae"
    for advantage in ("learned", "sum"):
        with pytest.raises(ValueError, match=r"inner\.advantage must be gae .* got " + advantage):
            Config(outer=ReptileConfig(), inner=InnerConfig(advantage=advantage))


def test_reptile_refuses_a_context_which_it_cannot_learn() -> None:
    settings = {"inner": InnerConfig(adapts="context"), "policy": PolicyConfig(context_size=2)}
    assert Config(**settings).outer == TRPOConfig()
    with pytest.raises(ValueError, match=r"^inner\.adapts must not be context if outer\.name is"):
        Config(outer=ReptileConfig(), **settings)


def test_reptile_refuses_credit_for_exploration() -> None:
    message = r"^inner\.exploration_credit must be 0\.0 if outer\.name is reptile, got 1\.0$"
    with pytest.raises(ValueError, match=message):
        Config(outer=ReptileConfig(), inner=InnerConfig(exploration_credit=1.0))


def test_credit_for_exploration_needs_several_tasks() -> None:
    inner = InnerConfig(exploration_credit=1.0)
    assert Config(inner=inner, meta_batch_size=2).meta_batch_size == 2
    with pytest.raises(ValueError, match="meta_batch_size must be at least 2 with"):
        Config(inner=inner, meta_batch_size=1)


def test_a_penalty_of_zero_cannot_adapt() -> None:
    assert ProMPConfig(kl_coefficient=0.0).kl_coefficient == 0
    with pytest.raises(ValueError, match=r"outer\.kl_coefficient must be above 0 with .*adaptive"):
        ProMPConfig(kl_coefficient=0.0, adaptive_kl=True)


@pytest.mark.parametrize(
    ("outer", "inner", "num_steps", "said"),
    [
        (TRPOConfig(), {}, 0, []),
        (ProMPConfig(), {}, 1, []),
        (ProMPConfig(), {}, 0, ["same as --outer ppo"]),
        (ReptileConfig(), {}, 2, []),
        (ReptileConfig(), {}, 1, ["fewer than two inner steps"]),
        (ReptileConfig(), {"learned_step_size": "scalar"}, 3, ["stay at inner.step_size 0.1"]),
        (ReptileConfig(), {"adapts": "head"}, 3, ["all other parameters keep their initial"]),
    ],
)
def test_an_outer_step_says_which_settings_hardly_work(
    outer: OuterConfig, inner: dict[str, Any], num_steps: int, said: list[str]
) -> None:
    notices = (outer.notice(InnerConfig(**inner), num_steps) or "").splitlines()
    assert len(notices) == len(said)
    for notice, part in zip(notices, said, strict=True):
        assert notice.startswith("notice: ")
        assert part in notice


def test_reptile_leaves_what_it_cannot_learn_to_the_preset() -> None:
    """From flags as from Python; what the user asks for is refused."""
    config = load_config(env="HalfCheetahVel", outer="reptile")
    assert (config.inner.learned_per_step, config.inner.early_loss_weight) == (False, 0)
    assert (config.inner.num_steps, config.inner.discount) == (3, 0.9)
    assert parse_training_arguments(["--env=HalfCheetahVel", "--outer=reptile"]) == config
    with pytest.raises(UserError, match=r"learned_per_step must be false if outer\.name is rept"):
        load_config(env="HalfCheetahVel", outer="reptile", inner={"learned_per_step": True})


@pytest.mark.parametrize("settings", [{"decay_factor": 0.1}, {"decay_iterations": 10}])
@pytest.mark.parametrize("outer", OUTER_CONFIGS.values())
def test_a_decay_needs_a_factor_and_iterations(
    outer: type[OuterConfig], settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="set both, or neither"):
        outer(**settings)
    with pytest.raises(ValueError, match=r"outer\.decay_factor must be"):
        outer(decay_factor=2.0, decay_iterations=10)


@pytest.mark.parametrize("outer", OUTER_CONFIGS.values())
def test_the_size_of_outer_steps_falls_geometrically(outer: type[OuterConfig]) -> None:
    name = "max_kl" if outer is TRPOConfig else "step_size"
    config = outer(**{name: 0.5}, decay_factor=0.01, decay_iterations=40)
    sizes = [getattr(config.at(iteration), name) for iteration in (0, 20, 40, 1000)]
    assert sizes == pytest.approx([0.5, 0.05, 0.005, 0.005], rel=1e-12)
    # Nothing else changes.
    assert dataclasses.replace(config.at(20), **{name: 0.5}) == config
    assert outer().at(20) == outer()


def test_the_weight_of_early_losses_falls_linearly() -> None:
    inner = InnerConfig(num_steps=3, early_loss_weight=0.8, early_loss_iterations=40)
    weights = [inner.early_weight_at(iteration) for iteration in (0, 10, 20, 40, 1000)]
    assert weights == pytest.approx([0.8, 0.6, 0.4, 0, 0], abs=1e-12)
    constant = InnerConfig(num_steps=3, early_loss_weight=0.8)
    assert [constant.early_weight_at(iteration) for iteration in (0, 1000)] == [0.8, 0.8]


@pytest.mark.parametrize("learner", [MAMLConfig(), JointConfig()])
def test_a_context_needs_a_size(learner: LearnerConfig) -> None:
    context = InnerConfig(adapts="context")
    policy = PolicyConfig(context_size=2)
    assert Config(learner=learner, inner=context, policy=policy).policy.context_size == 2
    for wrong in ({"inner": context}, {"policy": policy}):
        with pytest.raises(ValueError, match=r"policy\.context_size"):
            Config(learner=learner, **wrong)


def test_a_learner_without_adaptation_may_have_a_context() -> None:
    config = load_config(env="PointNavigation", learner=BANDIT, policy={"context_size": 2})
    assert read_back(config) == config


@pytest.mark.parametrize(
    "learner", [None, 3, [], {"name": None}, {"name": 3}, {"name": ""}, {"name": "maml", "rate": 1}]
)
def test_a_learner_that_makes_no_sense_is_refused(learner: Any) -> None:
    with pytest.raises(UserError, match="learner"):
        load_config(env="PointNavigation", learner=learner)


def test_an_unknown_learner_is_refused_with_the_closest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", ENV, "--learner", "jiont"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown learner 'jiont'. Did you mean joint? Valid are maml, joint, rl2, pearl, "
        "rma, sysid, or module:Class\n"
    )

    assert main(["train", ENV, "--learner", "promp"]) == 2
    assert "'promp'. It is an outer step of MAML: --outer promp." in capsys.readouterr().err


# --- a learner of the user ---


def test_a_class_of_the_user_has_its_settings() -> None:
    Path("my.yaml").write_text(
        f"env: PointNavigation\nlearner: {{name: '{BANDIT}', rate: 0.5, arms: [7]}}\n"
    )
    flags = [ENV, "--learner", BANDIT, "--learner.rate", "0.5", "--learner.arms", "[7]"]
    config = parse_training_arguments(flags)
    assert config == parse_training_arguments(["--config=my.yaml"]) == load_config("my.yaml")
    learner = {"name": BANDIT, "rate": 0.5, "arms": [7]}
    assert config == load_config(env="PointNavigation", learner=learner)
    assert type(config.learner) is load_object(BANDIT, "learner").Config
    values = to_mapping(config)
    assert values["learner"] == {"name": BANDIT, "rate": 0.5, "arms": [7], "rule": "greedy"}
    assert {"baseline", "policy"} <= values.keys()
    assert {"inner", "outer"}.isdisjoint(values)
    assert read_back(config) == config


def test_a_class_without_settings_has_its_name_only() -> None:
    config = load_config(env="PointNavigation", learner="my_bandits:Plain")
    assert config.learner == LearnerConfig(name="my_bandits:Plain")
    assert {"inner", "outer", "baseline"}.isdisjoint(to_mapping(config))
    assert read_back(config) == config


def test_help_shows_the_settings_of_the_learner_and_its_groups(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse_training_arguments([ENV, "--learner", BANDIT, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "How fast the bandit learns. (type: float, default: 0.25)" in text
    assert "Arms to choose from." in text
    assert "--learner.rule {greedy,thompson}" in text
    for flag in ("--baseline.discount", "--policy.hidden_sizes", "--logging.final_video"):
        assert flag in text
    for flag in ("--inner.", "--outer."):
        assert flag not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learner.rat=1"], "Did you mean --learner.rate?"),
        (["--learner.rate=2"], "learner.rate must be a finite number above 0 and at most 1"),
        (["--learner.rate=fast"], '"learner.rate": Expected a number. Got value: fast'),
        (["--learner.rule=random"], "\"learner.rule\": Expected one of ['greedy', 'thompson']"),
        (["--learner.rule=thompson"], "learner.rule must be greedy if horizon is above 50"),
        (["--inner.num_steps=2"], f"The learner {BANDIT} does not use the settings of inner."),
        (["--outer=trpo"], f"The learner {BANDIT} does not use the settings of outer."),
        (["--outer.max_kl=1"], f"The learner {BANDIT} does not use the settings of outer."),
    ],
)
def test_a_mistake_in_its_flags_is_named(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", ENV, "--learner", BANDIT, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("setting", ["inner: {num_steps: 2}", "outer: trpo"])
def test_a_file_with_a_group_that_its_learner_does_not_use_is_refused(setting: str) -> None:
    Path("my.yaml").write_text(f"learner: {BANDIT}\n{setting}\n")
    with pytest.raises(UserError, match=r"my\.yaml\. The learner .* does not use the settings of"):
        parse_training_arguments(["--config=my.yaml"])


def test_a_configuration_with_a_group_that_its_learner_does_not_use_is_refused() -> None:
    learner = learner_class(BANDIT)(name=BANDIT)
    assert Config(learner=learner).learner == learner
    for group in ({"inner": InnerConfig(num_steps=2)}, {"outer": AdamConfig()}):
        with pytest.raises(ValueError, match=f"^{next(iter(group))} must be at its default"):
            Config(learner=learner, **group)


def test_settings_must_be_of_the_class_that_the_name_selects() -> None:
    """Otherwise config.yaml would be read as another class."""
    bandit = learner_class(BANDIT)
    for learner in (bandit(name="maml"), JointConfig(name="maml"), MAMLConfig(name=BANDIT)):
        with pytest.raises(ValueError, match=r"^learner must be a .* if learner\.name is"):
            Config(learner=learner)
    with pytest.raises(ValueError, match=r"^learner\.name must be a non-empty string"):
        bandit()
    with pytest.raises(ValueError, match=r"^learner must be of type LearnerConfig"):
        Config(learner="joint")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NotAClass", "its Config must be a subclass of maml_rl.settings.learners."),
        ("OfAnotherKind", "its Config must be a subclass of maml_rl.settings.learners"),
        ("Undecorated", "must have the decorator @dataclass(frozen=True, kw_only=True)"),
        ("UnknownGroup", "GROUPS must be a tuple of names out of inner, outer, baseline"),
        ("GroupsAsText", "GROUPS must be a tuple of names out of inner, outer, baseline"),
        ("NoDefault", "Config.rate needs a default"),
        ("UnknownType", "has a type that cannot be resolved: name 'Rate' is not defined"),
        ("Nested", "Config.inside must not be a dataclass"),
        ("OfAClass", "Config.path has the type Path, which a file cannot hold"),
        ("NotPlain", "learner.arms is frozenset({1}), a frozenset, which a file cannot hold"),
        ("Bandi", "my_bandits.py) defines no 'Bandi'. Did you mean 'my_bandits:Bandit'?"),
        ("SPEED", "learner 'my_bandits:SPEED' must be a class or a function, got 3"),
        ("", "must have the form module:Name"),
    ],
)
def test_a_class_that_is_not_a_learner_is_refused(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", ENV, f"--learner=my_bandits:{name}", "--print_config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: learner")
    assert message in line


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            None,
            "No module named 'no_such'.*A command searches the current folder, a script its own",
        ),
        ("import absent", "No module named 'absent'.*no_such.py, line 1"),
        ("1 / 0", "ZeroDivisionError.*no_such.py, line 1"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(source: str | None, message: str) -> None:
    if source is not None:
        Path("no_such.py").write_text(source)
    with pytest.raises(UserError, match=rf"^callback 'no_such:X': module 'no_such' .*{message}"):
        load_object("no_such:X", "callback")


# --- presets of learners ---


def test_a_learner_has_a_preset_of_its_own_for_some_families() -> None:
    own = yaml.safe_load((Path(maml_configs.__path__[0]) / "rl2/HalfCheetahVel.yaml").read_text())
    config = load_config(env="HalfCheetahVel", learner="rl2")
    assert config == load_config("rl2/HalfCheetahVel")
    assert config == parse_training_arguments(["--env=HalfCheetahVel", "--learner=rl2"])
    assert config.meta_batch_size == own["meta_batch_size"]
    assert own["meta_batch_size"] != load_config(env="HalfCheetahVel").meta_batch_size
    # A flag overrides a file, and a file overrides the preset.
    Path("my.yaml").write_text(
        "env: HalfCheetahVel\nlearner: {name: rl2, cell: lstm}\nhorizon: 33\nseed: 3\n"
    )
    flags = ["--config=my.yaml", "--learner.num_epochs=2", "--seed=5"]
    config = parse_training_arguments(flags)
    learner = {"cell": "lstm", "num_epochs": 2}
    assert config == load_config("rl2/HalfCheetahVel", horizon=33, seed=5, learner=learner)


def test_other_families_have_mamls_preset_without_its_settings() -> None:
    names = ("maml", "rl2", "joint")
    maml, rl2, joint = (load_config(env="Walker2dDir", learner=name) for name in names)
    assert joint.policy == maml.policy != Config.policy
    assert (rl2.env, rl2.horizon) == (maml.env, maml.horizon)
    assert (rl2.inner, rl2.outer, rl2.baseline) == (Config.inner, Config.outer, Config.baseline)
    # But a learner may have defaults of its own.
    assert rl2.policy == dataclasses.replace(maml.policy, action_scale=0.5) != maml.policy
    assert rl2 == load_config("rl2/default", env=to_mapping(maml)["env"])


@pytest.mark.parametrize("learner", ["maml", "joint", BANDIT])
def test_the_preset_of_a_paper_is_not_that_of_a_learner(learner: str) -> None:
    """Its folder may have the name of a learner, such as configs/maml."""
    shared = yaml.safe_load((Path(maml_configs.__path__[0]) / "HalfCheetahVel.yaml").read_text())
    config = load_config(env="HalfCheetahVel", learner=learner)
    assert config.meta_batch_size == shared["meta_batch_size"]
    assert config.policy.action_scale == shared["policy"]["action_scale"] != 1


# --- another learner than the file's ---


def test_another_learner_drops_the_settings_of_the_one_before() -> None:
    Path("bandit.yaml").write_text(
        f"env: HalfCheetahVel\nseed: 4\nlearner: {{name: '{BANDIT}', rate: 0.5}}\n"
        "baseline: {discount: 0.5}\n"
    )
    Path("maml.yaml").write_text("env: HalfCheetahVel\nseed: 4\ninner: {num_steps: 2}\n")
    # From a user's learner to MAML: the preset's inner and outer settings are there again
    from_flags = parse_training_arguments(["--config=bandit.yaml", "--learner=maml"])
    assert from_flags == load_config("bandit.yaml", learner="maml")
    assert from_flags == load_config(env="HalfCheetahVel", seed=4, baseline={"discount": 0.5})
    assert from_flags.outer.max_kl == 0.1
    # From MAML to the user's learner
    from_flags = parse_training_arguments(["--config=maml.yaml", f"--learner={BANDIT}"])
    assert from_flags == load_config("maml.yaml", learner=BANDIT)
    assert from_flags == load_config(env="HalfCheetahVel", seed=4, learner=BANDIT)
    # MAML and joint use the same groups
    from_flags = parse_training_arguments(["--config=maml.yaml", "--learner=joint"])
    assert from_flags.inner.num_steps == 2


def test_the_same_learner_keeps_the_settings_of_the_file() -> None:
    Path("my.yaml").write_text(f"learner: {{name: '{BANDIT}', rate: 0.5}}\n")
    flags = ["--config=my.yaml", f"--learner={BANDIT}", "--learner.arms=[1]"]
    learner = parse_training_arguments(flags).learner
    assert learner == load_config("my.yaml", learner={"arms": [1]}).learner
    assert learner == learner_class(BANDIT)(name=BANDIT, rate=0.5, arms=(1,))


def test_an_environment_may_have_an_argument_called_learner() -> None:
    for env in ({"learner": 3}, {"kwargs": {"learner": {"name": "x"}}}):
        with pytest.raises(UserError, match="takes no argument 'learner'"):
            load_config(env={"name": "Pendulum-v1", **env})


# --- runs of earlier versions ---


@pytest.mark.parametrize(
    ("values", "learner"),
    [
        ({"seed": 1}, "maml"),
        ({"seed": 1, "adapt_in_training": True}, "maml"),
        ({"seed": 1, "adapt_in_training": False}, "joint"),
        ({"seed": 1, "learner": {"name": "joint"}}, "joint"),
    ],
)
def test_a_run_of_an_earlier_version_has_its_learner(values: dict[str, Any], learner: str) -> None:
    text = yaml.safe_dump({"env": {"name": "PointNavigation"}, **values})
    Path("config.yaml").write_text(text)
    config = run_config(Path())
    assert (config.seed, config.learner.name) == (1, learner)
    from_file = parse_training_arguments(["--config=config.yaml"])
    assert (from_file.seed, from_file.learner.name) == (1, learner)
    assert load_config("config.yaml", learner="maml").learner == MAMLConfig()


@pytest.mark.parametrize("read", [run_config, load_config])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("adapt_in_training: true\nlearner: maml", "adapt_in_training and learner are both in"),
        ("adapt_in_training: 1", "config.yaml must be true or false, got 1"),
        ("adapt_in_training: null", "config.yaml must be true or false, got None"),
    ],
)
def test_a_setting_of_an_earlier_version_that_makes_no_sense_is_refused(
    setting: str, message: str, read: Any
) -> None:
    Path("config.yaml").write_text(f"env: {{name: PointNavigation}}\n{setting}\n")
    with pytest.raises(UserError, match=message):
        read(Path("config.yaml") if read is load_config else Path())


def test_migration_leaves_its_argument_unchanged() -> None:
    values = {"seed": 1, "adapt_in_training": False}
    assert migrated(values, "a file") == {"seed": 1, "learner": {"name": "joint"}}
    assert values == {"seed": 1, "adapt_in_training": False}


@pytest.mark.parametrize("name", maml_rl.pretrained_names())
def test_the_configuration_of_every_pretrained_policy_loads(name: str) -> None:
    run = ROOT / "maml_rl" / "pretrained" / name
    config = run_config(run)
    name, _, learner = name.partition("-")
    assert config.env.name == name
    assert type(config.learner) is LEARNER_CONFIGS[learner or "maml"]
    from_file = load_config(run / "config.yaml")
    assert (from_file.env, from_file.learner) == (config.env, config.learner)
    assert (from_file.inner, from_file.outer) == (config.inner, config.outer)


# --- RL² ---


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *[(name, (0, 1.5, None)) for name in ("num_episodes", "hidden_size", "latent_size")],
        *[(name, (0, -1, True)) for name in ("num_epochs", "num_minibatches")],
        *[(name, (-0.1, 1.1, float("nan"))) for name in ("discount", "gae_lambda")],
        *[(name, (0.0, -1.0, float("inf"))) for name in ("step_size", "final_step_size")],
        *[(name, (0.0, None)) for name in ("clip_range", "max_gradient_norm")],
        *[(name, (-0.1, None)) for name in ("entropy_coefficient", "value_coefficient")],
        *[(name, (-1, 0.5)) for name in ("decay_iterations", "decay_env_steps")],
        ("target_kl", (0.0, -1.0, None)),
        ("truncation", (0, -3, 2.5)),
        ("cell", ("rnn", None)),
        ("hypernetwork", ("policy", None, 1)),
        ("hypernetwork_value", ("value", None, 1)),
        ("asymmetric_critic", (1, "yes")),
        ("credit_across_episodes", (0, None)),
    ],
)
def test_ranges_of_rl2(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"learner\.{name} must be .*, got {value!r}"):
            RL2Config(**{name: value})


def test_the_truncation_of_rl2_may_be_null() -> None:
    for truncation in (None, 20):
        learner = {"name": "rl2", "truncation": truncation}
        config = load_config(env="PointNavigation", learner=learner)
        assert config.learner == dataclasses.replace(DEFAULTS["rl2"], truncation=truncation)
        assert read_back(config) == config


@pytest.mark.parametrize("learner", ["rl2", "rma", "sysid"])
def test_a_setting_without_effect_does_not_limit_the_number_of_tasks(learner: str) -> None:
    sizes = {"meta_batch_size": 60_000, "num_episodes": 20, "horizon": 1000}
    config = load_config(env="PointNavigation", learner=learner, **sizes)
    assert config.meta_batch_size == 60_000
    with pytest.raises(UserError, match="1000000 x 1 episode x horizon 1001 must be at most"):
        load_config(env="PointNavigation", learner=learner, meta_batch_size=1_000_000, horizon=1001)
    with pytest.raises(UserError, match="60000 x 20 episodes x horizon 1000 must be at most"):
        load_config(env="PointNavigation", **sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"policy": {"network": "helpers.networks:Perceptron"}},
            "policy.network must be null if learner.name is rl2, got helpers.networks:Perceptron",
        ),
        (
            {"policy": {"context_size": 2}},
            "policy.context_size must be 0 if learner.name is rl2, got 2",
        ),
        (
            {"policy": {"latent_size": 2}},
            "learner.name must be that of a learner with inner steps if policy.latent_size is",
        ),
        (
            {"meta_batch_size": 3},
            "learner.num_minibatches must be at most meta_batch_size 3, got 8",
        ),
        (
            {"learner": {"name": "rl2", "hypernetwork_value": True}},
            "learner.hypernetwork_value needs learner.hypernetwork true",
        ),
        ({"inner": {"num_steps": 2}}, "inner.num_steps.*learner rl2 does not use"),
        ({"learner": {"name": "rl2", "hiden_size": 3}}, "hiden_size.*hidden_size"),
    ],
)
def test_contradictions_of_rl2(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(env="PointNavigation", **{"learner": "rl2", **settings})


# --- PEARL ---


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *[(name, (0, 1.5, None)) for name in ("latent_size", "num_updates", "tasks_per_update")],
        *[(name, (0, True)) for name in ("batch_size", "context_size", "context_window")],
        *[(name, (0, -1)) for name in ("num_initial_episodes", "num_prior_episodes", "capacity")],
        *[(name, ((0,), (8, 2.5), 8)) for name in ("hidden_sizes", "encoder_hidden_sizes")],
        *[(name, (-1, None)) for name in ("num_training_tasks", "num_posterior_episodes")],
        *[(name, (0.0, float("inf"))) for name in ("step_size", "reward_scale", "temperature")],
        ("discount", (-0.1, 1.1)),
        ("polyak", (0.0, 1.5)),
        ("kl_weight", (-0.1, None)),
        ("target_entropy", ("low", float("nan"))),
        ("encoder", ("lstm", None)),
        ("next_observation_in_context", (1, "yes")),
        ("automatic_temperature", (0, None)),
    ],
)
def test_ranges_of_pearl(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        got = re.escape(repr(value))
        with pytest.raises(ValueError, match=rf"learner\.{name} must be .*, got {got}"):
            PEARLConfig(**{name: value})


def test_settings_of_pearl_that_may_be_null() -> None:
    for reads, entropy in ((None, None), (True, -2.5), (False, 0.0)):
        values = {"next_observation_in_context": reads, "target_entropy": entropy}
        config = load_config(env="PointNavigation", learner={"name": "pearl", **values})
        assert config.learner == dataclasses.replace(DEFAULTS["pearl"], **values)
        assert read_back(config) == config
    flags = ["--learner=pearl", "--learner.next_observation_in_context", "false"]
    learner = dataclasses.replace(DEFAULTS["pearl"], next_observation_in_context=False)
    assert parse_training_arguments([ENV, *flags]).learner == learner


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"policy": {"network": "helpers.networks:Perceptron"}},
            "policy.network must be null if learner.name is pearl, got helpers.networks:Perceptron",
        ),
        (
            {"policy": {"context_size": 2}},
            "policy.context_size must be 0 if learner.name is pearl, got 2",
        ),
        (
            {"learner": {"name": "pearl", "encoder_hidden_sizes": []}},
            r"learner.encoder_hidden_sizes must have at least one layer, got \[\]",
        ),
        (
            {
                "meta_batch_size": 10,
                "horizon": 50,
                "learner": {"name": "pearl", "num_training_tasks": 0, "capacity": 2499},
            },
            "learner.capacity must hold the first iteration, 2500 transitions, got 2499",
        ),
        ({"baseline": {"discount": 0.9}}, "baseline.discount.*learner pearl does not use"),
        ({"learner": {"name": "pearl", "latentsize": 3}}, "latentsize.*latent_size"),
    ],
)
def test_contradictions_of_pearl(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(env="PointNavigation", **{"learner": "pearl", **settings})


@pytest.mark.slow
def test_settings_of_built_in_learners_import_no_torch() -> None:
    code = """
        import sys
        from maml_rl.settings.parser import parse_training_arguments
        for name in sys.argv[1:]:
            parse_training_arguments(["--learner", name])
        sys.exit("torch" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *LEARNER_CONFIGS]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_number_of_episodes_may_be_of_numpy() -> None:
    assert episodes_per_stage(MAMLConfig(), np.int64(4)) == 4
