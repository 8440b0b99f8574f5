#!/bin/bash
# gpu_check.sh - what only a machine with a GPU can say, in one command and at most ten minutes (or N),
# building not counted.
#
#     dev/gpu_check.sh [--emulator] [--minutes N] [--build] [PART]...
#
# Parts, all of them if none is named:
#     tests      every kernel and the whole model against the CPU, bf16 and fp32; the training curve in bf16
#     compare    the trainers' own --compare-cpu on small models, bf16 and fp32
#     kernels    dev/bench_gpu.cu: every kernel beside P, C, the ledger and the goals
#     steps      dev/bench_step.cu: whole steps, beside P and the ledger
#     torch      dev/bench_torch.py: the same steps in PyTorch, where it is installed with CUDA
#     sanitize   compute-sanitizer's memcheck, racecheck, initcheck and synccheck on small cases
# A table comes last. The exit status is 1 if a part failed; a benchmark fails only when it cannot run.
# Each part has a limit of its own; what there is no time for is said.
#
# Programs are taken from build/ (B=), so no compiler is needed where they were built elsewhere; what is
# missing is made, and with --build everything is made anew that make thinks is old.
# --emulator does all of it on the CPU, shortened, with the programs of dev/emulate: a test of this script.
# Logs go to $OUT, or to build/gpu_check. PYTHON= names the Python that has PyTorch.
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
B=${B:-build}
OUT=${OUT:-$B/gpu_check}
minutes=10 emulator= build= parts=
while [ $# -gt 0 ]; do
    case $1 in
    --emulator) emulator=1 ;;
    --build) build=1 ;;
    --minutes)
        minutes=$2
        shift
        ;;
    tests | compare | kernels | steps | torch | sanitize) parts="$parts $1" ;;
    *)
        sed -n '2,/^cd /p' "$0" | sed '$d; s/^# \{0,1\}//'
        [ "$1" = --help ] && exit 0
        echo "gpu_check: '$1' is none of these" >&2
        exit 1
        ;;
    esac
    shift
done
case $minutes in '' | *[!0-9]* | 0) echo "gpu_check: --minutes '$minutes': expected a whole number above 0" >&2; exit 1 ;; esac
parts=${parts:-tests compare kernels steps sanitize torch}
mkdir -p "$OUT" && : >"$OUT/summary.txt" || { echo "gpu_check: $OUT cannot be written; name another directory with OUT=" >&2; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
deadline=$((SECONDS + 60 * minutes))
wanted() { case " $parts " in *" $1 "*) return 0 ;; esac; return 1; }

# ---- where everything is ----

if [ -n "$emulator" ]; then
    tests=$B/emu trainers=emu benchmarks=$B/emu/bench built=
    export OMP_WAIT_POLICY=passive
else
    tests=$B trainers=cuda benchmarks=$B/bench built=_cuda
    if ! { nvidia-smi -L 2>/dev/null | grep -q GPU || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]; }; then
        echo "gpu_check: no GPU here (nvidia-smi lists none and there is no /dev/nvidia0): nothing was checked" >&2
        echo "gpu_check: dev/gpu_check.sh --emulator runs the same on the CPU, shortened" >&2
        exit 1
    fi
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.limit --format=csv,noheader 2>/dev/null
fi
# The list of architectures, and the micro model of each, are the Makefile's.
architectures=$(sed -n 's/^ARCHITECTURES = //p' Makefile)
programs="gpu_matmul gpu_layers gpu_attention gpu_ponder"
for a in $architectures; do programs="$programs gpu_$a"; done
whole() { case " $architectures " in *" ${1#gpu_} "*) return 0 ;; esac; return 1; } # a test program of a whole model

# ---- one part ----

rows=$work/rows
: >"$rows"
row() { # PART VERDICT SECONDS FIGURE
    printf '%-26s %-8s %6s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$rows"
}
now() { date +%s; }

