#!/bin/bash
# test_ranks.sh BUILD ARCHITECTURE... - whole runs of several ranks under the emulator: their numbers beside those of one
# rank, checkpoints, and what happens when a rank is killed, hangs or cannot start. With the programs
# BUILD/train_ARCHITECTURE_emu_fp32 and _emu; the first architecture has all of it. The last line is
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
one_error() { [ "$(grep -c "error: " "$tmp/log")" = 1 ]; }

# What a model is: the Makefile's micro model of its architecture, made smaller, with two passes.
model_of() {
    echo "$(sed -n "s/^COMPARED_$1 = //p" Makefile) --layers 1 --width 16 --ponder 1 --seq 16 ${batch---batch 2} --warmup-steps 0 --sample-tokens 0"
}
# train OUT ARGUMENT...: sets status; what it says is in the log
train() {
    local out=$1
    shift
    timeout 100 "$build/train_${architecture}_emu${precision-_fp32}" $(model_of "$architecture") --train "$tmp/train.bin" --val "$tmp/val.bin" \
        --out "$tmp/$out" "$@" >"${log:-$tmp/log}" 2>&1
    status=$?
}
# numbers OUT NAME: that of every line of the metrics which has it
numbers() { sed -n "s/.*\"$2\": \([^,}]*\).*/\1/p" "$tmp/$1/metrics.jsonl"; }
# near OUT OUT NAME [SHARE]: equal but for rounding, line by line, within that share of the number (1e-5)
near() {
    paste <(numbers "$1" "$3") <(numbers "$2" "$3") |
        awk -v share="${4:-1e-5}" 'NF != 2 || !(($1 - $2) ^ 2 <= (share * $1) ^ 2) { bad = 1; print "     " $0 } END { exit bad || NR == 0 }'
}
same() { # OUT OUT NAME: the same digits
    [ -n "$(numbers "$1" "$3")" ] && [ "$(numbers "$1" "$3")" = "$(numbers "$2" "$3")" ]
}
same_weights() { # OUT OUT STEP
    cmp -s "$tmp/$1/step_0000000$3/model.safetensors" "$tmp/$2/step_0000000$3/model.safetensors"
}

# ---- N ranks are one rank with their rows ----

# gradient OUT: a line for every number of the first checkpoint's exp_avg, a tenth of the gradient of the first step, and the
# name of its tensor
gradient() {
    local file=$tmp/$1/step_00000001/optimizer.safetensors header
    header=$(od -An -N8 -tu8 "$file" | tr -d ' ')
    {
        head -c $((8 + header)) "$file" | tail -c "$header" | grep -oE '"exp_avg\.[^"]*":\{[^}]*\}' |
            sed -E 's/"exp_avg\.([^"]*)".*data_offsets":\[([0-9]*),([0-9]*)\].*/\1 \2 \3/'
        tail -c +$((9 + header)) "$file" | od -An -v -tf4 -w4
    } | awk 'NF == 3 { name[++names] = $1; end[names] = $3 / 4; next }
        { while (t <= names && n >= end[t]) { t++ } if (t > names) { exit } n++; print $1, name[t] }'
}
# same_gradient OUT OUT: of every tensor, within 1e-6 of its largest number; of biases of keys, whose true gradient is 0, within
# 1e-6 of 1e-3. Seen: 2.1e-7.
same_gradient() {
    paste -d ' ' <(gradient "$1") <(gradient "$2") | awk '
        function size(x) { return x < 0 ? -x : x }
        NF != 4 || $2 != $4 || !(size($1 - $3) < 1e30) { bad = 1 }
        { if (size($1) > most[$2]) { most[$2] = size($1) } if (size($1 - $3) > off[$2]) { off[$2] = size($1 - $3) } }
        END {
            for (t in most) {
                if (off[t] > 1e-6 * (most[t] > 1e-3 ? most[t] : 1e-3)) { bad = 1; print "     " t, off[t], "of", most[t] }
            }
            exit bad || NR < 1000
        }'
}

