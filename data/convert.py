"""Converts token files between llm.c, Megatron, nanoGPT and LLM.Q, each to each (data/README.md, "Converting").

    usage: convert.py IN... --to llmc|megatron|nanogpt|llmq --out OUT [--eot ID] [options]      (--help lists them)

All tokens arrive, in their order: those of several IN one after another. What a format cannot hold is counted and said. The
formats themselves are in token_formats.py.

Pipeline: open and check every IN -> look at tokens, where their type could hold one that OUT cannot -> write in pieces, under
temporary names -> flush to the disk -> rename. So memory does not grow with the files, and OUT is there whole or not at all.
"""

import argparse
import glob
import os
import re
import signal
import sys
import time

try:
    import numpy
except ImportError as error:
    sys.exit(f"convert: expected the Python package numpy (make venv makes an environment with it), found none: {error}")

import shards
import token_formats
from token_formats import Bad, MegatronFiles, Outputs, TokenFiles

KINDS = ("llmc", "megatron", "nanogpt", "llmq")


# ---- looking ----

class Progress:
    """A line on a terminal, every second."""

    def __init__(self, total):
        self.total, self.done, self.shown, self.began = total, 0, time.monotonic(), time.monotonic()
        self.on = sys.stderr.isatty()

    def add(self, tokens):
        self.done += tokens
        now = time.monotonic()
        if self.on and now - self.shown > 1:
            self.shown = now
            left = (now - self.began) * (self.total - self.done) / max(1, self.done)
            sys.stderr.write(f"\r{100 * self.done / max(1, self.total):5.1f} %, {left:.0f} s left \033[K")

    def end(self):
        if self.on:
            sys.stderr.write("\r\033[K")


def look(sources, most, exactly):
    """Checks that all tokens are 0 to `most`, reading those whose type could hold another one; with `exactly`, also those of more than
    two bytes. -> a number that no token exceeds"""
    largest = 0
    for source in sources:
        kind = numpy.iinfo(source.dtype)
        if kind.min == 0 and kind.max <= most and not (exactly and kind.max > 65535):
            largest = max(largest, int(kind.max))
            continue
        count, first, found = 0, None, 0
        for start, stop in source.spans():
            tokens = source.read(start, stop)
            wrong = numpy.flatnonzero((tokens < 0) | (tokens > most))
            if wrong.size and first is None:
                first = (start + int(wrong[0]), int(tokens[wrong[0]]))
            count += wrong.size
            found = max(found, int(tokens.max()))
        if count:
            raise Bad(f"{source.name}: expected tokens from 0 to {most}, found {count} of {source.count} outside, the first one "
                      f"{first[1]} at position {first[0]}")
        largest = max(largest, found)
    return largest


def masked_tokens(source):
    """-> number of tokens whose mask bit is 0"""
    return sum(int((~source.mask(start, stop)).sum()) for start, stop in source.spans()) if source.masks else 0


# ---- converting ----

class Ends:
    """Goes through arrays of rising places."""

    def __init__(self, arrays):
        self.arrays, self.held = iter(arrays), numpy.zeros(0, numpy.int64)

    def take(self, stop):
        """-> the places up to and including `stop` that have not been taken"""
        out = []
        while True:
            n = int(numpy.searchsorted(self.held, stop, "right"))
            out.append(self.held[:n])
            self.held = self.held[n:]
            if self.held.size:
                break
            more = next(self.arrays, None)
            if more is None:
                break
            self.held = more
        return numpy.concatenate(out)


class Tally:
    """What is said at the end"""

    def __init__(self):
        self.eots = 0       # end-of-text tokens written
        self.added = 0      # of them, those that were not there
        self.inside = 0     # of them, those where no document of an index ends


def mark_ends(tokens, ends, eot, tally):
    """-> tokens with `eot` put in at those of `ends` (places in tokens) that do not come after one already"""
    there = tokens[ends - 1] == eot
    tally.added += int((~there).sum())
    tally.inside += int((tokens == eot).sum()) - int(there.sum())
    return numpy.insert(tokens.astype(numpy.int64), ends[~there], eot) if not there.all() else tokens


def convert(sources, writer, to, eot):
    """Writes all sources. -> Tally"""
    tally, progress = Tally(), Progress(sum(source.count for source in sources))
    for source in sources:
        ends = Ends(source.index.document_ends(source.count)) if source.index and to != "megatron" and eot is not None else None
        if to == "megatron" and source.index:
            writer.copy_index(source.index)
        for start, stop in source.spans():
            tokens = source.read(start, stop)
            if ends:
                tokens = mark_ends(tokens, ends.take(stop) - start, eot, tally)
            if eot is not None:
                tally.eots += int((tokens == eot).sum())
            if to != "megatron":
                writer.write(tokens, source.mask(start, stop) if source.masks and to == "llmq" else None)
            elif source.index:
                writer.write(tokens)
            else:
                writer.write_documents(tokens, eot)
            progress.add(stop - start)
        if to == "megatron" and not source.index and eot is None:
            writer.end_document()
    writer.finish()
    progress.end()
    return tally


