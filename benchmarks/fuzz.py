"""Feed damaged files to every loader: it may only raise UserError, and execute nothing.

    python benchmarks/fuzz.py --inputs 10000              random damage
    python benchmarks/fuzz.py --inputs 10000 --atheris    guided by coverage, needs atheris

Prints the number of inputs, refusals and findings of each loader; the exit status is 1 if there is
a finding. Using more than --memory GiB of address space, or more than --slow seconds for an input,
is a finding too.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

_ROW = "{:<32} {:>8} {:>8} {:>8} {:>9}"


def main() -> int:
    """Fuzz the loaders of the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="for each loader")
    parser.add_argument(
        "--loader", action="append", help="only this one; may be given several times"
    )
    parser.add_argument("--atheris", action="store_true", help="let coverage choose the inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--memory",
        type=float,
        default=16,
        help="GiB of address space; torch alone reserves several",
    )
    parser.add_argument("--slow", type=float, default=20, help="seconds that one input may take")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (int(args.memory * 2**30),) * 2)
    warnings.simplefilter("ignore")
    if args.atheris:
        import atheris

        with atheris.instrument_imports(include=["maml_rl"]):
            import fuzz_loaders
    else:
        import fuzz_loaders
    with tempfile.TemporaryDirectory() as folder:
        loaders = fuzz_loaders.make_loaders(Path(folder))
        names = args.loader or list(loaders)
        if not args.atheris:
            print(_ROW.format("loader", "inputs", "refused", "findings", "slowest s"))
        elif len(names) > 1:  # atheris ends the process
            numbers = {name: getattr(args, name) for name in ("inputs", "seed", "memory", "slow")}
            command = [
                sys.executable,
                sys.argv[0],
                "--atheris",
                *(f"--{key}={value}" for key, value in numbers.items()),
            ]
            return max(
                [
                    subprocess.run([*command, f"--loader={name}"], check=False).returncode
                    for name in names
                ]
            )
        return max([_fuzz(name, loaders[name], Path(folder), args) for name in names])


def _fuzz(name: str, loader: object, folder: Path, args: argparse.Namespace) -> int:
    import fuzz_loaders

    assert isinstance(loader, fuzz_loaders.Loader)
    marker, findings, slowest, num_inputs = folder / "executed", fuzz_loaders.Findings(), 0.0, 0
    hostile = fuzz_loaders.hostile_pickle(marker)

    def feed(content: bytes) -> None:
        nonlocal slowest, num_inputs
        started = time.perf_counter()
        findings.feed(name, loader, content)
        took, num_inputs = time.perf_counter() - started, num_inputs + 1
        slowest = max(slowest, took)
        if took > args.slow:
            findings.errors.append(f"{name}: took {took:.1f} s; input {content!r:.2000}")
        if num_inputs == args.inputs:
            report()

    def report() -> None:
        if marker.exists():
            findings.errors.append(f"{name}: something was executed")
        figures = num_inputs, findings.num_refused, len(findings.errors), f"{slowest:.2f}"
        print(_ROW.format(name, *figures), flush=True)
        for error in findings.errors[:10]:
            print("   ", error)

    if args.atheris:
        _let_coverage_choose(feed, loader.sound, args)
    rng = random.Random(f"{args.seed} {name}")
    feed(hostile)
    for _ in range(args.inputs - 1):
        feed(
            rng.randbytes(rng.randint(0, 300))
            if rng.random() < 0.05
            else fuzz_loaders.damaged(loader.sound, rng)
        )
    return int(bool(findings.errors))


def _let_coverage_choose(feed: object, sound: bytes, args: argparse.Namespace) -> None:
    """Pass ``feed`` to atheris, which ends the process, with status 1 if there is a finding."""
    import atheris
    import fuzz_loaders

    assert callable(feed)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, max_size)
        return fuzz_loaders.damaged(sound if rng.random() < 0.5 else data or sound, rng)[:max_size]

    flags = [
        sys.argv[0],
        f"-runs={args.inputs}",
        f"-seed={args.seed}",
        "-max_len=65536",
        "-rss_limit_mb=0",
        "-verbosity=0",
    ]
    atheris.Setup(flags, feed, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
