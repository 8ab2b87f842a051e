#!/usr/bin/env bash
# Train on two "hosts": two network namespaces of this machine, joined by a virtual cable, one process each; then compare with one process.
# Needs the right to make namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN); without it, says so and does nothing.
#
#     benchmarks/two_hosts.sh [SETTING ...]        as --num_iterations 10
set -euo pipefail
if ! ip netns add maml-0 2>/dev/null; then
    echo "skipped: this user may not make network namespaces"
    exit 0
fi
folder=$(mktemp -d)
cleanup() {
    ip netns del maml-0 2>/dev/null || true
    ip netns del maml-1 2>/dev/null || true
    rm -rf "$folder"
}
trap cleanup EXIT
ip netns add maml-1
ip link add cable-0 netns maml-0 type veth peer name cable-1 netns maml-1
for i in 0 1; do
    ip -n maml-$i address add 10.77.0.$((i + 1))/24 dev cable-$i
    ip -n maml-$i link set cable-$i up
    ip -n maml-$i link set lo up
done
settings=(--env HalfCheetahVel --num_iterations 5 --device cpu --logging.final_evaluation false --logging.final_video false "$@")
pids=()
for i in 0 1; do
    GLOO_SOCKET_IFNAME=cable-$i OMP_NUM_THREADS=1 ip netns exec maml-$i \
        python -m torch.distributed.run --nnodes 2 --node-rank $i --nproc-per-node 1 \
        --master-addr 10.77.0.1 --master-port 29400 \
        -m maml_rl.train "${settings[@]}" --output "$folder/two" >"$folder/host-$i.log" 2>&1 &
    pids+=($!)
done
for i in 0 1; do
    if ! wait "${pids[$i]}"; then
        echo "host $i failed:"
        cat "$folder/host-$i.log"
        exit 1
    fi
done
OMP_NUM_THREADS=1 python -m maml_rl.train "${settings[@]}" --output "$folder/one" >/dev/null 2>&1
python - "$folder" <<'PYTHON'
import csv
import sys
from pathlib import Path

import maml_rl

folder = Path(sys.argv[1])
one, two = (maml_rl.load(folder / name) for name in ("one", "two"))
worst = max(float((value - two.belief[name]).abs().max()) for name, value in one.belief.items())
with (folder / "two" / "progress.csv").open() as file:
    rows = list(csv.DictReader(file))
exchanged = [float(row["time/exchanged_bytes"]) for row in rows]
print(f"{len(rows)} iterations on two hosts; largest difference of a parameter to one process: {worst:g}")
print(f"bytes put in by a process per iteration: {sum(exchanged) / len(exchanged):,.0f}")
sys.exit(worst > 1e-5)
PYTHON
