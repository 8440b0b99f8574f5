#!/bin/bash
# lint.sh - the rules of the code, as checks. `make lint` runs it; the exit status is the verdict.
#
# Run from the repository's root. CC= and B= as for make; LINT_JOBS= compilers at a time (2).
# A line of code that has to break a rule says so: `lint: allow, because ...` in a comment on that
# line or on a line of its own before it. Only the rules about words in the code (libm, names)
# heed it.
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL
export LC_ALL=C
B=${B:-build}
JOBS=${LINT_JOBS:-2}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

# Reads complaints from stdin; any make the check fail.
check() { # NAME
    cat >"$tmp/complaints"
    if [ -s "$tmp/complaints" ]; then
        printf 'FAIL %s\n' "$1"
        sed 's/^/     /' "$tmp/complaints" | head -n 60
        echo "$1" >>"$tmp/failed"  # a file, because a pipe runs this in a shell of its own
    else
        printf 'ok   %s\n' "$1"
    fi
}
note() { printf 'note %s\n' "$1"; }

# ---- the files ----

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -co --exclude-standard >"$tmp/listed"
else
    find . -type f -not -path './.git/*' -not -path './build/*' -not -path './out/*' | sed 's|^\./||' >"$tmp/listed"
fi
while IFS= read -r f; do [ -f "$f" ] && printf '%s\n' "$f"; done <"$tmp/listed" | sort -u >"$tmp/files"
files() { grep -E "$1" "$tmp/files"; } # of a regular expression

code=$(files '\.(c|h|cu|cuh)$')
trainers=$(files '^train_[a-z0-9_]*\.cu$')
headers=$(files '^(common/.*\.h|ponder\.cuh)$')
units=$(files '^(train_[a-z0-9_]*\.cu|test_[a-z0-9_]*\.c|(common/run|data|dev)/[a-z0-9_]*\.c)$')
texts=$(files '(\.(c|h|cu|cuh|sh|py|md)|(^|/)(Makefile|\.gitignore|\.clang-format|run))$')
[ -n "$trainers" ] || echo "no train_*.cu here" | check "files"

