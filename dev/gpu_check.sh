#!/bin/bash
# gpu_check.sh - what only a machine with a GPU can say, in one command and at most ten minutes (or N),
# building not counted.
#
#     dev/gpu_check.sh [--emulator] [--minutes N] [--build] [PART]...
#
# Parts, all of them if none is named:
#     tests      every kernel and the whole model against the CPU, bf16 and fp32; the training curve in bf16
#     compare    the trainers' own --compare-cpu on small models, bf16 and fp32
#     sizes      the same at real sizes: rows of 2,048, a vocabulary of 50,304, heads of 64 and 128, several blocks of logits
#     runs       two runs of a model with S = 3, one of them stopped and resumed: the same bits; memory planned and taken;
#                what a sample, a checkpoint and a resume take
#     ranks      NCCL by itself; 2 and 4 ranks on the one GPU, with NCCL's stand-in preloaded, beside one rank
#     kernels    dev/bench_gpu.cu: every kernel beside P, C, the ledger and the goals
#     steps      dev/bench_step.cu: whole steps, beside P and the ledger
#     batches    one of them with 1 to 32 rows at a time
#     profile    one of them, kernel by kernel
#     ptx        a test whose kernels the driver compiles from PTX, as on a GPU that is newer than the toolkit
#     torch      dev/bench_torch.py: the same steps in PyTorch, where it is installed with CUDA
#     sanitize   compute-sanitizer's memcheck, racecheck, initcheck and synccheck on small cases; what it finds in
#                cuBLAS's own kernels is said and is no failure of ours
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
    tests | compare | sizes | runs | ranks | kernels | steps | batches | profile | ptx | torch | sanitize) parts="$parts $1" ;;
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
order="tests compare sizes runs ranks kernels steps batches profile ptx sanitize torch"
parts=${parts:-$order}
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
# The list of architectures, and the micro model of each, are the Makefile's. What takes long and is the same for all
# is done with the first.
architectures=$(sed -n 's/^ARCHITECTURES = //p' Makefile)
first=${architectures%% *}
programs="gpu_matmul gpu_layers gpu_attention gpu_ponder gpu_sampling"
for a in $architectures; do programs="$programs gpu_$a"; done
whole() { case " $architectures " in *" ${1#gpu_} "*) return 0 ;; esac; return 1; } # a test program of a whole model

# ---- one part ----

table=$work/table
: >"$table"
row() { # PART VERDICT SECONDS FIGURE
    printf '%-26s %-8s %6s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
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
    cut=
    [ "$limit" -le "$left" ] || limit=$left cut=1 # then not to end in time is no failure
    start=$(now)
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(($(now) - start))
    { [ $status = 124 ] || [ $status = 137 ]; } && status=time
    return 0
}
# 1 if the part says that this card has no room for it.
too_large() { [ "$status" != 0 ] && grep -qE '^error: GPU (memory|out of memory)' "$log"; }
verdict() { # of a part whose exit status says whether it is right
    case $status in
    0) echo ok ;;
    time) [ -n "$cut" ] && echo "left out" || echo FAIL ;;
    *) too_large && echo skip || echo FAIL ;;
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
    case $(verdict) in
    FAIL) { grep -E 'FAIL|DIFFERS' "$log" | head -n 12; tail -n 6 "$log"; } | sed 's/^/    | /' ;;
    skip) grep -m 1 '^error: GPU' "$log" | sed 's/^/    | /' ;;
    esac
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
kernels=${benchmarks}_gpu # the kernels are the same for all
if wanted kernels; then needed="$needed $kernels"; fi
ptx=$tests/gpu_attention_ptx # the whole program is compute_80 PTX
[ -z "$emulator" ] || ptx=$tests/gpu_attention
if wanted ptx; then needed="$needed $ptx"; fi
for a in $architectures; do
    if wanted tests || wanted compare || wanted sizes || wanted runs || wanted ranks || wanted sanitize; then
        needed="$needed $B/train_${a}_$trainers $B/train_${a}_${trainers}_fp32"
    fi
    if wanted steps || wanted batches || wanted profile; then needed="$needed ${benchmarks}_step_$a$built"; fi
