#!/bin/bash
# test_readme.sh [FILE] - runs the commands of README.md, so that what it says is true.
#
# Every line of every ```sh block is a command. They run one after the other in a copy of the
# tracked and the new files, without anything that is ignored: what a reader has after cloning.
# The first one that fails ends it. A comment on the line before a block changes what is done:
#
#     <!-- ci: STEPS=20 -->             appends these variables to the make commands of the block
#     <!-- ci: skip needs a GPU -->     does not run the block
#
# STEPS=n in the environment is appended where a block says no STEPS itself. README_TIMEOUT: the
# most seconds that one command may take (900). README_BUILT=build: a directory where trainers have been built of these
# files; their objects are taken into the copy, so that make need only link them. The exit status is the verdict.
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL
readme=${1:-README.md}
steps=$STEPS
unset STEPS
limit=${README_TIMEOUT:-900}
[ -f "$readme" ] || { echo "error: no $readme here" >&2; exit 1; }

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/copy"
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -co --exclude-standard
else
    find . -type f -not -path './.git/*' -not -path './build/*' -not -path './out/*'
fi | while IFS= read -r f; do if [ -f "$f" ]; then printf '%s\n' "$f"; fi; done >"$tmp/files"
tar -cf - -T "$tmp/files" | tar -xf - -C "$tmp/copy" || { echo "error: could not copy the files to $tmp/copy" >&2; exit 1; }

if [ -n "$README_BUILT" ]; then # with their times: objects are newer than what they were made of
    mkdir -p "$tmp/copy/build/emu"
    cp -pr "$README_BUILT/include" "$tmp/copy/build/"
    for f in "$README_BUILT"/train_*.[do] "$README_BUILT"/train_*_emu{,_fp32} "$README_BUILT"/emu/*_plain.[do]; do
        [ ! -e "$f" ] || cp -p "$f" "$tmp/copy/build${f#"$README_BUILT"}"
    done
fi

# One line per command: what the comment before its block says, a tab, the command (continued lines joined).
awk '
    /^```/ {
        if (inside) { inside = 0; ci = ""; if (whole != "") bad = 1; whole = "" }
        else if (other) { other = 0; ci = "" }
        else if ($0 ~ /^```sh[ \t]*$/) inside = 1
        else other = 1
        next
    }
    inside {
        line = $0; sub(/^\$ /, "", line)
        if (whole == "" && line ~ /^[ \t]*(#.*)?$/) next
        if (line ~ /\\$/) { sub(/\\$/, "", line); whole = whole line; next }
        print ci "\t" whole line; whole = ""; next
    }
    /^<!-- ci: .* -->$/ { ci = $0; sub(/^<!-- ci: */, "", ci); sub(/ *-->$/, "", ci); next }
    /[^ \t]/ { ci = "" }
    END { if (inside || bad) { print "error: a sh block has no end, or its last line ends in \\" > "/dev/stderr"; exit 1 } }
' "$readme" >"$tmp/commands" || exit 1

passed=0 failed=0 skipped=0
directory=$tmp/copy
while IFS= read -r entry <&3; do
    ci=${entry%%$'\t'*}
    command=${entry#*$'\t'}
    case $ci in
    skip*)
        echo "skip $command (${ci#skip })"
        skipped=$((skipped + 1))
        continue
        ;;
    esac
    variables=$ci
    case " $ci" in *" STEPS="*) ;; *) [ -z "$steps" ] || variables="$variables STEPS=$steps" ;; esac
    case $command in make | make\ *) command="$command${variables:+ ${variables# }}" ;; esac
    start=$SECONDS
    # A command may change the directory for those after it, as in a reader's shell.
    cat >"$tmp/script" <<END
cd "$directory" || exit 1
$command
status=\$?
pwd >"$tmp/directory"
exit \$status
END
    timeout "$limit" bash "$tmp/script" >"$tmp/log" 2>&1 </dev/null
    status=$?
    if [ $status = 0 ]; then
        echo "ok   $command ($((SECONDS - start)) s)"
        passed=$((passed + 1))
        directory=$(cat "$tmp/directory")
    else
        [ $status = 124 ] && echo "longer than $limit seconds" >>"$tmp/log"
        echo "FAIL $command (exit status $status)"
        tail -n 40 "$tmp/log" | sed 's/^/     /'
        failed=1
        break
    fi
done 3<"$tmp/commands"

left=$(($(wc -l <"$tmp/commands") - passed - failed - skipped))
[ $left = 0 ] || echo "$left commands after it were not run"
[ -s "$tmp/commands" ] || echo "no \`\`\`sh block in $readme: nothing was tested"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] && [ $passed -gt 0 ]
