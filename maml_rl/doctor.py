"""``python -m maml_rl.doctor``; see ``--help``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import maml_rl
from maml_rl.cli import Parser, main, parse, say

PACKAGE = "maml-rl"
BACKENDS = ("egl", "osmesa", "glfw")
"""OpenGL backends of MuJoCo, as values of MUJOCO_GL. Only glfw exists outside Linux."""
VARIABLES = ("CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS", "MUJOCO_GL", "OMP_NUM_THREADS")
"""Environment variables that change what is checked."""

_LONGEST_S = 120
"""Time for a check in a process of its own."""
_RENDER = """
import gymnasium, maml_envs
env = gymnasium.make("maml_rl/HalfCheetahVel-v0", render_mode="rgb_array", width=64, height=64)
env.reset(seed=0)
assert env.render().std() > 0, "the frame is blank"
"""
_TRAIN = """
import logging, tempfile
import maml_rl
logging.getLogger("maml_rl").setLevel("WARNING")
sizes = {"num_iterations": 1, "meta_batch_size": 4, "num_episodes": 4, "horizon": 20}
logging = {"final_evaluation": False, "final_video": False}
with tempfile.TemporaryDirectory() as folder:
    maml_rl.train(maml_rl.load_config(
        env="HalfCheetahVel", output=folder + "/run", logging=logging, **sizes))
"""


class Check(NamedTuple):
    """The result of one check."""

    status: Literal["ok", "note", "FAIL"]
    """``note``: something optional is missing; ``FAIL``: training does not work."""
    what: str
    detail: str
    remedy: str = ""
    """What to do about it."""


def command(argv: list[str]) -> int:
    """Check the installation."""
    parse(make_parser(), argv)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    say(f"{PACKAGE} {maml_rl.__version__}, {python}, {platform.platform()}")
    failed = False
    for title, checks in (
        ("packages", _packages()),
        ("machine", _machine()),
        ("rendering", _rendering()),
        ("training", _training()),
    ):
        say(f"\n{title}")
        for check in checks:
            say(f"  {check.status:<4}  {check.what:<20}  {check.detail}".rstrip())
            if check.remedy:
                say(f"        {'':<20}  -> {check.remedy}")
            failed |= check.status == "FAIL"
    say("\ntraining does not work" if failed else "\ntraining works")
    return int(failed)


def make_parser() -> Parser:
    """Make the parser of the command."""
    return Parser(
        prog="python -m maml_rl.doctor",
        description="Check the installation: versions, devices, threads, rendering, videos, and "
        "one iteration of training. The exit status is 0 if training works.",
    )


def _packages() -> Iterator[Check]:
    """The version of each dependency, and of those of the extras for users."""
    try:
        requirements = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("note", PACKAGE, "runs from source, not installed", "pip install -e .")
        return
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        assert match is not None, "a requirement begins with a name"
        name, least = match.groups()
        if name == PACKAGE or (extra and extra[1] in ("dev", "docs")):
            continue
        to_install = f"'{name}>={least}'" if least else name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if extra:
                remedy = f"pip install {to_install}"
                yield Check("note", name, f"not installed; only for {extra[1]}", remedy)
            else:
                yield Check("FAIL", name, "not installed", f"pip install {to_install}")
            continue
        if least and _numbers(version) < _numbers(least):
            detail = f"{version}; at least {least} is needed"
            yield Check("note" if extra else "FAIL", name, detail, f"pip install {to_install}")
        else:
            yield Check("ok", name, version)


def _numbers(version: str) -> tuple[int, ...]:
    """``"2.13.0+cpu"`` as (2, 13)."""
    numbers = re.match(r"[\d.]*\d", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _machine() -> Iterator[Check]:
    """Threads, devices, and variables that set them."""
    has_affinity = hasattr(os, "sched_getaffinity")
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    yield Check("ok", "CPU cores", f"{num_cores} for this process, of {os.cpu_count()}")
    try:
        import torch
    except ImportError as error:
        yield Check("FAIL", "torch", str(error), "reinstall torch")
        return
    yield Check("ok", "torch threads", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Check("ok", f"device cuda:{index}", f"{name}, {memory:.0f} GiB")
    elif torch.version.cuda:
        yield Check(
            "note",
            "device cpu",
            f"this torch is built for CUDA {torch.version.cuda}, but no GPU can be used",
            "check nvidia-smi, the driver's version, and CUDA_VISIBLE_DEVICES",
        )
    else:
        yield Check("ok", "device cpu", "this torch is built without CUDA")
    for name in VARIABLES:
        if name in os.environ:
            yield Check("ok", name, os.environ[name] or "(empty)")


def _rendering() -> Iterator[Check]:
    """Each OpenGL backend, and video files."""
    backends = BACKENDS if sys.platform == "linux" else ("glfw",)
    problems = {backend: _problem(_RENDER, MUJOCO_GL=backend) for backend in backends}
    for backend, problem in problems.items():
        if problem is None:
            yield Check("ok", backend, "renders a frame")
        else:
            detail = problem if all(problems.values()) else "does not render; one is enough"
            yield Check("note", backend, detail)
    chosen = os.environ.get("MUJOCO_GL")
    if all(problems.values()):
        yield Check(
            "note",
            "videos",
            "no backend renders",
            "install libegl1 and libgl1 (Debian), or train with --logging.final_video false",
        )
    elif chosen and problems.get(chosen, "unknown"):
        works = next(backend for backend, problem in problems.items() if problem is None)
        detail = f"MUJOCO_GL is {chosen}, which does not render"
        yield Check("note", "videos", detail, f"unset it, or set MUJOCO_GL={works}")
    problem = _video_problem()
    remedy = "pip install --force-reinstall av; or record with --format gif"
    yield Check("note", "MP4 files", problem, remedy) if problem else Check("ok", "MP4 files", "")


def _problem(code: str, **variables: str) -> str | None:
    """Run code in a process of its own, since it may crash; return the last line of its error."""
    environment = {**os.environ, **variables}
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_LONGEST_S} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {done.returncode}"


def _video_problem() -> str | None:
    """What keeps MP4 files from being written."""
    try:
        import av
    except ImportError as error:
        return str(error)
    try:
        av.CodecContext.create("libx264", "w")
    except (av.FFmpegError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _training() -> Iterator[Check]:
    """One small iteration, and whether runs can be written here."""
    if not os.access(Path.cwd(), os.W_OK):
        detail = f"{Path.cwd()} is read-only"
        yield Check("note", "folder runs/", detail, "change to another folder, or use --output")
    start = time.perf_counter()
    problem = _problem(_TRAIN)
    if problem is None:
        seconds = time.perf_counter() - start
        yield Check("ok", "one iteration", f"of HalfCheetahVel, {seconds:.0f} s with imports")
    else:
        yield Check("FAIL", "one iteration", problem, "repair what fails above, or reinstall")


if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