done
if wanted ranks && [ -z "$emulator" ]; then needed="$needed $B/nccl_api $B/stand_in/libnccl.so.2"; fi
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
        deadline=$((SECONDS + 3600)) # the minutes are for what follows
        part build 3600 make -k B="$B" $missing && {
            row build "$(verdict)" "$seconds" "$(why "$(echo $missing | wc -w) programs")"
            show
        }
        deadline=$((SECONDS + 60 * minutes))
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
            part "$p$suffix" $(whole "$p" && echo 360 || echo 180) "$tests/$p$suffix" $([ -n "$emulator" ] && short "$p") || continue
            result=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
            [ "$status" != 0 ] || [ -n "$result" ] || status="0, but without a result"
            row "$p$suffix" "$(verdict)" "$seconds" "$(why "$result")"
            show
            grep -E '^skip ' "$log" | sed 's/^/    | /'
        done
    done
}

# ---- GPU against CPU in one process ----

# A shard of COUNT tokens below V, the small ones more probable, as in text: 256 little-endian int32 of header, then
# uint16 tokens.
make_shard() { # COUNT V
    printf '%b' "$(awk -v count="$1" -v V="$2" '
        function byte(x) { printf "\\0%o", x % 256 }
        function int32(x, i) { for (i = 0; i < 4; i++) { byte(x); x = int(x / 256) } }
        BEGIN {
            int32(20240520); int32(1); int32(count)
            for (i = 3; i < 256; i++) int32(0)
            for (x = 12345; i < 256 + count; i++) {
                x = x * 16807 % 2147483647
                token = int(exp(x / 2147483647 * log(V + 1))) - 1
                byte(token); byte(int(token / 256))
            }
        }')"
}
shard=$work/bytes.bin
make_shard 4096 256 >"$shard"
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
                part "compare_${a}_$size$suffix" 80 "$B/train_${a}_$trainers$suffix" $(micro_of $a) \
                    $([ $size = micro ] || echo $small) || continue
                row "compare_${a}_$size$suffix" "$(verdict)" "$seconds" "$(why "$(grep -E '[0-9]+ tensors' "$log" | tail -n 1)")"
                show
            done
        done
    done
}

# ---- real sizes ----

# What a micro model cannot show: offsets beyond 2^31, whole vocabularies, more logits than a block of a gigabyte holds.
size_of() { # CASE
    if [ -n "$emulator" ]; then
        echo "--vocab 300 --layers 1 --width 64 --heads 1 --ponder 1 --batch 1 --seq 24"
        return
    fi
    case $1 in
    heads64) echo "--vocab 50304 --layers 2 --width 256 --heads 4 --ponder 1 --batch 1 --seq 2048" ;;
    heads128) echo "--vocab 50304 --layers 2 --width 256 --heads 2 --ponder 1 --batch 1 --seq 2048" ;;
    blocks) echo "--vocab 50304 --layers 1 --width 128 --heads 2 --ponder 1 --batch 8 --seq 2048" ;;
    esac
}
text=$work/text.bin # 16,385 tokens of the smallest of the presets' vocabularies: one micro-batch of eight rows
if wanted sizes || wanted runs; then make_shard 16385 $([ -n "$emulator" ] && echo 257 || echo 50257) >"$text"; fi
run_sizes() {
    local a case suffix
    for a in $architectures; do
        for case in heads64 heads128 blocks; do
            [ $case = heads64 ] || [ $a = $first ] || continue
            for suffix in "" _fp32; do
                [ -z "$emulator" ] || [ $case$suffix = heads64 ] || continue
                have "size_${a}_$case$suffix" "$B/train_${a}_$trainers$suffix" || continue
                # shellcheck disable=SC2046
                part "size_${a}_$case$suffix" 120 "$B/train_${a}_$trainers$suffix" $(micro_of $a) --train "$text" \
                    $(size_of $case) || continue
                row "size_${a}_$case$suffix" "$(verdict)" "$seconds" "$(why "$(grep -E '[0-9]+ tensors' "$log" | tail -n 1)")"
                show
            done
        done
    done
}