# Steps of 8 rows, of 7 (the last micro-batch has one), of 5 (with four ranks one of them has none). In bf16 an update that
# is rounded to another number changes what follows.
equal() { # ROWS STEPS "RANKS ARGUMENT..."...
    local rows=$1 steps=$2 run ranks
    shift 2
    rm -rf "$tmp/one$rows" "$tmp/r$rows"-*
    local what="$architecture${precision+, bf16}"
    train "one$rows" --total-batch $((16 * rows)) --steps "$steps" --val-every 2 --val-batches 3
    ok "$what, one rank, $rows rows" [ $status = 0 ]
    for run in "$@"; do
        ranks=${run%% *}
        train "r$rows-$ranks" --total-batch $((16 * rows)) --steps "$steps" --val-every 2 --val-batches $((ranks == 3 ? 1 : 3)) --gpus $run
        ok "$what, $run ranks, $rows rows: exit status $status" [ $status = 0 ]
        ok "$what, $run ranks, $rows rows: the losses" near "one$rows" "r$rows-$ranks" loss "${precision+2e-3}${precision-1e-7}"
        ok "$what, $run ranks, $rows rows: the norms" near "one$rows" "r$rows-$ranks" grad_norm "${precision+2e-3}${precision-1e-5}"
        ok "$what, $run ranks: one hash of weights" says "weights of all $ranks ranks have hash"
    done
}
# A validation has --val-batches of --batch rows on every rank: three of two rows are one on each of three ranks.
validation() {
    train val1 --total-batch 32 --steps 0 --val-batches 3
    train val3 --total-batch 96 --steps 0 --val-batches 1 --gpus 3
    ok "$architecture: validation, the same digits" same val1 val3 val_loss
}
# Three or four blocks of 65,536 numbers, which are not divided further by --zero 1; of five rows some ranks have two
# micro-batches. Without clipping: what is kept after one step is the gradient, whatever its norm.
wide="--width 64 --layers 2 --total-batch 80 --val-batches 1"
graded="$wide --save-every 1 --clip 0"
gradients() { # "RANKS ARGUMENT..."...
    local run
    rm -rf "$tmp/graded"
    train graded $graded --steps 1
    for run in "$@"; do
        rm -rf "$tmp/grade"
        train grade $graded --steps 1 --gpus $run
        ok "$architecture, $run ranks: the gradients" same_gradient graded grade
    done
}

first=$1
for architecture in "$@"; do
    if [ "$architecture" = "$first" ]; then
        equal 8 4 2 4
        precision="" equal 7 4 3
        equal 7 10 3
        equal 5 4 4
        ok "$architecture, 4 ranks, 5 rows: it is said" says "^rank 0 .*warning: a step of 5 rows is 3 micro-batches of 2, for 4 ranks: 1 of"
        validation
    else
        equal 7 10 3 "4 --zero 1 --recompute 1"
        gradients "2 --zero 1 --recompute 2" "3 --recompute 1"
    fi
done
architecture=$first

ok "the slowest rank of every step" [ "$(numbers r8-2 slowest_ms | wc -l)" = 4 ]

# ---- what must not change a bit ----

for how in "--recompute 2" "--graph 0"; do
    train "how" --total-batch 128 --steps 4 --val-batches 3 --gpus 2 $how
    ok "$how, two ranks: the same weights" same_weights r8-2 how 4
    rm -rf "$tmp/how"
done
EMULATE_ASYNC=late EMULATE_NCCL_DELAY=5 train late --total-batch 128 --steps 4 --val-batches 3 --gpus 2
ok "work and collectives that come late, two ranks: the same weights" same_weights r8-2 late 4

# ---- checkpoints: stopped with two ranks, gone on with as many, more, fewer ----

for ranks in 1 2 3; do
    train "on$ranks" --total-batch 128 --steps 4 --save-every 2 --val-batches 3 --gpus 2
    rm -rf "$tmp/on$ranks/step_00000004"
    train "on$ranks" --resume --gpus $ranks
    ok "gone on with $ranks ranks: exit status $status" [ $status = 0 ]
    ok "gone on with $ranks ranks: the losses" near one8 "on$ranks" loss
done
ok "gone on with two ranks: the same weights" same_weights r8-2 on2 4
NCCL_PROTO=LL128 train on2 --resume --gpus 2
ok "another NCCL_PROTO: it is said" says "computed in .*, NCCL_PROTO=LL128\) \(was fp32 on 2 GPUs .* \(ranks of machines 2, NCCL_ALGO=\^NVLS,NVLSTree\)\)"
orders="NCCL_MIN_NCHANNELS=2 NCCL_MAX_NCHANNELS=4 NCCL_MIN_CTAS=2 NCCL_MAX_CTAS=8 NCCL_NTHREADS=256 NCCL_BUFFSIZE=1048576 NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 NCCL_TOPO_FILE=/a/topo.xml NCCL_GRAPH_FILE=b.xml"
(export $orders && train on2 --resume --gpus 2)
ok "other variables of NCCL: it is said" says "computed in .*, ${orders// /, }\) \(was fp32"

train on_same --steps 1 --val-batches 3 --gpus 2
train on_same --steps 1 --val-batches 3 --gpus 2 --resume=same
ok "--resume=same of two ranks without --total-batch: exit status $status" [ $status = 0 ]
train on_same --steps 1 --val-batches 3 --gpus 3 --resume=same
ok "--resume=same, but with three ranks" says "^  --total-batch 64 \(now 96\)"

# ---- the optimiser's state divided (--zero 1): no bit changes ----

