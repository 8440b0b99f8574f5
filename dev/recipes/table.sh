#!/bin/bash
# table.sh - the rows of README.md here, from the ledger of the programs as they are: dev/recipes/table.sh > rows
cd "$(dirname "$0")" || exit 1
for recipe in minipile "pile 70m" "pile 160m" "pile 410m" "pile 1b" "pile 1.4b" "gpt2 405m" "gpt2 834m" "gpt2 1.4b" \
    "llama 405m" "llama 834m" "llama 1.4b"; do
    read -r name size <<<"$recipe"
    for row in ponder vanilla; do ./$name.sh $size $row --row || exit 1; done
done
./pythia_1b_continued.sh --lr 1e-4 --row
