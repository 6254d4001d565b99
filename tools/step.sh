#!/usr/bin/env bash
# Training steps of `tiny` and `s40`, ours and the PyTorch twin's, in one run on the same threads.
#
#   tools/step.sh [THREADS]        default 2; needs python3 with torch, numpy and safetensors (pip install torch numpy safetensors)
#
# The two take turns, twice, so that a machine whose speed drifts treats both alike. Prints seconds per step.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2}
python=${PYTHON:-python3}

ours() { # benchmark's name
    RAYON_NUM_THREADS=$threads cargo bench --bench step -- "step/$1\$" >/dev/null 2>&1
    "$python" -c "import json; print('%.4f' % json.load(open('target/criterion/step/$1/new/estimates.json'))['median']['point_estimate'].__truediv__(1e9))"
}
theirs() { # options of step_torch.py
    "$python" tools/step_torch.py --threads "$threads" "$@" 2>/dev/null |
        "$python" -c "import json, sys; print('%.4f' % json.loads(sys.stdin.readlines()[-1])['median_s'])"
}

cargo bench --bench step --no-run 2>/dev/null
echo "step                 ours     torch    (s, $threads threads, 32 pairs a set x 2000 genes; 16 sets, 4 of s40)"
for turn in 1 2; do
    printf 'tiny llama default  %s   %s\n' "$(ours llama)" "$(theirs --recipe default)"
    printf 'tiny mlp default    %s   %s\n' "$(ours mlp)" "$(theirs --encoder mlp --recipe default)"
    printf 'tiny llama paper    %s   %s\n' "$(ours paper)" "$(theirs --recipe paper)"
    printf 's40 llama default   %s   %s\n' "$(ours s40)" "$(theirs --preset s40 --recipe default --sets 4 --steps 10)"
done
