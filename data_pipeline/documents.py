"""Documents out of files: text, JSON lines (plain, .gz, .zst), and a corpus that is always there.

Reading is a stream in a fixed order (sources as given, files sorted by name), so the n-th document
of a corpus is the same on every run. The later stages of a recipe (cleaning, language, dedup)
are functions over this stream.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import orjson

from .errors import InputError

OnError = Literal["fail", "skip", "replace"]
SplitText = Literal["file", "paragraphs"]

PYTHON_DOCS = "python-docs"

_TEXT = frozenset({".txt", ".md", ".rst", ".py"})
_JSON = frozenset({".jsonl", ".json"})
_COMPRESSED = frozenset({".gz", ".zst"})
_CHUNK = 1 << 20
# Tests and generated tables are not prose or programs that anybody wrote to be read.
_STDLIB_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
    | {"lib2to3", "turtledemo", "__pycache__", "ensurepip"}
)


class Document(NamedTuple):
    """A text, the file it came from, and its name there (the record's id, or its position)."""

    text: str
    source: str
    id: str


@dataclass
class ReadCounts:
    """What reading met; filled while the stream is consumed."""

    documents: int = 0
    text_bytes: int = 0
    file_bytes: int = 0  # as on disk, compressed: what a progress bar can know the total of
    empty: int = 0
    skipped: int = 0
    replaced: int = 0
    first_problems: list[str] = field(default_factory=list)


class InputFile(NamedTuple):
    """A file to read, how, and what to call it in documents and messages."""

    path: Path
    kind: Literal["text", "json", "topics"]
    name: str


def find_files(sources: Sequence[str]) -> list[InputFile]:
    """Every file that ``sources`` (files, folders, globs, ``python-docs``) stand for, in order.

    Folders are searched in depth for known suffixes. Raises InputError where a source has none.
    """
    if not sources:
        raise InputError(
            f"sources is empty: name files, folders or globs, or {PYTHON_DOCS!r} for the "
            f"documentation and sources of the Python that runs this"
        )
    try:
        return [found for source in sources for found in _expand(source)]
    except PermissionError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}): check its rights, or name the "
            f"files to read instead of a folder above them"
        ) from error


def _expand(source: str) -> list[InputFile]:
    if source == PYTHON_DOCS:
        return _python_docs()
    path = Path(source).expanduser()
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            raise InputError(f"{source}: unknown kind of file; known suffixes: {_known()}")
        return [InputFile(path, kind, source)]
    if path.is_dir():
        candidates = sorted(p for p in path.rglob("*") if p.is_file())
    else:
        candidates = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        if not candidates:
            raise InputError(
                f"{source}: no such file, folder or match: check the path (relative paths start "
                f"at {os.getcwd()})"
            )
    found = [InputFile(p, kind, str(p)) for p in candidates if p.is_file() and (kind := _kind(p))]
    if not found:
        raise InputError(f"{source}: no file with a known suffix inside ({_known()})")
    return found


def _kind(path: Path) -> Literal["text", "json"] | None:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return "text" if last in _TEXT else "json" if last in _JSON else None


def _known() -> str:
    return f"{', '.join(sorted(_TEXT | _JSON))}, each also with {' or '.join(sorted(_COMPRESSED))}"


