#!/usr/bin/env python3
"""The Pile without its copyrighted parts."""

import corpus

corpus.main(corpus.Corpus(
    "pile", "Token shards of the Pile without its copyrighted parts, streamed. Validation is the Pile's own set.",
    repository="monology/pile-uncopyrighted", revision="3be90335b66f24456a5d6659d9c8d208c0357119", train=["train/*.jsonl.zst"],
    validation=["val.jsonl.zst"], val_repository="mit-han-lab/pile-val-backup", val_revision="2f5e46ae6a69cf0dce4b12f78241c408936ca0e4"))
