"""Tokenizers of a corpus, and what turns its documents into token shards with them: build/tokens, else the library `tokenizers`.

    files = encoders.tokenizer_files("EleutherAI/pythia-70m", eot=None)      name of a file -> its bytes
    encoder = encoders.choose("DIR/tokenizer", program, workers, say)
    tokens = encoder.write("DIR/train_000000.bin", texts)                     end of text follows each
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile

import shards
from documents import BadInput, first_line

# The tokenizer of all Pythia models, GPT-NeoX's.
DEFAULT = "EleutherAI/pythia-70m@a39f36b100fe8a5377810d56c3f4789b9c53ac42"
# What holds a tokenizer, in the order in which build/tokens looks for it; then what goes with each.
BODIES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
BATCH_BYTES, BATCH_TEXTS = 1 << 22, 4096        # of texts that the library encodes at a time


@contextlib.contextmanager
def named(path):
    """An error of a write, which says no name, gets that of the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


# ---- files ----

def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def local_files(path):
    if os.path.isdir(path):
        body = next((names for names in BODIES if os.path.exists(f"{path}/{names[0]}")), None)
        if body is None:
            raise BadInput(f"--tokenizer {path}: expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt in it, found none")
        return {name: read_file(f"{path}/{name}") for name in body + BESIDE if os.path.exists(f"{path}/{name}")}
    name = "tokenizer.model" if path.endswith(".model") else "tokenizer.json"
    beside = os.path.dirname(path) or "."
    return {name: read_file(path), **{other: read_file(f"{beside}/{other}") for other in BESIDE if os.path.exists(f"{beside}/{other}")}}


