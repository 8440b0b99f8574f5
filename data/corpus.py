"""Makes token shards of a corpus: DIR/train_000000.bin and so on, val_000000.bin and so on, tokenizer/ and manifest.json.

A script of a corpus declares where that is and calls main:

    corpus.main(corpus.Corpus("tinystories", "...", repository="roneneldan/TinyStories", revision="f54c...", train=["data/train-*.parquet"],
                              validation=["data/validation-*.parquet"]))

Pipeline: the files of the corpus, listed in order of their names -> documents (documents.py) -> which side of the split -> as many
documents as make a shard -> build/tokens, or a library (encoders.py) -> the shard gets its name -> progress.json.

A shard ends with the first document at which its text reaches --shard-tokens times r bytes; r, bytes for each token, is measured on the
first megabyte of the corpus. So shards follow from source, tokenizer and options alone, and are there whole or not at all. After each,
progress.json says where in the source the next begins: a run that was ended, however, goes on there and leaves the same bytes.
Of a split by hashes, validation's documents wait in a file (.val.documents) whose length stands in progress.json, too.
"""

import argparse
import array
import contextlib
import dataclasses
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import documents
import encoders
import shards
from documents import BadInput, File, first_line

HERE = os.path.dirname(os.path.abspath(__file__))
SPOOL = ".val.documents"    # documents of validation, each behind its length, until they become shards
FORMAT = "ponder.c corpus 1"
MEASURED = 1 << 20          # bytes of text that say how many of them a token has
HELD_OUT = 20               # documents of validation that a split by hashes should have; fewer: the text is cut
LEFTOVERS = re.compile(r"\.(train|val)_\d{6}\.\d+\.[0-9a-f]{8}\.part(_\d{5})?\.bin(\.tmp\.[\d.]+|\.lock)?"    # build/tokens
                       r"|(train|val)_\d{6}\.bin\.tmp\.\d+|(manifest|progress)\.json\.tmp\.\d+"       # shards.new_file
                       r"|\.tokenizer\.\d+|\.measure(\.\d+\.[0-9a-f]{8}\.part)?(_\d{5})?\.bin(\.tmp\.[\d.]+|\.lock)?"
                       r"|\.none\.\d+(_\d{5})?\.bin(\.tmp\.[\d.]+|\.lock)?")


@dataclasses.dataclass
class Corpus:
    name: str
    about: str                      # for --help
    repository: str = None          # OWNER/NAME of a dataset on the hub
    revision: str = None            # its commit
    train: list = ()                # patterns of file names in it; {sample} is what --sample says
    validation: list = ()           # patterns of its own validation set; none: some documents are held out
    val_repository: str = None      # where that is, if elsewhere
    val_revision: str = None
    val_share: float = None         # share of the documents that is held out
    column: str = "text"
    samples: list = ()              # values of --sample, the first is the default
    url: str = None                 # instead of a repository: one file
    sha256: str = None              # of that
    paths: bool = False             # instead: files and directories are named on the command line


class Stopped(BaseException):
    """A signal came."""


signals = []    # that came


def stop(number, _):
    signals.append(number)
    raise Stopped(number)


def say(text):
    print(text, flush=True)


def digest(path):
    """-> SHA-256 of a file"""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- options ----

class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise BadInput(f"{message}; --help lists the options")


def whole(low, high):
    def parse(text):
        if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, found '{text}'")
        return int(text)
    return parse


def share(text):
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 0.5:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 0.5, found '{text}'")


def processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(corpus, arguments):
    parser = Parser(prog=f"{corpus.name}.py", description=corpus.about, allow_abbrev=False)
    add = parser.add_argument
    if corpus.paths:
        add("inputs", nargs="*", metavar="FILE|DIR|GLOB", help="texts, in this order: .txt and .md (one document each), .jsonl, .json, "
            ".csv, .tsv, also as .gz or .zst, and .parquet; of a directory all such files below it, of other names none")
    add("--out", required=True, metavar="DIR", help="where the shards are written")
    add("--tokenizer", default=encoders.DEFAULT, metavar="T", help="a directory or file here, or OWNER/NAME[@REVISION] of the hub (Pythia's)")
    add("--source", action="append", default=[], metavar="PATH", help="a local copy of the source, with the same names of files below it")
    add("--workers", type=whole(1, 4096), default=processors(), metavar="N", help="threads that encode; the shards are the same for any number")
    add("--shard-tokens", type=whole(1, 10**9), default=10**8, metavar="N", help="tokens of a shard, about (100000000)")
    add("--limit", type=whole(1, 10**12), metavar="N", help="take the first N documents only (of each split)")
    add("--eot", metavar="TEXT", help="the token that ends a document, where the tokenizer's files name none or another")
    add("--program", default=f"{HERE}/../build/tokens", metavar="FILE", help="build/tokens, if it is elsewhere")
    if corpus.val_share is not None:
        add("--val-share", type=share, default=corpus.val_share, metavar="X", help=f"share held out for validation ({corpus.val_share})")
    if corpus.repository:
        add("--revision", default=corpus.revision, metavar="R", help="commit or branch of the repository (the one this script was written for)")
    if corpus.samples:
        add("--sample", choices=corpus.samples, default=corpus.samples[0], help="which sample (%(default)s)")
    if corpus.paths or corpus.repository:
        add("--column", default=corpus.column, metavar="NAME", help="the column or key that holds the text (%(default)s)")
    o = parser.parse_intermixed_args(arguments)
    for name in ("val_share", "revision", "sample"):
        o.__dict__.setdefault(name, None)
    o.__dict__.setdefault("column", corpus.column)
    o.out = os.path.abspath(o.out)
    if corpus.paths:
        o.source = o.inputs + o.source
        if not o.source:
            raise BadInput("expected files, directories or globs with texts; --help lists the options")
    elif len(o.source) > 1:
        raise BadInput("--source is given twice")
    return o


# ---- the files of a corpus ----

def local_file(path, name):
    if not os.path.isfile(path):
        raise BadInput(f"{path}: expected a file, found {'a directory' if os.path.isdir(path) else 'none'}")
    return File(path, name, os.path.getsize(path))


def local_listing(root, patterns):
    if not os.path.isdir(root):
        raise BadInput(f"--source {root}: expected a directory with {', '.join(patterns)}, found {'a file' if os.path.exists(root) else 'none'}")
    found = []
    for pattern in patterns:
        names = sorted(glob.glob(pattern, root_dir=root, recursive=True))
        if not names:
            raise BadInput(f"--source {root}: expected files {pattern} in it, found none")
        found += [local_file(f"{root}/{name}", name) for name in names]
    return found


def hub_listing(repository, revision, patterns):
    from huggingface_hub import HfFileSystem
    found, root = [], f"datasets/{repository}@{revision}"
    try:
        for pattern in patterns:
            listed = HfFileSystem().glob(f"{root}/{pattern}", detail=True)
            if not listed:
                raise BadInput(f"{repository}, revision {revision}: expected files {pattern}, found none")
            for path, info in sorted(listed.items()):
                lfs = info.get("lfs")
                sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
                found.append(File(f"hf://{path}", path.removeprefix(root + "/"), info["size"], sha256, None if sha256 else info.get("blob_id")))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{repository}, revision {revision}: the files could not be listed: {first_line(error)}; --source takes a local "
                       "copy") from None
    return found


def resolve_revision(repository, revision):
    """-> the commit that a branch names today"""
    if re.fullmatch("[0-9a-f]{40}", revision or ""):
        return revision
    from huggingface_hub import HfApi
    try:
        return HfApi().dataset_info(repository, revision=revision).sha
    except Exception as error:
        raise BadInput(f"{repository}, revision {revision or 'main'}: could not be found: {first_line(error)}; --source takes a local "
                       "copy") from None


def download(url, sha256, path):
    """A small file, whole, checked and in its place"""
    import http.client
    import urllib.request
    for attempt in range(4):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
            break
        except (OSError, http.client.HTTPException) as error:       # a text that ends too early is no OSError
            if attempt == 3:
                raise BadInput(f"{url}: the download broke: {first_line(error)}; --source takes a local copy") from None
            time.sleep(2**attempt)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BadInput(f"{url}: expected SHA-256 {sha256}, found {found} of {len(content)} bytes")
    with shards.new_file(path) as file:
        file.write(content)