alike() { # OUT OUT STEP: weights, moments and norms; says which are not
    local bad=0
    same_weights "$@" || { bad=1; echo "     weights"; }
    same "$1" "$2" grad_norm || { bad=1; echo "     norms:" $(numbers "$1" grad_norm) "and" $(numbers "$2" grad_norm); }
    cmp "$tmp/$1/step_0000000$3/optimizer.safetensors" "$tmp/$2/step_0000000$3/optimizer.safetensors" || bad=1
    return $bad
}
megabytes() { sed -n 's/^ *weights, gradients, moments *\([0-9.]*\) MB.*/\1/p' "$tmp/$1.log"; } # OUT
less_memory() { awk "BEGIN { exit !($(megabytes "$1") > 0 && $(megabytes "$1") < $(megabytes "$2")) }"; } # OUT OUT
divided() { # PRECISION RANKS...: _fp32, or nothing for bf16
    local precision=$1 ranks name
    shift
    for ranks in "$@"; do
        name=$architecture$precision$ranks
        for zero in 0 1; do
            rm -rf "$tmp/$name-$zero"
            train "$name-$zero" $graded --steps 2 --gpus "$ranks" --zero $zero
            cp "$tmp/log" "$tmp/$name-$zero.log"
            ok "$architecture${precision:-_bf16}, $ranks ranks, --zero $zero: exit status $status" [ $status = 0 ]
            [ -z "$precision" ] || ok "$architecture, $ranks ranks, --zero $zero: the gradients" same_gradient graded "$name-$zero"
        done
        ok "$architecture${precision:-_bf16}, $ranks ranks, --zero 1: the same bits" alike "$name-0" "$name-1" 2
        ok "$architecture${precision:-_bf16}, $ranks ranks, --zero 1: one hash" says "weights of all $ranks ranks have hash"
    done
}
for architecture in "$@"; do
    [ "$architecture" = "$first" ] || divided "" 3
done
architecture=$first
gradients
divided _fp32 2 3 4
divided "" 2 4
ok "--zero 1, two ranks: less memory" less_memory "${first}_fp322-1" "${first}_fp322-0"
ok "--zero 1, bf16, four ranks: less memory" less_memory "${first}4-1" "${first}4-0"
train planned --total-batch 80 --batch 4 --plan --gpus 2
ok "--plan: rank 0 has whole micro-batches" says "of 2 GPUs with at most 4 rows"
precision="" train planned $wide --plan --gpus 4 --zero 1
cp "$tmp/log" "$tmp/planned.log"
ok "--plan --zero 1: the memory of a run" [ "$(megabytes planned)" = "$(megabytes "${first}4-1")" ]
# What a plan of undivided ranks says of --zero 1 is what it takes.
precision="" train planned $wide --plan=h100 --gpus 4 --zero 1
total=$(sed -n 's/^  total  *\([0-9.]* MB\).*/\1/p' "$tmp/log")
ok "--plan --zero 1: its collectives" says "^  broadcasts of tables, norms, biases, fp32 +[1-4] "
ok "--plan --zero 1: each GPU sends" says "^  each GPU sends [0-9.]+ MB, with --zero 0 [0-9.]+ MB"
precision="" train planned $wide --plan=h100 --gpus 4
ok "--plan: all-reduce" says "^  all-reduce by ring"
ok "--plan: $total with --zero 1" says "--zero 1 \(ZeRO, stage 1\) ${total:-?}\$"
train planned --model pythia-2.8b --layers 32 --width 2560 --heads 32 --vocab 50304 --seq 2048 --batch 4 --plan=h100 --gpus 64 --zero 1
ok "--plan: what does not fit" says "^  of that --zero 0 does not fit into the 76200.0 MB"
for how in "--recompute 2" "--graph 0"; do
    train how $graded --steps 2 --gpus 3 --zero 1 $how
    ok "--zero 1 $how: the same bits" alike "${first}_fp323-0" how 2
    rm -rf "$tmp/how"
done
EMULATE_ASYNC=late EMULATE_NCCL_DELAY=5 train late-1 $graded --steps 2 --gpus 3 --zero 1
ok "--zero 1, work and collectives that come late: the same bits" alike "${first}_fp323-0" late-1 2
train one8-1 --total-batch 128 --steps 4 --val-every 2 --val-batches 3 --zero 1
ok "--zero 1 with one rank: the same bits" alike one8 one8-1 4
train r8-4-1 --total-batch 128 --steps 4 --val-every 2 --val-batches 3 --gpus 4 --zero 1
ok "--zero 1 with more ranks than blocks: the same bits" alike r8-4 r8-4-1 4
train judged --model "$tmp/${first}_fp322-1/step_00000002" $wide --eval-only --gpus 2 --zero 1
ok "--eval-only --zero 1" says "^val_loss $(printf %.6f "$(numbers "${first}_fp322-1" val_loss | tail -n 1)")"

# ---- more than one bucket, more than one piece ----