def _python_docs() -> list[InputFile]:
    """The documentation topics and standard-library sources of the running Python."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[InputFile] = []
    topics = root / "pydoc_data" / "topics.py"
    if topics.is_file():
        found.append(InputFile(topics, "topics", f"{PYTHON_DOCS}/topics"))
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(d for d in folders if d not in _STDLIB_LEFT_OUT)
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                relative = path.relative_to(root).as_posix()
                found.append(InputFile(path, "text", f"{PYTHON_DOCS}/{relative}"))
    if not found:
        raise InputError(
            f"{PYTHON_DOCS}: no sources of the standard library in {root}: "
            f"this Python was installed without them; give files instead"
        )
    return found


def read_documents(
    sources: Sequence[str],
    *,
    text_key: str = "text",
    split_text: SplitText = "file",
    on_error: OnError = "fail",
    counts: ReadCounts | None = None,
) -> Iterator[Document]:
    """Every document of ``sources``, in a fixed order; documents without text are counted and left.

    A text file is one document, or with ``split_text="paragraphs"`` one per block between blank
    lines. A JSON line is an object with its text under ``text_key``, one string or a list of lines.
    Text that is not UTF-8, and records that do not parse, raise InputError with the file and byte;
    or are skipped; or are read with U+FFFD in place of bad bytes (``on_error``), and ``counts``
    says how many.
    """
    reading = _Reading(text_key, split_text, on_error, counts or ReadCounts())
    for file in find_files(sources):
        yield from reading.documents(file)


@dataclass
class _Reading:
    text_key: str
    split_text: SplitText
    on_error: OnError
    counts: ReadCounts

    def documents(self, file: InputFile) -> Iterator[Document]:
        readers = {"text": self._text, "json": self._json, "topics": self._topics}
        for document in readers[file.kind](file):
            if not document.text or document.text.isspace():
                self.counts.empty += 1
                continue
            try:
                self.counts.text_bytes += len(document.text.encode())
            except UnicodeEncodeError:  # JSON can spell half a surrogate pair
                self._bad(f"{file.name}, {document.id}: text holds a lone surrogate escape")
                continue
            self.counts.documents += 1
            yield document

    def _topics(self, file: InputFile) -> Iterator[Document]:
        from pydoc_data.topics import topics

        self.counts.file_bytes += file.path.stat().st_size
        for name in sorted(topics):
            yield Document(topics[name], file.name, name)

    def _text(self, file: InputFile) -> Iterator[Document]:
        if self.split_text == "file":
            text = self._decode(file, 0, b"".join(self._chunks(file)))
            if text is not None:
                yield Document(text.removeprefix("\ufeff"), file.name, "0")
            return
        block, start = list[bytes](), 0
        number = 0
        for offset, line in self._lines(file):
            if line.strip():
                start = start if block else offset
                block.append(line)
                continue
            if block and (text := self._decode(file, start, b"".join(block))) is not None:
                yield Document(text.removeprefix("\ufeff"), file.name, str(number))
            number += bool(block)
            block = []
        if block and (text := self._decode(file, start, b"".join(block))) is not None:
            yield Document(text.removeprefix("\ufeff"), file.name, str(number))

    def _json(self, file: InputFile) -> Iterator[Document]:
        lines = self._lines(file)
        for number, (offset, line) in enumerate(lines, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            if number == 1 and line.lstrip().startswith(b"["):  # one array, not a record a line
                whole = line + b"".join(rest for _, rest in lines)
                records = self._parse(file, 0, 1, whole)
                for position, record in enumerate(records if isinstance(records, list) else []):
                    yield from self._record(file, f"record {position}", str(position), record)
                return
            record = self._parse(file, offset, number, line)
            if record is not None:
                yield from self._record(file, f"line {number}", str(number), record)

    def _record(self, file: InputFile, where: str, id: str, record: Any) -> Iterator[Document]:
        text = record.get(self.text_key) if isinstance(record, dict) else None
        if isinstance(text, list) and all(isinstance(line, str) for line in text):
            text = "\n".join(text)
        if isinstance(text, str):
            yield Document(text, file.name, str(record.get("id", id)))
            return
        if isinstance(record, dict):
            keys = ", ".join(sorted(map(str, record)))
            what = f"no text under {self.text_key!r} (its keys: {keys}): set text_key"
        else:
            what = f"a {type(record).__name__}, not an object with a text under {self.text_key!r}"
        self._bad(f"{file.name}, {where}: {what}")

    def _parse(self, file: InputFile, offset: int, number: int, line: bytes) -> Any:
        try:
            return orjson.loads(line)
        except ValueError as error:
            text = self._decode(file, offset, line)  # bad UTF-8 is reported as what it is
            if text is None:
                return None
            try:
                return orjson.loads(text.encode())
            except ValueError:
                self._bad(
                    f"{file.name}, line {number} (byte {offset}): not valid JSON ({error}): "
                    f"mend the line or set on_error=skip"
                )
                return None

    def _decode(self, file: InputFile, offset: int, raw: bytes) -> str | None:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            if self.on_error == "replace":
                self.counts.replaced += 1
                return raw.decode(errors="replace")
            guess = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
            self._bad(
                f"{file.name}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not "
                f"UTF-8: convert the file (for example iconv -f {guess} -t utf-8), or set "
                f"on_error=skip or on_error=replace"
            )
            return None

    def _bad(self, message: str) -> None:
        if self.on_error == "fail":
            raise InputError(message)
        self.counts.skipped += 1
        if len(self.counts.first_problems) < 10:
            self.counts.first_problems.append(message)

    def _lines(self, file: InputFile) -> Iterator[tuple[int, bytes]]:
        """(byte offset, line with its newline) of the decompressed file."""
        offset, pieces = 0, list[bytes]()
        for chunk in self._chunks(file):
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                pieces.append(line)
                pieces.append(b"\n")
                line = b"".join(pieces)
                yield offset, line
                offset += len(line)
                pieces = []
            if rest:
                pieces.append(rest)
        if pieces:
            yield offset, b"".join(pieces)

    def _chunks(self, file: InputFile) -> Iterator[bytes]:
        """The decompressed content in pieces; a damaged archive ends the file with an error."""
        suffix = file.path.suffix.lower()
        decompress = {".gz": _gunzip, ".zst": _unzstd}.get(suffix, _plain)
        try:
            with open(file.path, "rb") as raw:
                seen = 0
                for chunk in decompress(raw):
                    yield chunk
                    self.counts.file_bytes += raw.tell() - seen
                    seen = raw.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile, _DamagedZstd) as error:
            self._bad(
                f"{file.name}: the compressed data is truncated or damaged ({error}): fetch the "
                f"file again, or set on_error=skip to use what can be read of it"
            )
        except OSError as error:
            raise InputError(
                f"{file.name}: cannot be read ({error.strerror}): check the file and its rights"
            ) from error


class _DamagedZstd(Exception):
    pass


def _plain(raw: IO[bytes]) -> Iterator[bytes]:
    while chunk := raw.read(_CHUNK):
        yield chunk


def _gunzip(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as stream, io.BufferedReader(stream, _CHUNK) as buffered:
        while chunk := buffered.read1(_CHUNK):
            yield chunk


def _unzstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Frame by frame with decompressobj: zstandard's stream reader takes a cut file for a whole."""
    import zstandard

    frame = None
    try:
        while data := raw.read(_CHUNK >> 2):
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if chunk := frame.decompress(data):
                    yield chunk
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise _DamagedZstd(error) from error
    if frame is not None:
        raise _DamagedZstd("it ends inside a frame")