def files_below(directory, out):
    """-> sorted names of files, without what this script has written: the directory `out`, and others"""
    found = []
    for where, below, files in os.walk(directory):
        if ".lock" in files and ("manifest.json" in files or "progress.json" in files) or os.path.realpath(where) == os.path.realpath(out):
            below.clear()
            continue
        found += [os.path.relpath(f"{where}/{file}", directory) for file in files]
    return sorted(found)


def text_files(paths, out):
    """-> the files that paths, directories and globs name, each once"""
    found, seen, others = [], set(), 0

    def take(path, name):
        if os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            found.append(local_file(path, name))
    for path in paths:
        names = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        if not names:
            raise BadInput(f"{path}: expected a file, a directory or a glob of some, found none")
        for name in names:
            if not os.path.isdir(name):
                take(name, os.path.basename(name))
                continue
            for file in files_below(name, out):
                if documents.kind_of(file)[0] and not any(part.startswith(".") for part in file.split("/")):
                    take(f"{name}/{file}", file)
                else:
                    others += 1
    if others:
        say(f"{others} files of other kinds are left out")
    if not found:
        raise BadInput(f"{' '.join(paths)}: expected files with texts, found none")
    return found


# ---- the split ----

def is_held_out(text, val_share):
    """By a hash of the text: equal texts lie on the same side, whatever their order."""
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return number < val_share * 2**64


def line_end(text, at):
    """-> where to cut a text near `at`: behind the line end before it; there is none: behind the one after it, or there, but not inside
    a character"""
    before = text.rfind(b"\n", 0, at) + 1
    if before:
        return before
    after = text.find(b"\n", at) + 1
    if after and after < len(text):
        return after
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def cut_share(texts, val_share):
    """-> which document, and where in it, validation begins, if it is to have the last val_share of all bytes. `texts`: makes an iterator"""
    total = sum(map(len, texts()))
    at, before = int(total * (1 - val_share)), 0
    for number, text in enumerate(texts()):
        if before + len(text) > at:
            return [number, line_end(text, at - before)]
        before += len(text)
    return [number + 1, 0]


# ---- progress ----

class Meter:
    """A line on stderr every second on a terminal, every half minute elsewhere."""

    def __init__(self, total):
        self.total, self.terminal = max(total, 1), sys.stderr.isatty()
        self.begin = self.shown = time.monotonic()
        self.text, self.at, self.first, self.documents = 0, 0, None, 0

    def add(self, text, at, rate):
        """`text`: bytes of a document; `at`: bytes of the source so far; `rate`: bytes of text for each token"""
        self.text, self.at, self.documents = self.text + text, at, self.documents + 1
        self.first = at if self.first is None else self.first
        now = time.monotonic()
        if now - self.shown < (1 if self.terminal else 30):
            return
        self.shown = now
        seconds, done = now - self.begin, min(self.at / self.total, 1)
        left = (self.total - self.at) * seconds / max(self.at - self.first, 1)
        bar = "#" * int(20 * done) + "." * (20 - int(20 * done))
        line = (f"[{bar}] {100 * done:.1f} %, {self.documents:,} documents, {self.text / 1e6:,.0f} MB, {self.text / rate / 1e6:,.1f} M tokens, "
                f"{self.text / 1e6 / seconds:.1f} MB/s, {left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} left")
        print(f"\r{line}\033[K" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True)

    def clear(self):
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


# ---- a run ----

def differences(had, wanted, name=""):
    """Yields what differs between two values of JSON, in words"""
    if isinstance(had, dict) and isinstance(wanted, dict):
        for key in list(had) + [key for key in wanted if key not in had]:
            yield from differences(had.get(key), wanted.get(key), f"{name}, {key}" if name else key)
    elif isinstance(had, list) and isinstance(wanted, list) and len(had) == len(wanted):
        for number, (one, other) in enumerate(zip(had, wanted)):
            label = one.get("name", number) if isinstance(one, dict) else number
            yield from differences(one, other, f"{name} {label}")
    elif isinstance(had, list) and isinstance(wanted, list):
        yield f"{name}: {len(had)} there, {len(wanted)} asked for"
    elif had != wanted:
        yield f"{name}: {documents.shown(had)} there, {documents.shown(wanted)} asked for"


def write_json(path, value):
    with encoders.named(path), shards.new_file(path) as file:
        file.write(json.dumps(value, indent=1).encode() + b"\n")


def read_json(path):
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON, found {first_line(error)}") from None