# Code without its comments, as FILE:LINE:CODE. strings=0 empties string literals too.
strip() { # STRINGS FILE...
    local strings=$1
    shift
    [ $# = 0 ] && return
    awk -v strings="$strings" '
        FNR == 1 { block = 0; allow = 0 }
        {
            line = $0; out = ""; n = length(line); i = 1
            allowed = allow; allow = 0
            if (!block && line !~ /["'\''\/]/) { if (!allowed) print FILENAME ":" FNR ":" line; next }
            if (line ~ /lint: allow/) { allowed = 1; if (line ~ /^[ \t]*\/\//) allow = 1 }
            while (i <= n) {
                c = substr(line, i, 1); d = substr(line, i, 2)
                if (block) { if (d == "*/") { block = 0; i += 2 } else i++; continue }
                if (d == "//") break
                if (d == "/*") { block = 1; i += 2; continue }
                if (c == "\"" || c == "'\''") {
                    text = c; i++
                    while (i <= n && substr(line, i, 1) != c) {
                        if (substr(line, i, 1) == "\\") { text = text substr(line, i, 2); i += 2 }
                        else { text = text substr(line, i, 1); i++ }
                    }
                    i++
                    out = out (strings ? text c : c c)
                    continue
                }
                out = out c; i++
            }
            if (!allowed) print FILENAME ":" FNR ":" out
        }' "$@"
}

# ---- (a), (b) every file compiles, everywhere, without a warning ----

isas=portable
case $(uname -m) in x86_64 | amd64) isas="portable avx2 avx512" ;; esac
isa_portable=
isa_avx2="-mavx2 -mfma"
isa_avx512="-mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mavx2"
warnings="-Wall -Wextra -Werror -Wvla -Wno-missing-field-initializers -Wno-unused-function"
rules="-fsyntax-only -ffp-contract=off -fno-math-errno -I$B/include $warnings"

if [ ! -f "$B/include/modeling_ponder.h" ]; then make -s B="$B" "$B/include/modeling_ponder.h" >/dev/null 2>&1; fi

: >"$tmp/jobs"
job() { printf '%s\0' "$1" >>"$tmp/jobs"; }
compilers=
for cc in gcc clang; do
    command -v $cc >/dev/null 2>&1 || { note "no $cc here: compiled without it"; continue; }
    compilers="$compilers $cc"
    openmp=-fopenmp
    echo '#include <omp.h>' | $cc -fopenmp -x c -fsyntax-only - >/dev/null 2>&1 || { openmp=-Wno-unknown-pragmas; note "$cc has no OpenMP here"; }
    for f in $units; do
        extra=
        case $f in
        test_*) extra="-DTESTING -DBUILD_DIR='\"$B\"'" ;;
        common/run/dispatch.c) extra=-DHAVE_portable ;;
        dev/bench_step.c) # built for each trainer: for the first in every way
            set -- $trainers
            for t in "$@"; do
                name=${t#train_}
                extra="-I. -DARCHITECTURE=${name%.cu} -DTRAINER='\"$t\"'"
                [ "$t" = "$1" ] || job "$cc -x c -std=gnu11 $rules $extra $openmp $f"
            done
            name=${1#train_}
            extra="-I. -DARCHITECTURE=${name%.cu} -DTRAINER='\"$1\"'"
            ;;
        esac
        c="$cc -x c -std=gnu11 $rules $extra"
        case $f in
        train_* | test_common.c | dev/bench_cpu.c)
            for isa in $isas; do
                eval "flags=\$isa_$isa"
                job "$c $openmp $flags $f"
            done
            job "$c -Wno-unknown-pragmas $f"
            ;;
        test_*) job "$c $openmp $f" && job "$c -Wno-unknown-pragmas $f" ;;
        *) job "$c $openmp $f" ;;
        esac
        case $f in train_*) job "$c $openmp -DREAL=double $f" && job "$c $openmp -DKEPT=Bf16 $f" ;; esac
    done
done
[ -n "$compilers" ] || echo "neither gcc nor clang: nothing was compiled" | check "compilers"
# Headers alone, as C: each includes what it uses. Trainers, and all headers at once, as the C++ that nvcc takes them for.
for f in $headers; do
    case $compilers in *gcc*) cc=gcc ;; *) cc=clang ;; esac
    job "$cc -x c -std=gnu11 $rules -Wno-unknown-pragmas $f"
done
for f in $headers; do printf '#include "%s/%s"\n' "$PWD" "$f"; done >"$tmp/headers.cc"
for cxx in g++ clang++; do
    command -v $cxx >/dev/null 2>&1 || { note "no $cxx here: compiled without it"; continue; }
    compilers="$compilers $cxx"
    # {0} is how C empties a struct; clang++ would rather have {}, which C does not know.
    for f in $trainers "$tmp/headers.cc"; do job "$cxx -x c++ -std=c++17 $rules -Wno-missing-braces -Wno-unknown-pragmas $f"; done
done
mkdir "$tmp/logs"
count=$(tr -cd '\0' <"$tmp/jobs" | wc -c | tr -d ' ')
xargs -0 -n 1 -P "$JOBS" sh -c '
    log=$(mktemp "$0/log.XXXXXX")
    if eval "$1" >"$log" 2>&1; then rm -f "$log"; exit 0; fi
    unit=$0/$(printf "%s" "${1##* }" | tr / _).failed
    mkdir -p "$unit"
    { echo "$1"; head -n 12 "$log"; } >"$log.text"
    mv "$log.text" "$unit/"
