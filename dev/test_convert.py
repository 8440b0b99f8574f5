"""Tests of data/convert.py. Exits 1 unless all pass.

    usage: test_convert.py [NAME...]           NAME: tests to run, default all

Files are made and read here by functions of their own, written from the formats' sources with struct and lists, so that an error in
data/token_formats.py cannot hide in both directions. Pieces are made small, so that documents, masks and shards meet their borders.
"""

import contextlib
import io
import itertools
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest.mock

import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")
sys.path.insert(0, DATA)

import convert
import shards
import token_formats
from testing import Skipped, require, run_tests

KINDS = ("llmc", "megatron", "nanogpt", "llmq")
EOT = 7
FSYNC = os.fsync
CODES = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}       # types of Megatron -> letters of struct


def equal(found, expected, what):
    require(found == expected, f"{what}: expected {str(expected)[:300]}, found {str(found)[:300]}")


# ---- the formats once more ----

def put(path, content):
    with open(path, "wb") as file:
        file.write(content)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def packed(letter, numbers):
    return struct.pack(f"<{len(numbers)}{letter}", *numbers)


def llmc_bytes(tokens, wide):
    header = [20240801, 7, len(tokens)] if wide else [20240520, 1, len(tokens)]
    return packed("i", header + [0] * 253) + packed("I" if wide else "H", tokens)


def llmq_bytes(tokens, vocab, mask=None, version=2):
    start = b"BIN.TOK\n" + packed("i", [version, 4, len(tokens), vocab, int(mask is not None)])
    bits = bytearray((len(mask or []) + 7) // 8)
    for i, bit in enumerate(mask or []):
        bits[i // 8] |= bit << i % 8
    return start + b"*" * (1023 - len(start)) + b"\n" + packed("i", tokens) + bytes(bits)


def megatron_bytes(documents, code, modes=None):
    """documents: lists of sequences, which are lists of tokens. -> (.bin, .idx)"""
    sequences = [sequence for document in documents for sequence in document]
    lengths = [len(sequence) for sequence in sequences]
    width = struct.calcsize(CODES[code])
    places = [width * sum(lengths[:i]) for i in range(len(lengths))]
    ends = list(itertools.accumulate([0] + [len(document) for document in documents]))
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sequences), len(ends)) + packed("i", lengths) + packed("q", places) + \
        packed("q", ends) + packed("b", modes or [])
    return packed(CODES[code], [token for sequence in sequences for token in sequence]), index


def put_megatron(prefix, documents, code, modes=None):
    tokens, index = megatron_bytes(documents, code, modes)
    put(prefix + ".bin", tokens)
    put(prefix + ".idx", index)


def read_llmc(path):
    content = get(path)
    magic, version, count = struct.unpack_from("<3i", content)
    letter = {(20240520, 1): "H", (20240801, 7): "I"}[magic, version]
    return list(struct.unpack(f"<{count}{letter}", content[1024:])), letter