# ---- two runs ----

# Runs a command and puts the time before each line of its output, and before the first a line "started".
stamped() {
    printf '%s started\n' "${EPOCHREALTIME:-$(date +%s.%N)}" # bash before 5 has no such variable
    "$@" 2>&1 | while IFS= read -r line; do printf '%s %s\n' "${EPOCHREALTIME:-$(date +%s.%N)}" "$line"; done
    return "${PIPESTATUS[0]}"
}
export -f stamped
# Seconds, of a stamped log, from the first line that matches FROM to the first after it that matches TO.
between() { # FROM TO
    awk -v from="$1" -v to="$2" 'begun && $0 ~ to { printf "%.3f", $1 - start; exit }
        !begun && $0 ~ from { begun = 1; start = $1 }' "$log"
}
run_runs() {
    local a model S must batch T case run options steps=4 saved same what
    for case in $mid_cases; do
        read_case "$case"
        a=${model%%-*}
        have "runs_$a" "$B/train_${a}_$trainers" || continue
        options="--model $model --ponder $S --train $text --steps $steps --save-every 2"
        if [ -n "$emulator" ]; then
            options="$options $tiny --seq 16 --batch 1 --sample-tokens 2"
        else
            options="$options --seq $T --batch $batch --sample-tokens 64"
        fi
        run="$B/train_${a}_$trainers"
        # shellcheck disable=SC2086
        part "run_${a}_whole" 120 bash -c 'stamped "$@"' _ "$run" $options --out "$work/whole" || continue
        saved=$(between 'step 2 of' 'step 3 of')
        what="step $(between 'step 1 of' 'step 2 of') s, with a checkpoint $saved s; sample of $([ -n "$emulator" ] && echo 2 || echo 64) tokens and checkpoint $(between "step $steps of" 'sample after') s"
        row "run_${a}_whole" "$(verdict)" "$seconds" "$(why "$what")"
        show
        [ "$status" = 0 ] || continue
        # Planned, taken and, by the driver, in use: the last has the driver's own and what others use.
        what=$(sed -n 's/^[0-9.]* GPU memory *\([0-9.]*\) MB taken, \([0-9.]*\) MB planned, \([0-9.]*\) of \([0-9.]*\) MB free.*/\1 \2 \3 \4/p' "$log")
        # shellcheck disable=SC2086
        set -- $what
        if [ $# = 4 ]; then
            what="planned $2 MB, taken $1 MB, in use on the card $(awk -v a="$4" -v f="$3" 'BEGIN { print a - f }') of $4 MB"
            row "memory_$a" "$(awk -v t="$1" -v p="$2" 'BEGIN { d = t - p; print d * d <= 1 ? "ok" : "FAIL" }')" - "$what"
        else
            row "memory_$a" FAIL - "the run does not say what it takes: $log"
        fi
        # shellcheck disable=SC2086
        part "run_${a}_stopped" 120 "$run" $options --out "$work/parts" --max-minutes 0.0000001 || continue
        row "run_${a}_stopped" "$(verdict)" "$seconds" "$(why "$(grep -E '^stopped by' "$log" | cut -c1-60)")"
        show
        # shellcheck disable=SC2086
        part "run_${a}_resumed" 120 bash -c 'stamped "$@"' _ "$run" $options --out "$work/parts" --resume || continue
        same=yes
        for f in model.safetensors optimizer.safetensors; do
            cmp "$work"/{whole,parts}/step_0000000$steps/$f >>"$log" 2>&1 || same=no
        done
        [ "$status" != 0 ] || [ $same = yes ] || status="0, but with other bits than the whole run"
        row "run_${a}_resumed" "$(verdict)" "$seconds" "$(why "the same bits: $same; from its start to the end of step 2 $(between started 'step 2 of') s")"
        show
        rm -rf "$work/whole" "$work/parts"
    done
}

# ---- ranks on one GPU ----

# Ranks that share a GPU are not NCCL's: its stand-in moves their numbers through the host, in order of the stream.
ranked() { # NAME PROGRAM RANKS OPTION...: a run of eight rows a step into $work/NAME
    local share=
    [ -n "$emulator" ] && share="EMULATE_DEVICES=4" || share="PONDER_RANKS_SHARE_GPU=1 LD_PRELOAD=$B/stand_in/libnccl.so.2"
    [ "$3" != 1 ] || share=
    # shellcheck disable=SC2046,SC2086
    part "$1" 60 env $share "$2" $(sed -n "s/^COMPARED_$first = //p" Makefile) --train "$shard" --out "$work/$1" --steps 4 --batch 2 --seq 32 \
        $([ -z "$emulator" ] || echo "--layers 1 --width 16 --ponder 1") --total-batch 256 --warmup-steps 0 --save-every 2 --sample-tokens 0 $([ "$3" = 1 ] || echo "--gpus $3") "${@:4}"
}
losses() { sed -n 's/.*"loss": \([^,}]*\).*/\1/p' "$work/$1/metrics.jsonl" 2>/dev/null; }
run_ranks() {
    local count suffix name program same what file
    if [ -z "$emulator" ] && have nccl "$B/nccl_api"; then
        part nccl 60 "$B/nccl_api" --gpu && { row nccl "$(verdict)" "$seconds" "$(why "$(tail -n 1 "$log")")"; show; }
    fi
    for suffix in _fp32 ""; do
        [ -z "$emulator" ] || [ -n "$suffix" ] || continue
        program=$B/train_${first}_$trainers$suffix
        have "ranks$suffix" "$program" || continue
        for count in 1 2 4 2; do
            name=ranks_$count$suffix
            [ ! -e "$work/$name" ] || name=ranks_${count}_again$suffix
            ranked "$name" "$program" $count || continue
            what="$(grep -oE 'weights of all [0-9]* ranks have hash.*' "$log" | tail -n 1)"
            if [ "$status" = 0 ] && [ $count != 1 ]; then
                [ -n "$what" ] || status="0, but the ranks' weights were not compared"
                # In bf16 a product of other rows rounds elsewhere.
                paste <(losses "ranks_1$suffix") <(losses "$name") | awk -v most="${suffix:+1e-5}" '
                    BEGIN { if (most == "") most = 2e-3 }
                    NF != 2 || ($1 - $2) ^ 2 > (most * $1) ^ 2 { bad = 1 } END { exit bad || NR != 4 }' ||
                    status="0, but with other losses than one rank: $(losses "$name" | tr '\n' ' ')"
            fi
            case $name in
            *again*)
                same=yes
                cmp "$work/ranks_$count$suffix/step_00000004/model.safetensors" "$work/$name/step_00000004/model.safetensors" >>"$log" 2>&1 || same=no
                [ "$status" != 0 ] || [ $same = yes ] || status="0, but with other bits than the first time"
                what="$what; the same bits: $same"
                ;;
            esac
            row "$name" "$(verdict)" "$seconds" "$(why "$what")"
            show
        done
        for count in 2 4; do
            name=ranks_${count}_zero$suffix same=yes
            ranked "$name" "$program" $count --zero 1 || continue
            for file in model optimizer; do
                cmp "$work/ranks_$count$suffix/step_00000004/$file.safetensors" "$work/$name/step_00000004/$file.safetensors" >>"$log" 2>&1 || same=no
            done
            [ "$status" != 0 ] || [ $same = yes ] || status="0, but with other bits than --zero 0"
            row "$name" "$(verdict)" "$seconds" "$(why "the bits of --zero 0: $same")"
            show
        done
    done
}

