#!/usr/bin/env python3
"""Compares build/tokens, token by token, with the tokenizers and sentencepiece libraries.

    build/venv/bin/python dev/check_tokenizers.py build/tokens [--strings 10000] [--seed 1] [--bench]

Texts: random Unicode (combining marks, joiners, CJK, Hangul, right-to-left, NUL, long runs of a letter and of spaces, text
that looks like special tokens), this project's own files, and shared/data where it is present, whole for shared's own
tokenizers, a part of each text for the others. Tokenizers: those of shared/tokenizers, and small ones that are trained here
on this project's files in the manner of Llama-3, SmolLM, Qwen2, GPT-NeoX, TinyLlama, Llama-2 and SentencePiece. What is not
installed or present is skipped by name. --bench also times both.
"""
import argparse
import glob
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

try:
    import sentencepiece
except ImportError:
    sentencepiece = None

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
REAL = 12000    # characters of each real text that a kind of tokenizer gets which is made here
passed, failed, skipped = 0, 0, 0


def skip(what, why):
    global skipped
    skipped += 1
    print(f"skip {what}: {why}")


# ---- texts ----

RANGES = [(0x20, 0x7F), (0x20, 0x7F), (0x00, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700),
          (0x900, 0xE00), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2C00), (0x2580, 0x2584),
          (0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB50), (0xFB50, 0x10000), (0x10000, 0x11700),
          (0x1D150, 0x1D400), (0x1F300, 0x1FB00), (0x2F800, 0x2FA20), (0xE0000, 0xE0200), (0x80, 0x110000)]
BITS = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<0x0A>", "\u2581", "<|begin", "<mask>", "cat", "don't", "'LL", "'\u017f",
        "\r\n", "\n\n", "   \n", "\t\t", "12345", "\u0661\u0662\u0663\u0664", "e\u0301", "\u1100\u1161\u11a8", "\u0958",
        "\u200d", "\u200f", "a\u0323\u0307", "https://x.y/z?a=1&b=2", " ", "  ", "    ", "x = [1, 2]", "\x00", "\ufeff"]


def random_text(rng):
    out = []
    for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 30])):
        kind = rng.random()
        low, high = rng.choice(RANGES)
        if kind < 0.3:
            out.append(rng.choice(BITS))
        elif kind < 0.4:
            out.append(rng.choice([" ", "a", "\n", "\u0301", "\u4e2d", chr(rng.randrange(0x21, 0x250))]) * rng.choice([2, 7, 40, 300]))
        else:
            out.append("".join(chr(c) for c in (rng.randrange(low, high) for _ in range(rng.randrange(1, 9)))
                               if not 0xD800 <= c < 0xE000))
        if rng.random() < 0.4:
            out.append(" ")
    return "".join(out)


def own_files():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    names = sorted(glob.glob(root + "/*.md") + glob.glob(root + "/common/*.h") + glob.glob(root + "/common/files/*.h"))
    return [open(name, encoding="utf-8", newline="").read() for name in names]


# ---- tokenizers made here ----

trained = {}
sizes = [1500, 1800, 1000]  # pieces of either kind; characters of the latter