def read_llmq(path):
    """-> tokens, mask or None, vocabulary"""
    content = get(path)
    require(content[:8] == b"BIN.TOK\n", f"{path}: begins with {content[:8]}")
    version, width, count, vocab, masked = struct.unpack_from("<5i", content, 8)
    equal((version, width), (2, 4), path)
    equal(len(content), 1024 + 4 * count + (count + 7) // 8 * masked, f"{path}: size")
    tokens = list(struct.unpack_from(f"<{count}i", content, 1024))
    bits = content[1024 + 4 * count:]
    return tokens, [bits[i // 8] >> i % 8 & 1 for i in range(count)] if masked else None, vocab


def read_megatron(prefix):
    """-> documents, type, modes"""
    index, tokens = get(prefix + ".idx"), get(prefix + ".bin")
    equal(index[:9], b"MMIDIDX\0\0", "magic")
    version, code, n, entries = struct.unpack_from("<QBQQ", index, 9)
    equal(version, 1, "version")
    lengths, places = struct.unpack_from(f"<{n}i", index, 34), struct.unpack_from(f"<{n}q", index, 34 + 4 * n)
    ends = struct.unpack_from(f"<{entries}q", index, 34 + 12 * n)
    modes = list(struct.unpack_from(f"<{n}b", index, 34 + 12 * n + 8 * entries)) if len(index) > 34 + 12 * n + 8 * entries else None
    equal(len(index), 34 + 12 * n + 8 * entries + (n if modes is not None else 0), "size of the index")
    equal(ends[-1], n, "sequences of the document index")
    sequences = [list(struct.unpack_from(f"<{length}{CODES[code]}", tokens, place)) for length, place in zip(lengths, places)]
    equal(sum(lengths) * struct.calcsize(CODES[code]), len(tokens), "size of the .bin")
    return [sequences[a:b] for a, b in zip(ends, ends[1:])], code, modes


def flat(nested):
    return [token for document in nested for sequence in document for token in sequence]


def make(kind, path, documents, wide, masked=False, rng=None):
    """A file of documents (lists of tokens). -> names to convert, mask or None"""
    tokens = [token for document in documents for token in document]
    if kind == "llmc":
        put(path, llmc_bytes(tokens, wide))
    if kind == "nanogpt":
        put(path, packed("I" if wide else "H", tokens))
    if kind == "megatron":
        put_megatron(path, [[document] for document in documents], 4 if wide else 8)
    mask = [rng.randrange(2) for _ in tokens] if masked else None
    if kind == "llmq":
        put(path, llmq_bytes(tokens, 100000 if wide else 60000, mask))
    return path, mask


def read(kind, path, wide):
    if kind == "llmc":
        return read_llmc(path)[0]
    if kind == "nanogpt":
        content = get(path)
        return list(struct.unpack(f"<{len(content) // (4 if wide else 2)}{'I' if wide else 'H'}", content))
    return read_llmq(path)[0] if kind == "llmq" else flat(read_megatron(path)[0])


# ---- running it ----

def run(*arguments, piece=1 << 20, longest=2**31 - 1):
    """-> exit status, standard output, standard error (of an exit with words: those). Nothing waits for the disk here: test_flushed
    looks at that."""
    out, err = io.StringIO(), io.StringIO()
    token_formats.PIECE, token_formats.LONGEST = piece, longest
    status, os.fsync = 0, lambda fd: None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            convert.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code or 0
        finally:
            os.fsync = FSYNC
    if isinstance(status, str):
        err.write(status + "\n")
        status = 1
    return status, out.getvalue(), err.getvalue()


def good(*arguments, **sizes):
    status, out, err = run(*arguments, **sizes)
    require(status == 0, f"{arguments}: exit status {status}, {err}")
    return out, err


def random_documents(rng, wide, count=None):
    most = 90000 if wide else 60000
    count = rng.randrange(3, 12) if count is None else count
    documents = [[rng.choice([t for t in (rng.randrange(most), rng.randrange(most)) if t != EOT] or [1])
                  for _ in range(rng.randrange(0, 30))] + [EOT] for _ in range(count)]
    if wide:
        documents[0].insert(0, 89999)       # so that two bytes cannot hold it
    return documents


@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as directory:
        yield directory


def width_options(source, to, wide):
    return (["--from", source] if source == "nanogpt" else []) + (["--in-width", 4] if source == "nanogpt" and wide else []) + \
        (["--width", 4] if to == "nanogpt" and wide else []) + (["--vocab", 100000 if wide else 60000] if to == "llmq" else [])


def one_pair(rng, directory, source, to, wide, piece):
    """Three files of `source` to `to`, and back to one of `source`."""
    masked = source == to == "llmq"
    groups = [random_documents(rng, wide) for _ in range(3)]
    made = [make(source, f"{directory}/in{i}", group, wide, masked, rng) for i, group in enumerate(groups)]
    documents = [document for group in groups for document in group]
    tokens = [token for document in documents for token in document]
    what = f"{source} to {to}, wide {wide}, pieces of {piece}"
    good(*[name for name, _ in made], "--to", to, "--out", f"{directory}/out", "--eot", EOT, *width_options(source, to, wide), piece=piece)
    equal(read(to, f"{directory}/out", wide), tokens, what)
    if to == "megatron":
        equal(read_megatron(f"{directory}/out"), ([[document] for document in documents], 4 if wide else 8, None), what)
    if to == "llmc":
        equal(read_llmc(f"{directory}/out")[1], "I" if wide else "H", what)
    if masked:
        equal(read_llmq(f"{directory}/out")[1], [bit for _, mask in made for bit in mask], f"{what}: masks")
    if to == "llmq":
        equal(read_llmq(f"{directory}/out")[2], 100000 if wide else 60000, f"{what}: vocabulary")
    good(f"{directory}/out", "--to", source, "--out", f"{directory}/back", "--eot", EOT, *width_options(to, source, wide), piece=piece)
    equal(read(source, f"{directory}/back", wide), tokens, f"{what} and back")
    if source == "megatron":
        equal(read_megatron(f"{directory}/back")[0], [[document] for document in documents], f"{what} and back")


def test_pairs():
    rng, count = random.Random(1), 0
    for source, to, wide, piece in itertools.product(KINDS, KINDS, (False, True), (8, 24, 1 << 20)):
        with scratch() as directory:
            one_pair(rng, directory, source, to, wide, piece)
            count += 1
    return f"{count} conversions of three files, and back"


def test_bytes():
    """What is written is byte for byte what the formats' own programs write."""
    documents = [[[5, 6, 300], [9]], [[1, 2]], [[60000] * 11]]
    tokens = flat(documents)
    with scratch() as d:
        put_megatron(f"{d}/in", documents, 8)
        good(f"{d}/in", "--to", "llmc", "--out", f"{d}/16")
        equal(get(f"{d}/16"), llmc_bytes(tokens, False), "llmc, uint16")
        good(f"{d}/in", "--to", "llmc", "--out", f"{d}/32", "--width", 4)
        equal(get(f"{d}/32"), llmc_bytes(tokens, True), "llmc, uint32")
        good(f"{d}/32", "--to", "nanogpt", "--out", f"{d}/nano")
        equal(get(f"{d}/nano"), packed("H", tokens), "nanogpt")
        good(f"{d}/32", "--to", "llmc", "--out", f"{d}/again")
        equal(get(f"{d}/again"), llmc_bytes(tokens, False), "llmc, uint16 because all tokens fit")
        good(f"{d}/in.bin", "--to", "llmq", "--out", f"{d}/q", "--vocab", 65000)
        equal(get(f"{d}/q"), llmq_bytes(tokens, 65000), "llmq")
        mask = [i % 3 == 0 for i in range(len(tokens))]
        put(f"{d}/masked", llmq_bytes(tokens, 65000, mask))
        good(f"{d}/masked", "--to", "llmq", "--out", f"{d}/masked2")
        equal(get(f"{d}/masked2"), get(f"{d}/masked"), "llmq with masks")
        for code, options in ((8, []), (4, ["--width", 4])):
            good(f"{d}/in.idx", "--to", "megatron", "--out", f"{d}/m{code}", *options)
            equal((get(f"{d}/m{code}.bin"), get(f"{d}/m{code}.idx")), megatron_bytes(documents, code), f"megatron, type {code}")
        put_megatron(f"{d}/modes", documents, 8, [1, 0, 2, 1])
        good(f"{d}/in", f"{d}/modes", "--to", "megatron", "--out", f"{d}/both.idx", piece=8)
        equal((get(f"{d}/both.bin"), get(f"{d}/both.idx")), megatron_bytes(documents * 2, 8, [0] * 4 + [1, 0, 2, 1]), "megatron with modes")
    return "9 files"


def test_types():
    """Every type of Megatron, LLM.Q's first version"""
    tokens = [3, 0, 120, 7]
    with scratch() as d:
        for code in CODES:
            put_megatron(f"{d}/{code}", [[tokens]], code)
            good(f"{d}/{code}", "--to", "llmc", "--out", f"{d}/{code}.out")
            equal(read_llmc(f"{d}/{code}.out"), (tokens, "H"), f"type {code}")
        put(f"{d}/q1", llmq_bytes(tokens, 0x2a2a2a2a, version=1))
        good(f"{d}/q1", "--to", "llmc", "--out", f"{d}/q1.out")
        equal(read_llmc(f"{d}/q1.out")[0], tokens, "LLM.Q, version 1")
    return f"{len(CODES) + 1} files"


def test_documents():
    """Boundaries of Megatron: kept, marked, or counted."""
    documents = [[[1, 2], [3]], [[4, EOT]], [], [[5, EOT, 6], [], [9, 8, 3, EOT]], [[]], [[1] * 9], [[2, 2]]]
    tokens = flat(documents)
    marked = [1, 2, 3, EOT, 4, EOT, 5, EOT, 6, 9, 8, 3, EOT] + [1] * 9 + [EOT, 2, 2, EOT]
    with scratch() as d:
        put_megatron(f"{d}/in", documents, 8, [0, 1, 0, 0, 0, 0, 0, 2, 0])
        for to, piece in itertools.product(("llmc", "nanogpt", "llmq"), (8, 16, 1 << 20)):
            options = ["--to", to, "--out", f"{d}/out", "--force"] + (["--vocab", 100] if to == "llmq" else [])
            out, err = good(f"{d}/in", *options, piece=piece)
            equal(read(to, f"{d}/out", False), tokens, f"{to} without --eot")
            for words in (f"5 document boundaries not marked by a token: {to}", "2 documents without tokens",
                          "3 sequence boundaries inside documents", "2 modes"):
                require(words in err, f"{to}: expected {words!r} in {err!r}")
            out, err = good(f"{d}/in", *options, "--eot", EOT, piece=piece)
            equal(read(to, f"{d}/out", False), marked, f"{to} with --eot, pieces of {piece}")
            for words in (f"3 end-of-text tokens ({EOT}) added", "2 of 5 did", f"1 end-of-text token ({EOT}) inside documents"):
                require(words in err, f"{to}: expected {words!r} in {err!r}")
            require(f"{len(marked)} tokens" in out and "6 end-of-text tokens" in out, f"{to}: {out!r}")
        good(f"{d}/in", "--to", "megatron", "--out", f"{d}/same", piece=8)
        equal(get(f"{d}/same.idx"), get(f"{d}/in.idx"), "megatron to megatron")
        # A token that two bytes cannot hold widens the shard.
        good(f"{d}/in", "--to", "llmc", "--out", f"{d}/wide", "--eot", 100000)
        equal(read_llmc(f"{d}/wide")[1], "I", "width for the end-of-text token")
        # An index that names no documents
        flat_index = get(f"{d}/in.idx")[:34 + 12 * 9]
        put(f"{d}/plain.bin", get(f"{d}/in.bin"))
        put(f"{d}/plain.idx", flat_index[:26] + struct.pack("<Q", 1) + flat_index[34:] + struct.pack("<q", 0))
        out, err = good(f"{d}/plain", "--to", "megatron", "--out", f"{d}/one")
        equal([flat([document]) for document in read_megatron(f"{d}/one")[0]], [tokens], "an index without documents")
        require("records no documents" in err, f"an index without documents: {err!r}")
    return "3 formats"


def test_megatron_out():
    """Documents of files without an index: at --eot, else one a file."""
    groups = [[1, 2, EOT, 3], [4, EOT, EOT, 5], [6, 6, 6]]
    with scratch() as d:
        for i, group in enumerate(groups):
            put(f"{d}/in{i}.bin", llmc_bytes(group, False))
        for piece in (8, 1 << 20):
            out, _ = good(f"{d}/in?.bin", "--to", "megatron", "--out", f"{d}/a.bin", "--force", piece=piece)
            equal(read_megatron(f"{d}/a")[0], [[group] for group in groups], "one document a file")
            require("3 documents" in out, out)
            good(f"{d}/in?.bin", "--to", "megatron", "--out", f"{d}/b", "--eot", EOT, "--force", piece=piece)
            equal(read_megatron(f"{d}/b")[0], [[[1, 2, EOT]], [[3, 4, EOT]], [[EOT]], [[5, 6, 6, 6]]], "documents at --eot")
        # A document that is longer than a length of the index can say
        tokens = [i % 50 + 10 for i in range(95)] + [EOT] + [3] * 40
        put(f"{d}/long", packed("H", tokens))
        good(f"{d}/long", "--from", "nanogpt", "--to", "megatron", "--out", f"{d}/c", "--eot", EOT, piece=16, longest=20)
        found = read_megatron(f"{d}/c")[0]
        equal([flat([document]) for document in found], [tokens[:96], tokens[96:]], "a long document")
        equal([len(sequence) for document in found for sequence in document], [20, 20, 20, 20, 16, 20, 20], "its sequences")
        # Indexes and files without one, after each other: their documents do not run together.
        put_megatron(f"{d}/m", [[[8], [9]], [[10]]], 4)
        good(f"{d}/in2.bin", f"{d}/m", f"{d}/in2.bin", "--to", "megatron", "--out", f"{d}/d", "--eot", EOT)
        equal(read_megatron(f"{d}/d")[0], [[[6, 6, 6]], [[8], [9]], [[10]], [[6, 6, 6]]], "with and without an index")
    return "4 ways"


def test_masks():
    rng = random.Random(3)
    groups = [[rng.randrange(100) for _ in range(n)] for n in (13, 40, 5)]
    masks = [[rng.randrange(2) for _ in group] for group in groups]
    masks[1] = None
    tokens, bits = sum(groups, []), masks[0] + [1] * 40 + masks[2]
    with scratch() as d:
        for i, (group, mask) in enumerate(zip(groups, masks)):
            put(f"{d}/in{i}", llmq_bytes(group, 100, mask))
        for piece, most in itertools.product((8, 1 << 20), (9, 16, 1000)):
            for name in os.listdir(d):
                if name.startswith("out"):
                    os.unlink(f"{d}/{name}")
            _, err = good(f"{d}/in*", "--to", "llmq", "--out", f"{d}/out.bin", "--shard-tokens", most, piece=piece)
            require("40 tokens came without masks: their bits are 1" in err, err)
            parts = [read_llmq(f"{d}/{name}") for name in sorted(os.listdir(d)) if name.startswith("out")]
            equal([len(part[0]) for part in parts][:-1], [most] * (len(parts) - 1), "tokens of a file")
            equal(sum((part[0] for part in parts), []), tokens, "tokens")
            equal(sum((part[1] for part in parts), []), bits, f"masks in pieces of {piece}, files of {most}")
        lost = masks[0].count(0) + masks[2].count(0)
        for to in ("llmc", "megatron", "nanogpt"):
            status, _, err = run(f"{d}/in*", "--to", to, "--out", f"{d}/{to}")
            require(status == 1 and f"{lost} masked tokens: {to} has no masks" in err and "--drop-masks" in err, f"{to}: {status} {err!r}")
            require(not any(name.startswith(to) for name in os.listdir(d)), f"{to}: something was written")
            _, err = good(f"{d}/in*", "--to", to, "--out", f"{d}/{to}", "--drop-masks", piece=8)
            require(f"{lost} masked tokens no longer marked" in err and "vocabulary, 100, not kept" in err, err)
            equal(read(to, f"{d}/{to}", False), tokens, to)
        put(f"{d}/ones", llmq_bytes(tokens, 100, [1] * len(tokens)))
        good(f"{d}/ones", "--to", "llmc", "--out", f"{d}/ones.out")     # nothing is lost
    return f"{len(bits)} bits"


def test_shards():
    rng = random.Random(5)
    tokens = [rng.randrange(60000) for _ in range(100)]
    with scratch() as d:
        put(f"{d}/in", packed("H", tokens))
        out, _ = good(f"{d}/in", "--from", "nanogpt", "--to", "llmc", "--out", f"{d}/out.bin", "--shard-tokens", 30, piece=16)
        names = ["out.bin", "out_00001.bin", "out_00002.bin", "out_00003.bin"]
        equal(sorted(os.listdir(d)), ["in"] + names, "files")
        equal([shards.read_shard(f"{d}/{name}").size for name in names], [30, 30, 30, 10], "tokens of a shard")
        equal(sum((list(map(int, shards.read_shard(f"{d}/{name}"))) for name in names), []), tokens, "tokens")
        good(f"{d}/out*.bin", "--to", "nanogpt", "--out", f"{d}/back", piece=8)
        equal(get(f"{d}/back"), get(f"{d}/in"), "and back")
        # A shorter OUT in the same place: the earlier shards go with --force only.
        status, _, err = run(f"{d}/in", "--from", "nanogpt", "--to", "llmc", "--out", f"{d}/out.bin", "--shard-tokens", 60)
        require(status == 1 and "--force" in err, err)
        good(f"{d}/in", "--from", "nanogpt", "--to", "llmc", "--out", f"{d}/out.bin", "--shard-tokens", 60, "--force")
        equal(sorted(os.listdir(d)), ["back", "in"] + names[:2], "files after --force")
        os.unlink(f"{d}/out.bin")
        status, _, err = run(f"{d}/in", "--from", "nanogpt", "--to", "llmc", "--out", f"{d}/out.bin")
        require(status == 1 and "out_00001.bin" in err, f"a shard of an earlier OUT alone: {err!r}")
    return "4 shards"


def test_twins():
    """Shards as the PyTorch twins read them. Their reader needs nothing of PyTorch, which takes seconds to load."""
    sys.path.insert(0, HERE + "/ref")
    torch = unittest.mock.MagicMock(from_numpy=lambda array: array)
    with unittest.mock.patch.dict(sys.modules, {"torch": torch, "architectures": unittest.mock.MagicMock()}):
        import training
    with scratch() as d:
        for wide in (False, True):
            documents = random_documents(random.Random(wide), wide)
            name, _ = make("megatron", f"{d}/in{wide}", documents, wide)
            good(name, "--to", "llmc", "--out", f"{d}/out{wide}")
            equal(training.read_shard(f"{d}/out{wide}").tolist(), sum(documents, []), f"wide {wide}")
    return "2 shards"


def test_pythia():
    """Sequences of 2,049 tokens in pieces of a .bin, as Pythia's data is handed out: rows of 2,049 begin where sequences do."""
    rng = numpy.random.default_rng(1)
    sequences = rng.integers(2, 50000, (6, 2049))
    with scratch() as d:
        _, index = megatron_bytes([[list(map(int, sequence))] for sequence in sequences], 8)
        put(f"{d}/document.idx", index)
        content = sequences.astype("<u2").tobytes()
        for i in range(3):
            put(f"{d}/document-{i:05}-of-00002.bin", content[i * 9000:(i + 1) * 9000] if i < 2 else content[18000:])
        good(f"{d}/document.idx", "--to", "llmc", "--out", f"{d}/pile.bin", "--shard-tokens", 3 * 2049, piece=1000)
        for shard, first in ((f"{d}/pile.bin", 0), (f"{d}/pile_00001.bin", 3)):
            tokens = shards.read_shard(shard)
            for r in range(2):      # a shard of three sequences has two rows and a tail
                row = tokens[r * 2049:r * 2049 + 2050]
                require((row[:2049] == sequences[first + r]).all(), f"row {r} of {shard} is not sequence {first + r}")
                require(row[2049] == sequences[first + r + 1][0], "the last target of a row")
        os.rename(f"{d}/document-00001-of-00002.bin", f"{d}/away")
        status, _, err = run(f"{d}/document.idx", "--to", "llmc", "--out", f"{d}/out")
        require(status == 1 and "expected" in err and "document-00001-of-00002.bin" in err, err)
        os.rename(f"{d}/away", f"{d}/document-00001-of-00002.bin")
        os.unlink(f"{d}/document-00002-of-00002.bin")
        status, _, err = run(f"{d}/document.idx", "--to", "llmc", "--out", f"{d}/out")
        require(status == 1 and f"expected {len(content)} bytes" in err and "found 18000" in err, err)
    return "6 sequences"


def test_names():
    """IN: order, patterns, PREFIX. OUT: what is refused and what --force replaces."""
    with scratch() as d:
        for name, token in (("b", 1), ("a", 2), ("c[1]", 3)):
            put(f"{d}/{name}.bin", llmc_bytes([token], False))
        put_megatron(f"{d}/m", [[[4]]], 8)
        cases = [([f"{d}/b.bin", f"{d}/a.bin"], [1, 2]), ([f"{d}/[ab].bin"], [2, 1]), ([f"{d}/c[1].bin"], [3]),
                 ([f"{d}/a.bin", f"{d}/a.bin"], [2, 2]), ([f"{d}/m*"], [4]), ([f"{d}/m.bin"], [4]), ([f"{d}/m", f"{d}/a.bin"], [4, 2])]
        for names, expected in cases:
            good(*names, "--to", "llmc", "--out", f"{d}/out", "--force")
            equal(read_llmc(f"{d}/out")[0], expected, str(names))
        before = sorted(os.listdir(d))
        os.link(f"{d}/a.bin", f"{d}/link.bin")
        os.mkdir(f"{d}/dir.bin")
        for arguments, words in ((["--out", f"{d}/out"], "--force replaces it"), (["--out", f"{d}/a.bin", "--force"], "the same file"),
                                 (["--out", f"{d}/link.bin", "--force"], "the same file"), (["--out", f"{d}/no/out"], "found none"),
                                 (["--out", f"{d}/dir.bin", "--force"], "found a directory"), (["--out", f"{d}/new/"], "name of a file")):
            status, _, err = run(f"{d}/a.bin", "--to", "llmc", *arguments)
            require(status == 1 and words in err and err.count("\n") == 1, f"{arguments}: {status} {err!r}, expected {words!r}")
        os.rmdir(f"{d}/dir.bin")
        status, _, err = run(f"{d}/a.bin", "--to", "megatron", "--out", f"{d}/a", "--force")
        require(status == 1 and "the same file" in err, f"PREFIX.bin is an IN: {err!r}")
        os.unlink(f"{d}/link.bin")
        os.symlink("out", f"{d}/pointer")
        good(f"{d}/a.bin", "--to", "llmc", "--out", f"{d}/pointer", "--force")
        require(os.path.islink(f"{d}/pointer") and read_llmc(f"{d}/out")[0] == [2], "a link was replaced")
        os.unlink(f"{d}/pointer")
        equal(sorted(os.listdir(d)), before, "files")
    return f"{len(cases)} ways to name IN"


def damaged(content, at, letter, value):
    out = bytearray(content)
    struct.pack_into("<" + letter, out, at, value)
    return bytes(out)


def bad_files(d):
    """name -> (content, or .bin and .idx; options; words)"""
    llmc, wide, llmq = llmc_bytes([1, 2, 3], False), llmc_bytes([70000, 1, 99999], True), llmq_bytes([1, 2, 3], 10, [1, 0, 1])
    tokens, index = megatron_bytes([[[1, 2], [3]], [[4]]], 8)
    n = 3
    return {
        "empty": (b"", [], "found an empty one"),
        "text": (b"some text that is no token file", [], "found 31 bytes that begin with b'some tex'"),
        "short header": (llmc[:600], [], "found 600 bytes"), "version": (damaged(llmc, 4, "i", 3), [], "version 3"),
        "truncated": (llmc[:-1], [], "found 5 bytes"),
        "too long": (llmc + b"x", [], "expected 3 tokens of 2 bytes after the header, found 7"),
        "negative count": (damaged(llmc, 8, "i", -1), [], "expected -1 tokens"), "no tokens": (llmc_bytes([], False), [], "found none"),
        "examples": (damaged(llmc, 0, "i", 20240522), [], "found 1030 bytes"),
        "not llmc": (llmq, ["--from", "llmc"], "expected a token shard"), "not llmq": (llmc, ["--from", "llmq"], "begins with BIN.TOK"),
        "odd": (b"123", ["--from", "nanogpt"], "found 3 bytes, which is not a multiple"),
        "odd, wide": (b"123456", ["--from", "nanogpt", "--in-width", "4"], "tokens of 4 bytes, found 6"),
        "header as tokens": (llmc, ["--from", "nanogpt"], "found the header of llmc"), "q short": (llmq[:1000], [], "found 1000 bytes"),
        "q truncated": (llmq[:-1], [], "expected 1037 bytes for 3 tokens with masks, found 1036"),
        "q version": (damaged(llmq, 8, "i", 3), [], "version 3 with 4"), "q width": (damaged(llmq, 12, "i", 2), [], "version 2 with 2"),
        "q count": (damaged(llmq, 16, "i", -5), [], "for -5 tokens"),
        "q vocabulary": (damaged(llmq, 20, "i", 0), [], "vocabulary in the header, found 0"),
        "q masks": (damaged(llmq, 24, "i", 2), [], "expected 0 or 1 for masks"),
        "q negative": (llmq_bytes([1, -2, 3, -4], 10), [], "found 2 of 4 outside, the first one -2 at position 1"),
        "too large": (wide, ["--to", "nanogpt"], "found 2 of 3 outside, the first one 70000 at position 0"),
        "too large for --width": (wide, ["--width", "2"], "tokens from 0 to 65535, found 2 of 3 outside"),
        "over --vocab": (llmc, ["--vocab", "3"], "tokens from 0 to 2, found 1 of 3 outside, the first one 3 at position 2"),
        "no --vocab": (llmc, ["--to", "llmq"], "--vocab: expected the size"),
        "no .bin": ((None, index), [], "no..bin.bin: expected the tokens"), "no .idx": ((tokens, None), [], "begin with"),
        "m magic": ((tokens, b"TNTIDX\0\0\0" + index[9:]), [], "begin with b'TNTIDX"),
        "m short": ((tokens, index[:20]), [], "found 20 bytes"),
        "m version": ((tokens, damaged(index, 9, "Q", 2)), [], "version 2, type 8"),
        "m type": ((tokens, damaged(index, 17, "B", 6)), [], "type 6"),
        "m unknown type": ((tokens, damaged(index, 17, "B", 9)), [], "type 9"),
        "m cut": ((tokens, index[:-1]), [], f"found {len(index) - 1}"),
        "m many": ((tokens, damaged(index, 18, "Q", 2**60)), [], f"for {2**60} sequences"),
        "m negative": ((tokens, damaged(index, 34, "i", -2)), [], "found -2 for sequence 0"),
        "m lengths": ((tokens, damaged(index, 34 + 4, "i", 2)), [], "expected sequence 2 at byte 8, where the one before it ends, found byte 6"),
        "m last length": ((tokens, damaged(index, 34 + 8, "i", 2)), [], "expected 10 bytes for the 5 tokens"),
        "m outside": ((tokens, damaged(index, 34 + 4 * n + 16, "q", 10**9)), [], "found byte 1000000000"),
        "m first place": ((tokens, damaged(index, 34 + 4 * n, "q", 2)), [], "sequence 0 at byte 0"),
        "m bin cut": ((tokens[:-2], index), [], "expected 8 bytes for the 4 tokens"),
        "m bin long": ((tokens + b"xx", index), [], "found 10 bytes"),
        "m bin odd": ((tokens + b"x", index), [], "found 9 bytes, which is not a multiple"),
        "m bin empty": ((b"", index), [], "found an empty one"),
        "m first end": ((tokens, damaged(index, 34 + 12 * n, "q", 1)), [], "begins with 0"),
        "m ends": ((tokens, damaged(index, 34 + 12 * n + 8, "q", -1)), [], "document 0 to end after 0 sequences or more, found -1"),
        "m ends fall": ((tokens, damaged(index, 34 + 12 * n + 8, "q", 5)), [], "document 1 to end after 5 sequences or more, found 3"),
        "m last end": ((tokens, damaged(index, 34 + 12 * n + 16, "q", 2)), [], "documents of 3 sequences in all, found 2"),
        "m nothing": (megatron_bytes([], 8), [], "found no sequence"), "m no tokens": (megatron_bytes([[[]]], 8), [], "found none"),
        "m negative token": (megatron_bytes([[[1, -1]]], 4), [], "the first one -1 at position 1"),
        "m vast token": (megatron_bytes([[[1, 2**40]]], 5), [], f"the first one {2**40} at position 1"),
        "eot": (llmc, ["--eot", "70000", "--to", "nanogpt"], "--eot 70000: expected a token from 0 to 65535"),
    }


def test_bad():
    with scratch() as d:
        files = bad_files(d)
        for name, (content, options, words) in files.items():
            path = f"{d}/{name.replace(' ', '.')}"
            if isinstance(content, tuple):
                for extension, part in zip((".bin", ".idx"), content):
                    if part is not None:
                        put(path + extension, part)
                path += ".bin" if content[1] is None else ".idx"
            else:
                put(path, content)
            before = sorted(os.listdir(d))
            status, _, err = run(path, *([] if "--to" in options else ["--to", "llmc"]), "--out", f"{d}/out", *options)
            require(status == 1 and words in err and err.startswith("convert: ") and err.count("\n") == 1,
                    f"{name}: exit status {status}, {err!r}, expected 1 and {words!r}")
            equal(sorted(os.listdir(d)), before, f"{name}: files")
        os.mkfifo(f"{d}/fifo")
        put(f"{d}/good", llmc_bytes([1], False))
        cases = [([f"{d}/fifo"], "found a pipe or a device"), (["/dev/null"], "found a pipe or a device"), ([d], "found a directory"),
                 ([f"{d}/none"], "No such file"), ([f"{d}/none*"], "found none"), ([f"{d}/good", "--eot", "-1"], "--eot"),
                 ([f"{d}/good", "--eot", "x"], "found 'x'"), ([f"{d}/good", "--shard-tokens", "0"], "from 1 to 2147483647"),
                 ([f"{d}/good", "--width", "3"], "--width"), ([f"{d}/good", "--unknown"], "--unknown"),
                 ([f"{d}/good", "--shard-tokens", "5", "--to", "nanogpt"], "one file of any size"),
                 ([f"{d}/good", "--width", "2", "--to", "llmq"], "whose tokens have 4 bytes")]
        for arguments, words in cases:
            status, _, err = run("--to", "llmc", "--out", f"{d}/out", *arguments)
            require(status == 1 and words in err and err.count("\n") == 1,
                    f"{arguments}: exit status {status}, {err!r}, expected {words!r}")
        put(f"{d}/q1", llmq_bytes([1], 10))
        put(f"{d}/q2", llmq_bytes([1], 11))
        status, _, err = run(f"{d}/q1", f"{d}/q2", "--to", "llmq", "--out", f"{d}/out")
        require(status == 1 and "do not agree" in err, f"two vocabularies: {err!r}")
        require(not os.path.exists(f"{d}/out"), "something was written")
    return f"{len(files) + len(cases) + 1} bad inputs"


def test_full():
    """A disk that is full, here a limit on the size of a file: one line, nothing left, and the next try succeeds."""
    with scratch() as d:
        put(f"{d}/in", llmq_bytes([EOT] * 20000, 100, [1] * 20000))
        before = sorted(os.listdir(d))
        for to, limit in (("llmc", 20000), ("nanogpt", 20000), ("llmq", 20000), ("llmq", 82000), ("megatron", 20000), ("megatron", 50000)):
            arguments = [sys.executable, f"{DATA}/convert.py", f"{d}/in", "--to", to, "--out", f"{d}/out", "--eot", str(EOT)]
            done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            require(done.returncode == 1 and done.stdout.startswith(f"convert: {d}/out") and "File too large" in done.stdout and
                    done.stdout.count("\n") == 1, f"{to}, {limit}: exit status {done.returncode}, {done.stdout!r}")
            equal(sorted(os.listdir(d)), before, f"{to}, {limit}: files")
            good(*arguments[2:])
            for name in set(os.listdir(d)) - set(before):
                os.unlink(f"{d}/{name}")
    return "4 formats"


def child(arguments, *, rename_kill=None, publish_signal=None):
    """Converts in a process of its own. That kills itself before rename number `rename_kill`, or signals itself before any. -> its status"""
    pid = os.fork()
    if pid == 0:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            rename, calls = os.rename, []

            def killing(a, b):
                if len(calls) == rename_kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls.append(b)
                rename(a, b)
            os.rename = killing
            if publish_signal:
                for number in (signal.SIGTERM, signal.SIGHUP):      # as nobody ignores them: nohup does
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                token_formats.Outputs.publish = lambda *_: os.kill(os.getpid(), publish_signal)
            try:
                convert.main(arguments)
                os._exit(0)
            except SystemExit as leaving:
                os._exit(leaving.code if isinstance(leaving.code, int) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_killed():
    """Killed at each rename, over an earlier OUT too: nothing that looks whole is not. Ended by a signal: nothing is left."""
    old, new = [[[1, 1, 1]]], [[[2, 3]], [[4, 5, 6]]]
    with scratch() as d:
        put(f"{d}/in", llmc_bytes(flat(new), False))
        for kill, earlier in itertools.product(range(3), (False, True)):
            os.mkdir(f"{d}/m")
            if earlier:
                put_megatron(f"{d}/m/out", old, 8)
            status = child([f"{d}/in", "--to", "megatron", "--out", f"{d}/m/out", "--force"], rename_kill=kill)
            equal(status, -signal.SIGKILL if kill < 2 else 0, f"rename {kill}: status")
            if kill < 2:
                require(not os.path.exists(f"{d}/m/out.idx"), f"rename {kill}, earlier {earlier}: an index is there")
            else:
                equal(flat(read_megatron(f"{d}/m/out")[0]), flat(new), "the last rename")
            shutil.rmtree(f"{d}/m")
            os.mkdir(f"{d}/m")
            status = child([f"{d}/in", "--to", "llmc", "--out", f"{d}/m/out.bin", "--shard-tokens", "3", "--force"], rename_kill=kill)
            if kill < 2:
                require(not os.path.exists(f"{d}/m/out.bin"), f"rename {kill}: the first shard is there")
                good(f"{d}/in", "--to", "llmc", "--out", f"{d}/m/out.bin", "--shard-tokens", "3", "--force")
            equal(read_llmc(f"{d}/m/out.bin")[0] + read_llmc(f"{d}/m/out_00001.bin")[0], flat(new), "shards")
            shutil.rmtree(f"{d}/m")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            status = child([f"{d}/in", "--to", "megatron", "--out", f"{d}/out"], publish_signal=number)
            equal((status, os.listdir(d)), (128 + number, ["in"]), f"signal {number}")
    return "kills at 3 places, 3 signals"


def test_flushed():
    """All of a file is on the disk before it gets its name, and names are before the program ends."""
    events = []

    def fsync(fd):
        events.append(("sync", os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
        FSYNC(fd)

    def rename(a, b):
        events.append(("rename", a, os.stat(a).st_size))
        RENAME(a, b)
    if not os.path.isdir("/proc/self/fd"):
        raise Skipped("no /proc here")
    RENAME = os.rename
    with scratch() as d:
        put(f"{d}/in", llmc_bytes(list(range(100)), False))
        os.mkdir(f"{d}/m")
        for to, files in (("megatron", 2), ("llmc", 1), ("nanogpt", 1), ("llmq", 1)):
            events.clear()
            os.rename, token_formats.os.fsync, saved = rename, fsync, os.fsync
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    convert.main([f"{d}/in", "--to", to, "--out", f"{d}/m/{to}"] + (["--vocab", "100"] if to == "llmq" else []))
            finally:
                os.rename, os.fsync = RENAME, saved
            renames = [i for i, event in enumerate(events) if event[0] == "rename"]
            equal(len(renames), files, f"{to}: renames")
            for i in renames:
                require(("sync",) + events[i][1:] in events[:i], f"{to}: {events[i][1]} was renamed before all of it was flushed")
            equal(events[-1][:2], ("sync", os.path.realpath(f"{d}/m")), f"{to}: the last event")
    return "4 formats"


def test_race():
    """An OUT that appears while the conversion runs is not replaced."""
    with scratch() as d:
        put(f"{d}/in", llmc_bytes([1, 2], False))
        finish = token_formats.TokenFiles.finish

        def slow(self):
            put(f"{d}/out", b"of another program")
            finish(self)
        token_formats.TokenFiles.finish = slow
        try:
            status, _, err = run(f"{d}/in", "--to", "llmc", "--out", f"{d}/out")
        finally:
            token_formats.TokenFiles.finish = finish
        require(status == 1 and "another program" in err and get(f"{d}/out") == b"of another program", f"{status} {err!r}")
        equal(sorted(os.listdir(d)), ["in", "out"], "files")
    return "1 file"


def test_memory():
    """Memory does not grow with the file."""
    if not os.path.exists("/proc/self/status"):
        raise Skipped("no /proc here")
    program = ("import sys; sys.path.insert(0, sys.argv[1]); import convert; convert.main(sys.argv[2:]); "
               "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])")
    peaks = []
    with scratch() as d:
        for megabytes in (16, 160):
            with open(f"{d}/in", "wb") as file:
                file.truncate(megabytes << 20)      # zeros, which take no room on the disk
            done = subprocess.run([sys.executable, "-c", program, DATA, f"{d}/in", "--from", "nanogpt", "--to", "megatron", "--out", f"{d}/out",
                                   "--force", "--eot", "1"], stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(int(done.stdout.split()[-1]) / 1024)
    require(peaks[1] < peaks[0] + 20, f"a file of 16 MB took {peaks[0]:.0f} MB, one of 160 MB {peaks[1]:.0f} MB")
    return f"{peaks[0]:.0f} MB for a file of 16 MB, {peaks[1]:.0f} MB for one of 160 MB"


def main():
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    for name in sys.argv[1:]:
        if name not in tests:
            sys.exit(f"test_convert.py: expected one of {', '.join(tests)}, found {name}")
    run_tests([(name, tests[name]) for name in sys.argv[1:] or tests])


if __name__ == "__main__":
    main()
