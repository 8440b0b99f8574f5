#!/bin/bash
# run_parts.sh LOGS TARGET... - makes targets one after the other, whatever becomes of those before, and adds up
# their tests. LOGS/TARGET.log is what each printed. The exit status is the verdict.
#   MAKE=make   as make itself sets it, so that all of them share its number of jobs
. "$(dirname "$0")/add_up.sh"
logs=$1
shift
mkdir -p "$logs" || exit 1
for target in "$@"; do part "$target" ${MAKE:-make} --no-print-directory "$target"; done
echo
total