# ---- benchmarks ----

run_kernels() {
    have kernels "$kernels" || return
    if [ -n "$emulator" ]; then
        part kernels 120 "$kernels" --quick attention layers mix || return
    else
        part kernels 130 "$kernels" --seconds 100 || return
    fi
    sed -n '1,2p; /^over all shapes/,$p' "$log" | grep -v '^{'
    row kernels "$(verdict)" "$seconds" "$(why "P $(field P_tflops) TFLOP/s, C $(field C_tb_per_s) TB/s, $(field left_out) rows left out")"
    show
}

# PRESET:S:SHARE[:ROWS:TOKENS], SHARE the share of P that is wanted: the Makefile's.
read_case() { # CASE: sets model, S, must, batch, T
    IFS=: read -r model S must batch T <<<"$1"
    batch=${batch:-8} T=${T:-2048}
}
step_cases=
for a in $architectures; do step_cases="$step_cases $(sed -n "s/^GPU_STEPS_$a = //p" Makefile)"; done
tiny="--layers 1 --width 32 --heads 1 --vocab 257"
# Of each architecture the first that ponders: for runs, profile, and batches, those of the first architecture alone.
mid_cases= tiny_cases=
for a in $architectures; do
    tiny_case=
    for case in $step_cases; do
        case $case in $a[-:]*) [ -n "$tiny_case" ] || tiny_case=${case%%:*}:1:0 ;; esac
        case $case in $a:0:* | $a-*:0:*) ;; $a[-:]*) mid_cases="$mid_cases $case" && break ;; esac
    done
    tiny_cases="$tiny_cases $tiny_case"
