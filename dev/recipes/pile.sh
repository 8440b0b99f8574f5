#!/bin/bash
# pile.sh 70m|160m|410m|1b|1.4b [ponder|vanilla|fair] [--dry|--plan|--row] [OPTION...] - the paper's Pythias: 300 billion tokens
# of the Pile in steps of 2,097,152. See recipe.sh for the rest. From 410m on pondering starts from S times the embedding.
set -e
cd "$(dirname "$0")/../.."
. dev/recipes/recipe.sh
recipe_arguments "70m 160m 410m 1b 1.4b" "$@"
model=pythia
title="pythia-$size, $row, 300 G tokens of the Pile"
step=2097152
tokens=$((143000 * step))    # as many steps as Pythia's own
data=data/pile out=out/pile_${size}_$row
make_data="build/venv/bin/python data/pile.py --out data/pile makes them"
decay=0.01 multiply=0
case $size in
70m) rate=1e-3 ;;
160m) rate=6e-4 ;;
410m) rate=3e-4 decay=0.1 multiply=1 ;;
1b) rate=2.5e-4 multiply=1 ;;
1.4b) rate=2e-4 multiply=1 ;;
esac
[ "$row" = ponder ] || multiply=0
options=(--model pythia-$size $(row_options) --multiply-steps $multiply --seq 2048 --total-batch $step --steps 143000 --lr $rate
    --schedule cosine --min-lr-ratio 0.1 --warmup-ratio 0.01 --weight-decay $decay --beta1 0.9 --beta2 0.95 --clip 1
    --val-every 20000 --val-batches 100 --save-every 1000)
curve="no curve of 300 G tokens is published"
case $size:$row in
70m:ponder) curve="after 30 G tokens (step 14,305) a perplexity of 14.16 on the Pile; no later point is published" ;;
70m:vanilla) curve="after 30 G tokens (step 14,305) a perplexity of 16.95 on the Pile; no later point is published" ;;
1.4b:ponder) curve="no curve is published; the paper's own run of 300 G tokens took 31,680 hours of a GPU" ;;
1b:ponder) curve="nine tasks of lm-evaluation-harness, mean: 56.2 with five shots, 55.0 with none; no curve is published;
the paper's own run took 19,886 hours of a GPU" ;;
1b:vanilla) curve="nine tasks of lm-evaluation-harness, mean: 50.4 with five shots, 50.6 with none (Pythia-1B); no curve is published" ;;
esac
recipe_run
