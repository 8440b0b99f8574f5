#!/usr/bin/env python3
"""OpenWebText."""

import corpus

corpus.main(corpus.Corpus(
    "openwebtext", "Token shards of OpenWebText: 8 million documents, 9 billion tokens. One document of 2,000 is held out, as nanoGPT does.",
    repository="Skylion007/openwebtext", revision="79d93d786212f7344586290adb811d4ae6a1762c", train=["plain_text/train-*.parquet"],
    val_share=0.0005))