' "$tmp/logs" <"$tmp/jobs"
# Of a file that fails in several ways, the first.
for unit in "$tmp"/logs/*.failed/; do
    [ -d "$unit" ] || continue
    set -- "$unit"*
    cat "$1"
    [ $# = 1 ] || echo "... and in $(($# - 1)) more compilations of this file"
done | check "$count compilations without a warning ($(echo $compilers); $isas; with and without OpenMP; real = double; kept = bf16)"

# ---- (c) sections of a trainer ----

for f in $trainers; do
    awk -v file="$f" '
        !/^\/\// && !/^$/ { body = 1 }
        /^\/\/ \[[0-8]\] / && body {
            n = substr($2, 2, 1) + 0
            if (seen[n]++) print file ":" FNR ": section [" n "] a second time"
            if (n < last) print file ":" FNR ": section [" n "] after [" last "]"
            last = n
        }
        END {
            for (n = 1; n <= 8; n++) {
                if (n == 6 || n == 7) continue
                if (!seen[n]) print file ": no section \"// [" n "] ...\""
            }
            if ((seen[6] > 0) != (seen[7] > 0)) print file ": sections [6] and [7] (CUDA) come together"
        }' "$f"
    awk -v file="$f" '
        !/^\/\// { exit }
        match($0, /^\/\/ +\[[0-8]\]/) { listed = listed substr($0, RLENGTH - 1, 1) }
        END { if (listed !~ /12345(67)?8$/) print file ": the map in its first comment should list the sections [1] to [8] in order; it lists " listed }' "$f"
    # The same names in every trainer: diff of two trainers shows architectures, not headings.
    grep -E '^// \[[0-8]\] ' "$f" | grep -v '^// \[[67]\]' >"$tmp/headings"
    [ -f "$tmp/headings.first" ] || { cp "$tmp/headings" "$tmp/headings.first"; first=$f; }
    diff "$tmp/headings.first" "$tmp/headings" >/dev/null || echo "$f: headings differ from those of $first"
done | check "sections [1] to [8] once, in order, with the same names, and in the map"

# ---- (d) #if GPU ----

for f in $trainers $(files '^(ponder\.cuh|common/.*\.(h|cuh))$'); do
    strip 0 "$f" | awk -v file="$f" '
        {
            sub(/^[^:]*:[0-9]+:/, "", $0); line++
            if ($0 ~ /^[ \t]*#[ \t]*(if|ifdef|ifndef|elif).*[^A-Za-z0-9_]GPU([^A-Za-z0-9_]|$)/) {
                if (++count > 3) print file ": more than three #if GPU"
                if (depth > 0) print file ": #if GPU inside a function or a struct, number " count
            }
            if ($0 ~ /^[ \t]*#/) next
            if ($0 ~ /^extern "/ || $0 ~ /^extern ""/) next
            depth += gsub(/\{/, "{") - gsub(/\}/, "}")
        }'
done | sort -u | check "at most three #if GPU a file, none inside a function or a struct"

# ---- (e) who knows what ----

{
    # common/ itself includes neither of its folders; files/ includes common/ and files/; run/ includes all three.
    strip 1 $(files '^common/.*\.(c|h|cuh)$') | grep -E ':[ \t]*#[ \t]*include[ \t]*"' | while IFS= read -r line; do
        name=$(printf '%s\n' "$line" | sed 's/.*include[ \t]*"//; s/".*//')
        from=${line%%:*}
        case $name in emulate_ptx.h | emulate_wgmma.h) continue ;; esac # the emulator's half of ptx.cuh and wgmma.cuh, in dev/emulate
        case $from:$name in
            common/run/*:../files/*) target=common/${name#../} ;;
            common/run/*:../*/* | common/files/*:../*/*) target=outside ;;
            common/run/*:../* | common/files/*:../*) target=common/${name#../} ;;
            *:*/*) target=outside ;;
            *) target=$(dirname "$from")/$name ;;
        esac
        [ -f "$target" ] || echo "$line   (common/ includes itself, files/ also common/, run/ all of common/)"
    done
    [ -f ponder.cuh ] && strip 1 ponder.cuh | grep -E '#[ \t]*include[ \t]*"' | grep -Ev 'include "(common/([a-z]+/)?[a-z_]+\.(h|cuh)|modeling_ponder\.h)"' | sed 's/$/   (ponder.cuh includes only common\/)/'
    [ -n "$trainers" ] && strip 1 $trainers | grep -E '#[ \t]*include[ \t]*"' | grep -Ev 'include "(ponder\.cuh|modeling_ponder\.h|common/([a-z]+/)?[a-z_]+\.(h|cuh))"' |
        sed 's/$/   (a trainer includes only ponder.cuh and common\/)/'
    # (Tokenizer files and patterns are named after the model that brought them up, so their readers may say gpt2.)
    strip 1 $(files '^common/.*\.(c|h|cuh)$') | sed -E 's/PONDER_[A-Z0-9_]+//g; s/ponder\.c([^u]|$)/\1/g; /^common\/files\/(tokenizer|tokenizer_json|words)\.h:/s/gpt2|llama//Ig' |
        grep -iE '^[^:]*:[0-9]*:.*(ponder|neox|llama|gpt2|pythia)' |
        sed 's/$/   (common\/ knows no architecture and no pondering)/'
    # Configuration [1], the tensor table [2] and main [8] wire a trainer up; layers and passes know nothing.
    for f in $trainers; do
        awk -v file="$f" '/^\/\/ \[[0-8]\] / { s = substr($2, 2, 1) + 0 } { print s }' "$f" >"$tmp/section"
        strip 1 "$f" | while IFS=: read -r name number rest; do printf '%s:%s:%s\n' "$name" "$number" "$rest"; done |
            awk -F: 'NR == FNR { section[FNR] = $0; next } section[$2] >= 3 && section[$2] <= 7 && tolower($0) ~ /:[0-9]+:.*ponder/ {
                print $0 "   (layers and passes of a trainer know nothing of pondering)" }' "$tmp/section" -
    done
    [ -f ponder.cuh ] && strip 0 ponder.cuh | grep -E '(attention|layernorm|rmsnorm|rotary|gelu|silu|swiglu|mlp)_(forward|backward)' | sed 's/$/   (ponder.cuh knows nothing of layers)/'
} 2>/dev/null | check "includes go one way; common/ and layers know no pondering, ponder.cuh no layers"

