#!/bin/bash
# recipe.sh - to be sourced by the recipes of this directory: what they share. Each sets the variables named below and
# calls recipe_run with its arguments.
#
#     dev/recipes/NAME.sh [SIZE] [ponder|vanilla|fair] [--dry | --plan | --row] [OPTION of the trainer...]
#
# It trains, and goes on where it finds a checkpoint in --out; options of the trainer win over the recipe's. But with
#     --dry    prints the command, and does not run it
#     --plan   says what it takes: tokens, FLOPs, hours on one and eight H100 by the ledger, memory, the curve to expect
#     --row    the same as a row of the table in README.md here
# From the environment:
#     DATA=DIR      with train_*.bin, val_*.bin and tokenizer/, as a script of data/ makes them
#     GPUS=n        ranks that the program starts; without it, as many as there are GPUs. Under torchrun, srun or mpirun: theirs
#     TRAINER=FILE  the program that trains, instead of build/train_X_cuda
#     PLANNER=FILE  the one that plans: without it, build/train_X_cuda or build/train_X_emu (no GPU needed), the newer
#
# Set by a recipe: model (pythia, gpt2, llama: which trainer), title, options (an array), data (the default of DATA), out (of
# --out), tokens (of the whole run, a number), step (tokens of one), curve (lines: what is known of the loss to expect).

die() {
    echo "error: $1" >&2
    exit 1
}

# rows of a comparison (README.md, "Does it help?"): what differs between them
row_options() {
    case $row in
    ponder) echo --ponder 3 --scale-embeds 1 --init ponder ;;
    vanilla) echo --ponder 0 --scale-embeds 0 --init stock ;;
    fair) echo --ponder 0 --scale-embeds 1 --init ponder ;;
    esac
}

# recipe_arguments SIZES ARGUMENT...: sets size (one of SIZES, or empty if there are none), row, action and more (options)
recipe_arguments() {
    local sizes=$1 known option
    shift
    row=ponder action=run more=()
    if [ -n "$sizes" ]; then
        size=${1:-}
        case " $sizes " in *" $size "*) [ -n "$size" ] && known=1 ;; esac
        [ -n "$known" ] || die "$(basename "$0"): expected the size first, one of: $sizes; found '$size'"
        shift
    fi
    case ${1:-} in ponder | vanilla | fair) row=$1 && shift ;; esac
    for option in "$@"; do
        case $option in
        --dry | --plan | --row) action=${option#--} ;;
        *) more+=("$option") ;;
        esac
    done
    case ${more[0]-} in '' | -*) ;; *) die "$(basename "$0"): expected ponder, vanilla, fair or an option, found '${more[0]}'" ;; esac
}

# How many GPUs there are for this program.
visible_gpus() {
    local n
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        n=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c .)
    else
        n=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
    fi
    echo "$n"
}

recipe_command() {
    local gpus=()
    trainer=${TRAINER:-build/train_${model}_cuda}
    if [ -z "${RANK-}${OMPI_COMM_WORLD_RANK-}${SLURM_STEP_NUM_TASKS-}" ]; then
        local n=${GPUS:-$(visible_gpus)}
        [ "$n" -le 1 ] || gpus=(--gpus "$n")
    fi
    command=("$trainer" "${gpus[@]}" "${options[@]}" --train "$data/train_*.bin")
    local found=("$data"/val_*.bin)
    [ "$action" = run ] && [ ! -e "${found[0]}" ] || command+=(--val "$data/val_*.bin")
    [ ! -e "$data/tokenizer" ] || command+=(--tokenizer "$data/tokenizer")
    command+=(--out "$out" --resume "${more[@]}")
}

# recipe_scaling MODEL DATA HOW ARGUMENT...: the paper's scaling runs of an architecture, 7, 15 and 26 billion tokens of the Pile in
# steps of about half a million. DATA: where its shards are, HOW: what makes them. Rates and decay are inferred, not published;
# whether these runs started from S times the embedding is not known: --multiply-steps 1 does.
recipe_scaling() {
    model=$1 data=$2 make_data=$3 step=524288
    shift 3
    recipe_arguments "405m 834m 1.4b" "$@"
    case $size in
    405m) rate=3e-4 steps=13351 ;;   # 7 G tokens
    834m) rate=2.5e-4 steps=28610 ;; # 15 G
    1.4b) rate=2e-4 steps=49591 ;;   # 26 G
    esac
    tokens=$((steps * step))
    title="$model-$size, $row, $(count $tokens) tokens of the Pile"
    out=out/${model}_${size}_$row
    options=(--model "$model-$size" $(row_options) --seq 2048 --total-batch $step --steps $steps --lr $rate --schedule cosine
        --min-lr-ratio 0.1 --warmup-ratio 0.01 --weight-decay 0.1 --beta1 0.9 --beta2 0.95 --clip 1 --val-every 1000 --save-every 1000)
    curve="no figures of these runs are known"
    recipe_run
}

