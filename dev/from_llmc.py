"""Turns a GPT-2 checkpoint of llm.c into a model directory that build/train_gpt2 and transformers read.

    usage: from_llmc.py FILE.bin OUT          for instance: build/venv/bin/python dev/from_llmc.py gpt2_124M.bin out/gpt2

FILE is what llm.c's train_gpt2.py writes (gpt2_124M.bin, gpt2_124M_bf16.bin) and what its trainers save (model_00001000.bin):
256 int32 (magic 20240326, version, positions, vocabulary, layers, heads, width, padded vocabulary), then one tensor kind after
the other, each for all layers. Version 3 holds float32, version 5 bfloat16; older ones have another order and are refused. OUT
gets config.json and model.safetensors in float32 with Hugging Face's names: products turned to (in,out), the padding rows of
the vocabulary left out, the head tied. FILE does not say which token ends a text: with GPT-2's own 50,257 tokens it is the last,
with any other vocabulary bos_token_id and eos_token_id are null. Moments and the tokenizer are not in FILE: give --tokenizer to the trainer.
"""

import json
import os
import sys

import numpy
from safetensors.numpy import save_file

from new_directory import new_directory

MAGIC, HEADER = 20240326, 256
GPT2_TOKENS = 50257     # its tokenizer's; the last one is <|endoftext|>
TYPES = {3: ("float32", "<f4"), 5: ("bfloat16", "<u2")}       # version -> type of all numbers


def fail(message):
    sys.exit(f"from_llmc: {message}")


def tensors(L, C, P, Vp):
    """Rows in the order of the file: name ({}: one for each layer), shape there, whether it is turned."""
    return [
        ("wte.weight", (Vp, C), False), ("wpe.weight", (P, C), False),
        ("h.{}.ln_1.weight", (L, C), False), ("h.{}.ln_1.bias", (L, C), False),
        ("h.{}.attn.c_attn.weight", (L, 3 * C, C), True), ("h.{}.attn.c_attn.bias", (L, 3 * C), False),
        ("h.{}.attn.c_proj.weight", (L, C, C), True), ("h.{}.attn.c_proj.bias", (L, C), False),
        ("h.{}.ln_2.weight", (L, C), False), ("h.{}.ln_2.bias", (L, C), False),
        ("h.{}.mlp.c_fc.weight", (L, 4 * C, C), True), ("h.{}.mlp.c_fc.bias", (L, 4 * C), False),
        ("h.{}.mlp.c_proj.weight", (L, C, 4 * C), True), ("h.{}.mlp.c_proj.bias", (L, C), False),
        ("ln_f.weight", (C,), False), ("ln_f.bias", (C,), False),
    ]


def read_header(path):
    """-> (version, positions, vocabulary, layers, heads, width, padded vocabulary)"""
    try:
        header = numpy.fromfile(path, dtype="<i4", count=HEADER)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    if len(header) < HEADER or header[0] != MAGIC:
        found = f"{header[0]}" if len(header) else "an empty file"
        fail(f"{path}: expected a checkpoint of llm.c, which starts with {MAGIC} in a header of 1024 bytes, found {found}")
    version, P, V, L, NH, C, Vp = (int(x) for x in header[1:8])
    if version not in TYPES:
        fail(f"{path}: version {version}; 3 (float32) and 5 (bfloat16) are read. llm.c's train_gpt2.py writes such files anew")
    for what, x in (("positions", P), ("vocabulary", V), ("layers", L), ("heads", NH), ("width", C)):
        if not 0 < x < 1 << 24:
            fail(f"{path}: the header says {what} {x}, expected more than 0")
    if Vp < V:
        fail(f"{path}: the header says a padded vocabulary of {Vp}, expected at least the vocabulary, {V}")
    if C % NH:
        fail(f"{path}: the header says width {C} and heads {NH}; the width must be a multiple of the heads")
    return version, P, V, L, NH, C, Vp


def convert(path):
    """-> (config, {name: float32 array})"""
    version, P, V, L, NH, C, Vp = read_header(path)
    kind, dtype = TYPES[version]
    rows = tensors(L, C, P, Vp)
    expected = HEADER * 4 + sum(numpy.prod(shape, dtype=numpy.int64) for _, shape, _ in rows) * numpy.dtype(dtype).itemsize
    if os.path.getsize(path) != expected:
        fail(f"{path}: {os.path.getsize(path)} bytes; its header (version {version}, {kind}: layers {L}, width {C}, positions {P}, "
             f"padded vocabulary {Vp}) makes {expected}")
    out, offset = {}, HEADER * 4
    for name, shape, turned in rows:
        x = numpy.fromfile(path, dtype=dtype, count=int(numpy.prod(shape)), offset=offset).reshape(shape)
        offset += x.nbytes
        if kind == "bfloat16":      # the upper half of a float32
            x = (x.astype("<u4") << 16).view("<f4")
        if name == "wte.weight":
            x = x[:V]
        for layer in range(L) if "{}" in name else [None]:
            one = x if layer is None else x[layer]
            out["transformer." + name.format(layer)] = numpy.ascontiguousarray(one.T if turned else one)
    for name, x in out.items():
        if not numpy.isfinite(x).all():
            fail(f"{path}: {name} holds numbers that are not finite")
    end = V - 1 if V == GPT2_TOKENS else None
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "vocab_size": V,
        "n_positions": P, "n_embd": C, "n_layer": L, "n_head": NH, "n_inner": 4 * C, "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tie_word_embeddings": True, "bos_token_id": end,
        "eos_token_id": end, "torch_dtype": "float32",
    }
    return config, out


def main():
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit(sys.argv[1:] not in (["-h"], ["--help"]))
    path, out = sys.argv[1:]
    config, weights = convert(path)
    with new_directory(out, fail) as directory:
        save_file(weights, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
            f.write(json.dumps(config, indent=2) + "\n")
    print(f"{out}: GPT-2, layers {config['n_layer']}, width {config['n_embd']}, heads {config['n_head']}, "
          f"positions {config['n_positions']}, vocabulary {config['vocab_size']}")
    end = config["eos_token_id"]
    print(f"bos_token_id and eos_token_id: {end}, <|endoftext|> of GPT-2's tokenizer" if end is not None else
          f"bos_token_id and eos_token_id: null, because the vocabulary is not GPT-2's of {GPT2_TOKENS}")


if __name__ == "__main__":
    main()