# ---- (f) the same bits everywhere ----

{
    files '(^|/)(Makefile|run)$|\.(c|h|cu|cuh|mk)$' | xargs grep -nE -e '-f(ast-math|unsafe-math-optimizations|finite-math-only|associative-math|reciprocal-math|no-signed-zeros)|-Ofast|--use_fast_math|float_control|fp contract' |
        sed 's/$/   (fast math)/'
    [ ! -f Makefile ] || grep -q -e '-ffp-contract=off' Makefile || echo "Makefile: compiles without -ffp-contract=off"
    strip 0 $code | grep -E '#[ \t]*pragma[ \t]+omp.*(reduction|atomic)' | sed 's/$/   (the order of such sums is not fixed)/'
    # The C half: everything but CUDA sources and regions. Tests, tools and plots may call libm.
    for f in $trainers $(files '^(ponder\.cuh|common/.*\.h)$'); do
        strip 0 "$f" | awk '
            { text = $0; sub(/^[^:]*:[0-9]+:/, "", text) }
            text ~ /^[ \t]*#[ \t]*if/ { depth++; if (!gpu && text ~ /[^A-Za-z0-9_!]GPU([^A-Za-z0-9_]|$)/) gpu = depth }
            text ~ /^[ \t]*#[ \t]*(else|elif)/ && gpu == depth { gpu = 0 }
            text ~ /^[ \t]*#[ \t]*endif/ { if (gpu == depth) gpu = 0; depth-- }
            !gpu' | grep -E '(^|[^A-Za-z0-9_])(exp|exp2|exp10|expm1|log|log2|log10|log1p|pow|sin|cos|tan|sincos|sinh|cosh|tanh|asin|acos|atan|atan2|erf|erfc|cbrt|hypot|tgamma|lgamma)[fl]?[ \t]*\(' |
            grep -v 'sizeof(real) == sizeof(float) ?' | # chooses between our function and, in a double build, libm's
            sed 's/$/   (libm rounds as it likes: use common\/mathfun.h)/'
    done
    strip 0 $trainers $headers | grep -E '(^|[^A-Za-z0-9_])(rand|srand|random|drand48)[ \t]*\(' | sed 's/$/   (use common\/random.h)/'
} 2>/dev/null | check "no fast math, no OpenMP reductions, no libm in the C half"

# ---- (g) lengths ----

for f in $code $(files '\.(sh|py)$'); do
    n=$(wc -l <"$f")
    [ "$n" -le 1500 ] || echo "$f: $n lines; nothing is longer than 1,500"
    guide=1500
    case $f in
    train_*) guide=800 ;;
    ponder.cuh) guide=1200 ;;
    common/attention.cuh) guide=1300 ;;
    common/*) guide=700 ;;
    esac
    [ "$n" -le $guide ] || [ "$n" -gt 1500 ] || note "$f: $n lines, over the guide of $guide" >&2
done 2>"$tmp/notes" | check "no file longer than 1,500 lines"
cat "$tmp/notes"

# ---- (h) layout ----

if command -v clang-format >/dev/null 2>&1; then
    version=$(clang-format --version | sed -E 's/.*version ([0-9]+).*/\1/')
    # shellcheck disable=SC2086
    for f in $code; do
        clang-format --style=file "$f" | cmp -s - "$f" || echo "$f: clang-format -i $f"
    done >"$tmp/layout"
    # Versions differ in details; 14 is the one that .clang-format was written with.
    if [ "$version" = 14 ]; then
        check "layout as .clang-format has it" <"$tmp/layout"
    else
        note "clang-format $version: $(wc -l <"$tmp/layout" | tr -d ' ') files differ; only version 14 decides"
    fi
