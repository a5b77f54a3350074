"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from strongroom_server.cli.failures import CliError
from strongroom_server.cli.options import Format

__all__ = [
    "binary_input",
    "binary_output",
    "note",
    "print_fields",
    "print_rows",
    "printable",
]

Cell = str | int | float | bool | None


def note(text: str) -> None:
    """Print a line for people on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_fields(fields: Mapping[str, Cell], output: Format) -> None:
    """Print one thing: a JSON object, or a line for each field."""
    if output is Format.JSON:
        print(json.dumps(fields, ensure_ascii=False, indent=2))
        return
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        print(f"{name.replace('_', ' '):<{width}}  {_text(value)}".rstrip())


def print_rows(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str], output: Format) -> None:
    """Print several things: a JSON array, or a table of `columns`."""
    if output is Format.JSON:
        print(json.dumps([dict(row) for row in rows], ensure_ascii=False, indent=2))
        return
    cells = [[_text(row.get(name)) for name in columns] for row in rows]
    if sys.stdout.isatty():
        _print_rich_table(cells, columns)
        return
    # No terminal: nothing is cut or folded, so that grep and awk see whole names.
    heads = [name.replace("_", " ").upper() for name in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    for line in [heads, *cells]:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())


def _print_rich_table(cells: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for line in cells:
        # Text, not str: square brackets in a description are not markup.
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def _text(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def printable(text: str) -> str:
    """Return `text` with every control character written as an escape.

    Descriptions and contexts come from other people: they must not move the cursor or
    fake a line.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def binary_input() -> BinaryIO:
    """Return standard input as bytes."""
    return sys.stdin.buffer


def binary_output(what: str) -> BinaryIO:
    """Return standard output as bytes.

    Raises:
        CliError: It is a terminal: bytes would garble it, and its scroll-back keeps secrets.
    """
    if sys.stdout.isatty():
        raise CliError.usage(
            f"{what} is not written to a terminal", "use --out FILE, or pipe it somewhere"
        )
    return sys.stdout.buffer