def hub_files(name):
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise BadInput(f"--tokenizer {name}: expected a file or a directory here; the hub needs the package huggingface_hub: {error}") from None

    def get(file):
        try:
            return read_file(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError:     # which is an EntryNotFoundError, but says that there is no network
            raise
        except EntryNotFoundError:
            return None
    try:
        for names in BODIES:
            found = {file: get(file) for file in names}
            if all(content is not None for content in found.values()):
                found.update((file, content) for file, content in ((file, get(file)) for file in BESIDE) if content is not None)
                return found
    except Exception as error:
        raise BadInput(f"--tokenizer {name}: neither a file or directory here nor found on the hub: {first_line(error)}") from None
    raise BadInput(f"--tokenizer {name}: expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt there, found none")


def tokenizer_files(name, eot):
    """-> the files of a tokenizer, name -> bytes. `name`: a directory, a file, or OWNER/NAME[@REVISION] of the hub; `eot`: None, or the
    text of the token that ends a document, which goes into its tokenizer_config.json."""
    if os.path.exists(name):
        files = local_files(name)
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", name) and not re.search(r"\.(json|model)$", name):
        files = hub_files(name)
    else:
        raise BadInput(f"--tokenizer {name}: expected a file, a directory, or OWNER/NAME of the hub, found none of them")
    if eot is not None:
        try:
            config = json.loads(files.get("tokenizer_config.json", b"{}"))
        except ValueError as error:
            raise BadInput(f"--tokenizer {name}: tokenizer_config.json: expected JSON, found {error}") from None
        files["tokenizer_config.json"] = json.dumps({**config, "eos_token": eot}, indent=1).encode()
    return files


def files_hash(files):
    """-> SHA-256 over names, lengths and contents"""
    hashed = hashlib.sha256()
    for name in sorted(files):
        hashed.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return hashed.hexdigest()


# ---- build/tokens ----

@contextlib.contextmanager
def signals_later():
    """Signals for which a function waits come when this ends. In the main thread, which alone gets them."""
    came = []
    functions = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    functions = {number: function for number, function in functions.items() if callable(function)}
    for number in functions:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, function in functions.items():
            signal.signal(number, function)
        for number in came:
            signal.raise_signal(number)


def clear(path):
    """Removes what a process that was ended has left of a shard that it was to write."""
    stem = glob.escape(path.removesuffix(".bin"))
    for name in glob.glob(glob.escape(path) + ".tmp.*") + glob.glob(stem + "_[0-9]*.bin*") + [path, path + ".lock"]:
        with contextlib.suppress(OSError):
            os.unlink(name)


class Program:
    """build/tokens, fed through a pipe. It writes under a name of its own and ends well also where this process is killed between two
    documents; the name of the shard is given here, when all documents were sent and it says that it has them."""

    def __init__(self, program, tokenizer, workers):
        self.command = [program, "--framed", "1", "--threads", str(workers), "--tokenizer", tokenizer]
        self.name = "build/tokens"

    def move(self, tokenizer):
        """Its files have another name now."""
        self.command[-1] = tokenizer

    def refusal(self, scratch):
        """-> None, or why it cannot encode with this tokenizer"""
        path = f"{scratch}/.none.{os.getpid()}.bin"
        done = subprocess.run(self.command + ["--out", path, "-"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        clear(path)
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode and "--tokenizer" not in said:
            raise BadInput(f"{self.command[0]}: {said or f'ended with {done.returncode}'}")
        return said.splitlines()[-1].removeprefix("error: ") if done.returncode else None

    def vocabulary(self):
        """-> number of tokens, the smallest vocabulary of a model that they fit"""
        done = subprocess.run([self.command[0], *self.command[-2:], "--count", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode or not done.stdout.strip().isdigit():
            raise BadInput(f"{self.command[0]} --count 1: expected a number, found {first_line(done.stderr + done.stdout)!r}; build it anew")
        return int(done.stdout)

    def write(self, path, texts, place):
        """Makes a shard of the texts, bytes. -> number of tokens. `place`: says where text n came from, for messages"""
        directory, base = os.path.split(path)
        part = f"{directory}/.{base.removesuffix('.bin')}.{os.getpid()}.{secrets.token_hex(4)}.part.bin"
        sent = 0
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as printed:
            process = None
            try:
                with signals_later():       # until there is a process to end
                    # A session of its own: an interrupt from the keyboard comes here, and is passed on in order.
                    process = subprocess.Popen(self.command + ["--out", part, "-"], stdin=subprocess.PIPE, stdout=printed, stderr=said,
                                               bufsize=1 << 20, start_new_session=True)
                with contextlib.suppress(BrokenPipeError):      # it has ended, and says why
                    for text in texts:
                        process.stdin.write(len(text).to_bytes(8, "little"))
                        process.stdin.write(text)
                        sent += 1
                    process.stdin.flush()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                status = process.wait()
                said.seek(0)
                printed.seek(0)
                self.check(path, part, status, sent, said.read().decode(errors="replace"), printed.read().decode(errors="replace"), place)
                tokens = len(shards.read_shard(part))
                os.replace(part, path)
            except BaseException:
                if process:
                    process.kill()
                    with contextlib.suppress(OSError):
                        process.stdin.close()
                    process.wait()
                clear(part)
                raise
        shards.sync_directory(path)
        return tokens

    @staticmethod
    def check(path, part, status, sent, said, printed, place):
        if status:
            lines = [line.removeprefix("error: ") for line in said.strip().splitlines() if "documents, " not in line]
            reason = lines[-1].replace(part, path) if lines else "it said nothing"
            reason = re.sub(r"/\.tokenizer\.\d+/", "/tokenizer/", reason)      # as it is called when the run has begun
            reason = re.sub(r"^standard input: document (\d+)", lambda found: place(int(found[1])), reason)
            raise BadInput(reason if status == 1 else f"{path}: build/tokens ended with {status}: {reason}")
        if f": {sent} documents, " not in printed:
            raise BadInput(f"{path}: expected build/tokens to have {sent} documents, found {first_line(printed)!r}")
        if os.path.exists(part.removesuffix(".bin") + "_00001.bin"):
            raise BadInput(f"{path}: expected at most {shards.MOST_TOKENS} tokens in a shard, found more; cut long documents, or lower --shard-tokens")


# ---- libraries ----

class Library:
    """The library `tokenizers`, for what build/tokens does not know: Unigram, WordPiece. Special tokens in the text are text."""

    def __init__(self, directory, workers):
        os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = str(workers), "true"    # read once, at the first use
        try:
            import tokenizers
        except ImportError as error:
            raise BadInput(f"{directory}: expected the package tokenizers: {error}") from None
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(directory + "/tokenizer.json")
        except Exception as error:
            raise BadInput(f"{directory}/tokenizer.json: expected a tokenizer, found {first_line(error)}") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True
        self.name = f"tokenizers {tokenizers.__version__}"
        self.eot = self.find_eot(directory)
        self.width = 4 if self.vocabulary() > 65536 else 2

    def find_eot(self, directory):
        for name in BESIDE[:2]:
            try:
                token = json.loads(read_file(f"{directory}/{name}")).get("eos_token")
            except FileNotFoundError:
                continue
            except (ValueError, AttributeError) as error:
                raise BadInput(f"{directory}/{name}: expected a JSON object, found {first_line(error)}") from None
            token = token.get("content") if isinstance(token, dict) else token
            if token is None:
                continue
            number = self.tokenizer.token_to_id(token)
            if number is None:
                raise BadInput(f"{directory}/{name}: expected a token of the vocabulary as eos_token, found {token!r}; --eot names another")
            return number
        raise BadInput("--tokenizer: expected a token that ends a document, eos_token in tokenizer_config.json, found none; name one, "
                       "as in --eot '[SEP]'")

    def move(self, _):
        """It is in memory."""

    def vocabulary(self):
        """As Program.vocabulary"""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts):
        """Yields the tokens of each text, end of text behind it"""
        import numpy
        batch = [text.decode("utf-8", "replace") for text in texts]
        for one in self.tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield numpy.array(one.ids + [self.eot], dtype=numpy.int64)

    def pieces(self, texts):
        import numpy
        batch, size = [], 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size >= BATCH_BYTES or len(batch) >= BATCH_TEXTS:
                yield numpy.concatenate(list(self.encode(batch)))
                batch, size = [], 0
        if batch:
            yield numpy.concatenate(list(self.encode(batch)))

    def write(self, path, texts, place):
        """As Program.write; the library encodes any text"""
        try:
            with named(path):
                return shards.write_shard(path, self.pieces(texts), self.width)
        except shards.BadShard as error:
            raise BadInput(str(error)) from None


def choose(directory, program, workers, scratch, say):
    """-> what encodes with the tokenizer in `directory`. `scratch`: a directory where a test shard may be written; `say`: prints."""
    encoder = Program(program, directory, workers)
    refusal = encoder.refusal(scratch)
    if refusal is None:
        return encoder
    if not os.path.exists(directory + "/tokenizer.json"):
        raise BadInput(refusal + "; the library tokenizers, which would be asked instead, needs a tokenizer.json")
    encoder = Library(directory, workers)
    say(f"build/tokens: {refusal}; taking {encoder.name} instead")
    return encoder
