#!/bin/bash
# gpt2.sh 405m|834m|1.4b [ponder|vanilla|fair] [--dry|--plan|--row] [OPTION...] - the paper's scaling runs of GPT-2: 7, 15 and 26
# billion tokens of the Pile in steps of about half a million. Rates and decay are inferred, not published; whether these runs
# started from S times the embedding is not known: --multiply-steps 1 does. See recipe.sh for the rest.
set -e
cd "$(dirname "$0")/../.."
. dev/recipes/recipe.sh
recipe_arguments "405m 834m 1.4b" "$@"
model=gpt2
step=524288
case $size in
405m) rate=3e-4 steps=13351 ;;      # 7 G tokens
834m) rate=2.5e-4 steps=28610 ;;    # 15 G
1.4b) rate=2e-4 steps=49591 ;;      # 26 G
esac
tokens=$((steps * step))
title="gpt2-$size, $row, $(count $tokens) tokens of the Pile"
data=data/pile_gpt2 out=out/gpt2_${size}_$row
make_data="build/venv/bin/python data/pile.py --tokenizer openai-community/gpt2 --out data/pile_gpt2 makes them"
options=(--model gpt2-$size $(row_options) --seq 2048 --total-batch $step --steps $steps --lr $rate --schedule cosine
    --min-lr-ratio 0.1 --warmup-ratio 0.01 --weight-decay 0.1 --beta1 0.9 --beta2 0.95 --clip 1 --val-every 1000 --save-every 1000)
curve="pondering below vanilla at every size; the losses are published as a picture only"
recipe_run
