#!/bin/bash
# pythia_1b_continued.sh [ponder|vanilla] [--dry|--plan|--row] --model DIR --lr X [OPTION...] - pretraining goes on: the public
# Pythia-1B, in DIR as it is downloaded, and 30 billion tokens more as a pondering model. The rate is not published, so it has to
# be given. Embeddings are not scaled, so that the first pass is the model that was trained. See recipe.sh for the rest.
set -e
cd "$(dirname "$0")/../.."
. dev/recipes/recipe.sh
recipe_arguments "" "$@"
[ "$row" != fair ] || die "$(basename "$0"): expected ponder or vanilla; initialisation is the checkpoint's"
case " ${more[*]} " in *" --lr"[\ =]*) ;; *) die "$(basename "$0"): expected --lr X among the options: the paper does not say its rate" ;; esac
case $action:" ${more[*]} " in run:*" --model"[\ =]* | plan:* | row:* | dry:*) ;; *)
    die "$(basename "$0"): expected --model DIR among the options, the directory of Pythia-1B with config.json and model.safetensors" ;;
esac
model=pythia
title="pythia-1b, going on as $row, 30 G tokens of the Pile"
step=2097152
tokens=$((14305 * step))
data=data/pile out=out/pythia_1b_continued_$row
make_data="build/venv/bin/python data/pile.py --out data/pile makes them"
S=3
[ "$row" = ponder ] || S=0
options=(--model pythia-1b --ponder $S --scale-embeds 0 --seq 2048 --total-batch $step --steps 14305 --schedule cosine
    --min-lr-ratio 0.1 --warmup-ratio 0.01 --weight-decay 0.01 --beta1 0.9 --beta2 0.95 --clip 1 --val-every 1000 --val-batches 100
    --save-every 500)
curve="no curve is published"
recipe_run
