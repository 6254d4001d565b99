#!/usr/bin/env bash
# A training step of `tiny`, ours beside the PyTorch twin's, in one run on the same threads.
#
#   tools/step.sh [THREADS]        default 2; needs python3 with torch, numpy and safetensors (pip install torch numpy safetensors)
#
# Ours and theirs take turns, twice, so that a machine whose speed drifts treats both alike. Prints seconds a step.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2}
python=${PYTHON:-python3}

ours() { # benchmark's name
    RAYON_NUM_THREADS=$threads cargo bench --bench step -- "step/$1\$" >/dev/null 2>&1
    "$python" -c "import json; print('%.4f' % json.load(open('target/criterion/step/$1/new/estimates.json'))['median']['point_estimate'].__truediv__(1e9))"
}
theirs() { # encoder, recipe
    "$python" tools/step_torch.py --threads "$threads" --encoder "$1" --recipe "$2" 2>/dev/null |
        "$python" -c "import json, sys; print('%.4f' % json.loads(sys.stdin.readlines()[-1])['median_s'])"
}

cargo bench --bench step --no-run 2>/dev/null
echo "step            ours     torch    (s, $threads threads, 16 sets x 32 pairs x 2000 genes)"
for turn in 1 2; do
    printf 'llama default  %s   %s\n' "$(ours llama)" "$(theirs llama default)"
    printf 'mlp default    %s   %s\n' "$(ours mlp)" "$(theirs mlp default)"
    printf 'llama paper    %s   %s\n' "$(ours paper)" "$(theirs llama paper)"
done
