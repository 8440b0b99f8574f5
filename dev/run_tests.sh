#!/bin/bash
# run_tests.sh PROGRAM... - runs test programs and adds up their last lines. A PROGRAM may come with a part
# of a test's name, or with variables: "env EMULATE_SEED=1 build/emu/gpu_layers norm".
# A program that ends without its line "N passed, N failed, N skipped" counts as one failure.
#   JOBS=n              so many at a time (1); what each prints comes when it and those before it have ended
#   OMP_NUM_THREADS=n   threads of each; as many as there are processors, but 1 where several run at a time
. "$(dirname "$0")/add_up.sh"
# Waiting threads sleep: on a machine that is busy with other things a spinning one holds up the one it waits for.
export OMP_WAIT_POLICY=passive
jobs=${JOBS:-1}
[ "$jobs" = 1 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
logs=$(mktemp -d) || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT

# one N PROGRAM: runs it, its log is N.log, its exit status in N.status
one() {
    local start=$SECONDS status
    $2 >"$logs/$1.log" 2>&1
    status=$?
    [ "$status" = 0 ] || echo "exit status $status" >>"$logs/$1.log"
    echo "$((SECONDS - start))" >"$logs/$1.seconds"
    echo "$status" >"$logs/$1.new" && mv "$logs/$1.new" "$logs/$1.status"
}
# result N PROGRAM: shows the log and counts
result() {
    echo "== $2"
    cat "$logs/$1.log"
    [ "$jobs" = 1 ] || echo "($(cat "$logs/$1.seconds") s)"
    if ! add_up "$logs/$1.log"; then
        echo "FAIL $2 ended without a result"
        fails "$2"
    elif [ "$of_log" != 0 ]; then
        failures="$failures $2"
    elif [ "$(cat "$logs/$1.status")" != 0 ]; then
        echo "FAIL $2: every test passed but the program failed"
        fails "$2"
    fi
}

programs=("$@")
shown=0
show() { # all that have ended, up to the first that has not
    while [ -e "$logs/$shown.status" ]; do
        result "$shown" "${programs[shown]}"
        shown=$((shown + 1))
    done
}
for n in "${!programs[@]}"; do
    if [ "$jobs" = 1 ]; then
        one "$n" "${programs[n]}"
    else
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
            wait -n
            show
        done
        one "$n" "${programs[n]}" &
    fi
    show
done
while [ "$shown" -lt "${#programs[@]}" ]; do
    wait -n
    [ $? != 127 ] || break # there is nothing left to wait for
    show
done
show
[ "$shown" = "${#programs[@]}" ] || fails "${programs[shown]}: its process is gone,"
echo
total
