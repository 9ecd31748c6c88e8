"""CSV: rows read as a stream, written back exactly as they stand."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ripcurrent.data._files import BOM, OneFile, decode, pick, reading, writing
from ripcurrent.errors import RipcurrentError

_LARGEST_FIELD = 2**31 - 1


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
        csv.field_size_limit(_LARGEST_FIELD)
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
