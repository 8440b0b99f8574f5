#!/bin/bash
# checks.sh - to be sourced by scripts that run programs and look at what they did: each check counts, and one that fails
# shows the end of $tmp/log, where the caller has put what the program said.
passed=0 failed=0 skipped=0

# ok NAME CONDITION...: the condition holds
ok() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name; the program said:"
        tail -n 8 "$tmp/log" | cut -c1-300 | sed 's/^/     /'
    fi
}

# skip NAME REASON: what cannot be looked at here
skip() {
    skipped=$((skipped + 1))
    echo "skipped $1: $2"
}

# checked: the last line of the whole; its status is the verdict.
checked() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
