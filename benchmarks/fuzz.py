"""Feed damaged files to every loader: it may only raise UserError, and execute nothing.

    python benchmarks/fuzz.py --inputs 10000              random damage
    python benchmarks/fuzz.py --inputs 10000 --atheris    guided by coverage, needs atheris

Prints the number of inputs, rejected inputs and findings of each loader. The exit status is 1 if
there is a finding. Exceeding --memory GiB of address space, or --slow seconds for an input, is a
finding too.
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
    """Fuzz the loaders selected by the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="for each loader")
    parser.add_argument("--loader", action="append", help="only this loader; can be repeated")
    parser.add_argument("--atheris", action="store_true", help="coverage-guided inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--memory",
        type=float,
        default=16,
        help="GiB of address space; torch alone reserves several",
    )
    parser.add_argument("--slow", type=float, default=20, help="time limit for one input (s)")
    args = parser.parse_args()
    # limits, then imports, which atheris instruments
    resource.setrlimit(resource.RLIMIT_AS, (int(args.memory * 2**30),) * 2)
    warnings.simplefilter("ignore")
    if args.atheris:
        import atheris

        with atheris.instrument_imports(include=["maml_rl"]):
            import fuzz_loaders
    else:
        import fuzz_loaders
    # fuzz each loader; atheris in a process per loader, because it ends the process
    with tempfile.TemporaryDirectory() as folder:
        loaders = fuzz_loaders.make_loaders(Path(folder))
        names = args.loader or list(loaders)
        if not args.atheris:
            print(_ROW.format("loader", "inputs", "refused", "findings", "slowest s"))
        elif len(names) > 1:
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
    """Feed damaged files to one loader; return 1 if there is a finding, else 0."""
    import fuzz_loaders

    assert isinstance(loader, fuzz_loaders.Loader)
    marker = folder / "executed"  # created if a pickle is executed
    findings = fuzz_loaders.Findings()
    slowest = 0.0
    num_inputs = 0
    hostile = fuzz_loaders.hostile_pickle(marker)

    def feed(content: bytes) -> None:
        nonlocal slowest, num_inputs
        started = time.perf_counter()
        findings.feed(name, loader, content)
        took = time.perf_counter() - started
        num_inputs += 1
        slowest = max(slowest, took)
        if took > args.slow:
            findings.errors.append(f"{name}: took {took:.1f} s; input {content!r:.2000}")
        if num_inputs == args.inputs:
            report()

    def report() -> None:
        if marker.exists():
            findings.errors.append(f"{name}: code from the file was executed")
        figures = num_inputs, findings.num_refused, len(findings.errors), f"{slowest:.2f}"
        print(_ROW.format(name, *figures), flush=True)
        for error in findings.errors[:10]:
            print("   ", error)

    if args.atheris:
        _fuzz_with_coverage(feed, loader.sound, args)
    rng = random.Random(f"{args.seed} {name}")
    feed(hostile)
    for _ in range(args.inputs - 1):
        feed(
            rng.randbytes(rng.randint(0, 300))
            if rng.random() < 0.05
            else fuzz_loaders.damaged(loader.sound, rng)
        )
    return int(bool(findings.errors))


def _fuzz_with_coverage(feed: object, sound: bytes, args: argparse.Namespace) -> None:
    """Pass ``feed`` to atheris, which ends the process, with status 1 after a finding."""
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
