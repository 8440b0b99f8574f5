#!/bin/bash
# test_ranks.sh BUILD ARCHITECTURE... - whole runs of several ranks under the emulator: their numbers beside those of one
# rank, checkpoints, and what happens when a rank is killed, hangs or cannot start. With the programs
# BUILD/train_ARCHITECTURE_emu_fp32; the first architecture has all of it. The last line is
# `N passed, N failed, N skipped`, the exit status the verdict.
cd "$(dirname "$0")/.." || exit 1
. dev/checks.sh
export LC_ALL=C OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive EMULATE_DEVICES=4
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT EMULATE_ASYNC EMULATE_SEED
build=$(cd "${1:?BUILD is missing}" && pwd) || exit 1
shift
tmp=$(mktemp -d) || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$tmp"' EXIT
"$build/bytes" --out-train "$tmp/train.bin" --out-val "$tmp/val.bin" README.md ponder.cuh >"$tmp/log" || { cat "$tmp/log"; exit 1; }

says() { grep -qE -- "$1" "$tmp/log"; }

# What a model is: small, with two passes.
model_of() {
    case $1 in
    pythia) echo "--model pythia-14m --heads 2" ;;
    llama) echo "--model llama-405m --heads 2 --kv-heads 1" ;;
    *) echo "--model gpt2 --heads 2" ;;
    esac
    echo "--layers 1 --width 16 --vocab 257 --ponder 1 --seq 16 --batch 2 --warmup-steps 0 --sample-tokens 0"
}
# train OUT ARGUMENT...: sets status; what it says is in the log
train() {
    local out=$1
    shift
    timeout 100 "$build/train_${architecture}_emu_fp32" $(model_of "$architecture") --train "$tmp/train.bin" --val "$tmp/val.bin" \
        --out "$tmp/$out" "$@" >"$tmp/log" 2>&1
    status=$?
}
# numbers OUT NAME: that of every line of the metrics which has it
numbers() { sed -n "s/.*\"$2\": \([^,}]*\).*/\1/p" "$tmp/$1/metrics.jsonl"; }
# near OUT OUT NAME: equal but for rounding, line by line
near() {
    paste <(numbers "$1" "$3") <(numbers "$2" "$3") |
        awk 'NF != 2 || ($1 - $2) ^ 2 > (1e-5 * $1) ^ 2 { bad = 1; print "     " $0 } END { exit bad || NR == 0 }'
}
same() { # OUT OUT NAME: the same digits
    [ -n "$(numbers "$1" "$3")" ] && [ "$(numbers "$1" "$3")" = "$(numbers "$2" "$3")" ]
}
same_weights() { # OUT OUT STEP
    cmp -s "$tmp/$1/step_0000000$3/model.safetensors" "$tmp/$2/step_0000000$3/model.safetensors"
}

# ---- N ranks are one rank with their rows ----

# Steps of 8 rows, of 7 (the last micro-batch has one), of 5 (with four ranks one of them has none).
equal() { # ROWS RANKS...
    local rows=$1 ranks
    shift
    rm -rf "$tmp/one$rows" "$tmp/r$rows"-*
    train "one$rows" --total-batch $((16 * rows)) --steps 4 --val-every 2 --val-batches 3
    ok "$architecture, one rank, $rows rows" [ $status = 0 ]
    for ranks in "$@"; do
        train "r$rows-$ranks" --total-batch $((16 * rows)) --steps 4 --val-every 2 --val-batches $((ranks == 3 ? 1 : 3)) --gpus "$ranks"
        ok "$architecture, $ranks ranks, $rows rows: exit status $status" [ $status = 0 ]
        ok "$architecture, $ranks ranks, $rows rows: the losses" near "one$rows" "r$rows-$ranks" loss
        ok "$architecture, $ranks ranks, $rows rows: the norms" near "one$rows" "r$rows-$ranks" grad_norm
        ok "$architecture, $ranks ranks: one hash of weights" says "weights of all $ranks ranks have hash"
    done
}
# A validation has --val-batches of --batch rows on every rank: three of two rows are one on each of three ranks.
validation() {
    train val1 --total-batch 32 --steps 0 --val-batches 3
    train val3 --total-batch 96 --steps 0 --val-batches 1 --gpus 3
    ok "$architecture: validation, the same digits" same val1 val3 val_loss
}

first=$1
for architecture in "$@"; do
    if [ "$architecture" = "$first" ]; then
        equal 8 2 3 4
        equal 7 2 3
        equal 5 4
        validation
    else
        equal 7 3
    fi
done
architecture=$first

ok "the slowest rank of every step" [ "$(numbers r8-2 slowest_ms | wc -l)" = 4 ]

# ---- what must not change a bit ----

for how in "--recompute 1" "--recompute 2" "--graph 0"; do
    train "how" --total-batch 128 --steps 4 --val-batches 3 --gpus 2 $how
    ok "$how, two ranks: the same weights" same_weights r8-2 how 4
    rm -rf "$tmp/how"
done
EMULATE_ASYNC=late train late --total-batch 128 --steps 4 --val-batches 3 --gpus 2
ok "work that comes late, two ranks: the same weights" same_weights r8-2 late 4
EMULATE_NCCL_DELAY=5 train delayed --total-batch 128 --steps 4 --val-batches 3 --gpus 2
ok "collectives that come late: the same weights" same_weights r8-2 delayed 4