else
    note "no clang-format here: layout not checked"
fi

# ---- (i) characters and words ----

words="TO""DO|FIX""ME|XX""X"
{
    printf '%s\n' $texts | grep -v '^dev/fixtures/' | tr '\n' '\0' | xargs -0 grep -nE '[ 	]+$' /dev/null | sed 's/$/<-   (trailing blank)/'
    printf '%s\n' $texts | grep -Ev '(^|/)Makefile$' | tr '\n' '\0' | xargs -0 grep -n '	' /dev/null | sed 's/$/   (a tab)/' | grep -v '^dev/lint.sh:'
    printf '%s\n' $code | tr '\n' '\0' | xargs -0 grep -n '[^ -~	]' /dev/null | sed 's/$/   (not ASCII)/'
    printf '%s\n' $texts | tr '\n' '\0' | xargs -0 grep -nE "(^|[^A-Za-z0-9_])($words)([^A-Za-z0-9_]|\$)" /dev/null | sed 's/$/   (finish it or leave it out)/'
    printf '%s\n' $texts | while IFS= read -r f; do [ -s "$f" ] && [ -n "$(tail -c 1 "$f")" ] && echo "$f: no newline at its end"; done
} | check "no trailing blanks, tabs, odd characters or unfinished notes"

# ---- (j) the README names what is there ----

