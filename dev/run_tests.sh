#!/bin/sh
# run_tests.sh PROGRAM... - runs test programs one after the other and adds up their last lines.
# A program that ends without its line "N passed, N failed, N skipped" counts as one failure.
# Waiting threads sleep: on a machine that is busy with other things a spinning one holds up the one it waits for.
export OMP_WAIT_POLICY=passive
passed=0 failed=0 skipped=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for program in "$@"; do
    echo "== $program"
    status=0
    { $program 2>&1 || echo "exit status $?"; } | tee "$log"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
    grep -q '^exit status ' "$log" && status=1
    if [ -z "$line" ]; then
        echo "FAIL $program ended without a result"
        failed=$((failed + 1))
        continue
    fi
    set -- $line
    passed=$((passed + $1))
    failed=$((failed + $3))
    skipped=$((skipped + $5))
    if [ "$status" = 1 ] && [ "$3" = 0 ]; then
        echo "FAIL $program: every test passed but the program failed"
        failed=$((failed + 1))
    fi
done
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