# ---- checkpoints: stopped with two ranks, gone on with as many, more, fewer ----

for ranks in 1 2 3; do
    train "on$ranks" --total-batch 128 --steps 4 --save-every 2 --val-batches 3 --gpus 2
    rm -rf "$tmp/on$ranks/step_00000004"
    train "on$ranks" --resume --gpus $ranks
    ok "gone on with $ranks ranks: exit status $status" [ $status = 0 ]
    ok "gone on with $ranks ranks: the losses" near one8 "on$ranks" loss
done
ok "gone on with two ranks: the same weights" same_weights r8-2 on2 4

# ---- starting ----

EMULATE_DEVICES=1 train clash --total-batch 128 --steps 1 --gpus 2
ok "two ranks on one GPU" says "rank 0 .* and rank 1 .* are on the same GPU"
ok "two ranks on one GPU: exit status $status" [ $status != 0 ]
EMULATE_DEVICES=2 train few --total-batch 128 --steps 1 --gpus 3
ok "more ranks than GPUs" says "only 2 are visible"
ok "more ranks than GPUs: exit status $status" [ $status != 0 ]
train used --total-batch 128 --steps 1 --gpus 2
train used --total-batch 128 --steps 1 --gpus 2
ok "a second run into the same --out" says "holds a run already"
train dumped --total-batch 128 --steps 1 --gpus 2 --dump "$tmp/dump"
ok "--dump with two ranks" says "is for one GPU"
# two OUT DATA0 DATA1: two ranks on those data, as torchrun starts them
two() {
    local rank data=("$2" "$3") port=$((20000 + RANDOM % 10000))
    for rank in 1 0; do
        RANK=$rank WORLD_SIZE=2 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port timeout 100 \
            "$build/train_${architecture}_emu_fp32" $(model_of $architecture) --train "${data[$rank]}" --out "$tmp/$1" \
            --total-batch 128 --steps 4 >"$tmp/log$rank" 2>&1 &
    done
    wait
    cat "$tmp/log0" "$tmp/log1" >"$tmp/log"
}
two other "$tmp/train.bin" "$tmp/val.bin"
ok "ranks with other data" says "rank 1 .* has other training data"
ok "ranks with other data: nothing was trained" [ ! -e "$tmp/other/step_00000004" ]
two torch "$tmp/train.bin" "$tmp/train.bin"
ok "as torchrun starts them: the same weights" same_weights r8-2 torch 4
ok "as torchrun starts them: rank 1 says nothing" [ ! -s "$tmp/log1" ]

# ---- faults ----

# in_background OUT ARGUMENT...: a long run of three ranks; sets parent and, once they step, children
in_background() {
    local out=$1
    shift
    rm -rf "${tmp:?}/$out"
    "$build/train_${architecture}_emu_fp32" $(model_of $architecture) --train "$tmp/train.bin" --out "$tmp/$out" \
        --total-batch 128 --steps 100000 --save-every 1 --gpus 3 "$@" >"$tmp/log" 2>&1 &
    parent=$!
    for _ in $(seq 300); do
        [ -e "$tmp/$out/step_00000001" ] && break
        sleep 0.1
    done
    children=($(pgrep -P $parent))
}
# ends SECONDS: it does within these; sets status
ends() {
    for _ in $(seq $((10 * $1))); do
        if ! kill -0 $parent 2>/dev/null; then
            wait $parent
            status=$?
            return 0
        fi
        sleep 0.1
    done
    kill -9 $parent "${children[@]}" 2>/dev/null
    return 1
}
goes_on() { # OUT: the run that has ended can be gone on with
    local newest
    newest=$(basename "$(ls -d "$tmp/$1"/step_* | tail -n 1)")
    train "$1" --resume --gpus 2 --steps $((10#${newest#step_} + 1))
    [ $status = 0 ]
}
for victim in 0 1 2 1 2; do
    in_background killed
    sleep "0.$((RANDOM % 10))"
    kill -9 "${children[$victim]}"
    ok "rank killed: all end" ends 20
    ok "rank killed: exit status $status" [ "$status" != 0 ]
    ok "rank killed: it is named" says "rank $victim .*(killed|gone|ended|died|left|lost)"
    ok "rank killed: the run goes on" goes_on killed
done
in_background hung --nccl-timeout 3
kill -STOP "${children[1]}"
ok "rank hung: all end" ends 30
ok "rank hung: it is named" says "rank 1 "
kill -9 "${children[1]}" 2>/dev/null
ok "rank hung: the run goes on" goes_on hung
in_background signalled
kill -TERM $parent
ok "SIGTERM: all end" ends 20
ok "SIGTERM: exit status $status" [ "$status" = 143 ]
ok "SIGTERM: it says so once" [ "$(grep -c "^stopped by SIGTERM" "$tmp/log")" = 1 ]
ok "SIGTERM: the run goes on" goes_on signalled
in_background one_signalled
kill -TERM "${children[2]}"
ok "SIGTERM to one rank: all end" ends 20
ok "SIGTERM to one rank: all have stopped" says "^stopped by SIGTERM"
ok "SIGTERM to one rank: the run goes on" goes_on one_signalled

checked