if [ -f README.md ]; then
    {
        # Built plainly here, so that the check needs nothing from build/ and sees the current sources.
        cc=${CC:-cc}
        : >"$tmp/help"
        for f in $trainers $(files '^(data/(bytes|tokens)|common/run/compare)\.c$'); do
            if $cc -x c -std=gnu11 -O0 -w -I"$B/include" -o "$tmp/program" "$f" -lm >"$tmp/log" 2>&1; then
                "$tmp/program" --help </dev/null >>"$tmp/help" 2>&1 || echo "$f: --help fails"
            else
                head -n 5 "$tmp/log"
                echo "$f: does not compile, so its options are unknown"
            fi
        done
        # Options of the GPU programs alone, which take too long to build here: from their table.
        sed -nE 's/^ *\{"(GPU|ranks|look)", "([a-z-]+)".*/--\2/p' ponder.cuh common/run/train_options.h common/run/launch.h >>"$tmp/help"
        # A line that begins with a launcher has options of that one.
        grep -vE '^(torchrun|sbatch) ' README.md | grep -oE '(^|[^A-Za-z0-9_-])--[a-z][a-z0-9-]*' | sed -E 's/^[^-]//' | sort -u | while IFS= read -r option; do
            grep -qE -e "(^|[^A-Za-z0-9_-])$option([^A-Za-z0-9_-]|\$)" "$tmp/help" || echo "README.md: $option is in the --help of no program"
        done
        # `make TARGET` in code, inline or in a block.
        { grep -oE '`make( [^`]*)?`' README.md | tr -d '`'; awk '/^```/ { inside = !inside; next } inside && /^(\$ )?make( |$)/' README.md; } |
            sed -E 's/^\$ //; s/[#;&|].*//; s/^make//' | tr ' ' '\n' | grep -E '^[a-z][A-Za-z0-9_/.-]*$' | sort -u >"$tmp/targets"
        # -n runs nothing; its complaints name the missing rules.
        make -n -k $(cat "$tmp/targets") </dev/null 2>&1 >/dev/null | grep -E 'No rule to make target' | sed 's/^/README.md: /'
    } | check "options and make targets of the README exist"
fi

# ---- (k) the map of common/ ----

for f in $(files '^common/.*\.(c|h|cuh)$'); do
    grep -qF "](${f#common/})" common/README.md || echo "common/README.md: ${f#common/} is not on the map"
done | check "common/README.md has every file of common/"

# ---- (l) siblings: trainers differ where architectures do ----

