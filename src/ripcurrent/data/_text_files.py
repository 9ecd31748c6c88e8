"""Rows as text: JSON arrays, JSON lines and CSV, each read as a stream and written back exactly as it stands."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ripcurrent.data._files import BOM, OneFile, decode, not_utf8, pick, reading, writing
from ripcurrent.errors import RipcurrentError

_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 1 << 18
_LONGEST_TOKEN = 16
"""No JSON token other than a string or number is longer (``-Infinity``, a pair of ``\\uXXXX``)."""
_LARGEST_CELL = 2**31 - 1


class _Text:
    """The part of a JSON text that is in memory, with its place in the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._position, self._line = "", 0, 1
        self._ended = False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._position)
            assert match is not None
            self._position = match.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._grow():
                return ""

    def take(self) -> str:
        """The same, and step over it."""
        character = self.peek()
        self._position += len(character)
        return character

    def value(self) -> tuple[object, str]:
        """The next JSON value and its own text."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
            except json.JSONDecodeError as error:
                # Text that ends too early looks broken too; only that may be mended by reading on.
                at_the_edge = error.pos >= len(self._text) - _LONGEST_TOKEN or error.msg.startswith("Unterminated")
                if not (at_the_edge and self._grow()):
                    raise self.broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self.broken(error) from error
            else:
                # A number at the edge may go on in the next chunk.
                if end < len(self._text) or not self._grow():
                    raw = self._text[self._position : end]
                    self._position = end
                    return value, raw

    def broken(self, what: str | Exception, position: int | None = None) -> RipcurrentError:
        line = self._line + self._text.count("\n", 0, self._position if position is None else position)
        return _broken_json(self._path, line, what)

    def _grow(self) -> bool:
        """Drop what is behind, read on; False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._position :]
        self._line += self._text.count("\n", 0, self._position)
        # Doubling keeps a record of any size linear, though each growth scans it again.
        data = self._file.read(max(_CHUNK, len(rest)))
        try:
            fresh = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise not_utf8(self._path, self._line + rest.count("\n") + data.count(b"\n", 0, error.start)) from error
        self._ended = not data
        self._text, self._position = rest + fresh, 0
        return not self._ended


class JsonArray(OneFile):
    """A ``.json`` file that holds one array of rows."""

    kind = "json"

    def records(self, start: int = 0) -> Iterator[object]:
        return (value for value, _ in islice(self._elements(), start, None))

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """Those rows as they stand in the file, character by character, in an array."""
        with reading(self.path) as file:
            head = file.read(4096).removeprefix(BOM).decode("utf-8", errors="ignore")
        # the white space before the first row: the array's own indentation
        match = re.match(r"\s*\[([ \t\r\n]*)\S", head)
        gap = match[1] if match else "\n"
        with writing(destination) as file:
            file.write(b"[")
            for number, raw in enumerate(pick((raw for _, raw in self._elements()), indices)):
                file.write(f"{',' if number else ''}{gap}{raw}".encode())
            file.write(b"\n]\n" if "\n" in gap else b"]")

    def _elements(self) -> Iterator[tuple[object, str]]:
        with reading(self.path) as file:
            text = _Text(self.path, file)
            first = text.take()
            if first == "":
                return
            if first != "[":
                inside = " Of rows inside an object write the list alone: jq .FIELD FILE > ROWS.json" * (first == "{")
                raise RipcurrentError(
                    f"{self.path} is no array of rows: it begins with {first!r}.",
                    "A .json file holds one array, [{…}, {…}]; a file with one record a line is named .jsonl." + inside,
                )
            after = text.take() if text.peek() == "]" else ","
            while after != "]":
                yield text.value()
                after = text.take()
                if after not in (",", "]"):
                    raise text.broken("Expecting ',' or ']'" if after else "The array is not closed")
            if text.peek():
                raise text.broken("Extra data after the array")


class JsonLines(OneFile):
    """A file with one JSON record a line; empty lines are no rows."""

    kind = "jsonl"

    def records(self, start: int = 0) -> Iterator[object]:
        # the lines before ``start`` are not parsed
        for place, (number, line) in enumerate(islice(self.lines(), start, None), start):
            text = decode(line, self.path, number)
            if place == 0 and text.startswith("["):
                raise RipcurrentError(
                    f"{self.path} holds a JSON array, not a record a line.",
                    "Name the file .json, or write one record a line.",
                )
            try:
                value: object = json.loads(text)
            except json.JSONDecodeError as error:
                raise _broken_json(self.path, number, f"{error.msg} (column {error.colno})") from error
            except (ValueError, RecursionError) as error:
                raise _broken_json(self.path, number, error) from error
            yield value

    @cached_property
    def rows(self) -> int:
        """Number of rows."""
        return sum(1 for _ in self.lines())

    def write(self, indices: Sequence[int], destination: Path) -> None:
        write_lines([self], indices, destination)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """1-based numbers and stripped lines of the rows."""
        with reading(self.path) as file:
            for number, line in enumerate(file, start=1):
                stripped = (line.removeprefix(BOM) if number == 1 else line).strip(b" \t\r\n")
                if stripped:
                    yield number, stripped


