#!/usr/bin/env python3
"""Tiny Shakespeare."""

import corpus

corpus.main(corpus.Corpus(
    "shakespeare", "Token shards of tiny Shakespeare, one text of 1.1 MB. Validation is its last tenth, cut at a line end.",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", val_share=0.1))
