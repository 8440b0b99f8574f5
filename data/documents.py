"""Documents, as bytes, out of the files of a corpus: Parquet, JSON lines, JSON, CSV, TSV and plain text, the last four also as .gz or .zst.

    for row, share, text in documents.rows(file, "text", skip): ...

Files lie here or on Hugging Face's hub (hf://datasets/OWNER/NAME@REVISION/PATH). Parquet is loaded by `datasets`, streaming, which leaves
nothing in its cache. Of other files `datasets` only opens those on the hub, and tries again where a connection breaks; the lines are read
here, because its JSON loader guesses types (a column of texts that all look like dates becomes dates) and loses line numbers, and because
zstandard takes the end of a truncated file for the end of the text.
"""

import csv
import dataclasses
import gzip
import io
import json
import os
import re
import sys
import zlib

BLOCK = 1 << 20     # bytes that are read at a time
TABLE_ROWS = 256    # rows of Parquet that become Python objects at a time
KINDS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "text",
         ".text": "text", ".md": "text"}


class BadInput(Exception):
    """The message names the file, what was expected and what was found."""


@dataclasses.dataclass
class File:
    path: str           # what is opened
    name: str           # what the manifest calls it
    size: int           # bytes
    sha256: str = None  # where it is known
    etag: str = None    # the hub's name of the content, where it says no SHA-256

    def entry(self):
        """-> what the manifest says of it"""
        known = {"sha256": self.sha256, "etag": self.etag}
        return {"name": self.name, "bytes": self.size, **{key: value for key, value in known.items() if value}}


def is_remote(path):
    return path.startswith("hf://")


def kind_of(name):
    """-> parquet, json, csv, tsv, text, or None for an ending that is not known; and .gz, .zst or nothing"""
    stem, packed = os.path.splitext(name.lower())
    if packed not in (".gz", ".zst"):
        stem, packed = name.lower(), ""
    return KINDS.get(os.path.splitext(stem)[1]), packed


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# ---- bytes ----

class Unzstd(io.RawIOBase):
    """The text of a .zst file, of all its frames. A file that ends within a frame is an error."""

    def __init__(self, raw):
        import zstandard
        self.raw, self.more, self.rest = raw, b"", b""
        self.begin = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self.frame = self.begin()
        self.inside = False     # a frame has begun

    def readable(self):
        return True

    def fill(self):
        """Some more text into self.rest; 0: there is none."""
        while not self.rest:
            if not self.more:
                self.more = self.raw.read(BLOCK)
                if not self.more:
                    if self.inside:
                        raise EOFError("the file ends within a zstd frame; it was cut off")
                    return 0
            if not self.inside:
                self.frame, self.inside = self.begin(), True
            self.rest = self.frame.decompress(self.more)
            self.more = b""
            if self.frame.eof:
                self.more, self.inside = self.frame.unused_data, False
        return len(self.rest)

    def readinto(self, out):
        n = min(self.fill(), len(out))
        out[:n] = self.rest[:n]
        self.rest = self.rest[n:]
        return n


def quiet_datasets():
    """-> the library, which is told to say nothing: what it raises is said here, in one line"""
    os.environ.update(USE_TORCH="0", USE_TF="0", USE_JAX="0")       # not needed here, and seconds of loading where they are installed
    import datasets
    datasets.logging.set_verbosity(60)
    datasets.disable_progress_bars()
    return datasets


def open_raw(path):
    if not is_remote(path):
        return open(path, "rb")
    quiet_datasets()
    from datasets.utils.file_utils import xopen
    return xopen(path, "rb")


def open_text(file):
    """-> its bytes, unpacked, and the open file below them, whose position says how much of it was read"""
    raw = open_raw(file.path)
    packed = kind_of(file.name)[1]
    if packed and file.size == 0:
        raise EOFError("expected a compressed file, found an empty one")
    if packed == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK), raw
    if packed == ".zst":
        return io.BufferedReader(Unzstd(raw), BLOCK), raw
    return (raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, BLOCK)), raw


# ---- texts ----

def encode(text):
    """-> UTF-8; half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes U+FFFD"""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


def shown(value):
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def json_text(value, column, where):
    if isinstance(value, str):      # a list of texts
        return encode(value)
    if not isinstance(value, dict) or column not in value:
        found = f"an object with {', '.join(map(shown, list(value)[:20])) or 'nothing'}" if isinstance(value, dict) else shown(value)
        raise BadInput(f"{where}: expected an object with \"{column}\", found {found}; --column names another")
    if not isinstance(value[column], str):
        raise BadInput(f"{where}: expected a text as \"{column}\", found {shown(value[column])}")
    return encode(value[column])


