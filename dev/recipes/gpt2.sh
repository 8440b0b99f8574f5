#!/bin/bash
# gpt2.sh 405m|834m|1.4b [ponder|vanilla|fair] [--dry|--plan|--row] [OPTION...] - the paper's scaling runs of GPT-2, in tokens of
# GPT-2's own tokenizer. See recipe_scaling in recipe.sh.
set -e
cd "$(dirname "$0")/../.."
. dev/recipes/recipe.sh
recipe_scaling gpt2 data/pile_gpt2 "build/venv/bin/python data/pile.py --tokenizer openai-community/gpt2 --out data/pile_gpt2 makes them" "$@"
