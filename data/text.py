#!/usr/bin/env python3
"""Any text."""

import corpus

corpus.main(corpus.Corpus(
    "text", "Token shards of any text: plain, JSON, CSV, Parquet, also gzip and zstd. A tenth is held out: documents by their hashes, or where "
    "these are few the end of the text.", paths=True, val_share=0.1))
