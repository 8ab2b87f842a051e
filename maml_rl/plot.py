"""``python -m maml_rl.plot``; see ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path

from maml_rl.cli import Parser, main, parse, path_argument, positive, say
from maml_rl.errors import UserError


def command(argv: list[str]) -> int:
    """Plot runs."""
    args = parse(make_parser(), argv)
    if args.before and args.metric is not None:
        raise UserError(
            "--before plots the return before adaptation and cannot be combined with --metric"
        )

    from maml_rl.analysis.learning_curve_figure import check_figure_path, draw, save
    from maml_rl.analysis.learning_curves import View, table
    from maml_rl.analysis.plots import labelled_groups

    check_figure_path(args.output)
    view = View(
        metric=args.metric, x=args.x, smooth=args.smooth, before=args.before, log_x=args.log_x
    )
    groups, labels = labelled_groups(args.runs, view, args.labels)
    figure = draw(groups, labels, view, args.title)
    text = table(groups, labels, view)
    save(figure, args.output)
    say(f"{text}\nwritten to {args.output}")
    return 0


def make_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        prog="python -m maml_rl.plot",
        description="Plot learning curves of runs and print a table. Runs that "
        "differ only in the seed (or in settings of length, device, output or logging) form one "
        "line, their mean at equal values of the x-axis, up to the last that all of them reach; a "
        "pretrained policy is a separate line. Two or three runs are also plotted as thin lines; "
        "four or more get a band, the 95 % interval over runs (Student's t). The table shows the "
        "mean over the last 5 % of this part against control steps, and the same interval; hours "
        "are the mean over runs.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=path_argument,
        metavar="RUN",
        help="run folders, folders of several seeds, or pretrained policies",
    )
    _add_view(parser)
    parser.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        metavar="LABEL",
        help="one label per line of the plot, in the order of the RUN arguments (default: the "
        "settings that differ)",
    )
    parser.add_argument(
        "--title",
        help="title of the figure (default: the family, if several lines have it in common)",
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        default=Path("learning_curve.png"),
        help="figure file, .png, .svg or .pdf (default: %(default)s)",
    )
    return parser


def _add_view(parser: Parser) -> None:
    """Add the flags that choose axes and metric."""
    parser.add_argument(
        "--x",
        choices=["steps", "time", "iterations"],
        default="steps",
        help="horizontal axis: millions of control steps (default), wall-clock hours, or "
        "meta-iterations",
    )
    parser.add_argument(
        "--log_x",
        action="store_true",
        help="logarithmic horizontal axis, for runs of very different lengths",
    )
    parser.add_argument(
        "--metric",
        metavar="TAG",
        help="column of progress.csv to plot (default: the return after the last adaptation step)",
    )
    parser.add_argument(
        "--before", action="store_true", help="also plot the return before adaptation, dashed"
    )
    parser.add_argument(
        "--smooth",
        type=positive,
        metavar="N",
        default=1,
        help="plot running means over N values; the table is not smoothed (default: 1)",
    )


if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
