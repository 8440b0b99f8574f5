#!/usr/bin/env python3
"""TinyStories."""

import corpus

corpus.main(corpus.Corpus(
    "tinystories", "Token shards of TinyStories: 2.1 million short stories. Validation is its own.",
    repository="roneneldan/TinyStories", revision="f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", train=["data/train-*.parquet"],
    validation=["data/validation-*.parquet"]))
