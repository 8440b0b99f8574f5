#!/usr/bin/env python3
"""FineWeb's samples."""

import corpus

corpus.main(corpus.Corpus(
    "fineweb", "Token shards of a sample of FineWeb: 10, 100 or 350 billion tokens of GPT-2's. A thousandth of the documents is held out.",
    repository="HuggingFaceFW/fineweb", revision="9bb295ddab0e05d785b879661af7260fed5140fc", train=["sample/{sample}/*.parquet"],
    samples=["10BT", "100BT", "350BT"], val_share=0.001))
