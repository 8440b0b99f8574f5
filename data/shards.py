"""Token shards, the files that the trainers read: a header of 256 little-endian int32, then the tokens (data/README.md).

Magic 20240520, version 1: uint16; magic 20240801, version 7: uint32. header[2] is the number of tokens, so a shard holds at most
2,147,483,647. A shard is written under a temporary name, flushed to the disk and renamed: it is there whole or not at all.
"""

import contextlib
import os

HEADER_BYTES = 1024
MOST_TOKENS = 2**31 - 1
TYPES = {(20240520, 1): "<u2", (20240801, 7): "<u4"}      # header[0], header[1] -> type of a token


class BadShard(Exception):
    """The message names the file, what was expected and what was found."""


def sync_directory(path):
    """Flushes the names in the directory of `path` to the disk, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def new_file(path):
    """A binary file that gets its name when the block ends, whole and on the disk; on any error nothing of it is left."""
    temporary = f"{path}.tmp.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path)


def header(width, count):
    """-> the 1,024 bytes before `count` tokens of `width` bytes, 2 or 4"""
    import numpy        # here, and not above: who has it not is told so by main
    words = numpy.zeros(256, dtype="<i4")
    words[:3] = (20240520, 1, count) if width == 2 else (20240801, 7, count)
    return words.tobytes()


def write_shard(path, pieces, width):
    """Writes the tokens of all arrays in `pieces` (an iterable, taken once) as one shard of tokens of `width` bytes, 2 or 4.
    -> number of tokens. A token that does not fit raises BadShard."""
    import numpy
    count, most = 0, 256**width - 1
    with new_file(path) as file:
        file.write(bytes(HEADER_BYTES))
        for piece in pieces:
            piece = numpy.asarray(piece)
            if piece.size and (piece.min() < 0 or piece.max() > most):
                raise BadShard(f"{path}: expected tokens from 0 to {most}, found {piece.min() if piece.min() < 0 else piece.max()}")
            count += piece.size
            if count > MOST_TOKENS:
                raise BadShard(f"{path}: expected at most {MOST_TOKENS} tokens, which is what the header can count")
            file.write(piece.astype(f"<u{width}").tobytes())
        file.seek(0)
        file.write(header(width, count))
    return count


def read_shard(path):
    """-> the tokens of a shard, a read-only array that the file is mapped to. Raises BadShard; OSError where it cannot be opened."""
    import numpy
    size = os.stat(path).st_size
    words = numpy.fromfile(path, dtype="<i4", count=256)
    if words.size < 256:
        raise BadShard(f"{path}: expected a token shard, with a header of {HEADER_BYTES} bytes, found {size} bytes")
    kind, count = (int(words[0]), int(words[1])), int(words[2])
    if kind not in TYPES:
        raise BadShard(f"{path}: expected a token shard, magic 20240520 with version 1 or 20240801 with version 7, found magic {kind[0]}, "
                       f"version {kind[1]}")
    width = int(TYPES[kind][2])
    if count < 0 or size != HEADER_BYTES + count * width:
        raise BadShard(f"{path}: expected {count} tokens of {width} bytes after the header, found {size - HEADER_BYTES} bytes")
    if count == 0:
        return numpy.zeros(0, dtype=TYPES[kind])
    return numpy.memmap(path, dtype=TYPES[kind], mode="r", offset=HEADER_BYTES, shape=(count,))