done
if [ -n "$emulator" ]; then
    step_cases=$tiny_cases
    mid_cases=$tiny_cases
fi
ours=$work/ours # MODEL S TOKENS/S MEMORY
: >"$ours"
run_steps() {
    local case model S must batch T name steps
    for case in $step_cases; do
        read_case "$case"
        steps=${benchmarks}_step_${model%%-*}$built # presets begin with their architecture's name
        have steps "$steps" || continue
        name="step_${model}_s$S"
        if [ -n "$emulator" ]; then
            # shellcheck disable=SC2086
            part "$name" 60 "$steps" "$model" "$S" 1 16 --quick --steps 1 $tiny || continue
        else
            part "$name" 120 "$steps" "$model" "$S" "$batch" "$T" || continue
        fi
        [ "$status" != 0 ] || echo "$model $S $(field tokens_per_s) $(field peak_memory_gb)" >>"$ours"
        row "$name" "$(verdict)" "$seconds" "$(why "$(field ms) ms, $(field tokens_per_s) tokens/s, $(field share_of_P) of P (must $must), limit $(field limit_ms) ms, $(field peak_memory_gb) GB")"
        show
    done
}

# Rows at a time, all in one micro-batch where they fit.
run_batches() {
    local case model S must batch T name steps many best=0 at='' speed
    for case in $(echo $mid_cases | cut -d ' ' -f 1); do
        read_case "$case"
        steps=${benchmarks}_step_${model%%-*}$built
        have "batches_$model" "$steps" || continue
        for many in $([ -n "$emulator" ] && echo 1 2 || echo 1 2 4 8 16 32); do
            name="batch_${model}_$many"
            if [ -n "$emulator" ]; then
                # shellcheck disable=SC2086
                part "$name" 60 "$steps" "$model" "$S" $many 16 --quick --steps 1 $tiny || continue
            else
                part "$name" 60 "$steps" "$model" "$S" $many "$T" --steps 5 || continue
            fi
            speed=$(field tokens_per_s)
            row "$name" "$(verdict)" "$seconds" "$(why "$(field ms) ms, $speed tokens/s, micro-batch $(field micro_batch), $(field share_of_P) of P, $(field peak_memory_gb) GB")"
            show
            [ "$status" = 0 ] && [ "$(awk -v a="$speed" -v b="$best" 'BEGIN { print (a > b) }')" = 1 ] && best=$speed at=$many
        done
        [ -z "$at" ] || echo "    | $model: fastest with $at rows at a time"
    done
}