# in_pieces OUT ARGUMENT...: of so few numbers that even these models have many, the last of them not full
in_pieces() { PONDER_RANK_BUCKET=1009 PONDER_RANK_PIECE=997 train "$@"; }
in_pieces pieces --total-batch 128 --steps 4 --save-every 2 --val-batches 3 --gpus 2
ok "many buckets, two ranks: the same weights" same_weights r8-2 pieces 4
rm -rf "$tmp/pieces/step_00000004"
in_pieces pieces --resume --gpus 2
ok "many buckets and pieces, gone on with two ranks: the same weights" same_weights r8-2 pieces 4
for precision in _fp32 ""; do
    rm -rf "$tmp/pieces"
    in_pieces pieces $graded --steps 2 --gpus 4 --zero 1
    ok "--zero 1${precision:-, bf16}, many pieces: the same bits" alike "$first${precision}4-0" pieces 2
    ok "--zero 1${precision:-, bf16}, many pieces: the same hash" says "$(grep -o "weights .* have hash .*" "$tmp/$first${precision}4-1.log" | tail -n 1)"
done
unset precision

# chain FROM RANKS ZERO: the run goes on from a step with so many ranks
train chain $wide --steps 4 --save-every 1 --keep 0 --gpus 2
cp -r "$tmp/chain" "$tmp/straight"
chain() {
    local step
    for step in 1 2 3 4; do [ $step -le "$1" ] || rm -rf "$tmp/chain/step_0000000$step"; done
    train chain $wide --resume --gpus "$2" --zero "$3"
    ok "gone on from step $1 with $2 ranks, --zero $3: exit status $status" [ $status = 0 ]
}
chain 2 2 1
ok "gone on with --zero 1: it is said" says "^  --zero 1 \(was 0\)"
ok "gone on with --zero 1: the same bits" alike straight chain 4
chain 2 2 0
ok "gone on with --zero 0: the same bits" alike straight chain 4
chain 1 2 1
chain 2 3 0
chain 3 1 0
chain 3 4 1
ok "gone on with 2, 3, 1 and 4 ranks: the losses" near straight chain loss
ok "gone on with 2, 3, 1 and 4 ranks: the norms" near straight chain grad_norm

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
ok "a second run into the same --out: one error" one_error
train dumped --total-batch 128 --steps 1 --gpus 3 --dump "$tmp/dump"
ok "--dump with three ranks" says "is for one GPU"
ok "--dump with three ranks: one error" one_error
train odd --total-batch 100 --steps 1 --gpus 3
ok "a step that has no whole rows: exit status $status" [ $status = 1 ]
ok "a step that has no whole rows: one error" one_error
train odd --total-batch x --steps 1 --gpus 3
ok "an option that is no number: one error" one_error
# two WORDS0 WORDS1 ARGUMENT...: two ranks, each with words of its own, as torchrun starts them; sets status of rank 1. Where
# memory is set it is that of their GPUs, in bytes.
two() {
    local rank own=("$1" "$2") port=$((20000 + RANDOM % 10000)) pids=()
    shift 2
    for rank in 0 1; do
        EMULATE_MEMORY=${memory[$rank]:-} RANK=$rank WORLD_SIZE=2 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port timeout 100 \
            "$build/train_${architecture}_emu_fp32" $(model_of $architecture) ${own[$rank]} "$@" >"$tmp/log$rank" 2>&1 &
        pids+=($!)
    done
    wait "${pids[0]}"
    wait "${pids[1]}"
    status=$?
    cat "$tmp/log0" "$tmp/log1" >"$tmp/log"
}
two "--train $tmp/train.bin" "--train $tmp/val.bin" --out "$tmp/other" --total-batch 128 --steps 4
ok "ranks with other data" says "rank 1 .* has another set of training data"
ok "ranks with other data: one error" one_error
ok "ranks with other data: nothing was trained" [ ! -e "$tmp/other/step_00000004" ]
two "--lr 1e-3" "--lr 2e-3" --train "$tmp/train.bin" --out "$tmp/other" --total-batch 128 --steps 4
ok "ranks with other options" says "^rank 0 .*error: rank 1 .* has another --lr than rank 0"
ok "ranks with other options: one error" one_error
memory=(8000000000 650000000)
batch="" two "" "" --train "$tmp/train.bin" --out "$tmp/cards" --total-batch 128 --steps 2
ok "ranks with other cards: exit status $status" [ $status = 0 ]
ok "ranks with other cards: all take the fewest rows" says "each 8 rows in micro-batches of 1 "
ok "ranks with other cards: it is said once" [ "$(grep -c "warning: micro-batches of 4 rows suit" "$tmp/log")" = 1 ]
train card --total-batch 128 --steps 2 --gpus 2 --batch 1
ok "ranks with other cards: the same weights" same_weights card cards 2
memory=()
two "--out $tmp/torch" "--out $tmp/torch" --train "$tmp/train.bin" --total-batch 128 --steps 4
ok "as torchrun starts them: the same weights" same_weights r8-2 torch 4
ok "as torchrun starts them: rank 1 says nothing" [ ! -s "$tmp/log1" ]
two "--total-batch 128" "--total-batch 100" --train "$tmp/train.bin" --out "$tmp/odd" --steps 4
ok "what rank 1 alone meets: it says so" grep -q "^rank 1 .*error: --total-batch 100: expected" "$tmp/log1"
ok "what rank 1 alone meets: rank 0 is told" grep -q "error: rank 1 .*: --total-batch 100: expected" "$tmp/log0"
ok "what rank 1 alone meets: exit status $status" [ $status = 1 ]

