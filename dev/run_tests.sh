#!/bin/bash
# run_tests.sh PROGRAM... - runs test programs and adds up their last lines. A PROGRAM may come with a part
# of a test's name, or with variables: "env EMULATE_SEED=1 build/emu/gpu_layers norm".
# A program that ends without its line "N passed, N failed, N skipped" counts as one failure.
#   JOBS=n   so many at a time (1), each with one thread; what they print comes when they end
# Waiting threads sleep: on a machine that is busy with other things a spinning one holds up the one it waits for.
export OMP_WAIT_POLICY=passive
jobs=${JOBS:-1}
[ "$jobs" = 1 ] || export OMP_NUM_THREADS=1
passed=0 failed=0 skipped=0
logs=$(mktemp -d) || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT

# one N PROGRAM: runs it, its log is N.log, its exit status in N.status
one() {
    local start=$SECONDS status
    $2 >"$logs/$1.log" 2>&1
    status=$?
    [ "$status" = 0 ] || echo "exit status $status" >>"$logs/$1.log"
    echo "$((SECONDS - start))" >"$logs/$1.seconds"
    echo "$status" >"$logs/$1.status"
}
# result N PROGRAM: shows the log and counts
result() {
    local program=$2 line status
    echo "== $program"
    cat "$logs/$1.log"
    status=$(cat "$logs/$1.status")
    [ "$jobs" = 1 ] || echo "($(cat "$logs/$1.seconds") s)"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$logs/$1.log" | tail -n 1)
    if [ -z "$line" ]; then
        echo "FAIL $program ended without a result"
        failed=$((failed + 1))
        return
    fi
    set -- $line
    passed=$((passed + $1))
    failed=$((failed + $3))
    skipped=$((skipped + $5))
    if [ "$status" != 0 ] && [ "$3" = 0 ]; then
        echo "FAIL $program: every test passed but the program failed"
        failed=$((failed + 1))
    fi
}

programs=("$@")
if [ "$jobs" = 1 ]; then
    for n in "${!programs[@]}"; do
        one "$n" "${programs[n]}"
        result "$n" "${programs[n]}"
    done
else
    for n in "${!programs[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
        one "$n" "${programs[n]}" &
    done
    wait
    for n in "${!programs[@]}"; do result "$n" "${programs[n]}"; done
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