# ---- the command ----

def plural(number, what):
    return f"{number} {what}" if number != 1 else f"1 {what[:-3] + 'y' if what.endswith('ies') else what[:-1]}"


def index_losses(sources, to, eot, tally):
    """What Megatron's indexes hold and `to` does not -> sentences"""
    indexes = [source.index for source in sources if source.index]
    said = [f"{index.path} records no documents: all of it counts as one" for index in indexes if index.unsplit]
    if to == "megatron":
        if indexes and eot is not None:
            said.append(f"documents of {indexes[0].path} are those of the index: --eot {eot} does not split them")
        return said
    full = sum(sum(places.size for places in source.index.document_ends(source.count)) for source in sources if source.index)
    documents, inner = sum(index.ends.size for index in indexes), sum(index.inner() for index in indexes)
    modes = sum(int(numpy.count_nonzero(index.modes)) for index in indexes if index.modes is not None)
    if full and eot is None:
        said.append(f"{plural(full, 'document boundaries')} not marked by a token: {to} has no place for them (--eot ID marks each)")
    if full and eot is not None:
        said.append(f"{plural(tally.added, 'end-of-text tokens')} ({eot}) added, after documents that did not end with one; "
                    f"{full - tally.added} of {full} did")
    if tally.inside:
        said.append(f"{plural(tally.inside, 'end-of-text tokens')} ({eot}) inside documents: readers take them "
                    "for boundaries")
    if documents > full:
        said.append(f"{plural(documents - full, 'documents')} without tokens not kept")
    if inner:
        said.append(f"{plural(inner, 'sequence boundaries')} inside documents not kept")
    if modes:
        said.append(f"{plural(modes, 'modes')} of sequences not kept")
    return said


def losses(sources, to, eot, tally, masked):
    """-> sentences about what OUT does not hold, or holds beyond IN"""
    said = index_losses(sources, to, eot, tally)
    if masked:
        said.append(f"{plural(masked, 'masked tokens')} no longer marked: they are targets like all others")
    if to == "llmq" and any(source.masks for source in sources):
        unmasked = sum(source.count for source in sources if not source.masks) + tally.added
        if unmasked:
            said.append(f"{plural(unmasked, 'tokens')} came without masks: their bits are 1")
    vocab = sorted({source.vocab for source in sources if source.vocab is not None})
    if to != "llmq" and vocab:
        said.append(f"the size of the vocabulary, {', '.join(map(str, vocab))}, not kept")
    return said


def choose_vocab(sources, given, to):
    if to != "llmq" or given is not None:
        return given
    known = {source.vocab for source in sources}
    if len(known) != 1 or None in known:
        raise Bad("--vocab: expected the size of the vocabulary, which a file of LLM.Q holds and "
                  f"{'IN does not' if known == {None} else 'the INs do not agree about'}")
    return known.pop()


def choose_width(sources, options, vocab):
    """Looks at the tokens. -> bytes of a token of OUT"""
    width = options.width or (2 if options.to == "nanogpt" else 4)
    most = 2**31 - 1 if options.to in ("megatron", "llmq") and width == 4 else 256**width - 1
    most = most if vocab is None else min(most, vocab - 1)
    if options.eot is not None and options.eot > most:
        raise Bad(f"--eot {options.eot}: expected a token from 0 to {most}")
    chooses = options.width is None and options.to in ("llmc", "megatron")
    largest = look(sources, most, chooses)
    if options.eot is not None and options.to != "megatron" and any(source.index for source in sources):
        largest = max(largest, options.eot)
    return (2 if largest <= 65535 else 4) if chooses else width


def earlier(out, to):
    """-> files of that name that are there"""
    names = [out + ".idx", out + ".bin"] if to == "megatron" else [out]
    if to in ("llmc", "llmq"):
        stem, extension = os.path.splitext(out)
        names += sorted(glob.glob(f"{glob.escape(stem)}_[0-9][0-9][0-9][0-9][0-9]{glob.escape(extension)}"))
    return [name for name in names if os.path.lexists(name)]


def check_out(out, to, force, sources):
    """-> files that --force replaces"""
    directory = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(directory):
        raise Bad(f"{out}: expected a directory {directory}, found none")
    there = earlier(out, to)
    for name in there:
        for path in [path for source in sources for path in source.files]:
            if os.path.exists(name) and os.path.samefile(name, path):
                raise Bad(f"{name}: expected an OUT that is not an IN, found {path} to be the same file")
        if not os.path.isfile(name):
            raise Bad(f"{name}: expected a name for a file, found {'a directory' if os.path.isdir(name) else 'something else'} there")
    if there and not force:
        raise Bad(f"{there[0]}: expected a name that is not there yet, found a file; --force replaces it")
    return there


def out_name(options):
    """-> OUT as its writer takes it"""
    out = options.out
    if options.to == "megatron" and out.endswith((".bin", ".idx")):
        out = out[:-4]
    if options.to != "megatron" and os.path.islink(out):
        out = os.path.realpath(out)         # the link stays
    if not os.path.basename(out):
        raise Bad(f"--out {options.out}: expected the name of a file")
    return out