# A number of a plan, of the n-th line that matches: plan_number FILE PATTERN FIELD N
plan_number() { grep -E -- "$2" "$1" | sed -n "$4p" | awk -v f="$3" '{ print $f }'; }

# Sets flops (of a token), rate and memory for one and for eight H100: rate1, rate8 (tokens/s at most), memory (MB).
recipe_ledger() {
    local planner=${PLANNER:-build/train_${model}_emu} gpu=build/train_${model}_cuda log
    [ -n "${PLANNER-}" ] || [ ! "$gpu" -nt "$planner" ] || planner=$gpu
    [ -x "$planner" ] || die "no program that plans: make build/train_${model}_emu (no GPU needed), or name one in PLANNER"
    log=$(mktemp) || exit 1
    "$planner" "${options[@]}" --gpus 8 --plan=h100 "${more[@]}" >"$log" 2>&1 || { cat "$log" >&2; rm "$log"; exit 1; }
    rate8=$(plan_number "$log" '^  at most [0-9]+ tokens/s on all' 3 1)
    memory=$(plan_number "$log" '^  total +[0-9.]+ MB' 2 1)
    flops=$(awk '/^work, forward and backward/ { work = 1 } work && $1 == "total" {
        power["k"] = 1e3; power["M"] = 1e6; power["G"] = 1e9; power["T"] = 1e12; print $2 * power[$3]; exit }' "$log")
    "$planner" "${options[@]}" --plan=h100 "${more[@]}" >"$log" 2>&1 || { cat "$log" >&2; rm "$log"; exit 1; }
    rate1=$(plan_number "$log" '^at most [0-9]+ tokens/s' 3 1)
    rm "$log"
    for number in "$rate1" "$rate8" "$memory" "$flops"; do
        case $number in '' | *[!0-9.e+]*) die "$planner: its plan has changed its words, found '$number' for a number" ;; esac
    done
}

# What one H100 was measured to need for a step beside what its limits allow (dev/LOG.md).
MEASURED=1.65

# "12", "1.3", "0.21": three digits are more than is known
short() { awk -v x="$1" 'BEGIN { printf (x >= 99.5 ? "%.0f" : x >= 9.95 ? "%.1f" : "%.2f"), x }'; }
hours() { short "$(awk -v t="$tokens" -v r="$1" -v f="$2" 'BEGIN { print t / r / 3600 * f }')"; }
count() { awk -v x="$1" 'BEGIN { if (x >= 1e12) printf "%.2f T", x / 1e12; else if (x >= 1e10) printf "%.0f G", x / 1e9; else printf "%.2f G", x / 1e9 }'; }
work() { awk -v x="$tokens" -v f="$flops" 'BEGIN { x *= f; if (x >= 1e21) printf "%.3g Z", x / 1e21; else printf "%.3g E", x / 1e18 }'; }

# A command as one can paste it.
quoted() {
    local word line=
    for word in "$@"; do
        case $word in
        '' | *[!A-Za-z0-9_./=+,:@%-]*) word="'${word//\'/\'\\\'\'}'" ;;
        esac
        line="$line $word"
    done
    echo "${line# }"
}

recipe_plan() {
    recipe_ledger
    cat <<END
$title
tokens      $(count "$tokens") in $(awk -v t="$tokens" -v s="$step" 'BEGIN { printf "%.0f", t / s }') steps of $step
work        $(work)FLOP, forward and backward
on H100     one: $(hours "$rate1" $MEASURED) hours, eight: $(hours "$rate8" $MEASURED) hours; the ledger's limits ($(hours "$rate1" 1) and $(hours "$rate8" 1)) times
            $MEASURED, as one H100 was measured; eight are modelled
memory      $(awk -v m="$memory" 'BEGIN { printf "%.1f", m / 1000 }') GB on each
expect      $(echo "$curve" | sed '2,$s/^/            /')
END
}

recipe_row() {
    recipe_ledger
    echo "| \`$(basename "$0") ${size:+$size }$row\` | $(count "$tokens") | $(work)FLOP | $(hours "$rate1" $MEASURED) ($(hours "$rate1" 1)) |" \
        "$(hours "$rate8" $MEASURED) ($(hours "$rate8" 1)) | $(awk -v m="$memory" 'BEGIN { printf "%.1f", m / 1000 }') GB |"
}

recipe_run() {
    data=${DATA:-$data}
    recipe_command
    case $action in
    plan) recipe_plan ;;
    row) recipe_row ;;
    dry) quoted "${command[@]}" ;;
    run)
        local found=("$data"/train_*.bin)
        [ ! -e "$data/progress.json" ] || [ -e "$data/manifest.json" ] || die "$data: expected all shards of a corpus, found those of a run that did not \
end (progress.json, no manifest.json); the command that began them goes on there: $make_data"
        [ -e "${found[0]}" ] || die "$data: expected shards train_*.bin, found none; $make_data, or DATA=DIR where they are"
        [ -x "$trainer" ] || die "no $trainer: make gpu (CUDA Toolkit) builds it; TRAINER=FILE names another program"
        exec "${command[@]}"
        ;;
    esac
}
