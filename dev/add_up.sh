#!/bin/bash
# add_up.sh - to be sourced by bash scripts that run tests: parts of a whole, each with a log, and their total.
#
# A program or target of tests ends with a line "N passed, N failed, N skipped"; these lines are added up.
passed=0 failed=0 skipped=0 failures=""

# add_up LOG: adds the last such line of a log; says no if there is none. Its own failures are in $of_log.
add_up() {
    local line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$1" | tail -n 1)
    [ -n "$line" ] || return 1
    set -- $line
    passed=$((passed + $1)) failed=$((failed + $3)) skipped=$((skipped + $5))
    of_log=$3
}

# fails NAME: one more failure, of that name.
fails() {
    failed=$((failed + 1))
    failures="$failures $1"
}

# sets used: processor seconds of all that this shell has waited for, whose list is not a subshell's.
count_used() {
    local list=$logs/times.$BASHPID
    times >"$list"
    used=$(awk 'END { for (i = 1; i <= 2; i++) { split($i, t, /[ms]/); n += 60 * t[1] + t[2] } printf "%.0f", n }' "$list")
    rm "$list"
}

# part NAME COMMAND...: runs a part, keeps its log in $logs, and adds it up; one without such a line counts as one
# test. $logs is the caller's.
part() {
    local name=$1 start=$SECONDS log=$logs/$1.log status before
    shift
    count_used
    before=$used
    echo "=== $name: $*"
    "$@" </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    if add_up "$log"; then
        if [ "$of_log" != 0 ]; then failures="$failures $name"; elif [ $status != 0 ]; then fails "$name"; fi
    elif [ $status = 0 ]; then
        passed=$((passed + 1))
    else
        fails "$name"
    fi
    count_used
    echo "=== $name: exit $status after $((SECONDS - start)) s, $((used - before)) s of processors"
}

# total: the last line of the whole; its status is the verdict.
total() {
    [ -z "$failures" ] || echo "failed:$failures"
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
