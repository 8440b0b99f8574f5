"""The token files of llm.c, Megatron, nanoGPT and LLM.Q: read with checks, written whole or not at all. All numbers are little-endian.

    llmc      256 int32 (magic 20240520, version 1, tokens: uint16; magic 20240801, version 7: uint32), tokens.
              llm.c: dev/data/data_common.py, llmc/dataloader.h. This is what our trainers read.
    megatron  PREFIX.bin: tokens. PREFIX.idx: "MMIDIDX" and two zero bytes, uint64 version 1, uint8 type of a token, uint64 n
              sequences, uint64 entries of the document index, then n int32 lengths, n int64 places of sequences in the .bin
              (bytes), the document index (int64: 0, then for each document the number of sequences up to its end), and, in
              multimodal files, n int8 modes.
              Megatron-LM: megatron/core/datasets/indexed_dataset.py. GPT-NeoX and Pythia (utils/mmap_dataset.py) write the same.
    nanogpt   tokens alone, uint16. nanoGPT: data/openwebtext/prepare.py, train.py.
    llmq      "BIN.TOK" and a line end, 5 int32 (version, 4 bytes a token, tokens, vocabulary, 1 if there are masks; version 1 has
              no vocabulary), up to byte 1,024 "*" and a line end, then int32 tokens, then with masks a bit for each token, lowest
              bit first, the last byte filled up with zeros. LLM.Q: scripts/tokenize_data.py, src/training/dataloader.cpp.

open_sources(...) -> Sources, which give tokens (and masks) piece by piece. Outputs holds the files that are being written under
temporary names (NAME.tmp.*), TokenFiles and MegatronFiles write into them, and publish() renames them.
"""

import contextlib
import glob
import os
import stat
import struct

import numpy

import shards

PIECE = 1 << 20                 # tokens, or entries of an index, that are handled at a time
LONGEST = 2**31 - 1             # tokens of a sequence: Megatron's lengths are int32
MEGATRON_MAGIC, MEGATRON_HEADER = b"MMIDIDX\0\0", 34
MEGATRON_TYPES = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}   # 6 and 7 are floating-point numbers
MEGATRON_CODES = {"<u2": 8, "<i4": 4}
LLMQ_MAGIC = b"BIN.TOK\n"


class Bad(Exception):
    """The message names the file, what was expected and what was found."""


@contextlib.contextmanager
def writing(path):
    """Turns the system's refusal to write into one that names the file."""
    try:
        yield
    except OSError as error:
        raise Bad(f"{path}: expected to write it, found: {error.strerror}") from error


# ---- reading ----

def read_at(path, dtype, count, offset):
    """-> `count` numbers from byte `offset` of a file that has been found long enough"""
    found = numpy.fromfile(path, dtype=dtype, count=count, offset=offset)
    if found.size != count:
        raise Bad(f"{path}: expected {count} numbers at byte {offset}, found {found.size}: the file became shorter while it was read")
    return found