# part NAME LIMIT COMMAND...: runs it into its log. Sets status (0, its exit status, or "time"), seconds and
# log; returns 1 if there was no time to begin.
part() {
    local name=$1 limit=$2 left=$((deadline - SECONDS)) start
    shift 2
    log=$OUT/$name.log
    if [ "$left" -lt 3 ]; then
        row "$name" "left out" - "no time was left"
        return 1
    fi
    [ "$limit" -le "$left" ] || limit=$left
    start=$(now)
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(($(now) - start))
    { [ $status = 124 ] || [ $status = 137 ]; } && status=time
    return 0
}
verdict() { # of a part whose exit status says whether it is right
    case $status in
    0) echo ok ;;
    *) echo FAIL ;;
    esac
}
why() { # FIGURE: what to say of a part, or how it ended
    case $status in
    0) echo "$1" ;;
    time) echo "did not end in $seconds s: $log" ;;
    *) echo "${1:+$1; }exit status $status: $log" ;;
    esac
}
show() { # after a failure, what the log says of it: the lines that name one, and its end
    [ "$status" = 0 ] || { grep -E 'FAIL|DIFFERS' "$log" | head -n 12; tail -n 6 "$log"; } | sed 's/^/    | /'
}
field() { # NAME: of the JSON line in the log, a number or a string
    sed -n "s/.*\"$1\": \"\{0,1\}\([^,\"}]*\).*/\1/p" "$log" | tail -n 1
}

# ---- build ----

needed=
if wanted tests || wanted sanitize; then
    for p in $programs; do needed="$needed $tests/$p $tests/${p}_fp32"; done
fi
if wanted tests && [ -z "$emulator" ]; then needed="$needed $B/bytes"; fi
kernels=${benchmarks}_gpu_${architectures%% *} # the kernels are the same for all
if wanted kernels; then needed="$needed $kernels"; fi
for a in $architectures; do
    if wanted tests || wanted compare || wanted sanitize; then
        needed="$needed $B/train_${a}_$trainers $B/train_${a}_${trainers}_fp32"
    fi
    if wanted steps; then needed="$needed ${benchmarks}_step_$a$built"; fi
done
missing=
for p in $needed; do [ -x "$p" ] || missing="$missing $p"; done
[ -z "$build" ] || missing=$needed
if [ -n "$missing" ]; then
    compiler=nvcc
    [ -z "$emulator" ] || compiler=g++
    if ! command -v make >/dev/null; then
        row build FAIL - "missing:$missing; there is no make here"
    elif ! command -v $compiler >/dev/null && [ ! -x /usr/local/cuda/bin/$compiler ]; then
        row build FAIL - "missing:$missing; there is no $compiler here: build them elsewhere and bring $B/"
    else
        echo "gpu_check: making$missing"
        # shellcheck disable=SC2086
        part build $((60 * minutes)) make -k B="$B" $missing && {
            row build "$(verdict)" "$seconds" "$(why "$(echo $missing | wc -w) programs")"
            show
        }
        deadline=$((SECONDS + 60 * minutes)) # the minutes are for what follows
    fi
fi
have() { # PART PROGRAM
    [ -x "$2" ] && return 0
    row "$1" FAIL - "there is no $2"
    return 1
}

# ---- tests ----

# Under the emulator one short test of each program.
short() {
    case $1 in
    gpu_matmul) echo test_choice_keys ;;
    gpu_layers) echo test_copies ;;
    gpu_attention) echo test_ledger ;;
    gpu_ponder) echo test_sort_tokens ;;
    *) echo test_ledger ;;
    esac
}
run_tests() {
    local p suffix result
    for p in $programs; do
        for suffix in "" _fp32; do
            have "$p$suffix" "$tests/$p$suffix" || continue
            # shellcheck disable=SC2046
            part "$p$suffix" $(whole "$p" && echo 180 || echo 90) "$tests/$p$suffix" $([ -n "$emulator" ] && short "$p") || continue
            result=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
            [ "$status" != 0 ] || [ -n "$result" ] || status="0, but without a result"
            row "$p$suffix" "$(verdict)" "$seconds" "$(why "$result")"
            show
            grep -E '^skip ' "$log" | sed 's/^/    | /'
        done
    done
}

# ---- GPU against CPU in one process ----

