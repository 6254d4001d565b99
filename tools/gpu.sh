#!/usr/bin/env bash
# Everything a machine with an NVIDIA GPU has to show, in one go: checks, memory checks, first timings. Raw output goes to a folder.
#
#   tools/gpu.sh [OUT]             default benches/results/HOST-DATE; needs a driver of the 580 series or newer and cuBLASLt 13
#
# Takes target/release/scale-engine as it is (build it with nvcc at hand: tools/cuda.sh && cargo build --release), so it can be
# carried to a machine without Rust. cuBLASLt is looked for in PyTorch's wheels where the system has none.
set -uo pipefail
cd "$(dirname "$0")/.."
program=target/release/scale-engine
out=${1:-benches/results/$(hostname)-$(date +%F)}
mkdir -p "$out"

wheels=$(python3 -c 'import importlib.util as u; s = u.find_spec("nvidia"); print(*(s.submodule_search_locations if s else []))' 2>/dev/null)
for folder in $wheels; do
    for lib in "$folder"/cu13/lib "$folder"/cublas/lib "$folder"/nccl/lib; do
        [[ -d $lib ]] && export LD_LIBRARY_PATH=$lib:${LD_LIBRARY_PATH:-}
    done
done

failed=0
run() { # name, command ..
    local name=$1
    shift
    echo "== $name: $*"
    { echo "$ $*"; "$@"; } >"$out/$name.txt" 2>&1 || { failed=1; echo "   FAILED, exit code $?"; }
    tail -n 60 "$out/$name.txt"
}

{ git log -1 --format='commit %H' 2>/dev/null; nvidia-smi -q -d MEMORY,CLOCK,POWER; nvidia-smi; lscpu; } >"$out/machine.txt" 2>&1
run selftest "$program" selftest --device cuda
run selftest-json "$program" selftest --device cuda --json
if command -v compute-sanitizer >/dev/null; then
    run memcheck compute-sanitizer --tool memcheck --error-exitcode 1 "$program" selftest --device cuda --small
    run racecheck compute-sanitizer --tool racecheck --error-exitcode 1 "$program" selftest --device cuda --small
fi
run step-s184-2048 "$program" bench step --preset s184 --sets 4 --cells 512 --device cuda --json
run step-s184-16384 "$program" bench step --preset s184 --sets 32 --cells 512 --device cuda --json
run profile-s184-16384 "$program" profile --preset s184 --sets 32 --cells 512 --device cuda
run profile-s184-16384-json "$program" profile --preset s184 --sets 32 --cells 512 --device cuda --json
run step-s40-2048 "$program" bench step --preset s40 --sets 4 --cells 512 --device cuda --json
exit $failed
