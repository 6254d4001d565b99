#!/usr/bin/env bash
# Everything to run on a machine with an NVIDIA GPU: checks and memory checks, then timings and counters, then launches through the
# crates cust and cudarc, then the peers, and, where there is more than one GPU, how a step scales over them.
#
#   tools/gpu.sh [OUT [PART ..]]    raw output goes to the folder OUT, default benches/results/HOST-DATE; parts are checks, timings,
#                                   crates, peers and scaling, all by default; the last is worth a call of its own, of 20 minutes
#   SECONDS_LEFT=300 tools/gpu.sh   what would begin later than that is left out, and reported; default 540. In each part what has never
#                                   been measured goes first; benches/README.md has calls that fit, with their seconds
#   PRESETS="s184 s40" tools/gpu.sh presets for the whole model and its peers; default s184
#   SIZES="32x512 default"          sets x cells of the model's peers, "default" the presets' own steps; default 32x512 and 4x512
#   ONLY=attention,mmd MODES=..     families of the peers and modes of torch.compile: see benches/gpu/run.py and model.py. Its choice by
#                                   timing, max-autotune, is only made in quiet, so not beside checks
#   SCALING="--ctas 8"              options of tools/scaling.py
#   CUST_PEER=..                    the program of benches/cust-peer; default is where cargo leaves it. Where it is not, it is built if
#                                   that goes offline, and otherwise told as absent
#   COMMIT=..                       of the program, where no git tells it
#
# Needs a driver of the 580 series or newer and cuBLASLt 13. Takes target/release/scale-engine, or $PROGRAM, as it is (build it with
# nvcc at hand: tools/cuda.sh && cargo build --release), so it can be copied to a machine without Rust. cuBLASLt is looked for in
# PyTorch's wheels if the system has none. Checks run in parallel, together with torch.compile, which takes minutes (without checks it
# goes before the model's peers, in their time); whatever is timed has the machine to itself.
set -uo pipefail
cd "$(dirname "$0")/.."
export PROGRAM=$(realpath "${PROGRAM:-target/release/scale-engine}")
export OUT=${1:-benches/results/$(hostname)-$(date +%F)}
parts=" ${*:2} "
all=" checks timings crates peers scaling "
[[ $parts == "  " ]] && parts=$all
for part in $parts; do
    [[ $all == *" $part "* ]] || { echo "there is no part $part: the parts are$all" >&2; exit 2; }
done
export WORK=$(mktemp -d)
mkdir -p "$OUT"
compiling=
end() {
    [[ -n $compiling ]] && kill -- -"$compiling" 2>/dev/null
    rm -rf "$WORK"
}
trap end EXIT

# Changed files are told by benches/gpu/run.py.
commit=${COMMIT:-$(git rev-parse HEAD 2>/dev/null)}
wheels=$(python3 -c 'import importlib.util as u; s = u.find_spec("nvidia"); print(*(s.submodule_search_locations if s else []))' 2>/dev/null)
for folder in $wheels; do
    for lib in "$folder"/cu13/lib "$folder"/cublas/lib "$folder"/nccl/lib; do
        [[ -d $lib ]] && export LD_LIBRARY_PATH=$lib:${LD_LIBRARY_PATH:-}
    done
done

failed=0 until=$((SECONDS + ${SECONDS_LEFT:-540}))
# Seconds that one command may take: a kernel that hangs must not cost what comes after it.
limit=540
run() { # name, command ..
    local name=$1 left=$((until - SECONDS))
    shift
    ((left > 0)) || { echo "== $name: no time was left"; return; }
    echo "== $name: $*"
    { echo "$ $*"; timeout -k 5 $((left < limit ? left : limit)) "$@"; } >"$OUT/$name.txt" 2>&1
    local code=$?
    [[ $code == 0 ]] || { failed=1; echo "   FAILED, exit code $code"; }
    tail -n 60 "$OUT/$name.txt"
}

