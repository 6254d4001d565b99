#!/usr/bin/env bash
# Training steps of `tiny` and `s40`, ours and the PyTorch twin's, in one run on the same threads.
#
#   tools/step.sh [THREADS]        default 2; needs python3 with torch, numpy and safetensors (pip install torch numpy safetensors)
#
# The two take turns, three times, so that a machine whose speed drifts treats both alike. Prints seconds per step; target/step.json
# holds every turn, with torch's version, the commit and the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2}
python=${PYTHON:-python3}
turns=target/step.turns

ours() { # benchmark's name; figures of an earlier run are none of this one's
    local found=target/criterion/step/$1/new/estimates.json
    rm -f "$found"
    RAYON_NUM_THREADS=$threads cargo bench --bench step -- "step/$1\$" >/dev/null 2>&1 &&
        "$python" -c "import json; print(json.load(open('$found'))['median']['point_estimate'] / 1e9)"
}
turn() { # row, benchmark's name, options of step_torch.py
    local seconds theirs
    seconds=$(ours "$2")
    theirs=$("$python" tools/step_torch.py --threads "$threads" "${@:3}" 2>/dev/null | tail -1)
    printf '{"step": "%s", "ours_s": %s, "torch": %s}\n' "$1" "$seconds" "$theirs" | tee -a "$turns" |
        "$python" -c "import json; row = json.loads(input()); print('%-20s %.4f   %.4f' % (row['step'], row['ours_s'], row['torch']['median_s']))"
}

cargo bench --bench step --no-run
commit=$(git describe --always --dirty)
: >"$turns"
echo "step                 ours     torch    (s, $threads threads, 32 pairs a set x 2000 genes; 16 sets, 4 of s40)"
for _ in 1 2 3; do
    turn 'tiny llama default' llama --recipe default
    turn 'tiny mlp default' mlp --encoder mlp --recipe default
    turn 'tiny llama paper' paper --recipe paper
    turn 's40 llama default' s40 --preset s40 --recipe default --sets 4 --steps 10
done
"$python" - "$threads" "$turns" "$commit" <<'END'
import json, sys
threads, turns, commit = sys.argv[1:]
machine = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
rows = [json.loads(line) for line in open(turns)]
head = {"command": f"tools/step.sh {threads}", "commit": commit, "machine": machine, "threads": int(threads)}
with open("target/step.json", "w") as out:
    json.dump(head | {"turns": rows}, out, indent=1)
END
rm "$turns"
