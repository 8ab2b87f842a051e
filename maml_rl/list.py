"""``python -m maml_rl.list``; see ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from maml_rl.cli import Parser, main, one_of, parse, say

Rows = list[tuple[str, str]]
"""Names, each with what it is."""


class _Section(NamedTuple):
    use: str
    """The flag or argument that takes its names."""
    rows: Callable[[], Rows]


def command(argv: list[str]) -> int:
    """Print the names that the other commands take."""
    name = parse(make_parser(), argv).section
    if name is not None:
        say(_table(SECTIONS[name].rows()))
        return 0
    parts = [
        f"{title} ({section.use}):\n{_table(section.rows(), indent='  ')}"
        for title, section in SECTIONS.items()
    ]
    say("\n\n".join(parts))
    return 0


def make_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        prog="python -m maml_rl.list",
        description="List the names that the other commands take, one per line with what it is.",
    )
    parser.add_argument(
        "section",
        type=one_of("section", SECTIONS),
        nargs="?",
        metavar="SECTION",
        help=f"{', '.join(SECTIONS)} (default: all)",
    )
    return parser


def _table(rows: Rows, indent: str = "") -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{indent}{name:<{width}}  {what}" for name, what in rows)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0].removesuffix(".")


def _families() -> Rows:
    from maml_rl.settings.families import FAMILIES

    return [(name, _first_line(family)) for name, family in FAMILIES.items()]


def _presets() -> Rows:
    from maml_rl.settings.sources import preset_names, preset_title

    return [(name, preset_title(name)) for name in preset_names()]


def _learners() -> Rows:
    from maml_rl.settings.learners import LEARNER_CONFIGS

    return [(name, _first_line(config)) for name, config in LEARNER_CONFIGS.items()]


def _outer_steps() -> Rows:
    from maml_rl.settings.learners import OUTER_CONFIGS

    return [(name, _first_line(config)) for name, config in OUTER_CONFIGS.items()]


def _pretrained() -> Rows:
    from maml_rl.runs.pretrained import pretrained_folder, pretrained_names
    from maml_rl.runs.run_folder import run_config

    rows = []
    for name in pretrained_names():
        run = pretrained_folder(name)
        # A run that was stopped early has finished fewer iterations than its configuration says.
        finished = max(int(path.name) for path in (run / "checkpoints").iterdir())
        config = run_config(run)
        learner = f"learner {config.learner.name}, {finished} iterations"
        rows.append((name, f"environment {config.env.name}, {learner}"))
    return rows


SECTIONS = {
    "families": _Section("--env NAME", _families),
    "presets": _Section("--config NAME", _presets),
    "learners": _Section("--learner NAME", _learners),
    "outer": _Section("outer steps: --outer NAME", _outer_steps),
    "pretrained": _Section("as RUN", _pretrained),
}


if __name__ == "__main__":
    sys.exit(main(["list", *sys.argv[1:]]))