def write_lines(files: Sequence[JsonLines], indices: Sequence[int], destination: Path) -> None:
    """Write lines of the files in order as they stand, with the first file's line ends."""
    with reading(files[0].path) as file:
        newline = b"\r\n" if file.readline().endswith(b"\r\n") else b"\n"
    lines = (line for one in files for _, line in one.lines())
    with writing(destination) as file:
        for line in pick(lines, indices):
            file.write(line + newline)


def holds_lines(path: Path) -> bool:
    """Whether a file named ``.json`` in truth holds one record a line, as many published ones do."""
    with reading(path) as file:
        # an array may be one line of any length: its first bytes tell it from lines
        head = file.read(65_536).removeprefix(BOM).lstrip()
        if not head.startswith(b"{"):
            return False
        first = (head if b"\n" in head else head + file.readline()).partition(b"\n")[0].strip()
    try:
        json.loads(first)
    except ValueError:
        # An indented object, or a first line that is broken in either reading: a complete one ends with a brace.
        return first.endswith(b"}")
    return True


def _broken_json(path: Path, line: int, what: str | Exception) -> RipcurrentError:
    if not isinstance(what, str):
        what = "it is nested too deeply" if isinstance(what, RecursionError) else "a number has too many digits"
    return RipcurrentError(f"{path}, line {line}: broken JSON: {what}.", "Mend or remove that line and run again.")


class CsvFile(OneFile):
    """A comma-separated file whose first line names the columns.

    A row with more or fewer cells than the header is handed on as the bare list of its cells: it is no record.
    """

    kind = "csv"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header = next(self._rows(), ([], b""))[0]
        twice = next((name for place, name in enumerate(header) if name in header[:place]), None)
        if twice is not None:
            raise RipcurrentError(f"{path} has two columns named {twice!r}.", "Rename one of them in its first line.")
        for separator, name in (("\t", "tabs"), (";", "semicolons")):
            if len(header) == 1 and separator in header[0]:
                raise RipcurrentError(
                    f"{path} is separated by {name}, not commas: its first line is one column, {header[0]!r}.",
                    "Save it again with commas between the cells.",
                )
        self.columns = tuple(header)

    def records(self, start: int = 0) -> Iterator[object]:
        columns = self.columns or ()
        for cells, _ in islice(self._rows(), 1 + start, None):
            yield dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) else cells

    def write(self, indices: Sequence[int], destination: Path) -> None:
        """The header and those rows, with the file's own quoting, line ends and byte-order mark."""
        with reading(self.path) as file:
            mark = BOM if file.read(len(BOM)) == BOM else b""
        raws = (raw for _, raw in self._rows())
        header = next(raws)
        newline = b"\r\n" if header.endswith(b"\r\n") else b"\n"
        with writing(destination) as file:
            file.write(mark + header)
            for raw in pick(raws, indices):
                file.write(raw if raw.endswith(b"\n") else raw + newline)

    def _rows(self) -> Iterator[tuple[list[str], bytes]]:
        """Cells and own bytes of every row, the header first; blank lines are no rows."""
        # The module's limit of 131,072 characters a cell is for the whole process; long rows exceed it.
        csv.field_size_limit(_LARGEST_CELL)
        with reading(self.path) as file:
            consumed: list[bytes] = []

            def lines() -> Iterator[str]:
                for number, line in enumerate(file, start=1):
                    own = line.removeprefix(BOM) if number == 1 else line
                    consumed.append(own)
                    yield decode(own, self.path, number)

            reader = csv.reader(lines(), strict=True)
            while True:
                first = reader.line_num + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise RipcurrentError(
                        f"{self.path}, line {first}: broken CSV: {error}.",
                        'Inside a quoted cell write each " twice, and close every quote.',
                    ) from error
                if cells is None:
                    return
                if cells:
                    yield cells, b"".join(consumed)
                consumed.clear()
