"""What is printed, and small files that appear whole."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from strongroom_server.cli.audit_receipts import parse_receipt, read_receipts
from strongroom_server.cli.failures import CliError
from strongroom_server.cli.options import Format
from strongroom_server.cli.output import print_fields, print_rows, printable
from strongroom_server.cli.result_files import Destination, replacing

ROWS: list[dict[str, str | bool | None]] = [
    {"name": "a", "is_primary": True, "note": "x\ny"},
    {"name": "bbbb", "note": None},
]
RECEIPT = "v1:eu-1:1:2:" + "ab" * 32


def test_a_table_off_a_terminal_is_aligned_and_whole(capsys):
    """Without a terminal there are plain columns, nothing is cut, and each row is one line."""
    print_rows(ROWS, ("name", "is_primary", "note"), Format.TABLE)
    assert capsys.readouterr().out == ("NAME  IS PRIMARY  NOTE\na     yes         x\\ny\nbbbb\n")


def test_json_has_every_field(capsys):
    """JSON shows all fields, not only the table's columns, with their own types."""
    print_rows(ROWS, ("name",), Format.JSON)
    assert json.loads(capsys.readouterr().out) == ROWS
    print_fields({"a": 1, "b": "ä"}, Format.JSON)
    assert json.loads(capsys.readouterr().out) == {"a": 1, "b": "ä"}


def test_control_characters_are_shown_not_sent():
    """What other people wrote cannot move the cursor or fake a line."""
    assert printable("a\x1b[2Jb\r\nc\u202e") == "a\\x1b[2Jb\\r\\nc\\u202e"


def test_a_result_appears_whole_or_not_at_all(tmp_path: Path):
    """When writing fails, the old file stays and no temporary file is left."""
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path, mode=0o600, force=True) as file:
            file.write(b"new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path):
    """Without --force the last step itself refuses to replace."""
    path = tmp_path / "x"
    destination = Destination.of(path, "a result", private=True, force=False)
    path.write_bytes(b"old")
    with pytest.raises(CliError, match="exists"):
        destination.write(b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_secrets_are_written_for_the_owner(tmp_path: Path):
    """A private result has mode 0600, also when it replaces a file that others could read."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o644)
    Destination.of(path, "a key", private=True, force=True).write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_receipts_are_read_from_a_file(tmp_path: Path):
    """One a line, empty lines skipped; a line that is none is named by its number."""
    path = tmp_path / "receipts"
    path.write_text(f"{RECEIPT}\n\n{RECEIPT}\n")
    assert read_receipts(path) == [parse_receipt(RECEIPT)] * 2
    path.write_text(f"{RECEIPT}\nnonsense\n")
    with pytest.raises(CliError, match="line 2"):
        read_receipts(path)
    with pytest.raises(CliError):
        parse_receipt(RECEIPT.upper())