# ---- launchers, and the scripts in dev/ that begin a run or go on with it ----

launched="$(model_of $architecture) --train $tmp/train.bin --total-batch 128 --steps 4"
export TRAINER=$build/train_${architecture}_emu_fp32
timeout 100 dev/run_gpus.sh 2 $launched --save-every 2 --out "$tmp/script" >"$tmp/log" 2>&1
ok "dev/run_gpus.sh: the same weights" same_weights r8-2 script 4
rm -rf "$tmp/script/step_00000004"
timeout 100 dev/run_gpus.sh 2 --out "$tmp/script" >"$tmp/log" 2>&1
ok "dev/run_gpus.sh, which goes on: the same weights" same_weights r8-2 script 4
# Slurm is nowhere here: in its place, what it tells two tasks on one machine.
mkdir "$tmp/bin"
cat >"$tmp/bin/srun" <<'EOS'
#!/bin/bash
[ "$1 $2" = "--kill-on-bad-exit=1 --cpus-per-task=3" ] || { echo "srun: error: expected other options than $*"; exit 2; }
shift 2
export SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=node7 pids= status=0
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids="$pids $!"; done
for pid in $pids; do wait $pid || status=$?; done
exit $status
EOS
chmod +x "$tmp/bin/srun"
PATH=$tmp/bin:$PATH SLURM_JOB_ID=$$ SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_CPUS_PER_TASK=3 timeout 100 \
    dev/run_slurm.sh $launched --out "$tmp/slurm" >"$tmp/log" 2>&1
status=$?
ok "dev/run_slurm.sh: exit status $status" [ $status = 0 ]
ok "dev/run_slurm.sh: two ranks" says "weights of all 2 ranks have hash"
ok "dev/run_slurm.sh: the same weights" same_weights r8-2 slurm 4
torchrun=$(command -v "$build/venv/bin/torchrun" torchrun | head -n 1)
if [ -n "$torchrun" ]; then
    PATH=$(dirname "$torchrun"):$PATH GPUS=2 PORT=$((20000 + RANDOM % 10000)) timeout 200 \
        dev/run_torchrun.sh 1 127.0.0.1 $launched --out "$tmp/torchrun" >"$tmp/log" 2>&1
    ok "dev/run_torchrun.sh: the same weights" same_weights r8-2 torchrun 4
else
    skip torchrun "there is none in $build/venv/bin (make venv) nor in PATH"
fi
if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 100 mpirun --oversubscribe -np 2 \
        "$build/train_${architecture}_emu_fp32" $launched --out "$tmp/mpirun" >"$tmp/log" 2>&1
    ok "mpirun: the same weights" same_weights r8-2 mpirun 4
else
    skip mpirun "there is no Open MPI in PATH"
fi

# ---- two machines: each a network and a name of its own, joined by a cable ----

