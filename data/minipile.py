#!/usr/bin/env python3
"""MiniPile: a million documents of the Pile."""

import corpus

corpus.main(corpus.Corpus(
    "minipile", "Token shards of MiniPile: a million documents, 1.5 billion tokens. Validation is its own, 500 documents; its test set is "
    "left alone.", repository="JeanKaddour/minipile", revision="18ad1b0c701eaa0de03d3cecfdd769cbc70ffbd0", train=["data/train-*.parquet"],
    validation=["data/validation-*.parquet"]))
