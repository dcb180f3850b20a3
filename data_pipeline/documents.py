"""Documents out of files: text, JSON lines (plain, .gz, .zst), and a corpus that is always there.

Reading is a stream in a fixed order (sources as given, files sorted by name), so the n-th document
of a corpus is the same on every run. The later stages of a recipe (cleaning, language, dedup)
are functions over this stream.
"""

from __future__ import annotations

import glob
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from .errors import InputError
from .records import Cut, Elements, lines
from .unpack import PIECE, Damaged, unpacked

OnError = Literal["fail", "skip", "replace"]
SplitText = Literal["file", "paragraphs"]

PYTHON_DOCS = "python-docs"

_TEXT = frozenset({".txt", ".md", ".rst", ".py"})
_JSON = frozenset({".jsonl", ".json"})
_COMPRESSED = frozenset({".gz", ".zst"})
_BOM = b"\xef\xbb\xbf"
# Tests and generated tables are not prose or programs that anybody wrote to be read.
_STDLIB_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
    | {"lib2to3", "turtledemo", "__pycache__", "ensurepip"}
)


class Document(NamedTuple):
    """A text, the file it came from, its name there (the record's id, or its position), its URL."""

    text: str
    source: str
    id: str
    url: str | None = None


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


Rejected = Callable[[str, str, str], None]  # (file, where in it, what is wrong): counts or raises


def read_documents(
    sources: Sequence[str],
    *,
    text_key: str = "text",
    id_key: str = "id",
    url_key: str = "url",
    split_text: SplitText = "file",
    on_error: OnError = "fail",
    max_document_bytes: int = 1 << 30,
    counts: ReadCounts | None = None,
    rejected: Rejected | None = None,
) -> Iterator[Document]:
    """Every document of ``sources``, in a fixed order; documents without text are counted and left.

    A text file is one document, or with ``split_text="paragraphs"`` one per block between blank
    lines. A JSON line is an object with its text under ``text_key``, one string or a list of lines;
    a file may also be one array of such objects. No file, block, line or element larger than
    ``max_document_bytes`` is held in memory, or is a document.

    Text that is not UTF-8, and records that do not parse, raise InputError with the file and byte;
    or are skipped; or are read with U+FFFD in place of bad bytes (``on_error``), and ``counts``
    says how many. ``rejected``, where given, is called instead.
    """
    reading = _Reading(
        text_key,
        id_key,
        url_key,
        split_text,
        on_error,
        max_document_bytes,
        counts or ReadCounts(),
        rejected,
    )
    for file in find_files(sources):
        yield from reading.documents(file)


