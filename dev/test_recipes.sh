#!/bin/bash
# test_recipes.sh [BUILD] - the recipes of dev/recipes: every one is planned by the programs of BUILD (build), trainers under the
# emulator, as the command that it prints; the table in their README is what the ledger says; what they refuse. The last line
# is `N passed, N failed, N skipped`, the exit status the verdict.
cd "$(dirname "$0")/.." || exit 1
. dev/checks.sh
unset DATA GPUS TRAINER PLANNER RANK OMPI_COMM_WORLD_RANK SLURM_STEP_NUM_TASKS
export LC_ALL=C CUDA_VISIBLE_DEVICES=
build=$(cd "${1:-build}" && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
copy="$tmp/a copy" # the scripts go to their own repository's top
mkdir -p "$copy/build" "$copy/dev" "$copy/data/pile" && cp -r dev/recipes "$copy/dev/" && cd "$copy" || exit 1
for m in pythia gpt2 llama; do ln -s "$build/train_${m}_emu" build/; done

says() { grep -qF -- "$1" "$tmp/log"; }
recipe() { # NAME ARGUMENT...
    dev/recipes/"$@" >"$tmp/log" 2>&1
    status=$?
}
good() { recipe "$@"; ok "$*" [ "$status" = 0 ]; }
refused() { # TEXT NAME ARGUMENT...
    local text=$1
    shift
    recipe "$@"
    ok "$*: refused" [ "$status" != 0 ]
    ok "$*: $text" says "$text"
}

# The ledger of every recipe, as the table in README.md has it.
dev/recipes/table.sh >"$tmp/rows" 2>"$tmp/log"
ok "every recipe is planned" [ "$(wc -l <"$tmp/rows")" = 25 ]
sed -n '/^| `[a-z0-9_]*\.sh/p' dev/recipes/README.md >"$tmp/page"
diff "$tmp/page" "$tmp/rows" >"$tmp/log"
ok "dev/recipes/README.md has other rows than dev/recipes/table.sh makes" [ ! -s "$tmp/log" ]

# The printed command, run with --plan=h100 beside it: no option is unknown, no value refused. On a machine without the trainer the
# emulator's program stands in its place.
while IFS='|' read -r name words; do
    good $name --dry
    for word in $words; do ok "$name: $word" grep -qE -- "--${word%=*} ${word#*=}( |\$)" "$tmp/log"; done
    sed -e "s|^build/train_\([a-z0-9]*\)_cuda|build/train_\1_emu|" -e 's/--resume//' -e 's/$/ --plan=h100/' "$tmp/log" >"$tmp/command"
    bash "$tmp/command" >"$tmp/log" 2>&1
    ok "$name: its command with --plan=h100" says "work, forward and backward"
done <<END
minipile.sh|model=pythia-70m ponder=3 scale-embeds=1 init=ponder total-batch=262144 epochs=1 lr=1e-3 weight-decay=0.01 seq=2048
minipile.sh vanilla|model=pythia-70m ponder=0 scale-embeds=0 init=stock total-batch=262144 epochs=1 lr=1e-3 min-lr-ratio=0.1
minipile.sh fair|model=pythia-70m ponder=0 scale-embeds=1 init=ponder warmup-ratio=0.01 beta1=0.9 beta2=0.95 schedule=cosine
pile.sh 70m|model=pythia-70m ponder=3 multiply-steps=0 total-batch=2097152 steps=143000 lr=1e-3 weight-decay=0.01 val-every=20000
pile.sh 160m vanilla|model=pythia-160m ponder=0 multiply-steps=0 total-batch=2097152 lr=6e-4 weight-decay=0.01
pile.sh 410m|model=pythia-410m ponder=3 multiply-steps=1 lr=3e-4 weight-decay=0.1
pile.sh 410m fair|model=pythia-410m ponder=0 scale-embeds=1 multiply-steps=0
pile.sh 1b|model=pythia-1b multiply-steps=1 lr=2.5e-4 weight-decay=0.01
pile.sh 1.4b|model=pythia-1.4b multiply-steps=1 lr=2e-4 weight-decay=0.01
gpt2.sh 405m|model=gpt2-405m total-batch=524288 steps=13351 lr=3e-4 weight-decay=0.1 seq=2048
gpt2.sh 834m vanilla|model=gpt2-834m ponder=0 steps=28610 lr=2.5e-4
gpt2.sh 1.4b fair|model=gpt2-1.4b steps=49591 lr=2e-4
llama.sh 405m|model=llama-405m total-batch=524288 steps=13351 lr=3e-4 weight-decay=0.1 seq=2048
llama.sh 834m vanilla|model=llama-834m steps=28610 lr=2.5e-4
llama.sh 1.4b fair|model=llama-1.4b steps=49591 lr=2e-4
END

good minipile.sh vanilla --plan
ok "what it takes: tokens" says "1.49 G in 5690 steps of 262144"
ok "what it takes: the curve" says "3.488 after 1,000 steps"
good pile.sh 410m --dry --seed 7 --prompt "it's a * \$x"
ok "the decay of 410m" says "--weight-decay 0.1 "
ok "S times the embedding" says "--multiply-steps 1 "
eval "printf '<%s>\n' $(cat "$tmp/log")" >"$tmp/words"
mv "$tmp/words" "$tmp/log"
ok "a command that can be pasted" says "<it's a * \$x>"
ok "and its globs" says "<data/pile/train_*.bin>"
good pile.sh 410m vanilla --dry
ok "a vanilla model has no steps to multiply by" says "--multiply-steps 0 "
mkdir -p elsewhere/tokenizer
export DATA=elsewhere GPUS=4
good llama.sh 405m --dry
ok "DATA" says "--train 'elsewhere/train_*.bin'"
ok "its tokenizer" says "--tokenizer elsewhere/tokenizer"
ok "GPUS" says "--gpus 4 "
export RANK=2
good llama.sh 405m --dry
ok "torchrun starts the ranks" [ "$(grep -c -e --gpus "$tmp/log")" = 0 ]
unset DATA GPUS RANK
export CUDA_VISIBLE_DEVICES=1,3
good llama.sh 405m --dry
ok "visible GPUs" says "--gpus 2 "
export CUDA_VISIBLE_DEVICES=

refused "one of: 70m 160m 410m 1b 1.4b; found '3b'" pile.sh 3b
refused "found ''" gpt2.sh
refused "expected ponder, vanilla, fair or an option, found 'plain'" minipile.sh plain
refused "data/minipile: expected shards train_*.bin, found none" minipile.sh
refused "data/minipile.py --out data/minipile" minipile.sh
touch data/pile/train_000000.bin
refused "no build/train_pythia_cuda: make gpu" pile.sh 70m
refused "expected --lr X among the options" pythia_1b_continued.sh --dry
refused "expected --model DIR among the options" pythia_1b_continued.sh --lr 1e-4
refused "expected ponder or vanilla" pythia_1b_continued.sh fair --lr 1e-4 --dry
refused "unknown option --sede" minipile.sh --plan --sede 1

# It trains: the trainer gets the command as it was printed.
printf '#!/bin/sh\nprintf "<%%s>\\n" "$@"\n' >trainer && chmod +x trainer
touch data/pile/val_000000.bin
export TRAINER=./trainer
good pile.sh 70m --steps 3
ok "the data" says "<data/pile/train_*.bin>"
ok "validation" says "<data/pile/val_*.bin>"
ok "options win, so they come last" [ "$(tail -n 1 "$tmp/log")" = "<3>" ]
rm data/pile/val_000000.bin
good pile.sh 70m
ok "no validation without shards for it" [ "$(grep -c -e --val$ "$tmp/log")" = 0 ]
checked