# A shard of bytes: 256 little-endian int32 of header, then uint16 tokens.
int32() { printf "\\$(printf %03o $(($1 & 255)))\\$(printf %03o $(($1 >> 8 & 255)))\\$(printf %03o $(($1 >> 16 & 255)))\\$(printf %03o $(($1 >> 24 & 255)))"; }
make_shard() {
    local count=4096 i x=12345
    int32 20240520 && int32 1 && int32 $count
    for ((i = 3; i < 256; i++)); do int32 0; done
    for ((i = 0; i < count; i++)); do
        x=$(((x * 1103515245 + 12345) & 2147483647))
        printf "\\$(printf %03o $((x >> 16 & 255)))\\000"
    done
}
shard=$work/bytes.bin
make_shard >"$shard"
common="--compare-cpu --train $shard --out $work/run"
# Heads of 64 and rows of logits that are no multiple of anything: the tensor cores' kernels, several tiles.
small="--vocab 5003 --layers 3 --width 256 --heads 4 --ponder 2 --batch 2 --seq 192"
micro_of() { echo "$common $(sed -n "s/^COMPARED_$1 = //p" Makefile) --batch 2 --seq 32"; }
run_compare() {
    local a suffix size
    for a in $architectures; do
        for suffix in _fp32 ""; do
            for size in micro small; do
                [ -z "$emulator" ] || [ $size = micro ] || continue
                have "compare_${a}_$size$suffix" "$B/train_${a}_$trainers$suffix" || continue
                # shellcheck disable=SC2046,SC2086
                part "compare_${a}_$size$suffix" 40 "$B/train_${a}_$trainers$suffix" $(micro_of $a) \
                    $([ $size = micro ] || echo $small) || continue
                row "compare_${a}_$size$suffix" "$(verdict)" "$seconds" "$(why "$(grep -E '[0-9]+ tensors' "$log" | tail -n 1)")"
                show
            done
        done
    done
}

# ---- benchmarks ----

run_kernels() {
    have kernels "$kernels" || return
    if [ -n "$emulator" ]; then
        part kernels 120 "$kernels" --quick attention layers || return
    else
        part kernels 130 "$kernels" --seconds 110 || return
    fi
    sed -n '1,2p; /^over all shapes/,$p' "$log" | grep -v '^{'
    row kernels "$(verdict)" "$seconds" "$(why "P $(field P_tflops) TFLOP/s, C $(field C_tb_per_s) TB/s, $(field left_out) rows left out")"
    show
}

# PRESET:S:SHARE, the share of P that is wanted: the Makefile's.
step_cases=
for a in $architectures; do step_cases="$step_cases $(sed -n "s/^GPU_STEPS_$a = //p" Makefile)"; done
tiny="--layers 1 --width 32 --heads 1 --vocab 257"
if [ -n "$emulator" ]; then
    set -- $step_cases
    step_cases="${1%%:*}:1:0"
fi
ours=$work/ours # MODEL S TOKENS/S MEMORY
: >"$ours"
run_steps() {
    local case model S must name steps
    for case in $step_cases; do
        IFS=: read -r model S must <<<"$case"
        steps=${benchmarks}_step_${model%%-*}$built # presets begin with their architecture's name
        have steps "$steps" || continue
        name="step_${model}_s$S"
        if [ -n "$emulator" ]; then
            # shellcheck disable=SC2086
            part "$name" 60 "$steps" "$model" "$S" 1 16 --quick --steps 1 $tiny || continue
        else
            part "$name" 60 "$steps" "$model" "$S" 8 2048 || continue
        fi
        [ "$status" != 0 ] || echo "$model $S $(field tokens_per_s) $(field peak_memory_gb)" >>"$ours"
        row "$name" "$(verdict)" "$seconds" "$(why "$(field ms) ms, $(field tokens_per_s) tokens/s, $(field share_of_P) of P (must $must), limit $(field limit_ms) ms, $(field peak_memory_gb) GB")"
        show
    done
}

run_torch() {
    local python= p case model S must name speed memory figure
    for p in $PYTHON $B/venv/bin/python python3; do
        if [ -z "$python" ] && command -v "$p" >/dev/null && "$p" -c 'import torch' 2>/dev/null; then python=$p; fi
    done
    if [ -z "$python" ]; then
        row torch skip - "no Python here has PyTorch (dev/setup_venv.sh, or PYTHON=)"
        return
    fi
    for case in $step_cases; do
        IFS=: read -r model S must <<<"$case"
        name="torch_${model}_s$S"
        case $model in *-1.4b) continue ;; esac # compiling and running it takes what is left of the time
        if [ -n "$emulator" ]; then
            # shellcheck disable=SC2086
            part "$name" 90 "$python" -B dev/bench_torch.py --model "$model" --ponder "$S" --batch 1 --seq 16 --steps 1 --compile none $tiny || continue
        else
            part "$name" 90 "$python" -B dev/bench_torch.py --device cuda --model "$model" --ponder "$S" --batch 8 --seq 2048 --steps 10 || continue
        fi
        if [ "$status" = 0 ] && ! grep -q '^{' "$log"; then
            row "$name" skip "$seconds" "$(tail -n 1 "$log")"
            return
        fi
        figure="$(field ms) ms, $(field tokens_per_s) tokens/s, $(field peak_memory_gb) GB (torch $(field torch), micro-batch $(field micro_batch))"
        read -r speed memory <<<"$(awk -v m="$model" -v s="$S" -v t="$(field tokens_per_s)" -v g="$(field peak_memory_gb)" \
            '$1 == m && $2 == s && t > 0 && g > 0 { printf "%.2f %.2f", $3 / t, $4 / g }' "$ours")"
        [ -z "$speed" ] || figure="$figure: ours $speed x as fast, $memory x the memory"
        # PyTorch is only there to compare with: what it cannot do is no failure of ours.
        case $status in
        0) row "$name" ok "$seconds" "$figure" ;;
        *) row "$name" skip "$seconds" "$(why "")" ;;
        esac
    done
}