class Phase:
    """The documents of one part of a run, in order, from a position on."""

    def __init__(self, run, split, files, at):
        self.run, self.split, self.files, self.position = run, split, files, dict(at)
        self.before = [sum(file.size for file in files[:n]) for n in range(len(files) + 1)]
        self.number = 0     # of the file that is being read
        self.meter = Meter(self.before[-1])

    def __iter__(self):
        at = self.position
        for number in range(at["file"], len(self.files)):
            file, self.number = self.files[number], number
            for row, done, text in documents.rows(file, self.run.o.column, at["row"]):
                at["row"] = row
                if signals:     # the exception was lost in a library
                    raise Stopped(signals[0])
                if not text:
                    at["empty"] += 1
                    continue
                kept = self.keep(at, text)
                at["documents"] += 1
                self.meter.add(len(text), self.before[number] + done * file.size, self.run.state["bytes"] / self.run.state["tokens"])
                last = at["documents"] == self.run.o.limit
                if last:
                    at["file"] = len(self.files)
                if kept:
                    yield kept
                if last:
                    return
            at["file"], at["row"] = number + 1, 0
        self.clear()

    def clear(self):
        self.meter.clear()

    def place(self):
        """-> where the last document is, in two numbers; say_place: in words"""
        return self.number, self.position["row"]

    def say_place(self, number, row):
        return documents.place(self.files[number], row)

    def keep(self, at, text):
        """-> what of a document is trained on; the rest waits for validation"""
        held = self.run.state["held_out"]
        if self.split == "val" or not held:
            return text
        if held["by"] == "hash":
            kept, rest = (b"", text) if is_held_out(text, held["share"]) else (text, b"")
        else:
            number, end = held["cut"]
            cut = len(text) if at["documents"] < number else end if at["documents"] == number else 0
            kept, rest = text[:cut], text[cut:]
        if rest:
            with encoders.named(self.run.path(SPOOL)):
                self.run.spool.write(len(rest).to_bytes(8, "little"))
                self.run.spool.write(rest)
            at["spool"] += 8 + len(rest)
        return kept


class Spooled:
    """The documents of .val.documents"""

    def __init__(self, run, at):
        self.run, self.position, self.start = run, dict(at), 0

    def __iter__(self):
        at = self.position
        with open(self.run.path(SPOOL), "rb") as file:
            file.seek(at["row"])
            while length := file.read(8):
                text = file.read(int.from_bytes(length, "little"))
                self.start, at["row"] = at["row"], file.tell()
                yield text

    def clear(self):
        """It shows no progress: there is little to read."""

    def place(self):
        """-> as Phase.place, but of this file alone"""
        return 0, self.start

    def say_place(self, _, start):
        """Nothing says where it came from, so its first words."""
        with open(self.run.path(SPOOL), "rb") as file:
            file.seek(start)
            begin = file.read(min(40, int.from_bytes(file.read(8), "little")))
        return f"{file.name}: the held-out document that begins with {begin!r}"


