"""Write the tables of settings in docs/operations.md from the configuration's own types.

    python deploy/config_reference.py            write them
    python deploy/config_reference.py --check    exit 1 when they are not current

A setting is described once, beside its type; a page that repeated it by hand would drift.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from strongroom_auditlog.config import Config as AuditLogConfig
from strongroom_auditlog.witness.config import WitnessSettings
from strongroom_server.config import Config as ServerConfig

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "operations.md"


def section_tables(model: type[BaseModel]) -> str:
    """Return a table for every section of a configuration."""
    blocks = []
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            raise TypeError(f"{name} is not a section")
        blocks += _section_blocks(name, field, section[0], repeated=section[1])
    return "\n\n".join(blocks) + "\n"


def _section_blocks(
    name: str, field: FieldInfo, section: type[BaseModel], *, repeated: bool
) -> list[str]:
    """Return the table of a section, and those of the sections in it."""
    heading = f"[[{name}]]" if repeated else f"[{name}]"
    optional = "" if field.is_required() else ", may be left out"
    rows: list[str] = []
    inner: list[str] = []
    for setting, info in section.model_fields.items():
        nested = _section_of(info.annotation)
        if nested is None:
            rows.append(f"| `{setting}` | {_default_of(info)} | {info.description} |")
        else:
            inner += _section_blocks(f"{name}.{setting}", info, nested[0], repeated=nested[1])
    table = (
        "\n".join([f"`{heading}`{optional}", "", "| key | default | meaning |"])
        + "\n| --- | --- | --- |\n"
        + "\n".join(rows)
    )
    return [table, *inner]


def _section_of(annotation: object) -> tuple[type[BaseModel], bool] | None:
    """Return the section's type, and whether it is a list of them; None for a value."""
    for candidate in typing.get_args(annotation):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, typing.get_origin(annotation) in {tuple, list}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    return None


def _default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is PydanticUndefined and info.default_factory is not None:
        value = typing.cast("typing.Callable[[], object]", info.default_factory)()
    if value is None:
        return "none"
    if isinstance(value, tuple | list | dict) and not value:
        return "empty"
    if isinstance(value, str | tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10**6:
        return f"`{value:_}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def models() -> dict[str, type[BaseModel]]:
    """Return every configuration by the name of its place in the page."""
    return {
        "server": ServerConfig,
        "audit-log": AuditLogConfig,
        "audit-witness": WitnessSettings,
    }


def current(page: str) -> str:
    """Return the page with its tables made anew.

    Raises:
        ValueError: The page lacks a place for a table.
    """
    for name, model in models().items():
        begin, end = f"<!-- settings: {name} -->\n", "<!-- end of settings -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"no {begin.strip()} in the page")
        table = f"{begin}\n{section_tables(model)}\n{end}"
        page = pattern.sub(lambda _, table=table: table, page, count=1)  # type: ignore[misc]
    return page


def main() -> int:
    """Write or check; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    fresh = current(page)
    if arguments.check and page != fresh:
        print("stale: docs/operations.md; run `make docs`", file=sys.stderr)
        return 1
    if not arguments.check:
        PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