run_profile() {
    local case model S must batch T name steps
    for case in $mid_cases; do
        read_case "$case"
        steps=${benchmarks}_step_${model%%-*}$built
        name="profile_$model"
        have "$name" "$steps" || continue
        if [ -n "$emulator" ]; then
            # shellcheck disable=SC2086
            part "$name" 60 "$steps" "$model" "$S" 1 16 --profile --quick --steps 1 $tiny || continue
        else
            part "$name" 60 "$steps" "$model" "$S" "$batch" "$T" --profile --steps 3 || continue
        fi
        [ "$status" != 0 ] || grep -q '^profile of a step' "$log" || status="0, but without a profile"
        row "$name" "$(verdict)" "$seconds" "$(why "$(grep -A 1 '^profile of a step' "$log" | sed -n '2s/  */ /gp'), ...: $log")"
        show
        sed -n '/^profile of a step/,$p' "$log" | head -n 16 | sed 's/^/    | /'
    done
}

run_ptx() {
    have ptx "$ptx" || return
    part ptx 300 env CUDA_CACHE_DISABLE=1 "$ptx" $([ -n "$emulator" ] && echo test_ledger || echo test_same_bits) || return
    if [ "$status" != 0 ] && grep -qE 'UnsupportedPtxVersion|unsupported toolchain' "$log"; then
        row ptx skip "$seconds" "the driver is older than the toolkit: it compiles no PTX of it"
        return
    fi
    row ptx "$(verdict)" "$seconds" "$(why "$(grep -E '^[0-9]+ passed' "$log" | tail -n 1), compiled by the driver")"
    show
}

run_torch() {
    local python= p case model S must batch T name speed memory figure
    for p in $PYTHON $B/venv/bin/python python3; do
        if [ -z "$python" ] && command -v "$p" >/dev/null && "$p" -c 'import torch' 2>/dev/null; then python=$p; fi
    done
    if [ -z "$python" ]; then
        row torch skip - "no Python here has PyTorch (dev/setup_venv.sh, or PYTHON=)"
        return
    fi
    for case in $step_cases; do
        read_case "$case"
        name="torch_${model}_s$S"
        case $model in *-1.4b) continue ;; esac # compiling and running it takes what is left of the time
        if [ -n "$emulator" ]; then
            # shellcheck disable=SC2086
            part "$name" 90 "$python" -B dev/bench_torch.py --model "$model" --ponder "$S" --batch 1 --seq 16 --steps 1 --compile none $tiny || continue
        else
            part "$name" 90 "$python" -B dev/bench_torch.py --device cuda --model "$model" --ponder "$S" --batch "$batch" --seq "$T" --steps 10 || continue
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