def open_writer(outputs, out, options, sources, width, vocab):
    if options.to == "megatron":
        modes = any(source.index.modes is not None for source in sources if source.index)
        return MegatronFiles(outputs, out, "<u2" if width == 2 else "<i4", modes)
    most = options.shard_tokens if options.to in ("llmc", "llmq") else 2**63
    masks = options.to == "llmq" and any(source.masks for source in sources)
    return TokenFiles(outputs, out, options.to, width, most, vocab, masks)


def run(options):
    out = out_name(options)
    sources = token_formats.open_sources(options.input, options.kind, options.in_width)
    there = check_out(out, options.to, options.force, sources)
    vocab = choose_vocab(sources, options.vocab, options.to)
    masked = sum(masked_tokens(source) for source in sources) if options.to != "llmq" else 0
    if masked and not options.drop_masks:
        raise Bad(f"{plural(masked, 'masked tokens')}: {options.to} has no masks, so they would be targets like all others; "
                  "--drop-masks goes on")
    width = choose_width(sources, options, vocab)
    outputs = Outputs()
    try:
        writer = open_writer(outputs, out, options, sources, width, vocab)
        tally = convert(sources, writer, options.to, options.eot)
        if not options.force and earlier(out, options.to):
            raise Bad(f"{earlier(out, options.to)[0]}: expected a name that is not there yet, found a file that another program has made "
                      "since")
        outputs.publish([name for name in there if name not in writer.names()])
    finally:
        outputs.discard()
    report(sources, writer, options, tally, masked)


def report(sources, writer, options, tally, masked):
    for sentence in losses(sources, options.to, options.eot, tally, masked):
        print(f"convert: {sentence}", file=sys.stderr)
    names, counted = writer.names(), ""
    shown = ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"
    if options.to == "megatron":
        counted = ", " + plural(writer.documents, "documents")
    elif options.eot is not None:
        counted = ", " + plural(tally.eots, "end-of-text tokens")
    print(f"{shown}: {plural(writer.total, 'tokens')} of {numpy.dtype(writer.dtype).name}{counted}, from {plural(len(sources), 'files')}")


class Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.exit(f"convert: {message}; --help says more")


def whole(low, high):
    def parse(text):
        if not re.fullmatch("[0-9]+", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}, found {text!r}")
        return int(text)
    return parse


def parse(arguments):
    parser = Parser(prog="convert.py", allow_abbrev=False,
                    description="Converts token files, each format to each: all tokens, in their order.")
    add = parser.add_argument
    add("input", nargs="+", metavar="IN", help="a file or a pattern in quotes; of Megatron PREFIX, PREFIX.idx or PREFIX.bin")
    add("--to", required=True, choices=KINDS)
    add("--out", required=True, help="a file; of Megatron PREFIX. What one file cannot hold goes on in NAME_00001.bin, ...")
    add("--from", dest="kind", choices=KINDS, help="by default what the file says it is; nanogpt has to be said")
    add("--eot", type=whole(0, 2**32 - 1), metavar="ID",
        help="the token that ends a document: to Megatron a document ends after each; from Megatron it is added after each document "
             "that does not end with it. By default none is added")
    add("--width", type=int, choices=(2, 4), help="bytes of a token of OUT: by default 2 if all tokens fit, else 4 (nanogpt 2, llmq 4)")
    add("--in-width", type=int, choices=(2, 4), default=2, help="bytes of a token of a nanogpt IN (2)")
    add("--vocab", type=whole(1, 2**31 - 1), metavar="N",
        help="size of the vocabulary: tokens of N and more are refused. llmq needs it, unless IN has it")
    add("--shard-tokens", type=whole(1, shards.MOST_TOKENS), metavar="N",
        help=f"tokens of a file, of llmc and llmq ({shards.MOST_TOKENS})")
    add("--drop-masks", action="store_true", help="go on where masks of LLM.Q would be lost")
    add("--force", action="store_true", help="replace OUT, and the NAME_00001.bin, ... that belong to it")
    options = parser.parse_args(arguments)
    if options.shard_tokens is not None and options.to not in ("llmc", "llmq"):
        parser.error(f"--shard-tokens: expected with --to llmc or llmq, found {options.to}, which is one file of any size")
    if options.width == 2 and options.to == "llmq":
        parser.error("--width 2: expected 4 with --to llmq, whose tokens have 4 bytes")
    options.shard_tokens = options.shard_tokens or shards.MOST_TOKENS
    return options


def main(arguments=None):
    def end(number, _):
        sys.exit(128 + number)          # leaves through the blocks that remove temporary files
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:      # as nohup leaves it
            signal.signal(number, end)
    try:
        run(parse(arguments))
    except (Bad, shards.BadShard) as reason:
        sys.exit(f"convert: {reason}")
    except OSError as error:
        sys.exit(f"convert: {error.filename or 'a file'}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
