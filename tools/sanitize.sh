#!/usr/bin/env bash
# Every emulated kernel under AddressSanitizer: shared arrays that are overrun, memory used after it was freed.
#
#   tools/sanitize.sh [FILTER]     default: every op and the whole model; needs g++ with its libasan
#
# The tests find the sanitizer's runtime in their process and compile the kernels for it.
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=$(g++ -print-file-name=libasan.so)
[[ -e $runtime ]] || { echo "g++ has no AddressSanitizer (libasan.so)"; exit 1; }
binary=$(cargo test --release --locked --test all --no-run 2>&1 | sed -n 's/.*Executable tests\/all.rs (\(.*\))/\1/p')
# Leaks are the emulator's stacks, which live as long as the process.
LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 "$binary" "${1:-kernels::}"