class Source:
    """One IN: its tokens, and what else its format holds."""

    def __init__(self, kind, name, dtype, parts):
        self.kind, self.name = kind, name
        self.dtype = numpy.dtype(dtype)
        self.parts = parts              # (path, byte of the first token, tokens), one after another
        self.files = [path for path, _, _ in parts]
        self.count = sum(tokens for _, _, tokens in parts)
        self.vocab = None               # llmq: size of the vocabulary
        self.masks = None               # llmq: (path, byte of the masks)
        self.index = None               # megatron: Index
        if self.count == 0:
            raise Bad(f"{name}: expected tokens, found none")

    def read(self, start, stop):
        """-> tokens start .. stop-1, in the type of the file"""
        pieces, first = [], 0
        for path, offset, tokens in self.parts:
            a, b = max(start, first), min(stop, first + tokens)
            if a < b:
                pieces.append(read_at(path, self.dtype, b - a, offset + (a - first) * self.dtype.itemsize))
            first += tokens
        return pieces[0] if len(pieces) == 1 else numpy.concatenate(pieces)

    def mask(self, start, stop):
        """-> the mask bits of tokens start .. stop-1, bool; start is a multiple of 8"""
        path, offset = self.masks
        packed = read_at(path, "u1", (stop - start + 7) // 8, offset + start // 8)
        return numpy.unpackbits(packed, count=stop - start, bitorder="little").astype(bool)

    def spans(self):
        """-> (start, stop) of pieces that cover all tokens"""
        step = max(8, PIECE // 8 * 8)
        return ((start, min(self.count, start + step)) for start in range(0, self.count, step))


class Index:
    """The index of a Megatron file. Arrays are mapped, not read."""

    def __init__(self, path, dtype, sequences, entries, modes):
        def array(kind, count, offset):
            return numpy.memmap(path, dtype=kind, mode="r", offset=offset, shape=(count,)) if count else numpy.zeros(0, kind)
        self.path, self.width, self.sequences = path, numpy.dtype(dtype).itemsize, sequences
        self.lengths = array("<i4", sequences, MEGATRON_HEADER)             # tokens
        self.places = array("<i8", sequences, MEGATRON_HEADER + 4 * sequences)      # bytes of the .bin
        self.ends = array("<i8", entries, MEGATRON_HEADER + 12 * sequences)[1:]     # sequences up to the end of each document
        self.modes = array("i1", sequences, MEGATRON_HEADER + 12 * sequences + 8 * entries) if modes else None
        self.unsplit = entries <= 1         # it records no documents: all of it is taken for one
        if entries and int(array("<i8", entries, MEGATRON_HEADER + 12 * sequences)[0]) != 0:
            raise Bad(f"{path}: expected a document index that begins with 0, found another number")
        if self.unsplit:
            self.ends = numpy.array([sequences])

    def check(self):
        """Every sequence begins where the one before it ends, and documents are made of whole sequences. -> number of tokens"""
        total = 0
        for at in range(0, self.sequences, PIECE):
            lengths = self.lengths[at:at + PIECE].astype(numpy.int64)
            if lengths.min() < 0:
                i = int(lengths.argmin())
                raise Bad(f"{self.path}: expected lengths of 0 and more, found {lengths[i]} for sequence {at + i}")
            places = (total + numpy.cumsum(lengths) - lengths) * self.width
            wrong = numpy.flatnonzero(places != self.places[at:at + PIECE])
            if wrong.size:
                i = int(wrong[0])
                raise Bad(f"{self.path}: expected sequence {at + i} at byte {places[i]}, where the one before it ends, found byte "
                          f"{self.places[at + i]}")
            total += int(lengths.sum())
        last = 0
        for at in range(0, self.ends.size, PIECE):
            ends = numpy.concatenate(([last], self.ends[at:at + PIECE]))
            wrong = numpy.flatnonzero(ends[1:] < ends[:-1])
            if wrong.size:
                i = int(wrong[0])
                raise Bad(f"{self.path}: expected document {at + i} to end after {ends[i]} sequences or more, found {ends[i + 1]}")
            last = int(ends[-1])
        if last != self.sequences:
            raise Bad(f"{self.path}: expected documents of {self.sequences} sequences in all, found {last}")
        return total

    def inner(self):
        """-> number of sequences that are not the last of a document"""
        last, ending = 0, 0
        for at in range(0, self.ends.size, PIECE):
            ends = self.ends[at:at + PIECE]
            ending += int((numpy.diff(ends, prepend=last) > 0).sum())
            last = int(ends[-1])
        return self.sequences - ending

    def document_ends(self, count):
        """-> arrays of places (tokens) where documents that have any tokens end; count is the number of all tokens"""
        last = 0
        for at in range(0, self.ends.size, PIECE):
            ends = self.ends[at:at + PIECE]
            places = numpy.where(ends < self.sequences, self.places[numpy.minimum(ends, self.sequences - 1)] // self.width, count)
            places = places[numpy.diff(places, prepend=last) > 0]
            if places.size:
                last = int(places[-1])
                yield places


def regular(path):
    """-> size of a file in bytes; raises Bad for what is none, before anything opens it (opening a pipe waits for its other end)"""
    try:
        found = os.stat(path)
    except OSError as error:
        raise Bad(f"{path}: expected a token file, found: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise Bad(f"{path}: expected a token file, found a directory; name the files in it, as in '{path}/*.bin'")
    if not stat.S_ISREG(found.st_mode):
        raise Bad(f"{path}: expected a token file, found a pipe or a device, which cannot be read twice")
    if found.st_size == 0:
        raise Bad(f"{path}: expected a token file, found an empty one")
    return found.st_size


def head(path, count=1024):
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise Bad(f"{path}: expected a token file, found: {error.strerror}") from error


def marked(path):
    """-> the kind that the first bytes of a file speak of, or None"""
    first = head(path, 16)
    if first.startswith(MEGATRON_MAGIC):
        return "megatron"
    if first.startswith(LLMQ_MAGIC):
        return "llmq"
    known = {struct.pack("<i", magic): "llmc" for magic, _ in shards.TYPES}
    return known.get(first[:4])


def open_llmc(path):
    tokens = shards.read_shard(path)
    return Source("llmc", path, tokens.dtype, [(path, shards.HEADER_BYTES, tokens.size)])


def open_nanogpt(path, width):
    size = regular(path)
    if marked(path):
        raise Bad(f"{path}: expected tokens from the first byte on (--from nanogpt), found the header of {marked(path)}")
    if size % width:
        raise Bad(f"{path}: expected tokens of {width} bytes, found {size} bytes, which is not a multiple")
    return Source("nanogpt", path, f"<u{width}", [(path, 0, size // width)])


def open_llmq(path):
    size, first = regular(path), head(path)
    if not first.startswith(LLMQ_MAGIC) or len(first) < 1024:
        raise Bad(f"{path}: expected a file of LLM.Q, with a header of 1024 bytes that begins with BIN.TOK, found {size} bytes that begin "
                  f"with {first[:8]}")
    version, width, count, vocab, masked = struct.unpack_from("<5i", first, 8)
    if version not in (1, 2) or width != 4:
        raise Bad(f"{path}: expected LLM.Q's version 1 or 2 with 4 bytes a token, found version {version} with {width}")
    if version == 2 and masked not in (0, 1):
        raise Bad(f"{path}: expected 0 or 1 for masks in the header, found {masked}")
    expected = 1024 + 4 * count + ((count + 7) // 8 if masked == 1 else 0)
    if count < 0 or size != expected:
        raise Bad(f"{path}: expected {expected} bytes for {count} tokens {'with' if masked == 1 else 'without'} masks, found {size}")
    if version == 2 and vocab < 1:
        raise Bad(f"{path}: expected the size of the vocabulary in the header, found {vocab}")
    source = Source("llmq", path, "<i4", [(path, 1024, count)])
    source.vocab = vocab if version == 2 else None
    source.masks = (path, 1024 + 4 * count) if masked == 1 else None
    return source


def bin_parts(prefix):
    """-> the .bin of a Megatron file, or the pieces PREFIX-00000-of-00020.bin that Pythia's is handed out in"""
    if os.path.lexists(prefix + ".bin"):
        return [prefix + ".bin"]
    parts = sorted(glob.glob(glob.escape(prefix) + "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].bin"))
    if not parts:
        raise Bad(f"{prefix}.bin: expected the tokens of {prefix}.idx, found no such file (nor {prefix}-00000-of-NNNNN.bin)")
    for i, path in enumerate(parts):
        if not path.startswith(f"{prefix}-{i:05}-of-") or path[-9:] != parts[0][-9:]:
            raise Bad(f"{path}: expected {prefix}-{i:05}-of-{parts[0][-9:]}: the pieces of {prefix}.bin, each once")
    return parts


def open_megatron(prefix):
    path = prefix + ".idx"
    size, first = regular(path), head(path, MEGATRON_HEADER)
    if not first.startswith(MEGATRON_MAGIC) or len(first) < MEGATRON_HEADER:
        raise Bad(f"{path}: expected an index of Megatron, of {MEGATRON_HEADER} bytes or more that begin with MMIDIDX, found {size} bytes "
                  f"that begin with {first[:9]}")
    version, code, sequences, entries = struct.unpack_from("<QBQQ", first, 9)
    if version != 1 or code not in MEGATRON_TYPES:
        raise Bad(f"{path}: expected version 1 and a type of whole numbers (1 to 5, 8), found version {version}, type {code}")
    expected = MEGATRON_HEADER + 12 * sequences + 8 * entries
    if size not in (expected, expected + sequences):
        raise Bad(f"{path}: expected {expected} bytes, or {expected + sequences} with modes, for {sequences} sequences and {entries} "
                  f"entries of the document index, found {size}")
    if sequences == 0:
        raise Bad(f"{path}: expected tokens, found no sequence")
    dtype = numpy.dtype(MEGATRON_TYPES[code])
    index = Index(path, dtype, sequences, entries, size == expected + sequences)
    total = index.check()
    parts = []
    for part in bin_parts(prefix) if total else []:
        bytes_there = regular(part)
        if bytes_there % dtype.itemsize:
            raise Bad(f"{part}: expected tokens of {dtype.itemsize} bytes, found {bytes_there} bytes, which is not a multiple")
        parts.append((part, 0, bytes_there // dtype.itemsize))
    found = sum(tokens for _, _, tokens in parts)
    if found != total:
        raise Bad(f"{parts[-1][0]}: expected {total * dtype.itemsize} bytes for the {total} tokens of {path}, found "
                  f"{found * dtype.itemsize} bytes")
    source = Source("megatron", path, dtype, parts)
    source.index = index
    source.files.append(path)
    return source


def expand(names):
    """-> names, those with *, ? or [ replaced by the files that match, sorted"""
    out = []
    for name in names:
        if os.path.lexists(name) or not glob.has_magic(name):
            out.append(name)
            continue
        found = sorted(glob.glob(name))
        if not found:
            raise Bad(f"{name}: expected files of that name, found none")
        out += found
    return out


def megatron_prefix(name):
    """-> PREFIX, if name is PREFIX, PREFIX.bin or PREFIX.idx of a Megatron file; else None"""
    if name.endswith(".idx"):
        return name[:-4]
    if name.endswith(".bin") and os.path.lexists(name[:-4] + ".idx"):
        return name[:-4]
    return name if not os.path.lexists(name) and os.path.lexists(name + ".idx") else None


def open_sources(names, kind, width):
    """-> Sources; kind is --from or None, width that of nanoGPT's tokens"""
    out, before = [], None
    for name in expand(names):
        prefix = megatron_prefix(name) if kind in (None, "megatron") else None
        if prefix is not None:
            if before and before[0] == prefix and before[1] != name:
                continue                # PREFIX.bin and PREFIX.idx were both named
            out.append(open_megatron(prefix))
            before = (prefix, name)
            continue
        before = None
        size = regular(name)
        found = kind or marked(name)
        if found == "llmc":
            out.append(open_llmc(name))
        elif found == "llmq":
            out.append(open_llmq(name))
        elif found == "nanogpt":
            out.append(open_nanogpt(name, width))
        elif found == "megatron":
            raise Bad(f"{name}: expected PREFIX.idx and PREFIX.bin (or PREFIX-00000-of-NNNNN.bin) of Megatron, found no such index")
        else:
            raise Bad(f"{name}: expected a file of llm.c or LLM.Q, or one of Megatron with its .idx, found {size} bytes that begin with "
                      f"{head(name, 8)}; for tokens without a header say --from nanogpt")
    return out


# ---- writing ----

class Outputs:
    """Files under temporary names, which get their own all together at the end. The first one opened is renamed last: where it is, the
    others are."""

    def __init__(self):
        self.files, self.scratches = [], []         # (file, temporary name, name); (file, temporary name)

    def open(self, path):
        with writing(path):
            temporary = f"{path}.tmp.{os.getpid()}"
            self.files.append((open(temporary, "wb"), temporary, path))
        return self.files[-1][0]

    def scratch(self, path):
        """A file beside `path` for what can only be written there later"""
        with writing(path):
            temporary = f"{path}.tmp.{os.getpid()}.{len(self.scratches)}"
            self.scratches.append((open(temporary, "w+b"), temporary))
        return self.scratches[-1][0]

    def close(self, file):
        """Of a file that is whole: flushed to the disk"""
        path = next(path for other, _, path in self.files if other is file)
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def publish(self, stale):
        """Renames. `stale` are files of an earlier OUT: they go, and the first name goes first, so that at no time what is there looks
        whole and is not."""
        names = [path for _, _, path in self.files]
        for path in dict.fromkeys([names[0], *stale]):
            with writing(path), contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        for _, temporary, path in reversed(self.files):
            with writing(path):
                os.rename(temporary, path)
        for directory in {os.path.dirname(os.path.abspath(path)): path for path in names}.values():
            shards.sync_directory(directory)
        self.files = []

    def discard(self):
        for file, temporary, *_ in self.files + self.scratches:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def copy(scratch, file, path):
    """Appends all of a scratch file to another one, and empties it."""
    with writing(path):
        scratch.seek(0)
        while piece := scratch.read(1 << 20):
            file.write(piece)
        scratch.seek(0)
        scratch.truncate()


def numbered(path, number):
    """NAME.bin, NAME_00001.bin, ..., as build/tokens and build/bytes call what one shard cannot hold"""
    stem, extension = os.path.splitext(path)
    return f"{stem}_{number:05}{extension}" if number else path


class TokenFiles:
    """Writes llmc, nanogpt and llmq: files of `most` tokens, the last one of the rest."""

    def __init__(self, outputs, path, kind, width, most, vocab, masked):
        self.outputs, self.path, self.kind, self.most, self.vocab, self.masked = outputs, path, kind, most, vocab, masked
        self.dtype = "<i4" if kind == "llmq" else f"<u{width}"
        self.file, self.name, self.count, self.number, self.total = None, path, 0, 0, 0
        self.scratch = outputs.scratch(path) if masked else None
        self.bits = numpy.zeros(0, bool)        # of masks, fewer than 8

    def write(self, tokens, mask):
        while tokens.size:
            if self.file is None or self.count == self.most:
                self.next()
            n = min(tokens.size, self.most - self.count)
            with writing(self.name):
                self.file.write(tokens[:n].astype(self.dtype).tobytes())
                if self.masked:
                    self.write_masks(numpy.ones(n, bool) if mask is None else mask[:n])
            tokens, mask = tokens[n:], None if mask is None else mask[n:]
            self.count += n
            self.total += n

    def write_masks(self, mask):
        bits = numpy.concatenate((self.bits, mask))
        whole = bits.size // 8 * 8
        self.scratch.write(numpy.packbits(bits[:whole], bitorder="little").tobytes())
        self.bits = bits[whole:]

    def next(self):
        if self.file is not None:
            self.finish()
            self.number += 1
            if self.number > 99999:
                raise Bad(f"{self.path}: expected at most 100000 files, found more; use a larger --shard-tokens")
        self.name, self.count = numbered(self.path, self.number), 0
        self.file = self.outputs.open(self.name)
        with writing(self.name):
            self.file.write(b"" if self.kind == "nanogpt" else bytes(shards.HEADER_BYTES))

    def header(self):
        if self.kind == "llmc":
            return shards.header(int(self.dtype[2]), self.count)
        start = LLMQ_MAGIC + struct.pack("<5i", 2, 4, self.count, self.vocab, self.masked)
        return start + b"*" * (1023 - len(start)) + b"\n"

    def finish(self):
        with writing(self.name):
            if self.masked:
                self.scratch.write(numpy.packbits(self.bits, bitorder="little").tobytes())
                self.bits = self.bits[:0]
                copy(self.scratch, self.file, self.name)
            if self.kind != "nanogpt":
                self.file.seek(0)
                self.file.write(self.header())
        self.outputs.close(self.file)

    def names(self):
        return [numbered(self.path, i) for i in range(self.number + 1)]


class MegatronFiles:
    """Writes PREFIX.bin and PREFIX.idx. The parts of the index lie one after another, each of a size that is known only at the end: they
    wait in scratch files."""

    def __init__(self, outputs, prefix, dtype, modes):
        self.outputs, self.dtype, self.idx_name, self.name = outputs, dtype, prefix + ".idx", prefix + ".bin"
        self.idx = outputs.open(self.idx_name)
        self.file = outputs.open(self.name)
        self.lengths, self.ends = outputs.scratch(self.idx_name), outputs.scratch(self.idx_name)
        self.modes = outputs.scratch(self.idx_name) if modes else None
        self.sequences = self.documents = self.total = 0
        self.open = 0           # tokens of the document that has not ended

    def write(self, tokens):
        with writing(self.name):
            self.file.write(tokens.astype(self.dtype).tobytes())
        self.total += tokens.size

    def add_sequences(self, lengths, modes=None):
        with writing(self.idx_name):
            self.lengths.write(lengths.astype("<i4").tobytes())
            if self.modes:
                self.modes.write(numpy.zeros(lengths.size, "i1").tobytes() if modes is None else modes.tobytes())
        self.sequences += lengths.size

    def add_ends(self, ends):
        """`ends`: number of sequences up to the end of each document"""
        with writing(self.idx_name):
            self.ends.write(ends.astype("<i8").tobytes())
        self.documents += ends.size

    def write_documents(self, tokens, eot):
        """Tokens without an index: a document ends after each `eot`, unless that is None."""
        self.write(tokens)
        ends = numpy.flatnonzero(tokens == eot) + 1 if eot is not None else numpy.zeros(0, numpy.int64)
        last = 0
        if ends.size:
            self.open += int(ends[0])
            self.end_document()
            self.add_sequences(numpy.diff(ends))
            self.add_ends(self.sequences - ends.size + 1 + numpy.arange(1, ends.size))
            last = int(ends[-1])
        self.open += tokens.size - last

    def end_document(self):
        """Ends the document that is open, if one is: one sequence, or several where it is longer than one can be."""
        if self.open:
            while self.open:
                length = min(LONGEST, self.open)
                self.add_sequences(numpy.array([length]))
                self.open -= length
            self.add_ends(numpy.array([self.sequences]))

    def copy_index(self, index):
        self.end_document()
        first = self.sequences
        for at in range(0, index.sequences, PIECE):
            self.add_sequences(index.lengths[at:at + PIECE], None if index.modes is None else index.modes[at:at + PIECE])
        for at in range(0, index.ends.size, PIECE):
            self.add_ends(first + index.ends[at:at + PIECE])

    def finish(self):
        self.end_document()
        self.outputs.close(self.file)
        with writing(self.idx_name):
            self.idx.write(MEGATRON_MAGIC + struct.pack("<QBQQ", 1, MEGATRON_CODES[self.dtype], self.sequences, self.documents + 1))
        self.write_lengths()
        with writing(self.idx_name):
            self.idx.write(struct.pack("<q", 0))
        copy(self.ends, self.idx, self.idx_name)
        if self.modes:
            copy(self.modes, self.idx, self.idx_name)
        self.outputs.close(self.idx)

    def write_lengths(self):
        """Lengths, then the places that follow from them"""
        with writing(self.idx_name):
            width, place = numpy.dtype(self.dtype).itemsize, 0
            for what in ("lengths", "places"):
                self.lengths.seek(0)
                while piece := self.lengths.read(4 * PIECE):
                    lengths = numpy.frombuffer(piece, "<i4").astype("<i8") * width
                    self.idx.write(piece if what == "lengths" else (place + numpy.cumsum(lengths) - lengths).astype("<i8").tobytes())
                    place += int(lengths.sum()) if what == "places" else 0

    def names(self):
        return [self.name, self.idx_name]