# The functions of a trainer in their order, as SECTION NAME MARK, the trainer's own name written as X; the text of those
# in its C half that are not named after it, its layers, goes to $tmp/layers/NAME/FILE. MARK is "differs" where the
# comment above a function says `differs: why`, else "same".
functions() { # FILE OWN_NAME
    awk -v file="$1" -v own="$2_" -v dir="$tmp/layers" '
        /^\/\/ \[[0-8]\] / { section = substr($2, 2, 1) + 0 }
        /^\/\// { if ($0 ~ /differs: *[^ ]/) mark = "differs"; next }
        !inside && /^static [^=;{]*[ *][a-z_0-9]+\(/ && !/\);$/ {
            name = $0
            sub(/\(.*/, "", name); sub(/.*[ *]/, "", name)
            shown = name
            if (index(name, own) == 1) shown = "X_" substr(name, length(own) + 1)
            print section, shown, mark == "" ? "same" : mark
            layer = section <= 5 && shown == name
            if (layer) system("mkdir -p " dir "/" name)
            inside = 1
        }
        inside && layer { print > (dir "/" name "/" file) }
        inside && /\}$/ && ($0 ~ /^\}/ || $0 ~ /^static/) { inside = 0; if (layer) close(dir "/" name "/" file) }
        !/^[ \t]*#/ { mark = "" }' "$1"
}
mkdir "$tmp/layers" "$tmp/functions"
for f in $trainers; do
    name=${f#train_}
    functions "$f" "${name%.cu}" >"$tmp/functions/$f"
done
for dir in "$tmp"/layers/*/; do
    [ -d "$dir" ] || continue
    name=$(basename "$dir")
    grep -qE "^[0-9]+ $name differs\$" "$tmp"/functions/* && continue
    first=
    for copy in "$dir"*; do
        if [ -z "$first" ]; then first=$copy; continue; fi
        diff "$first" "$copy" >"$tmp/diff" || {
            echo "$name() is not the same in $(basename "$first") and $(basename "$copy"), and the comment above it says no \"differs: why\":"
            head -n 8 "$tmp/diff"
        }
    done
done | check "C layers of one name are equal, or say why they differ ($(ls "$tmp/layers" | wc -l | tr -d ' ') layers)"

# Of any two trainers, the functions that both have come in the same order and sections: a diff then shows architecture.
for f in $trainers; do
    for other in $trainers; do
        [ "$f" \< "$other" ] || continue
        for side in "$f" "$other"; do
            counterpart=$f
            [ "$side" != "$f" ] || counterpart=$other
            awk 'NR == FNR { there[$2] = 1; next } $2 in there { print $1, $2 }' "$tmp/functions/$counterpart" \
                "$tmp/functions/$side" >"$tmp/order.$side"
        done
        diff "$tmp/order.$f" "$tmp/order.$other" >"$tmp/diff" || {
            echo "$f and $other have the functions that both have (X: their own name) in another order or section:"
            grep '^[<>]' "$tmp/diff" | head -n 8
        }
    done
done | check "functions of the trainers are in the same order"

# ---- (m) what the watchdog of several ranks calls ----

# Whatever the main thread hangs in, and whatever lock it holds: system calls, and functions of memory and texts that take
# no lock. Everything that can be reached from its two threads, in these files, is looked at.
strip 0 common/base.h common/run/launch.h common/run/meeting.h common/run/watch.h | awk '
    BEGIN {
        n = split("send recv poll read write shutdown close clock_gettime getppid _exit " \
                  "strlen strcmp strncmp strchr memcpy memmove memset " \
                  "if for while switch return sizeof void defined WATCH_GET WATCH_SET", list, " ")
        for (i = 1; i <= n; i++) allowed[list[i]] = 1
    }
    {
        text = $0; sub(/^[^:]*:[0-9]+:/, "", text)
        if (text ~ /^[ \t]*#/) next
        if (!depth) {
            head = head " " text
            if (text !~ /[{;]/) next
            sub(/\{.*/, "", head); gsub(/__attribute__ *\(\([^()]*(\([^()]*\))?[^()]*\)\)/, "", head)
            name = ""
            if (head ~ /^ *[A-Za-z].*[ *]+[a-z_0-9]+\(/ && head !~ /[=;]/) { name = head; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
            head = ""
            if (name) { known[name] = 1; sub(/^[^{]*/, "", text) }
        }
        depth += gsub(/\{/, "{", text) - gsub(/\}/, "}", text)
        while (match(text, /[A-Za-z_][A-Za-z0-9_]* *\(/)) {
            call = substr(text, RSTART, RLENGTH - 1); sub(/ *$/, "", call)
            if (name) calls[name] = calls[name] " " call
            text = substr(text, RSTART + RLENGTH)
        }
    }
    function reach(name, from, list, n, i) {
        if (name in seen) return
        seen[name] = 1
        n = split(calls[name], list, " ")
        for (i = 1; i <= n; i++) {
            if (list[i] in known) { reach(list[i], from " > " list[i]); continue }
            if (list[i] in allowed || list[i] ~ /^__atomic_/) continue
            if (name == "watch_abort_main" && list[i] == "end") { ends++; continue } # ranks.abort, for which it is there
            print from " calls " list[i] "()"
        }
    }
    END {
        reach("watch_main", "watch_main"); reach("watch_abort_main", "watch_abort_main")
        if (ends != 1) print "watch_abort_main: no call of ranks.abort was found"
        for (n in seen) count++
        if (count < 20) print "only " count " functions were found"
    }' | check "the threads of the watchdog call nothing that takes a lock"

if [ -s "$tmp/failed" ]; then
    printf '\nlint: %d checks failed\n' "$(wc -l <"$tmp/failed")"
    exit 1
fi
printf '\nlint: all checks passed\n'
