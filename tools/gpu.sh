#!/usr/bin/env bash
# Everything a machine with an NVIDIA GPU has to show but the peers (benches/gpu/run.py): checks, timings, memory checks, counters.
#
#   tools/gpu.sh [OUT]      raw output goes to the folder OUT, default benches/results/HOST-DATE
#   MINUTES=5 tools/gpu.sh  what would begin later than that is left out, and said; default 9
#
# Needs a driver of the 580 series or newer and cuBLASLt 13. Takes target/release/scale-engine, or $PROGRAM, as it is (build it with
# nvcc at hand: tools/cuda.sh && cargo build --release), so it can be carried to a machine without Rust. cuBLASLt is looked for in
# PyTorch's wheels where the system has none.
set -uo pipefail
cd "$(dirname "$0")/.."
export PROGRAM=${PROGRAM:-target/release/scale-engine}
export OUT=${1:-benches/results/$(hostname)-$(date +%F)}
mkdir -p "$OUT"

wheels=$(python3 -c 'import importlib.util as u; s = u.find_spec("nvidia"); print(*(s.submodule_search_locations if s else []))' 2>/dev/null)
for folder in $wheels; do
    for lib in "$folder"/cu13/lib "$folder"/cublas/lib "$folder"/nccl/lib; do
        [[ -d $lib ]] && export LD_LIBRARY_PATH=$lib:${LD_LIBRARY_PATH:-}
    done
done

failed=0 until=$((SECONDS + 60 * ${MINUTES:-9}))
run() { # name, command ..
    local name=$1
    shift
    ((SECONDS < until)) || { echo "== $name: no time was left"; return; }
    echo "== $name: $*"
    { echo "$ $*"; timeout -k 5 $((until - SECONDS)) "$@"; } >"$OUT/$name.txt" 2>&1 || { failed=1; echo "   FAILED, exit code $?"; }
    tail -n 60 "$OUT/$name.txt"
}

# One op under compute-sanitizer; a process for each, so that all processors work.
sanitize() { # tool, op
    compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 5 "$PROGRAM" selftest --device cuda --small --case "$2" >"$OUT/$1-$2.log" 2>&1
    local code=$?
    echo "$1 $2: exit code $code, $(grep -E 'SUMMARY' "$OUT/$1-$2.log" | tail -n 1 | sed 's/=* //')"
    # What is said of a clean run is said by its line.
    [[ $code == 0 ]] && rm "$OUT/$1-$2.log"
    return $code
}
export -f sanitize

{ git log -1 --format='commit %H' 2>/dev/null; "$PROGRAM" --version; nvidia-smi -q -d MEMORY,CLOCK,POWER; nvidia-smi; lscpu; } >"$OUT/machine.txt" 2>&1
run selftest "$PROGRAM" selftest --device cuda
for preset in s184 s40; do
    for sets in 32 4; do
        run step-$preset-$((512 * sets)) "$PROGRAM" bench step --preset $preset --sets $sets --cells 512 --device cuda --json
        run predict-$preset-$((512 * sets)) "$PROGRAM" bench predict --preset $preset --sets $sets --cells 512 --device cuda --json
    done
done
run ops-s184 "$PROGRAM" bench ops --preset s184 --device cuda
for sets in 32 4; do
    run profile-s184-$((512 * sets)) "$PROGRAM" profile --preset s184 --sets $sets --cells 512 --device cuda
done
if command -v compute-sanitizer >/dev/null; then
    ops=$("$PROGRAM" selftest --list)
    for tool in memcheck racecheck; do
        run $tool xargs -P "$(nproc)" -I{} bash -c "sanitize $tool {}" <<<"$ops"
    done
fi
if command -v ncu >/dev/null; then
    # The clocks are left as they are; the second launch of each kernel that the whole step spends most in.
    for kernel in matmul_swiglu_forward matmul_swiglu_backward attention_backward_128 rms_norm_backward; do
        case=${kernel%_forward} case=${case%_backward*}
        [[ $case == attention ]] && case=attention_set
        run ncu-$kernel ncu --clock-control none --set basic --section MemoryWorkloadAnalysis --section WarpStateStats \
            -k "$kernel" -s 1 -c 1 "$PROGRAM" bench ops --case "$case" --turns 1 --device cuda
    done
fi
exit $failed