# $1: the program with its arguments, without those that say who it is.
two_hosts='
    unshare -n -u sleep 100 & other=$!
    trap "kill $other 2>/dev/null" EXIT
    while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
    right() { nsenter -t $other -n -u "$@"; }
    hostname left && right hostname right || exit 1
    ip link add cable type veth peer name cable netns $other || exit 1
    for host in "" right; do
        $host ip addr add 10.9.8.$((1 + ${#host} / 5))/24 dev cable
        $host ip link set lo up
        $host ip link set cable up
    done
    pids=
    for rank in 0 1 2 3; do
        $([ $rank -lt 2 ] || echo right) $1 --ranks 4 --rank $rank --master 10.9.8.1 --port 7000 & pids="$pids $!"
    done
    status=0
    for pid in $pids; do wait $pid || status=$?; done
    exit $status'
if ! command -v ip nsenter hostname unshare >/dev/null; then
    skip "two machines" "no ip, nsenter, hostname or unshare here"
elif ! unshare -Urnu ip link add one type veth peer name two 2>/dev/null; then
    skip "two machines" "networks of one's own, or veth, are not allowed here"
else
    timeout 100 unshare -Urnu bash -c "$two_hosts" bash "$build/train_${architecture}_emu_fp32 $launched --val $tmp/val.bin \
        --val-batches 3 --out $tmp/hosts" >"$tmp/log" 2>&1
    ok "two machines: exit status $?" [ $? = 0 ]
    ok "two machines are told from one" says "4 ranks on 2 hosts; left: ranks 0 to 1 on GPU 0 to 1; right: ranks 2 to 3"
    ok "two machines: how ranks lie on them" says "ranks of machines 2\+2, NCCL_ALGO"
    ok "two machines: the same weights" same_weights r8-4 hosts 4
fi

# ---- only rank 0 sees --out and --model ----

nowhere=$tmp/nowhere
train local --total-batch 128 --steps 4 --save-every 2 --val-batches 3 --gpus 2
rm -rf "$tmp/local/step_00000004"
two "--out $tmp/local" "--out $nowhere/local" --resume
ok "resumed from a disk of rank 0: the same weights" same_weights r8-2 local 4
train from --model "$tmp/r8-2/step_00000004" --train "$tmp/train.bin" --total-batch 128 --steps 4 --gpus 2
two "--model $tmp/r8-2/step_00000004 --out $tmp/from0" "--model $nowhere/model --out $nowhere/from0" \
    --train "$tmp/train.bin" --total-batch 128 --steps 4 --tokenizer "$tmp/r8-2/step_00000004"
ok "weights from a disk of rank 0: the same weights" same_weights from from0 4
two "--model $tmp/r8-2/step_00000004 --out $tmp/local" "--model $nowhere/model --out $nowhere/local" --val "$tmp/val.bin" \
    --eval-only
ok "validated from a disk of rank 0: $status" [ $status = 0 ]
ok "other ranks leave --out alone" [ ! -e "$nowhere" ]

# ---- steps that take longer than --nccl-timeout ----

train long --total-batch 1536 --steps 1 --nccl-timeout 1.5 --gpus 2
ok "a step of many micro-batches: exit status $status" [ $status = 0 ]

# ---- faults ----

# in_background OUT ARGUMENT...: a long run of three ranks; sets parent and, once the first step is saved or, where `moment` is
# set, the log has these words, children
in_background() {
    local out=$1
    shift
    rm -rf "${tmp:?}/$out"
    : >"$tmp/log" # else what the run before said is found there
    "$build/train_${architecture}_emu_fp32" $(model_of $architecture) --train "$tmp/train.bin" --out "$tmp/$out" \
        --total-batch 128 --steps 100000 --save-every 1 --gpus 3 "$@" >"$tmp/log" 2>&1 &
    parent=$!
    for _ in $(seq 300); do
        if [ -n "${moment:-}" ]; then says "$moment"; else [ -e "$tmp/$out/step_00000001" ]; fi && break
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
until_says() { # WORDS: within 20 seconds
    for _ in $(seq 200); do
        says "$1" && return 0
        sleep 0.1
    done
    return 1
}
gone() { # SECONDS PROCESS...: they have ended within these
    local tries=$((10 * $1))
    shift
    while kill -0 "$@" 2>/dev/null; do # any of them
        [ $((tries--)) -gt 0 ] || return 1
        sleep 0.1
    done
}
goes_on() { # OUT: the run that has ended can be gone on with
    local newest
    newest=$(basename "$(ls -d "$tmp/$1"/step_* | tail -n 1)")
    train "$1" --resume --gpus 2 --steps $((10#${newest#step_} + 1))
    [ $status = 0 ]
}
for victim in 0 1 2; do
    in_background killed
    sleep "0.$((RANDOM % 10))"
    kill -9 "${children[$victim]}"
    ok "rank killed: all end" ends 20
    ok "rank killed: exit status $status" [ "$status" != 0 ]
    ok "rank killed: it is named" says "rank $victim .*(killed|gone|ended|died|left|lost)"
    ok "rank killed: the run goes on" goes_on killed
done
EMULATE_NCCL_ABORT_HANGS=1 in_background hangs
kill -9 "${children[1]}"
begin=$SECONDS
ok "ncclCommAbort hangs: all end" ends 9
ok "ncclCommAbort hangs: after its five seconds" [ $((SECONDS - begin)) -ge 4 ]
ok "ncclCommAbort hangs: the run goes on" goes_on hangs
in_background hung --nccl-timeout 3
kill -STOP "${children[1]}"
ok "rank hung: the others end" gone 12 "${children[0]}" "${children[2]}"
ok "rank hung: all end" ends 12
ok "rank hung: it is named" says "rank 1 "
kill -9 "${children[1]}" 2>/dev/null
ok "rank hung: the run goes on" goes_on hung
# Of two collectives a step that of the gradients of the third: all ranks have called it, and wait.
EMULATE_NCCL_LOSE=1:5 in_background lost --nccl-timeout 3
ok "collective without one rank: all end" ends 12
ok "collective without one rank: exit status $status" [ "$status" = 1 ]
ok "collective without one rank: nobody is accused" says "^rank 0 .* step 3: error: all 3 ranks answer and wait for one another at step 3,.* for 3 s"
ok "collective without one rank: none goes on after ncclCommAbort" [ "$(grep -c "after ncclCommAbort" "$tmp/log")" = 0 ]
ok "collective without one rank: the last checkpoint" [ "$(ls -d "$tmp"/lost/step_* | tail -n 1)" = "$tmp/lost/step_00000002" ]
ok "collective without one rank: the run goes on" goes_on lost
EMULATE_NCCL_STALL=1:5:1.5 train stalled --total-batch 128 --steps 4 --val-batches 3 --gpus 2 --nccl-timeout 6
ok "a collective that comes late, within --nccl-timeout: exit status $status" [ $status = 0 ]
ok "a collective that comes late, within --nccl-timeout: the same weights" same_weights r8-2 stalled 4
in_background killed --zero 1
kill -9 "${children[1]}"
ok "rank killed, --zero 1: all end" ends 20
ok "rank killed, --zero 1: the run goes on" goes_on killed
in_background signalled
train_second=$(log=$tmp/second train signalled --resume --gpus 2; echo "$status")
ok "a second run at the same time: exit status $train_second" [ "$train_second" = 1 ]
ok "a second run at the same time" grep -q "signalled is in use by process" "$tmp/second"
ok "a second run at the same time leaves the first alone" kill -0 $parent
kill -TERM $parent
ok "SIGTERM: all end" ends 20
ok "SIGTERM: exit status $status" [ "$status" = 143 ]
ok "SIGTERM: it says so once" [ "$(grep -c "^stopped by SIGTERM" "$tmp/log")" = 1 ]
ok "SIGTERM: the run goes on" goes_on signalled
# A validation of a second or two follows the line of a step.
moment="^step +1 of " in_background judging --val "$tmp/train.bin" --val-every 1 --val-batches 20
kill -TERM "${children[2]}"
ok "SIGTERM to one rank in a validation: all end" ends 20
ok "SIGTERM to one rank in a validation: exit status $status" [ "$status" = 143 ]
ok "SIGTERM to one rank in a validation: all have stopped" says "^stopped by SIGTERM after step 1 of .* saved"
ok "SIGTERM to one rank in a validation: it was left" [ "$(grep -c "^validation after step" "$tmp/log")" = 1 ]
ok "SIGTERM to one rank in a validation: the step is saved" [ -e "$tmp/judging/step_00000001" ]
moment="^parameters" in_background none --model "$tmp/r8-2/step_00000004" --val "$tmp/train.bin" --val-batches 1000 --eval-only
sleep 1
kill -TERM "${children[2]}"
ok "SIGTERM to one rank, --eval-only: all end" ends 20
ok "SIGTERM to one rank, --eval-only: exit status $status" [ "$status" = 143 ]
ok "SIGTERM to one rank, --eval-only: no result" [ "$(grep -c "^val_loss" "$tmp/log")" = 0 ]
in_background group_signalled
kill -TERM "${children[@]}" $parent
ok "SIGTERM to all processes: all end" ends 20
ok "SIGTERM to all processes: once is enough to stop" says "^stopped by SIGTERM"
in_background one_signalled --total-batch 768
kill -TERM "${children[2]}"
ok "SIGTERM to one rank in a long step: all end" ends 20
ok "SIGTERM to one rank in a long step: exit status $status" [ "$status" = 143 ]
ok "SIGTERM to one rank in a long step: all have left it" says "^stopped by SIGTERM after step 1 of"
train timed --total-batch 32 --steps 100000 --max-minutes 0.01 --gpus 2 --zero 1
ok "--max-minutes: exit status $status" [ $status = 0 ]
ok "--max-minutes: it says so" says "^stopped by --max-minutes after step [0-9]+ of 100000, which is saved"
ok "--max-minutes: the run goes on" goes_on timed

# A full disk at rank 0: from a moment on its files can have 16 KB.
if command -v prlimit >/dev/null; then
    in_background full
    prlimit --fsize=16384 --pid "${children[0]}"
    ok "full disk: the run goes on" until_says "warning: the checkpoint of step .*File too large.*The run goes on"
    kill -TERM $parent
    ok "full disk: all end" ends 20
    ok "full disk: exit status $status" [ "$status" = 1 ]
    ok "full disk: rank 0 says it" says "^rank 0 .*error: the checkpoint of step .*File too large.* is intact"
    ok "full disk: rank 2 is told" says "^rank 2 .*error: rank 0 .* failed at step .*: the checkpoint of step"
    ok "full disk: the run can be gone on with" goes_on full
else
    skip "full disk" "no prlimit here"
fi

# Weights that have come apart: rank 1 gets another sum of gradients in step 2.
EMULATE_NCCL_SPOIL=1:3 train apart --total-batch 128 --steps 4 --save-every 2 --gpus 3
ok "other weights: exit status $status" [ $status = 1 ]
ok "other weights: the rank is named" says "^rank 0 .*error: after step 2 rank 1 .* has other weights"
ok "other weights: one error" one_error
ok "other weights: nothing is saved" [ ! -e "$tmp/apart/step_00000002" ]
# With --zero 1, whose fourth collective of a step gathers the weights, in step 2 rank 1 gets another of rank 0's.
EMULATE_NCCL_SPOIL=1:8 train apart-1 --total-batch 128 --steps 4 --save-every 2 --gpus 3 --zero 1
ok "other weights, --zero 1: exit status $status" [ $status = 1 ]
ok "other weights, --zero 1: the rank is named" says "^rank 0 .*error: after step 2 rank 1 .* has other weights"
ok "other weights, --zero 1: one error" one_error
ok "other weights, --zero 1: nothing is saved" [ ! -e "$tmp/apart-1/step_00000002" ]
# The first of a step adds the gradients. In step 2, behind the six broadcasts of a checkpoint, the first number of rank 1's
# range is NaN there alone: every rank finds it, and rank 0 says so.
EMULATE_NCCL_SPOIL=1:11:nan train spoilt $graded --steps 4 --gpus 3 --zero 1
ok "NaN of one rank's range: exit status $status" [ $status = 1 ]
ok "NaN of one rank's range: its tensor is named" says "^rank 0 .*error: step 2: the gradient norm is NaN; first tensor that is not finite: gradient of "
ok "NaN of one rank's range: one error" one_error
ok "NaN of one rank's range: the last checkpoint" [ "$(ls -d "$tmp"/spoilt/step_* | tail -n 1)" = "$tmp/spoilt/step_00000001" ]

# A token outside the vocabulary, which all ranks read in step 3.
outside() { # FILE: there as token 274, in row 17
    printf '\377\377' | dd of="$1" bs=1 seek=$((1024 + 2 * (16 * 17 + 2))) conv=notrunc 2>/dev/null
}
cp "$tmp/train.bin" "$tmp/bad.bin"
outside "$tmp/bad.bin"
train bad --train "$tmp/bad.bin" --shuffle 0 --total-batch 128 --steps 4 --val-batches 3 --gpus 3
ok "a bad token in the third step: exit status $status" [ $status = 1 ]
ok "a bad token in the third step: rank 0 says it" says "^rank 0 .* step 3: error: .*65535"
ok "a bad token in the third step: one error" one_error
ok "a bad token in the third step: the second is saved" [ -e "$tmp/bad/step_00000002" ]
cp "$tmp/val.bin" "$tmp/bad.bin"
outside "$tmp/bad.bin"
train bad_val --val "$tmp/bad.bin" --total-batch 128 --steps 4 --val-batches 3 --gpus 3
ok "a bad token to validate on: rank 0 says it" says "^rank 0 .*error: .*65535"
ok "a bad token to validate on: one error" one_error

# A NaN on one rank. The embedding of byte 1, which no text here has, is as large as a float can be; then one row of data
# has it, whose turn is in step 3 on rank 1.
train begun --ponder 0 --tie 0 --total-batch 128 --steps 1
poisoned=$tmp/begun/step_00000001 file=$tmp/begun/step_00000001/model.safetensors
header=$(od -An -N8 -tu8 "$file" | tr -d ' ')
at=$(head -c $((8 + header)) "$file" | grep -aoE '(embed_in|wte|embed_tokens)\.weight":\{[^}]*\}' | sed 's/.*offsets":\[\([0-9]*\),.*/\1/')
for _ in {1..16}; do printf '\377\377\177\177'; done | dd of="$file" bs=1 seek=$((8 + header + at + 16 * 4)) conv=notrunc 2>/dev/null
cp "$tmp/train.bin" "$tmp/nan.bin"
printf '\001\000' | dd of="$tmp/nan.bin" bs=1 seek=$((1024 + 2 * (16 * 18 + 8))) conv=notrunc 2>/dev/null
train nan --model "$poisoned" --ponder 0 --tie 0 --train "$tmp/nan.bin" --shuffle 0 --total-batch 128 --steps 6 --save-every 1 \
    --val-batches 3 --gpus 3 --batch 2
ok "NaN on one rank: exit status $status" [ $status = 1 ]
ok "NaN on one rank: it says so" says "^rank 1 .* step 3: error: step 3: the loss is (NaN|infinite)"
ok "NaN on one rank: the others are told" says "^rank 0 .*error: rank 1 .* failed at step 3: step 3: the loss is"
ok "NaN on one rank: the last checkpoint" [ "$(ls -d "$tmp"/nan/step_* | tail -n 1)" = "$tmp/nan/step_00000002" ]
train looked --model "$tmp/nan/step_00000002" --eval-only
ok "NaN on one rank: the last checkpoint is whole" [ $status = 0 ]

checked