# ---- compute-sanitizer ----

run_sanitize() {
    local sanitizer tool what name
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -n "$emulator" ]; then
        row sanitize skip - "the emulator's own checks stand for compute-sanitizer (make test-emu)"
        return
    fi
    if [ -z "$sanitizer" ]; then
        row sanitize skip - "there is no compute-sanitizer here: it comes with the CUDA Toolkit"
        return
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        for what in "gpu_layers test_norm_backward" "gpu_attention test_same_bits" "gpu_ponder test_softmax_rows" $architectures; do
            name=${tool}_${what%% *}
            if [ "$what" = "${what% *}" ]; then
                have "$name" "$B/train_${what}_cuda" || continue
                # shellcheck disable=SC2046,SC2086
                part "$name" 30 "$sanitizer" --tool $tool --error-exitcode 99 "$B/train_${what}_cuda" $(micro_of $what) || continue
            else
                have "$name" "$tests/${what%% *}" || continue
                # shellcheck disable=SC2086
                part "$name" 20 "$sanitizer" --tool $tool --error-exitcode 99 "$tests"/$what || continue
            fi
            # A tool can be a hundred times slower than the program: not to end in time is no error found.
            if [ "$status" = time ] && ! grep -q 'ERROR SUMMARY: [1-9]' "$log"; then
                row "$name" "left out" "$seconds" "not done after $seconds s"
            elif [ "$status" != 0 ] && ! grep -q 'SUMMARY' "$log" && grep -qiE 'not supported|unable to|failed to (init|attach|inject)' "$log"; then
                row "$name" skip "$seconds" "compute-sanitizer does not work here: $log"
                break 2
            else
                row "$name" "$(verdict)" "$seconds" "$(why "$(grep -E 'SUMMARY' "$log" | tail -n 1 | sed 's/^=* *//')")"
                show
            fi
        done
    done
}

for p in tests compare kernels steps sanitize torch; do
    wanted $p || continue
    echo "---- $p"
    run_$p
done

# ---- the table ----

failed=$(awk '{ if (substr($0, 28, 4) == "FAIL") n++ } END { print n + 0 }' "$rows")
out=$(awk '{ if (substr($0, 28, 8) == "left out") n++ } END { print n + 0 }' "$rows")
skipped=$(awk '{ if (substr($0, 28, 4) == "skip") n++ } END { print n + 0 }' "$rows")
{
    printf '\n%-26s %-8s %6s  %s\n' part verdict s "key figure"
    cat "$rows"
    printf '%d parts failed, %d left out for time, %d skipped; %d s; logs in %s\n' "$failed" "$out" "$skipped" "$SECONDS" "$OUT"
} | tee "$OUT/summary.txt"
[ "$failed" = 0 ]
