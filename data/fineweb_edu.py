#!/usr/bin/env python3
"""FineWeb-Edu's samples."""

import corpus

corpus.main(corpus.Corpus(
    "fineweb_edu", "Token shards of a sample of FineWeb-Edu: 10, 100 or 350 billion tokens of GPT-2's. A thousandth of the documents is held out.",
    repository="HuggingFaceFW/fineweb-edu", revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9", train=["sample/{sample}/*.parquet"],
    samples=["10BT", "100BT", "350BT"], val_share=0.001))
