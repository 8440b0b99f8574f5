#!/bin/bash
# minipile.sh [ponder|vanilla|fair] [--dry|--plan|--row] [OPTION...] - the reference's quick start: pythia-70m on MiniPile, one
# epoch. `ponder` and `vanilla` are its two commands; `fair` differs from ponder in S alone. See recipe.sh for the rest.
set -e
cd "$(dirname "$0")/../.."
. dev/recipes/recipe.sh
recipe_arguments "" "$@"
model=pythia
title="pythia-70m, $row, one epoch of MiniPile"
step=262144                  # 8 GPUs x 8 rows x 2 micro-batches x 2,048 there
tokens=$((5690 * step))      # MiniPile in GPT-NeoX's tokens, as the reference counts steps
data=data/minipile out=out/minipile_$row
make_data="build/venv/bin/python data/minipile.py --out data/minipile makes them"
options=(--model pythia-70m $(row_options) --seq 2048 --batch 8 --total-batch $step --epochs 1 --lr 1e-3 --schedule cosine
    --min-lr-ratio 0.1 --warmup-ratio 0.01 --weight-decay 0.01 --beta1 0.9 --beta2 0.95 --clip 1 --val-every 500 --save-every 500)
case $row in
ponder) curve="training loss 3.448 after 1,000 steps, 3.134 after 2,000, 3.001, 2.931, 2.880 after 5,000, about 2.87 at the end
(read off the published plot, 0.005 either way)" ;;
vanilla) curve="training loss 3.488 after 1,000 steps, 3.228 after 2,000, 3.109, 3.046, 2.997 after 5,000, about 2.99 at the end
(read off the published plot, 0.005 either way)" ;;
fair) curve="nothing is published; with pondering's initialisation and scaling a vanilla model learns faster at first" ;;
esac
recipe_run