def byte_level(words, pre, normalizer=None, added=(), **model):
    """Trained once: the pieces of all are those of words as Llama-3 cuts them."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    if "bytes" not in trained:
        made.train_from_iterator(words, trainers.BpeTrainer(
            vocab_size=sizes[0], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        trained["bytes"] = made.to_str()
    made = Tokenizer.from_str(trained["bytes"])
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer = pre
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", "<|begin"])
    made.add_tokens(list(added))
    file = json.loads(made.to_str())
    file["model"].update(model)
    return file


def sentence_like(words, normalizer, pre, **model):
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    special = ["<unk>", "<s>", "</s>"]
    if "characters" not in trained:
        made.train_from_iterator(words, trainers.BpeTrainer(
            vocab_size=sizes[1], limit_alphabet=sizes[2], show_progress=False, special_tokens=special + [f"<0x{b:02X}>" for b in range(256)]))
        trained["characters"] = made.to_str()
    file = json.loads(trained["characters"])
    file["added_tokens"] = file["added_tokens"][:3]
    file["normalizer"] = json.loads(normalizer.__getstate__()) if normalizer else None
    file["pre_tokenizer"] = json.loads(pre.__getstate__()) if pre else None
    file["model"].update({"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}, **model)
    return file


def made_files(words):
    level, sequence = pre_tokenizers.ByteLevel, pre_tokenizers.Sequence
    split = lambda pattern: sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level(False, use_regex=False)])
    strips = [AddedToken("<mask>", lstrip=True), AddedToken("cat", rstrip=True, normalized=False),
              AddedToken("don", single_word=True, normalized=False), AddedToken("12", lstrip=True, rstrip=True),
              AddedToken("\u0958", normalized=True), AddedToken("  "), AddedToken("   ")]
    llama3 = byte_level(words, split(LLAMA3), ignore_merges=True)
    llama3["model"]["merges"] = [m for i, m in enumerate(llama3["model"]["merges"]) if i < 600 or i % 7]
    yield "llama-3", llama3
    yield "qwen2", byte_level(words, split(QWEN2), normalizers.NFC())
    yield "smollm", byte_level(words, sequence([pre_tokenizers.Digits(True), level(False)]))
    yield "digits together", byte_level(words, sequence([pre_tokenizers.Digits(False), level(False)]))
    yield "gpt-neox", byte_level(words, level(False), normalizers.NFC(), [AddedToken(" " * n) for n in range(2, 9)])
    yield "strip flags", byte_level(words, level(False), normalizers.NFC(), strips)
    yield "prefix space", byte_level(words, level(True))
    old = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    yield "tinyllama", sentence_like(words, old, None)
    yield "llama-2, first", sentence_like(words, None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))
    yield "metaspace", sentence_like(words, None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True))
    yield "unknown", sentence_like(words, old, None, byte_fallback=False)
    yield "unknown, not fused", sentence_like(words, old, None, byte_fallback=False, fuse_unk=False)
    crossing = sentence_like(words, old, None)  # a piece that goes over a space
    crossing["model"]["vocab"].update({"e\u2581": 5000, "e\u2581t": 5001})
    crossing["model"]["merges"] = [["e", "\u2581"], ["e\u2581", "t"]] + crossing["model"]["merges"]
    yield "over spaces", crossing


def made_models(words, directory):
    """Models of SentencePiece: plain ones, and with flags and pieces that are rare."""
    more = {"plain": {}, "byte fallback": {"byte_fallback": True}, "trim": {"remove_extra_whitespaces": True},
            "no prefix": {"add_dummy_prefix": False}, "pieces of the user's": {
                "user_defined_symbols": ["<mask>", "cat", "\u2581\u2581", "12", "12345"], "byte_fallback": True},
            "over spaces": {"split_by_whitespace": False}}
    for name, options in more.items():
        options = {"remove_extra_whitespaces": False, "split_digits": True, **options}
        path = f"{directory}/{name}.model"
        with open(path, "wb") as out:   # neither this place nor that of the text stands in the model
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(words), model_writer=out, model_type="bpe",
                vocab_size=sizes[3] if len(sizes) > 3 else 1200, character_coverage=0.999, normalization_rule_name="identity",
                minloglevel=2, max_sentence_length=10000, **options)
        yield f"sentencepiece, {name}", path


def json_of_model(path):
    """What Hugging Face makes of tokenizer.model: merges are all parts of pieces that are pieces, by scores."""
    model = sentencepiece.SentencePieceProcessor(model_file=path)
    vocab = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    merges = []
    for piece, i in vocab.items():
        if model.is_control(i) or model.is_unknown(i) or model.is_byte(i):
            continue
        parts = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        merges += [(model.get_score(i), a, b) for a, b in sorted(parts, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    merges.sort(key=lambda m: -m[0])
    token = lambda i: {"id": i, "content": model.id_to_piece(i), "single_word": False, "lstrip": False, "rstrip": False,
                       "normalized": False, "special": True}
    old = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [token(i) for i in range(3)],
            "normalizer": json.loads(old.__getstate__()), "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocab, "merges": [[a, b] for _, a, b in merges]}}


# ---- comparing ----

def ours(binary, path, texts, directory, *options):
    """The tokens of all texts, one after the other, each ended by end of text."""
    with open(directory + "/framed", "wb") as out:
        for text in texts:
            data = text.encode("utf-8")
            out.write(struct.pack("<Q", len(data)) + data)
    start = time.perf_counter()
    run = subprocess.run([binary, "--tokenizer", path, "--out", directory + "/out.bin", "--framed", "1", *options,
                          directory + "/framed"], capture_output=True, text=True)
    took = time.perf_counter() - start
    if run.returncode:
        return None, run.stderr, took
    data = open(directory + "/out.bin", "rb").read()
    magic, _, count = struct.unpack("<3i", data[:12])
    return struct.unpack(f"<{count}{'H' if magic == 20240520 else 'I'}", data[1024:]), run.stdout, took


def compare(name, binary, path, encode, eot, texts, directory, *options):
    global passed, failed
    got, said, took = ours(binary, path, texts, directory, *options)
    if got is None:
        print(f"FAIL {name}: {said}")
        failed += 1
        return
    at, start = 0, time.perf_counter()
    for i, want in enumerate(encode(texts)):
        want = list(want) + [eot]
        if list(got[at:at + len(want)]) != want:
            mine = list(got[at:at + len(want)])
            k = next((k for k in range(len(want)) if k >= len(mine) or mine[k] != want[k]), 0)
            print(f"FAIL {name}: text {i} {texts[i][:300]!r}: token {k}: {mine[max(k-3,0):k + 8]}, expected {want[max(k-3,0):k + 8]}")
            failed += 1
            return
        at += len(want)
    if at != len(got):
        print(f"FAIL {name}: {len(got)} tokens, expected {at}")
        failed += 1
        return
    passed += 1
    size = sum(len(text.encode("utf-8")) for text in texts)
    print(f"ok   {name}: {len(texts)} texts, {size} bytes, {at} tokens")


def check_json(name, binary, path, theirs, eot, texts, directory):
    """All texts with special tokens as text; with these parsed every one that has some, but for long ones, and every eighth of the others, to
    which that should be the same"""
    special_tokens = [token.content for token in theirs.get_added_tokens_decoder().values() if token.special]
    parsed = [text for n, text in enumerate(texts) if n % 8 == 0 or len(text) < 10**5 and any(token in text for token in special_tokens)]
    for special, some in ("text", texts), ("parse", parsed):
        theirs.encode_special_tokens = special == "text"
        encode = lambda some: (e.ids for e in theirs.encode_batch_fast(some, add_special_tokens=False))
        compare(f"{name}, special tokens {special}", binary, path, encode, eot, some, directory, "--special", special)


def bench(name, binary, path, encode, texts, directory):
    """Seconds of both for long texts, on one thread, without the time of opening the tokenizer."""
    size = sum(len(text.encode("utf-8")) for text in texts)
    empty = min(ours(binary, path, [""], directory, "--threads", "1")[2] for _ in range(3))
    mine = min(ours(binary, path, texts, directory, "--threads", "1")[2] for _ in range(3)) - empty
    theirs = []
    for _ in range(3):
        start = time.perf_counter()
        encode(texts)
        theirs.append(time.perf_counter() - start)
    print(f"     {name}: {size / mine / 1e6:.1f} MB/s on one thread; the library {size / min(theirs) / 1e6:.1f} MB/s")


FIXTURE = ["", " ", "  a", "Hello, world!", "It's we'LL 'S don't", "a  b\n\n  c\t\td \r\n ", "12345 1234 x1 \u0661\u0662",
           "<|endoftext|> a <s></s><unk>", "x <mask> y cat  don don't 12 3", "e\u0301\u0323 \u0958 \u1100\u1161\u11a8 \uf900",
           "\u2581a \u2581\u2581 b", "\u4e2d\u6587 \U0001f389\u200d\u05d0\u05d1 \u3000z", "a\x00b \x00", "aaaaaaaa" * 6, " " * 40,
           "if (size == 0) { return 0; }  // the tokenizer", "\ufeff\u0410\u0411 \u1e69 \u212b"]


def write_fixtures(directory):
    """Small tokenizers of every kind, with the ids of some texts, for the tests in C: NAME/ and NAME.cases."""
    sizes[:] = [320, 420, 80, 400]
    words = own_files()[-8:]
    os.makedirs(directory, exist_ok=True)

    def write(name, cases):
        with open(f"{directory}/{name}.cases", "w", encoding="ascii") as out:
            lines = ["  " + json.dumps(case, separators=(",", ":")) for case in cases]
            out.write("[\n" + ",\n".join(lines) + "\n]\n")

    for name, file in made_files(words):
        name = name.replace(", ", "_").replace(" ", "_")
        with open(f"{directory}/{name}.json", "w", encoding="utf-8") as out:
            json.dump(file, out, ensure_ascii=False, separators=(",", ":"))
        theirs, cases = Tokenizer.from_file(f"{directory}/{name}.json"), []
        for text in FIXTURE:
            ids = []
            for special in (False, True):
                theirs.encode_special_tokens = not special
                ids.append(theirs.encode(text, add_special_tokens=False).ids)
            cases.append([text, *ids])
        write(name, cases)
    for name, path in made_models(words, directory):
        name = name.replace(", ", "_").replace(" ", "_").replace("'", "")
        os.rename(path, f"{directory}/{name}.model")
        model = sentencepiece.SentencePieceProcessor(model_file=f"{directory}/{name}.model")
        write(name, [[text, *[model.encode(text)] * 2] for text in FIXTURE])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--fixtures", metavar="DIR", help="only write the fixtures of the tests in C")
    options = parser.parse_args()
    if options.fixtures:
        write_fixtures(options.fixtures)
        return 0
    binary = os.path.abspath(options.binary)
    shared = os.environ.get("PONDER_SHARED") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../shared")
    rng = random.Random(options.seed)
    words = own_files()
    texts = [random_text(rng) for _ in range(options.strings)]
    data = [open(path, encoding="utf-8", newline="").read() for path in sorted(glob.glob(shared + "/data/*.*") + glob.glob(shared + "/data/eval/*.*"))]
    if not data:
        skip("shared/data", "not here")
    real = texts + words + data
    count = 0

    def some_real():
        """Random texts and a part of every real one, another for each kind of tokenizer: all of it would take minutes"""
        nonlocal count
        count += 1
        return texts + [text[at:at + REAL] for text in words + data for at in [count * 7919 * REAL % max(len(text) - REAL, 1)]]
    with tempfile.TemporaryDirectory() as directory:
        def check_file(name, file, eot, some):
            path = directory + "/tokenizer.json"
            with open(path, "w", encoding="utf-8") as out:
                json.dump(file, out)
            theirs = Tokenizer.from_file(path)
            check_json(name, binary, path, theirs, theirs.token_to_id(eot), some, directory)

        for name, file in made_files(words):
            check_file(name, file, "</s>" if file["model"].get("unk_token") else "<|endoftext|>", some_real())
        neox, gpt2, llama = (f"{shared}/tokenizers/{name}" for name in ("gpt-neox-20b", "gpt2", "llama2"))
        benches = []
        if os.path.exists(neox):
            theirs = Tokenizer.from_file(neox + "/tokenizer.json")
            check_json("shared/gpt-neox-20b", binary, neox, theirs, 0, real, directory)
            benches.append(("gpt-neox-20b", neox, theirs.encode_batch_fast))
        else:
            skip("gpt-neox-20b", "not in shared/tokenizers")
        if os.path.exists(gpt2):
            theirs = Tokenizer(models.BPE.from_file(gpt2 + "/vocab.json", gpt2 + "/merges.txt"))
            theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            theirs.add_special_tokens(["<|endoftext|>"])
            check_json("shared/gpt2", binary, gpt2, theirs, 50256, real, directory)
            benches.append(("gpt2", gpt2, theirs.encode_batch_fast))
        else:
            skip("gpt2", "not in shared/tokenizers")
        if sentencepiece is None:
            skip("tokenizer.model", "sentencepiece is not installed")
        else:
            for name, path in made_models(words, directory):
                model = sentencepiece.SentencePieceProcessor(model_file=path)
                compare(name, binary, path, model.encode, model.eos_id(), some_real(), directory)
            if os.path.exists(llama):
                path = llama + "/tokenizer.model"
                model = sentencepiece.SentencePieceProcessor(model_file=path)
                compare("shared/llama2, tokenizer.model", binary, path, model.encode, 2, real, directory)
                check_file("shared/llama2 as tokenizer.json", json_of_model(path), "</s>", real)
                benches.append(("llama2, tokenizer.model", path, lambda some: model.encode(some, num_threads=1)))
            else:
                skip("llama2", "not in shared/tokenizers")
        if options.bench:
            os.environ["RAYON_NUM_THREADS"] = "1"
            for name, path, encode in benches:
                bench(name, binary, path, encode, data * 3, directory)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