# Each op is checked in its own process: all processors are busy, and one that fails does not take the device from the others.
each_op() { # function, first argument
    local ops
    ops=$("$PROGRAM" selftest --list) && [[ $ops ]] || return 1
    xargs -P "$(nproc)" -I{} bash -c "$1 $2 {}" <<<"$ops"
}
check() { # what each_op was given, op
    timeout -k 5 120 "$PROGRAM" selftest --device cuda --case "$2" >"$WORK/$2" 2>&1
    local code=$?
    if [[ $code == 0 ]]; then grep ' ok ' "$WORK/$2"; else echo "$2: exit code $code" && cat "$WORK/$2"; fi
    return $code
}
sanitize() { # tool, op
    # A graph's kernels are the model's, and racecheck takes minutes for each update of one.
    [[ $1-$2 == racecheck-graph ]] && return
    # NCCL asks for kernels of devices that are not present.
    [[ $2 == nccl ]] && set -- "$@" --report-api-errors no
    timeout -k 5 240 compute-sanitizer --tool "$1" "${@:3}" --error-exitcode 9 --print-limit 1000 "$PROGRAM" selftest --device cuda --small --case "$2" >"$WORK/$1-$2" 2>&1
    local code=$?
    echo "$2: exit code $code, $(grep SUMMARY "$WORK/$1-$2" | tail -n 1)"
    [[ $code == 0 ]] || head -n 40 "$WORK/$1-$2"
    return $code
}
demo() {
    [[ -d $WORK/demo ]] || "$PROGRAM" demo --device cuda --out "$WORK/demo"
}
# A run that is resumed in another process ends with the same bytes.
resume() {
    local asked=(--data "$WORK/demo/data" --split "$WORK/demo/split.toml" --device cuda)
    "$PROGRAM" train "${asked[@]}" --preset tiny --steps 40 --set train.checkpoint_every=20 --set train.keep_all=true --out "$WORK/whole" || return
    mkdir -p "$WORK/half/checkpoints"
    cp "$WORK"/whole/{config.toml,split.toml,choices.json} "$WORK/half"
    cp "$WORK/whole/checkpoints/step-20.safetensors" "$WORK/half/checkpoints/last.safetensors"
    "$PROGRAM" train "${asked[@]}" --resume --out "$WORK/half" || return
    cmp "$WORK"/{whole,half}/checkpoints/last.safetensors && echo "the same bytes after 20 + 20 steps in two processes as after 40 in one"
}
# A run as users have it: log, checkpoint and loader among its steps. Compared with `bench step` it shows how long the GPU waits.
walk() { # sets per step, steps
    demo >/dev/null || return
    "$PROGRAM" train --data "$WORK/demo/data" --split "$WORK/demo/split.toml" --device cuda --preset s184 --steps "$2" --set data.sets="$1" \
        --set data.cells=512 --set train.checkpoint_every=$(($2 / 3)) --set train.val_every=0 --out "$WORK/walk-$1" || return
    python3 - "$WORK/walk-$1/metrics.jsonl" "$1" "$2" <<'END'
import json, sys
path, sets, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lines = [json.loads(line) for line in open(path)]
rate = {line["step"]: line["cells_per_second"] for line in lines if "cells_per_second" in line}
marks = sorted(rate)
took = {a: (b - a) * 2 * 512 * sets / rate[b] for a, b in zip(marks, marks[1:])}
median = sorted(took.values())[len(took) // 2]
print(f"{median / (marks[1] - marks[0]) * 1e3:.2f} ms a step: the median of {len(took)} times from one line of the log to the next")
for at in range(steps // 3, marks[-1], steps // 3):
    more = sum(took[a] - median for a in marks[:-1] if at <= a < at + 50)
    print(f"{more:.2f} s more in the 50 steps after the checkpoint of step {at}")
END
}
# What launches and copies cost through the crates cust and cudarc.
cust_peer() {
    local folder=benches/cust-peer program=${CUST_PEER:-benches/cust-peer/target/release/cust-peer}
    [[ -x $program ]] || (cd $folder && cargo build --release --locked --offline) 2>&1 | tail -n 3
    [[ -x $program ]] || { echo "absent: there is no $program, and cargo cannot build it here"; return 0; }
    "$program"
}
scaling() { # seconds
    local gpus=$(python3 tools/scaling.py --count)
    ((gpus > 1)) || { echo "skipped: GPUs here: $gpus, needed: two"; return 0; }
    demo >/dev/null || return
    # The last run may begin at the end of its time.
    python3 tools/scaling.py "$WORK/demo/data" "$WORK/demo/split.toml" --out "$OUT" --program "$PROGRAM" --limit 90 --seconds $(($1 - 120)) \
        ${COMMIT:+--commit "$COMMIT"} ${SCALING:-}
}
export -f check sanitize demo resume walk cust_peer scaling each_op

{ echo "commit ${commit:-unknown}"; "$PROGRAM" --version; sha256sum "$PROGRAM"; nvidia-smi -q -d MEMORY,CLOCK,POWER; nvidia-smi; lscpu; } >"$OUT/machine.txt" 2>&1
model=$(printf -- '--preset %s ' ${PRESETS:-s184})$(printf -- '--size %s ' ${SIZES:-32x512 4x512})${MODES:+--modes $MODES}
# torch.compile's part of the peers, which goes before them.
compile=(python3 benches/gpu/model.py --program "$PROGRAM" $model --compile)
ahead=
[[ $parts == *" peers "* && ,${ONLY:-model}, == *,model,* ]] && python3 -c 'import torch' 2>/dev/null && ahead=--compile
if [[ $parts == *" checks "* ]]; then
    if [[ -n $ahead && ${MODES:-} != *max-autotune* ]]; then
        ahead=
        # A process group of its own, which includes the compiler's workers.
        set -m
        "${compile[@]}" >"$OUT/compile.txt" 2>&1 &
        compiling=$!
        set +m
    fi
    run selftest bash -c "each_op check selftest"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do run $tool bash -c "each_op sanitize $tool"; done
    fi
    run demo bash -c demo
    run resume bash -c resume
    if [[ -n $compiling ]]; then
        run compiled timeout 150 tail --pid="$compiling" -f "$OUT/compile.txt"
        # Whatever is timed has the machine to itself.
        kill -- -"$compiling" 2>/dev/null && echo "   torch.compile was not done" && ahead=--compile
        wait "$compiling" || failed=1
        compiling=
    fi
fi
if [[ $parts == *" timings "* ]]; then
    limit=120
    # Kernels that have changed since they were measured. s280's encoder has rows of 768 numbers, with kernels of their own; `ops` ends
    # with the times of both ways, `profile` tells which one the step took.
    for case in attention_set mmd; do
        run ops-s184-$case "$PROGRAM" bench ops --preset s184 --case $case --device cuda
    done
    for case in matmul_swiglu rms_norm; do
        run ops-s280-$case "$PROGRAM" bench ops --preset s280 --case $case --device cuda
    done
    for sets in 32 4; do
        run step-s184-$((512 * sets)) "$PROGRAM" bench step --preset s184 --sets $sets --cells 512 --device cuda --json
        run predict-s184-$((512 * sets)) "$PROGRAM" bench predict --preset s184 --sets $sets --cells 512 --device cuda --json
    done
    run step-s280-16384 "$PROGRAM" bench step --preset s280 --sets 32 --cells 512 --device cuda --json
    # The steps for which the presets are made.
    run step-s40-default "$PROGRAM" bench step --preset s40 --sets 16 --cells 128 --device cuda --json
    for preset in s184 s280; do
        run step-$preset-default "$PROGRAM" bench step --preset $preset --sets 8 --cells 256 --device cuda --json
    done
    run profile-s184-16384 "$PROGRAM" profile --preset s184 --sets 32 --cells 512 --device cuda
    run profile-s280-16384 "$PROGRAM" profile --preset s280 --sets 32 --cells 512 --device cuda
    run train-s184-2048 bash -c "walk 4 1200"
    run train-s184-16384 bash -c "walk 32 150"
    run ops-s184 "$PROGRAM" bench ops --preset s184 --device cuda
    run profile-s184-2048 "$PROGRAM" profile --preset s184 --sets 4 --cells 512 --device cuda
    for sets in 32 4; do
        run step-s40-$((512 * sets)) "$PROGRAM" bench step --preset s40 --sets $sets --cells 512 --device cuda --json
    done
fi
limit=540
[[ $parts == *" crates "* ]] && run crates timeout 60 bash -c cust_peer
if [[ $parts == *" peers "* ]] && ((SECONDS + 30 < until)); then
    run peers python3 benches/gpu/run.py --program "$PROGRAM" --out "$OUT/peers" --minutes "$(((until - SECONDS) / 60)).$(((until - SECONDS) % 60 * 10 / 60))" \
        ${ONLY:+--only "$ONLY"} ${commit:+--commit "$commit"} $model $ahead
fi
if [[ $parts == *" timings "* ]] && command -v ncu >/dev/null; then
    limit=60
    # The clocks are left as they are; profiles the second launch of each kernel that takes most of the step's time.
    for kernel in matmul_swiglu_forward matmul_swiglu_backward attention_hopper_forward attention_hopper_forward_pairs attention_hopper_backward attention_hopper_backward_apart mmd_hopper_pairs mmd_hopper_backward rms_norm_backward_narrow matmul_swiglu_forward_wide matmul_swiglu_backward_wide rms_norm_backward_middle; do
        case=${kernel%_forward*} case=${case%_backward*} case=${case/attention_hopper/attention_set} case=${case/mmd_hopper*/mmd} preset=s184
        [[ $kernel == *_wide || $kernel == *_middle ]] && preset=s280
        run ncu-$kernel ncu --clock-control none --set basic --section MemoryWorkloadAnalysis --section WarpStateStats \
            -k "$kernel" -s 1 -c 1 "$PROGRAM" bench ops --preset $preset --case "$case" --turns 1 --device cuda
    done
fi
if [[ $parts == *" scaling "* ]]; then
    limit=$((until - SECONDS))
    run scaling bash -c "scaling $limit"
fi
exit $failed