@dataclass
class _Reading:
    text_key: str
    id_key: str
    url_key: str
    split_text: SplitText
    on_error: OnError
    limit: int
    counts: ReadCounts
    rejected: Rejected | None
    damaged: bool = False  # the file that is being read ended too early

    def documents(self, file: InputFile) -> Iterator[Document]:
        readers = {"text": self._text, "json": self._json, "topics": self._topics}
        self.damaged = False
        for document in readers[file.kind](file):
            if not document.text or document.text.isspace():
                self.counts.empty += 1
                continue
            if self.rejected is None:  # who takes the rejects counts the rest as well
                self.counts.text_bytes += utf8_length(document.text)
                self.counts.documents += 1
            yield document

    def _topics(self, file: InputFile) -> Iterator[Document]:
        from pydoc_data.topics import topics

        self.counts.file_bytes += file.path.stat().st_size
        for name in sorted(topics):
            yield Document(topics[name], file.name, name)

    def _text(self, file: InputFile) -> Iterator[Document]:
        if self.split_text == "paragraphs":
            yield from self._paragraphs(file)
            return
        held, size = list[bytes](), 0
        for piece in self._pieces(file):
            held.append(piece)
            size += len(piece)
            if size > self.limit:
                self._large(file, "", f"more than {self.limit} bytes")
                return
        yield from self._block(file, 0, b"".join(held), 0)

    def _paragraphs(self, file: InputFile) -> Iterator[Document]:
        """One document a block; of one that is larger than the limit, nothing is kept."""
        block, start, size, number = list[bytes](), 0, 0, 0
        for line in chain(lines(self._pieces(file), self.limit), [None]):
            if line is not None and (line.raw is None or line.raw.strip()):
                start = start if size else line.offset
                size += line.size
                if line.raw is None or size > self.limit:
                    block.clear()
                else:
                    block.append(line.raw)
            elif size:
                if size > self.limit:
                    self._large(file, f"byte {start}", f"a block of {size} bytes")
                else:
                    yield from self._block(file, start, b"".join(block), number)
                block, size, number = [], 0, number + 1

    def _block(self, file: InputFile, start: int, raw: bytes, number: int) -> Iterator[Document]:
        if self.damaged:  # the cut may have gone through a character
            raw = raw[: _whole_characters(raw)]
        text = self._decode(file, start, raw)
        if text is not None:
            yield Document(text.removeprefix("\ufeff"), file.name, str(number))

    def _json(self, file: InputFile) -> Iterator[Document]:
        """The elements of an array where the file begins with one; else, and behind it, lines."""
        pieces = self._pieces(file)
        head = b""
        for piece in pieces:
            head += piece
            if head.removeprefix(_BOM).strip() or len(head) > PIECE:
                break
        pieces = chain([head], pieces)
        position, offset = 0, 0
        if head.removeprefix(_BOM).lstrip().startswith(b"["):
            elements = Elements(pieces, self.limit)
            for position, cut in enumerate(elements, 1):
                name = str(position - 1)
                document = self._cut(file, f"record {name}", name, cut, elements.open)
                if document is not None:
                    yield document
            if elements.open and not self.damaged:
                self._bad(
                    file, f"record {max(position, 1) - 1}", "the array ends in it, without a ]"
                )
            pieces, offset = elements.rest, elements.offset
        for number, cut in enumerate(lines(pieces, self.limit, offset), 1):
            if number == 1 and cut.raw is not None:
                cut = cut._replace(raw=cut.raw.removeprefix(_BOM))
            if cut.raw is None or cut.raw.strip():
                where = f"line {number}" + (" behind the array" if offset else "")
                document = self._cut(file, where, str(position + number), cut, self.damaged)
                if document is not None:
                    yield document

    def _cut(
        self, file: InputFile, where: str, id: str, cut: Cut, partial: bool
    ) -> Document | None:
        """The document of a record; a `partial` one, where it is whole after all."""
        if cut.raw is None:
            if not partial:
                self._large(file, f"{where} (byte {cut.offset})", f"{cut.size} bytes")
            return None
        try:
            record = orjson.loads(cut.raw)
        except ValueError as error:
            if partial:
                return None
            text = self._decode(file, cut.offset, cut.raw)  # bad UTF-8 is reported as what it is
            if text is None:
                return None
            try:
                record = orjson.loads(text)
            except ValueError:
                what = f"not valid JSON ({error}): mend the line or set on_error=skip"
                self._bad(file, f"{where} (byte {cut.offset})", what)
                return None
        return self._record(file, where, id, record)

    def _record(self, file: InputFile, where: str, id: str, record: Any) -> Document | None:
        text = record.get(self.text_key) if isinstance(record, dict) else None
        if isinstance(text, list) and all(isinstance(line, str) for line in text):
            text = "\n".join(text)
        if isinstance(text, str):
            named, url = record.get(self.id_key), record.get(self.url_key)
            known = isinstance(named, (str, int, float)) and named != ""
            url = url if isinstance(url, str) and url else None
            return Document(text, file.name, str(named) if known else id, url)
        if isinstance(record, dict):
            keys = ", ".join(sorted(key[:40] for key in record)[:20])
            keys += ", ..." if len(record) > 20 else ""
            what = f"no text under {self.text_key!r} (its keys: {keys}): set text_key"
        else:
            what = f"a {type(record).__name__}, not an object with a text under {self.text_key!r}"
        self._bad(file, where, what)
        return None

    def _decode(self, file: InputFile, offset: int, raw: bytes) -> str | None:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            if self.on_error == "replace":
                self.counts.replaced += 1
                return raw.decode(errors="replace")
            guess = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
            what = (
                f"byte {offset + error.start} (0x{raw[error.start]:02x}) is not "
                f"UTF-8: convert the file (for example iconv -f {guess} -t utf-8), or set "
                f"on_error=skip or on_error=replace"
            )
            self._bad(file, "", what)
            return None

    def _large(self, file: InputFile, where: str, size: str) -> None:
        self._bad(file, where, f"{size}, over max_document_bytes {self.limit}")

    def _bad(self, file: InputFile, where: str, what: str) -> None:
        if self.rejected is not None:
            self.rejected(file.name, where, what)
            return
        message = f"{file.name}{', ' if where else ''}{where}: {what}"
        if self.on_error == "fail":
            raise InputError(message)
        self.counts.skipped += 1
        if len(self.counts.first_problems) < 10:
            self.counts.first_problems.append(message)

    def _pieces(self, file: InputFile) -> Iterator[bytes]:
        """The decompressed content; a damaged archive ends the file with an error."""
        try:
            with open(file.path, "rb") as raw:
                seen = 0
                for piece in unpacked(raw, file.path.name):
                    yield piece
                    self.counts.file_bytes += raw.tell() - seen
                    seen = raw.tell()
        except Damaged as error:
            self.damaged = True
            what = (
                f"the compressed data is truncated or damaged ({error}): fetch the "
                f"file again, or set on_error=skip to use what can be read of it"
            )
            self._bad(file, "", what)
        except OSError as error:
            raise InputError(
                f"{file.name}: cannot be read ({error.strerror}): check the file and its rights"
            ) from error


def utf8_length(text: str) -> int:
    """Bytes of `text`."""
    return len(text) if text.isascii() else len(text.encode())


def _whole_characters(raw: bytes) -> int:
    """Bytes of `raw` without a character of UTF-8 that begins at its end and is not whole."""
    for back in range(1, min(3, len(raw)) + 1):
        lead = raw[-back]
        if lead >= 0xC0:
            return len(raw) - back * (back < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4))
        if lead < 0x80:
            break
    return len(raw)