def json_rows(file, column, skip):
    with open_text(file)[0] as text:
        if text.peek(1)[:1] == b"[":        # one list, read whole
            values = json.loads(text.read().decode())
            for row, value in enumerate(values[skip:], skip + 1):
                yield row, row / len(values), json_text(value, column, f"{file.path}: element {row}")
            return
    text, raw = open_text(file)
    row = 0     # counted here: enumerate would keep the last line, which may be a gigabyte, as any name below would
    with raw, text:
        for line in text:
            row += 1
            if row <= skip:
                continue
            if row == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]
            if line.isspace():
                continue
            try:
                line = line.decode()
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{file.path}: line {row}: expected JSON, found {first_line(error)}") from None
            line = None
            found, value = json_text(value, column, f"{file.path}: line {row}"), None
            yield row, raw.tell() / max(file.size, 1), found
            found = None


def csv_rows(file, column, skip, delimiter):
    csv.field_size_limit(sys.maxsize)
    text, raw = open_text(file)
    with raw, io.TextIOWrapper(text, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        names = next(reader, None)
        if names is None or column not in names:
            raise BadInput(f"{file.path}: line 1: expected the names of columns with \"{column}\", found {shown(names)}; --column names another")
        at = names.index(column)
        row = 0     # as above
        for fields in reader:
            row += 1
            if row <= skip or not fields:       # a line of nothing is no row
                continue
            if at >= len(fields):
                raise BadInput(f"{file.path}: line {reader.line_num}: expected {len(names)} columns, found {len(fields)}")
            found, fields = fields[at].encode("utf-8", "surrogateescape"), None
            yield row, raw.tell() / max(file.size, 1), found
            found = None


def text_rows(file, column, skip):
    """A file of plain text is one document, whatever its bytes."""
    if skip:
        return
    text, raw = open_text(file)
    with raw, text:
        yield 1, 1.0, text.read()


def parquet_rows(file, column, skip):
    import glob
    import pyarrow
    import pyarrow.parquet
    with open_raw(file.path) as raw:
        footer = pyarrow.parquet.ParquetFile(raw)
        rows, schema = footer.metadata.num_rows, footer.schema_arrow
    if column not in schema.names:
        raise BadInput(f"{file.path}: expected a column \"{column}\", found {', '.join(map(shown, schema.names[:20]))}; --column names another")
    kind = schema.field(column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise BadInput(f"{file.path}: expected texts in the column \"{column}\", found {kind}")
    path = file.path if is_remote(file.path) else glob.escape(os.path.abspath(file.path))
    table = quiet_datasets().load_dataset("parquet", data_files={"train": [path]}, split="train", streaming=True, columns=[column])
    row = skip
    for some in table.with_format("arrow").skip(skip).iter(batch_size=TABLE_ROWS):
        for chunk in some.column(0).chunks:     # as bytes: what is no UTF-8 survives
            for text in chunk.cast(pyarrow.large_binary()).to_pylist():
                row += 1
                if text is None:
                    raise BadInput(f"{file.path}: row {row}: expected a text in the column \"{column}\", found nothing (null)")
                yield row, row / rows, text
    if row != rows:
        raise BadInput(f"{file.path}: expected {rows} rows, found {row}")


def place(file, row):
    """-> a document in words, for messages: the file, and which row of it as rows() counts them"""
    kind = kind_of(file.name)[0] or "text"
    return file.path if kind == "text" else f"{file.path}: {'line or element' if kind == 'json' else 'row'} {row}"


def rows(file, column, skip):
    """Yields, of every document behind the first `skip` rows: the number of rows (lines, elements) up to it, how much of the file that is
    (0 to 1), and its text. Raises BadInput."""
    kind = kind_of(file.name)[0] or "text"
    readers = {"parquet": parquet_rows, "json": json_rows, "text": text_rows, "csv": lambda *a: csv_rows(*a, ","),
               "tsv": lambda *a: csv_rows(*a, "\t")}
    expected = {"text": "plain text"}.get(kind, kind) + kind_of(file.name)[1]
    try:
        yield from readers[kind](file, column, skip)
    except (BadInput, MemoryError, ImportError):
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError, csv.Error) as error:      # pyarrow's are ValueErrors, too
        raise BadInput(f"{file.path}: expected {expected}, found a damaged file: {first_line(error)}") from None
    except Exception as error:      # of the file system, the network, zstandard
        broken = "the download broke" if is_remote(file.path) else "could not be read"
        raise BadInput(f"{file.path}: {broken}: {getattr(error, 'strerror', None) or first_line(error)}") from None
