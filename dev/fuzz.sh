#!/bin/bash
# fuzz.sh SECONDS PROGRAM... - damaged input for every parser, by programs made of dev/fuzz.c. One that is guided by
# coverage (its name has "guided" in it) gets each parser by itself for SECONDS; the first program gets all of them,
# the others, which differ in their architecture, only config. Another program gets all at once, for SECONDS.
#   B=build   findings are left in B/fuzz, with the command that repeats them
#   JOBS=n    so many at a time (1)
cd "$(dirname "$0")/.." || exit 1
. dev/add_up.sh
case $1 in '' | *[!0-9]* | 0) echo "fuzz.sh: '$1': expected whole seconds, at least 1" >&2; exit 1 ;; esac
seconds=$1
shift
logs=${B:-build}/fuzz
rm -rf "$logs"
mkdir -p "$logs" || exit 1

# one PROGRAM PARSER NAME: runs it; NAME.status holds its exit status
one() {
    local program=$1 parser=$2 name=$3
    if [ "$parser" = all ]; then
        "$program" "$seconds" > "$logs/$name.log" 2>&1
    else
        mkdir -p "$logs/$name.corpus"
        "$program" --parser="$parser" -max_total_time="$seconds" -max_len=4096 -timeout=20 -close_fd_mask=2 \
            -artifact_prefix="$logs/$name." "$logs/$name.corpus" "dev/fuzz/$parser" > "$logs/$name.log" 2>&1
    fi
    echo $? > "$logs/$name.status"
}

names=()
for program in "$@"; do
    architecture=${program##*_}
    case $program in
    *guided*) parsers=$([ ${#names[@]} = 0 ] && ls dev/fuzz || echo config) ;;
    *) parsers=all ;;
    esac
    for parser in $parsers; do
        while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do wait -n; done
        names+=("${architecture}_$parser")
        one "$program" "$parser" "${architecture}_$parser" &
    done
done
wait
for name in "${names[@]}"; do
    log=$logs/$name.log
    if [ "$(cat "$logs/$name.status" 2> /dev/null)" = 0 ]; then
        passed=$((passed + 1))
        echo "ok   $name: $(sed -n 's/^fuzz: //p; s/^#\([0-9]*\)[[:space:]]*DONE[[:space:]]*cov: \([0-9]*\).*/\1 inputs, \2 places reached/p' "$log")"
    else
        fails "$name"
        echo "FAIL $name: $log"
        grep -vE '^(#|INFO|NEW_FUNC)' "$log" | head -n 40
        for found in "$logs/$name".{crash,timeout,oom,leak}-*; do
            [ -e "$found" ] && echo "repeat it with: ${program%_*}_${name%_*} --parser=${name##*_} $found"
        done
    fi
done
[ ${#names[@]} = $((passed + failed)) ] || fails "a part that left no trace"
total