# What compute-sanitizer reports, record by record: how many name a kernel of ours or no kernel at all, and how many
# only kernels that are not ours, cuBLAS's.
our_kernels=$(grep -ohE '[a-z0-9_]+_kernel\b' common/*.cuh ponder.cuh train_*.cu | sort -u | tr '\n' '|' | sed 's/|$//')
sanitizer_records() { # LOG: prints "OURS OTHERS"
    awk -v ours="(^|[^a-zA-Z0-9_])($our_kernels)([^a-zA-Z0-9_]|$)" '
        function done() {
            if (record != "" && record ~ ours) mine++
            else if (record ~ /cublas|cutlass|gemm|gemv|nvjet|xmma|splitK|[kK]ernel/) others++
            else if (record != "") mine++
            record = ""
        }
        !/^=========/ { next }
        { text = substr($0, 11) }
        text == "" || text !~ /^ / { done() }
        text == "" || text ~ /SUMMARY|COMPUTE-SANITIZER|^Target application|^Internal|^Attach/ { next }
        { record = record text "\n" }
        END { done(); print mine + 0, others + 0 }' "$1"
}
# Under the emulator there is no compute-sanitizer, but its reports can be judged.
sanitizer_judged() {
    local got want=
    log=$OUT/sanitizer_records.log
    {
        echo '========= COMPUTE-SANITIZER'
        echo '========= Invalid __global__ read of size 16 bytes'
        echo '=========     at void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_64x64>(Params)+0x70'
        echo '=========     by thread (0,0,0) in block (0,0,0)'
        echo '========='
        echo '========= Uninitialized __global__ memory read of size 4 bytes'
        echo '=========     at cublasLt::splitKreduce_kernel<32, 16>(void *)+0x70'
        echo '========= ERROR SUMMARY: 2 errors'
    } >"$log"
    got=$(sanitizer_records "$log")
    {
        echo '========= Error: Race reported between Write access at gelu_forward_kernel(float *)+0x70 in layers.cuh:9'
        echo '=========     and Read access at gelu_forward_kernel(float *)+0x90 in layers.cuh:9 [4 hazards]'
        echo '========='
        echo '========= Program hit cudaErrorInvalidValue (error 1) due to "invalid argument" on CUDA API call to cudaMemcpy.'
        echo '=========     Saved host backtrace up to driver entry point at error'
    } >>"$log"
    got="$got, $(sanitizer_records "$log")"
    want="0 2, 2 2"
    [ "$got" = "$want" ] && row sanitizer_records ok - "kernels of ours are told from cuBLAS's" ||
        row sanitizer_records FAIL - "errors of ours and of others: $got, expected $want: $log"
}
run_sanitize() {
    local sanitizer tool what name ours others
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -n "$emulator" ]; then
        sanitizer_judged
        row sanitize skip - "the emulator's own checks stand for compute-sanitizer (make test-emu)"
        return
    fi
    if [ -z "$sanitizer" ]; then
        row sanitize skip - "there is no compute-sanitizer here: it comes with the CUDA Toolkit"
        return
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        for what in "gpu_layers test_norm_backward" "gpu_attention test_same_bits" "gpu_attention test_wide_numbers" \
            "gpu_ponder test_softmax_rows" "gpu_sampling test_sample_large" $architectures; do
            name=${tool}_${what##* }
            if [ "$what" = "${what% *}" ]; then
                [ $tool = memcheck ] || [ $what = $first ] || continue
                have "$name" "$B/train_${what}_cuda" || continue
                # shellcheck disable=SC2046,SC2086
                part "$name" 60 env OMP_WAIT_POLICY=passive "$sanitizer" --tool $tool --print-limit 10000 --error-exitcode 99 "$B/train_${what}_cuda" $(micro_of $what) || continue
            else
                have "$name" "$tests/${what%% *}" || continue
                # shellcheck disable=SC2086
                part "$name" 40 env OMP_WAIT_POLICY=passive "$sanitizer" --tool $tool --print-limit 10000 --error-exitcode 99 "$tests"/$what || continue
            fi
            read -r ours others <<<"$(sanitizer_records "$log")"
            # A tool can be a hundred times slower than the program: not to end in time is no error found.
            if [ "$status" = time ] && [ "$ours" = 0 ]; then
                row "$name" "left out" "$seconds" "not done after $seconds s"
            elif [ "$status" != 0 ] && ! grep -q 'SUMMARY' "$log" && grep -qiE 'not supported|unable to|failed to (init|attach|inject)' "$log"; then
                row "$name" skip "$seconds" "compute-sanitizer does not work here: $log"
                break 2
            else
                [ "$status" != 99 ] || [ "$ours" != 0 ] || [ "$others" = 0 ] || status=0 # 99: errors were found, no other end
                row "$name" "$(verdict)" "$seconds" "$(why "$ours errors$([ "$others" = 0 ] || echo ", $others more in kernels that are not ours")")"
                show
            fi
        done
    done
}

for p in $order; do
    wanted $p || continue
    echo "---- $p"
    run_$p
done

# ---- the table ----

failed=$(awk '{ if (substr($0, 28, 4) == "FAIL") n++ } END { print n + 0 }' "$table")
out=$(awk '{ if (substr($0, 28, 8) == "left out") n++ } END { print n + 0 }' "$table")
skipped=$(awk '{ if (substr($0, 28, 4) == "skip") n++ } END { print n + 0 }' "$table")
{
    printf '\n%-26s %-8s %6s  %s\n' part verdict s "key figure"
    cat "$table"
    printf '%d parts failed, %d left out for time, %d skipped; %d s; logs in %s\n' "$failed" "$out" "$skipped" "$SECONDS" "$OUT"
} | tee "$OUT/summary.txt"
[ "$failed" = 0 ]