class Run:
    def __init__(self, corpus, o):
        self.corpus, self.o, self.spool, self.state, self.locked = corpus, o, None, None, False

    def path(self, name):
        return f"{self.o.out}/{name}"

    # -- what there is --

    def lock(self):
        os.makedirs(self.o.out, exist_ok=True)
        self.lock_file = open(self.path(".lock"), "a+")
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock_file.seek(0)
            raise BadInput(f"{self.o.out}: another run{self.lock_file.read(100)} writes there; wait for its end or choose another directory") from None
        self.locked = True
        self.lock_file.truncate(0)
        self.lock_file.write(f" (process {os.getpid()})")
        self.lock_file.flush()

    def sweep(self):
        """Removes what a run that was killed left unfinished; ours alone, by name."""
        for name in os.listdir(self.o.out):
            if LEFTOVERS.fullmatch(name):
                with contextlib.suppress(OSError):
                    shutil.rmtree(self.path(name)) if os.path.isdir(self.path(name)) else os.unlink(self.path(name))

    def find_files(self, old):
        """-> source, as the manifest names it; sets self.files, by split"""
        corpus, o = self.corpus, self.o
        if corpus.paths:
            self.files, source = {"train": text_files(o.source, o.out)}, {}
        elif corpus.url:
            path = self.one_file()
            self.files, source = {"train": [local_file(path, os.path.basename(corpus.url))]}, {"url": corpus.url}
        else:
            self.files, source = {}, {"repository": corpus.repository, "revision": o.revision}
            places = {"train": (corpus.repository, o.revision, corpus.train)}
            if corpus.validation:
                places["val"] = (corpus.val_repository or corpus.repository, corpus.val_revision if corpus.val_repository else o.revision,
                                 corpus.validation)
            for split, (repository, revision, patterns) in places.items():
                patterns = [pattern.format(sample=o.sample) for pattern in patterns]
                if o.source:
                    self.files[split] = local_listing(o.source[0], patterns)
                else:
                    revision = self.known_revision(old, split, repository, revision)
                    self.files[split] = hub_listing(repository, revision, patterns)
                source[split] = {"repository": repository, "asked": revision, "revision": revision}
            source = {split: {"repository": place["repository"], "revision": place["revision"]} for split, place in source.items()
                      if isinstance(place, dict)}
        for split, files in self.files.items():
            source.setdefault(split, {})["files"] = files
        return source

    def known_revision(self, old, split, repository, revision):
        """A branch stays the commit that it was when the run began."""
        if old and not re.fullmatch("[0-9a-f]{40}", revision or ""):
            with contextlib.suppress(KeyError):
                return old["source"][split]["revision"]
        return resolve_revision(repository, revision)

    def one_file(self):
        corpus, o = self.corpus, self.o
        if not o.source:
            path = self.path(".source." + os.path.basename(corpus.url))
            if not os.path.exists(path):
                download(corpus.url, corpus.sha256, path)
            return path
        path = o.source[0] if os.path.isfile(o.source[0]) else f"{o.source[0]}/{os.path.basename(corpus.url)}"
        found = digest(local_file(path, path).path)
        if found != corpus.sha256:
            raise BadInput(f"{path}: expected SHA-256 {corpus.sha256}, found {found}")
        return path

    def hash_files(self, known):
        """SHA-256 of local files; `known`: those of an earlier run, path -> [bytes, time of the last change, SHA-256]"""
        hashed, size = {}, sum(file.size for files in self.files.values() for file in files if not documents.is_remote(file.path))
        if size > 10**10 and not known:
            say(f"computing SHA-256 of {size / 1e9:.0f} GB of files")
        for files in self.files.values():
            for file in files:
                if documents.is_remote(file.path):
                    continue
                info = os.stat(file.path)
                had = known.get(os.path.abspath(file.path), [])
                file.sha256 = had[2] if had[:2] == [info.st_size, info.st_mtime_ns] else digest(file.path)
                hashed[os.path.abspath(file.path)] = [info.st_size, info.st_mtime_ns, file.sha256]
        return hashed

    def settings(self, source, files):
        """-> all that the shards follow from"""
        o = self.o
        listed = {split: {**place, "files": [file.entry() for file in place["files"]]} if isinstance(place, dict) else place
                  for split, place in source.items()}
        options = {"shard_tokens": o.shard_tokens, "column": o.column, "val_share": o.val_share, "limit": o.limit, "sample": o.sample}
        return {"corpus": self.corpus.name, "source": listed, "options": {key: value for key, value in options.items() if value is not None},
                "tokenizer": {"name": os.path.basename(o.tokenizer.rstrip("/")) if os.path.exists(o.tokenizer) else o.tokenizer,
                              "sha256": encoders.files_hash(files)}}

    def compare(self, had, wanted, hashes):
        """Dies if a directory was begun with something else. Names of tokenizers and sums that are not known do not count."""
        def plain(settings):
            kept = json.loads(json.dumps(settings))
            kept["tokenizer"] = kept["tokenizer"]["sha256"]
            for place in kept["source"].values():
                for file in place["files"] if isinstance(place, dict) else []:
                    file.pop("etag", None)
                    if not hashes or "sha256" not in file:
                        file.pop("sha256", None)
            return kept
        found = list(differences(plain(had), plain(wanted)))
        if found:
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            raise BadInput(f"{self.o.out}: expected the same source, tokenizer and options as those of the shards there; {'; '.join(found[:3])}{more}; "
                           "choose another directory")

    def check_shard(self, shard, hashes):
        path = self.path(shard["name"])
        if not os.path.exists(path):
            raise BadInput(f"{path}: expected the shard that was finished here, found none; remove the directory and begin again")
        if os.path.getsize(path) != shard["size"] or hashes and digest(path) != shard["sha256"]:
            raise BadInput(f"{path}: expected the shard that was finished here, {shard['size']} bytes, SHA-256 {shard['sha256']}, found another file of "
                           f"{os.path.getsize(path)} bytes; remove the directory and begin again")

    def refuse_others(self, planned):
        """Shards of something else would be read with ours."""
        others = sorted(name for name in os.listdir(self.o.out) if re.fullmatch(r"(train|val).*\.bin", name) and name not in planned)
        if others:
            raise BadInput(f"{self.path(others[0])}: expected no shards but this run's in the directory, found this one"
                           f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}; remove them or choose another directory")

    def read(self, name):
        """-> an earlier run's manifest.json or progress.json; None: there is none"""
        value = read_json(self.path(name))
        if value is not None and (not isinstance(value, dict) or value.get("format") != FORMAT):
            raise BadInput(f"{self.path(name)}: expected \"format\": {FORMAT!r}, found a file of something else; choose another directory")
        return value

    # -- beginning --

    def write_tokenizer(self, files):
        """-> the directory of the tokenizer, or one that will become that when the run has begun"""
        directory = self.path("tokenizer")
        if os.path.exists(directory):
            if encoders.files_hash(encoders.local_files(directory)) != encoders.files_hash(files):
                raise BadInput(f"{directory}: expected the tokenizer of this run, or no directory, found another tokenizer")
            return directory
        made = self.path(f".tokenizer.{os.getpid()}")
        os.makedirs(made)
        for name, content in files.items():
            with encoders.named(f"{directory}/{name}"), open(f"{made}/{name}", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        return made

    def place_tokenizer(self, made, encoder):
        directory = self.path("tokenizer")
        if made != directory:
            os.rename(made, directory)
            shards.sync_directory(directory)
            encoder.move(directory)

    def placed_texts(self):
        """Documents of training, from the first on, before any split: file, row, text"""
        count = 0
        for file in self.files["train"]:
            for row, _, text in documents.rows(file, self.o.column, 0):
                if text:
                    yield file, row, text
                    count += 1
                if count == self.o.limit:
                    return

    def texts(self):
        return (text for _, _, text in self.placed_texts())

    def split(self):
        """-> how documents are held out: None, by hash, or by a cut"""
        val_share = self.o.val_share
        if "val" in self.files or not val_share:
            return None
        enough = HELD_OUT / val_share
        if any(number >= enough for number, _ in enumerate(self.texts(), 1)):
            return {"by": "hash", "share": val_share}
        return {"by": "cut", "share": val_share, "cut": cut_share(self.texts, val_share)}

    def measure(self, encoder):
        """-> bytes and tokens of the first megabyte, and the token that ends a document"""
        sample, places, size = [], [], 0
        for file, row, text in self.placed_texts():
            sample.append(text[:MEASURED])
            places.append((file, row))
            size += len(sample[-1])
            if size >= MEASURED:
                break
        if not sample:
            raise BadInput(f"{self.files['train'][0].path}: expected documents, found none that is not empty"
                           f"{' in any of the files' if len(self.files['train']) > 1 else ''}")
        path = self.path(".measure.bin")
        tokens = encoder.write(path, iter(sample), lambda n: documents.place(*places[n]))
        eot = int(shards.read_shard(path)[-1])
        os.unlink(path)
        return size, tokens, eot

    def begin(self, settings, hashed, encoder):
        """The state of a run without any shard"""
        self.state = {"format": FORMAT, "settings": settings, "hashed": hashed, "shards": [], "phase": 0,
                      "position": {"file": 0, "row": 0, "documents": 0, "empty": 0, "spool": 0}, "empty": 0}
        size, tokens, eot = self.measure(encoder)
        self.state.update(bytes=size, tokens=tokens, shard_bytes=max(1, self.o.shard_tokens * size // tokens), held_out=self.split())
        settings["tokenizer"].update(vocabulary=encoder.vocabulary(), eot=eot, encoder=encoder.name)
        self.save()

    def save(self):
        write_json(self.path("progress.json"), self.state)

    # -- shards --

    def open_spool(self):
        self.spool = open(self.path(SPOOL), "a+b")
        self.spool.truncate(self.state["position"]["spool"])
        self.spool.seek(0, os.SEEK_END)
        if self.spool.tell() != self.state["position"]["spool"]:
            raise BadInput(f"{self.path(SPOOL)}: expected {self.state['position']['spool']} bytes, the documents held out so far, found "
                           f"{self.spool.tell()}; remove the directory and begin again")

    def sync_spool(self):
        if self.spool:
            with encoders.named(self.path(SPOOL)):
                self.spool.flush()
                os.fsync(self.spool.fileno())

    def write_shards(self, split, phase, encoder):
        feed = iter(phase)
        while (first := next(feed, None)) is not None:
            number = sum(shard["name"].startswith(split) for shard in self.state["shards"])
            shard = {"name": f"{split}_{number:06d}.bin", "documents": 0, "tokens": 0, "bytes": 0}
            places = array.array("Q")       # of its documents: file, row

            def texts(text=first, shard=shard, places=places):
                while text is not None:
                    places.extend(phase.place())
                    shard["documents"] += 1
                    shard["bytes"] += len(text)
                    yield text
                    text = next(feed, None) if shard["bytes"] < self.state["shard_bytes"] else None
            path = self.path(shard["name"])
            shard["tokens"] = encoder.write(path, texts(), lambda n, places=places: phase.say_place(*places[2 * n:2 * n + 2]))
            shard.update(size=os.path.getsize(path), sha256=digest(path))
            self.sync_spool()
            self.state["shards"].append(shard)
            self.state["position"] = dict(phase.position)
            self.save()
            phase.clear()
            say(f"{shard['name']}: {shard['documents']:,} documents, {shard['bytes']:,} bytes, {shard['tokens']:,} tokens")
        self.state["empty"] += phase.position["empty"]
        self.state["position"] = {"file": 0, "row": 0, "documents": 0, "empty": 0, "spool": phase.position["spool"]}
        self.state["phase"] += 1
        self.sync_spool()
        self.save()

    def write_all(self, encoder):
        own = "val" in self.files
        for number, split in enumerate(("val", "train") if own else ("train", "val")):
            if self.state["phase"] != number:
                continue
            if split == "val" and not own:
                if self.state["held_out"]:
                    self.write_shards(split, Spooled(self, self.state["position"]), encoder)
                continue
            if split == "train" and self.state["held_out"]:
                self.open_spool()
            self.write_shards(split, Phase(self, split, self.files[split], self.state["position"]), encoder)

    def finish(self):
        state = self.state
        totals = {}
        for split in ("train", "val"):
            of = [shard for shard in state["shards"] if shard["name"].startswith(split)]
            totals[split] = {"shards": len(of), **{key: sum(shard[key] for shard in of) for key in ("documents", "tokens", "bytes")}}
        manifest = {"format": FORMAT, **state["settings"], "held_out": state["held_out"],
                    "measured": {"bytes": state["bytes"], "tokens": state["tokens"], "shard_bytes": state["shard_bytes"]},
                    "empty_documents": state["empty"], "shards": state["shards"], "totals": totals}
        write_json(self.path("manifest.json"), manifest)
        self.end()
        for split, total in totals.items():
            say(f"{split}: {total['documents']:,} documents, {total['tokens']:,} tokens in {total['shards']} shards")
        if state["empty"]:
            say(f"{state['empty']:,} empty documents were skipped")
        if not totals["val"]["shards"]:
            say("no validation shard: " + ("no document fell to it; raise --val-share" if state["held_out"] else "none was asked for"))

    def end(self):
        """What only a run that goes on needs"""
        for name in ("progress.json", SPOOL, ".source." + os.path.basename(self.corpus.url or "")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(name))

    # -- all of it --

    def main(self):
        o = self.o
        program_there(o.program)
        self.lock()
        self.sweep()
        manifest, old = self.read("manifest.json"), self.read("progress.json")
        files = encoders.tokenizer_files(o.tokenizer, o.eot)
        source = self.find_files((manifest or (old or {}).get("settings")))
        if manifest:
            self.finished(manifest, self.settings(source, files))
            return
        planned = [shard["name"] for shard in old["shards"]] if old else []
        if old:     # a shard of the next number may have got its name just before the run was killed
            planned += [f"{split}_{sum(name.startswith(split) for name in planned):06d}.bin" for split in ("train", "val")]
        self.refuse_others(planned)
        hashed = self.hash_files(old["hashed"] if old else {})
        settings = self.settings(source, files)
        if old:
            had = json.loads(json.dumps(old["settings"]))
            for key in ("vocabulary", "eot", "encoder"):
                had["tokenizer"].pop(key)
            self.compare(had, settings, True)
        made = self.write_tokenizer(files)
        encoder = encoders.choose(made, o.program, o.workers, o.out, say)
        if old:
            self.resume(old, encoder)
        else:
            self.begin(settings, hashed, encoder)
        self.place_tokenizer(made, encoder)
        self.announce()
        self.write_all(encoder)
        self.finish()
        self.sweep()

    def finished(self, manifest, settings):
        had = {key: manifest[key] for key in settings}
        self.compare(had, settings, False)
        for shard in manifest["shards"]:
            self.check_shard(shard, False)
        self.refuse_others([shard["name"] for shard in manifest["shards"]])
        self.end()
        say(f"{self.o.out}: is finished, {len(manifest['shards'])} shards, {sum(total['tokens'] for total in manifest['totals'].values()):,} "
            "tokens; their sizes are as manifest.json says")

    def resume(self, old, encoder):
        if old["settings"]["tokenizer"]["encoder"] != encoder.name:
            raise BadInput(f"{self.o.out}: expected {old['settings']['tokenizer']['encoder']}, with which its shards were made, found {encoder.name}")
        for shard in old["shards"]:
            self.check_shard(shard, True)
        self.state = old
        done = old["position"]["documents"]
        say(f"{self.o.out}: {len(old['shards'])} shards are finished and whole, going on behind {done:,} documents")

    def announce(self):
        held = self.state["held_out"]
        say(f"a token has {self.state['bytes'] / self.state['tokens']:.2f} bytes; a shard {self.state['shard_bytes']:,} bytes of text or a little more")
        if held and held["by"] == "hash":
            say(f"validation: documents whose hash is below {held['share']:g} of all")
        elif held:
            say(f"validation: the last {held['share']:g} of the text, from byte {held['cut'][1]:,} of document {held['cut'][0]} on: too few documents to "
                "choose some by their hashes")


def program_there(program):
    """build/tokens, which make builds where it can"""
    if os.access(program, os.X_OK):
        return
    root = os.path.dirname(HERE)
    if os.path.abspath(program) == f"{root}/build/tokens" and os.path.exists(root + "/Makefile") and shutil.which("make"):
        say("building build/tokens")
        if subprocess.run(["make", "-C", root, "--no-print-directory", "build/tokens"], stdout=sys.stderr).returncode == 0:
            return
    raise BadInput(f"{program}: expected the program that encodes, found none; build it with make build/tokens")


def hint(error):
    full = {errno.ENOSPC: "; the disk is full", errno.EDQUOT: "; your share of the disk is used up", errno.EFBIG: "; files may not be as large here"}
    return full.get(error.errno, "")


def main(corpus, arguments=None):
    name = corpus.name + ".py"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    run, status = None, 1
    try:
        run = Run(corpus, parse(corpus, arguments))
        import numpy    # which all need in the end: before anything is asked for or written
        if run.o.source and os.path.exists(run.o.tokenizer):    # nothing is asked of the hub, then
            os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
        run.main()
        status = 0
    except BadInput as error:
        message = str(error)
    except Stopped as error:
        status, message = 128 + error.args[0], f"stopped by {signal.Signals(error.args[0]).name}"
    except ImportError as error:
        message = f"expected the Python packages of dev/requirements.txt (make venv), found none of this name: {error}"
    except MemoryError:
        message = "there is not enough memory for a document or a group of rows"
    except shards.BadShard as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or run and run.o.out}: {error.strerror or first_line(error)}{hint(error)}"
    if status:
        if run and run.locked:
            run.sweep()
        count = len(run.state["shards"]) if run and run.state else 0
        if count:
            message += f"; {count} finished shard{'s' if count > 1 else ''} stay{'' if count > 1 else 's'}: run it again, and it goes on behind"
        print(f"{name}: {message}", file=sys.stderr, flush=True)
    sys.exit(status)
