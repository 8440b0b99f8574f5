#!/bin/bash
# llama.sh 405m|834m|1.4b [ponder|vanilla|fair] [--dry|--plan|--row] [OPTION...] - the paper's scaling runs of LLaMA, in tokens of
# GPT-NeoX's tokenizer. See recipe_scaling in recipe.sh.
set -e
cd "$(dirname "$0")/../.."
. dev/recipes/recipe.sh
recipe_scaling llama data/pile "build/venv/bin/python data/pile.py --out data/pile makes them" "$@"
