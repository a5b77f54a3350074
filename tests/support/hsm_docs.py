"""The doctor's output in docs/hsm/: writes it, reads it.

    python -m tests.support.hsm_docs

writes, for each module that is installed, what lies between the two marks on its page.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.support.hsm_modules import MODULES, ModuleMissingError, make_module_token, target_of

from strongroom_server.hsm.doctor import Diagnosis, examine
from strongroom_server.hsm.probes import Outcome

__all__ = ["DocumentedRow", "documented_rows"]

_PAGES = Path(__file__).resolve().parents[2] / "docs" / "hsm"
_BEGIN = "<!-- doctor: begin -->"
_END = "<!-- doctor: end -->"
_RESULTS = {"works": "works", "quirk": "works with quirk", "missing": "missing"}
_VALUES = {text: value for value, text in _RESULTS.items()}
_CELLS = re.compile(r"(?<!\\)\|")


class DocumentedRow(NamedTuple):
    """What a page says of a feature."""

    outcome: Outcome
    quirk: str
    seen: str


def documented_rows(module: str) -> dict[str, DocumentedRow]:
    """Return what a module's page says, by feature."""
    found = {}
    for line in _between(_PAGES / f"{module}.md")[1].splitlines():
        cells = [cell.strip() for cell in _CELLS.split(line)[1:-1]]
        if len(cells) == 6 and cells[2] in _VALUES:
            found[cells[1].strip("`")] = DocumentedRow(
                Outcome(_VALUES[cells[2]]), cells[5].strip("`"), cells[3].replace("\\|", "|")
            )
    return found


def _between(page: Path) -> tuple[str, str, str]:
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    between, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{page}: the marks {_BEGIN} and {_END} are missing")
    return before + begin, between, end + after


def _render(diagnosis: Diagnosis) -> str:
    heads = ("group", "feature", "result", "seen", "Strongroom", "quirk")
    lines = ["", "", _line(heads), _line(["---"] * len(heads))]
    lines += [
        _line(
            (
                row.group,
                f"`{row.feature}`",
                _RESULTS[row.outcome.value],
                row.detail,
                row.consequence,
                f"`{row.quirk}`" if row.quirk else "",
            )
        )
        for row in diagnosis.rows
    ]
    lines += ["", "Known quirks:", "", _line(("quirk", "what it does", "Strongroom", "source"))]
    lines += [_line(["---"] * 4)]
    lines += [
        _line((f"`{each.id}`", each.what, each.strongroom, each.source))
        for each in diagnosis.quirks
    ]
    return "\n".join([*lines, "", ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write the pages."""
    for module in MODULES:
        page = _PAGES / f"{module}.md"
        before, _, after = _between(page)
        with tempfile.TemporaryDirectory(prefix="strongroom-hsm-") as scratch:
            try:
                token = make_module_token(module, Path(scratch) / module)
            except ModuleMissingError as exc:
                sys.stderr.write(f"{page.name}: left as it is: {exc}\n")
                continue
            diagnosis = examine(target_of(token), write_probes=True)
        draft = page.with_suffix(".draft")
        draft.write_text(before + _render(diagnosis) + after, encoding="utf-8")
        draft.replace(page)
        sys.stderr.write(f"{page.name}: {len(diagnosis.rows)} features\n")


if __name__ == "__main__":
    main()
