#!/usr/bin/env bash
# Runs every fuzz target for some seconds, two at a time, and reports what each did.
#
#   fuzz/run.sh [SECONDS]        default 600; needs a nightly toolchain and cargo-fuzz
#
# Built without a sanitizer: the targets look for panics, broken promises, endless loops and unbounded memory (1 GB). Interesting
# inputs are kept in fuzz/corpus, those that broke something in fuzz/artifacts, both ignored by git.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
cargo +nightly fuzz build --sanitizer none
run() { # target, folders of seeds
    local target=$1 seeds=() log=fuzz/corpus/$1.log
    shift
    mkdir -p "fuzz/corpus/$target"
    for seed in "$@"; do [ -e "$seed" ] && seeds+=("$seed"); done
    # A few kilobytes are enough to get any format wrong.
    if cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=20 -max_len=65536 >"$log" 2>&1; then
        echo "$target: $(grep -a '^Done' "$log" | tail -1), $(grep -a -o 'cov: [0-9]*' "$log" | tail -1), no crash"
    else
        echo "$target: crashed; see $log and fuzz/artifacts/$target"
        return 1
    fi
}
failed=0
run split fuzz/seeds/split & first=$!
run shard fuzz/seeds/shard & second=$!
wait $first || failed=1
wait $second || failed=1
run h5ad tests/golden/encodings & first=$!
run parquet tests/golden/tahoe/data & second=$!
wait $first || failed=1
wait $second || failed=1
run checkpoint fuzz/seeds/checkpoint & first=$!
run features fuzz/seeds/features & second=$!
wait $first || failed=1
wait $second || failed=1
run genes fuzz/seeds/genes & first=$!
run labels fuzz/seeds/labels & second=$!
wait $first || failed=1
wait $second || failed=1
run request fuzz/seeds/request || failed=1
exit $failed
