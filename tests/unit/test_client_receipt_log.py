"""A receipt log loses no receipt that it called durable, and never grows without end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.audit_records import receipt_of, record

from strongroom_client import KeyDisabledError, ReceiptLog
from strongroom_client import receipt_log as module
from strongroom_client.receipt_log import read_receipt_log
from strongroom_client.testing import FakeKms

ROOT = Path(__file__).resolve().parents[2]
RECEIPTS = [receipt_of(record("eu-1", 1, n)) for n in range(1, 201)]


def sequences(path: Path) -> list[int]:
    """Return the sequences in a file."""
    return [kept.receipt.sequence for kept in read_receipt_log(path)]


def test_receipts_are_kept_in_order(tmp_path: Path) -> None:
    """What was added is read back: receipt, method, reason and time."""
    path = tmp_path / "receipts.jsonl"
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    with ReceiptLog(path, now=lambda: moment) as kept:
        kept.add(tuple(RECEIPTS[:2]), method="ReEncrypt")
        kept.add((RECEIPTS[2],), method="Decrypt", reason="KEY_DISABLED")
        kept.flush()
        assert sequences(path) == [1, 2, 3]
    first, _, third = read_receipt_log(path)
    assert (first.receipt, first.method, first.reason) == (RECEIPTS[0], "ReEncrypt", "")
    assert first.time == "2026-01-02T03:04:05.678Z"
    assert third.reason == "KEY_DISABLED"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_client_keeps_every_receipt(tmp_path: Path) -> None:
    """Answers and refusals of a client leave their receipts, both of ReEncrypt too."""
    path = tmp_path / "receipts.jsonl"
    fake = FakeKms()
    with ReceiptLog(path) as kept:
        client = fake.client()
        client.driver = type(client.driver)(
            client.driver.transport, client.driver.limits, receipt_log=kept
        )
        key = client.create_key("eu-1").name
        blob = client.encrypt(key, b"x", encryption_context={}).ciphertext
        client.with_timeout(3.0).re_encrypt(
            blob,
            source_key=key,
            source_encryption_context={},
            destination_key=key,
            destination_encryption_context={},
        )
        client.disable_key(key)
        with pytest.raises(KeyDisabledError):
            client.encrypt(key, b"x", encryption_context={})
    lines = [(line.method, line.reason) for line in read_receipt_log(path)]
    assert lines == [
        ("CreateKey", ""),
        ("Encrypt", ""),
        ("ReEncrypt", ""),
        ("ReEncrypt", ""),
        ("DisableKey", ""),
        ("Encrypt", "KEY_DISABLED"),
    ]
    assert len(fake.records) == len(lines)


def test_full_files_make_room(tmp_path: Path) -> None:
    """Full files are numbered, the oldest one goes, and no line is cut."""
    path = tmp_path / "receipts.jsonl"
    with ReceiptLog(path, max_bytes=4096, max_files=3) as kept:
        for receipt in RECEIPTS:
            kept.add((receipt,), method="Decrypt")
            kept.flush()
    files = [path.with_name("receipts.jsonl.2"), path.with_name("receipts.jsonl.1"), path]
    assert {file.name for file in tmp_path.iterdir()} == {
        *(file.name for file in files),
        "receipts.jsonl.lock",
    }
    assert all(file.stat().st_size <= 4096 for file in files)
    read = [number for file in files for number in sequences(file)]
    assert read == list(range(read[0], 201))


def test_a_line_that_a_crash_cut_off_is_removed(tmp_path: Path) -> None:
    """The next owner goes on behind the last whole line; readers leave a cut one out."""
    path = tmp_path / "receipts.jsonl"
    with ReceiptLog(path) as kept:
        kept.add(tuple(RECEIPTS[:3]), method="Decrypt")
    whole = path.read_bytes()
    for cut in (1, 50, 100):
        path.write_bytes(whole[:-cut])
        assert sequences(path) == [1, 2]
        with ReceiptLog(path) as kept:
            kept.add((RECEIPTS[3],), method="Decrypt")
        assert sequences(path) == [1, 2, 4]


def test_one_process_owns_a_file(tmp_path: Path) -> None:
    """A second owner is refused while the first one has the file, and not afterwards."""
    path = tmp_path / "receipts.jsonl"
    with ReceiptLog(path), pytest.raises(BlockingIOError):
        ReceiptLog(path)
    ReceiptLog(path).close()


def test_a_failing_disk_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written calls go on; then everything is there, once."""
    path = tmp_path / "receipts.jsonl"
    failing = threading.Event()
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if failing.is_set():
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with ReceiptLog(path) as kept:
        failing.set()
        monkeypatch.setattr(os, "fsync", fail)
        kept.add(tuple(RECEIPTS[:10]), method="Decrypt")
        with pytest.raises(OSError, match="No space"):
            kept.flush()
        failing.clear()
        kept.add(tuple(RECEIPTS[10:20]), method="Decrypt")
    assert kept.error is None
    assert sequences(path) == list(range(1, 21))


def test_what_the_disk_cannot_keep_up_with_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is bounded; what does not fit is dropped and counted."""
    monkeypatch.setattr(module, "MAX_QUEUED", 5)
    monkeypatch.setattr(os, "fsync", lambda _: threading.Event().wait(0.2))
    with ReceiptLog(tmp_path / "receipts.jsonl") as kept:
        kept.add(tuple(RECEIPTS), method="Decrypt")
        assert kept.dropped == 195
    kept.add((RECEIPTS[0],), method="Decrypt")
    assert kept.dropped == 196


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"{}\n",
        b"[]\n",
        b'{"receipt": "v1:x", "method": "", "time": ""}\n',
        b'{"receipt": 7, "method": "", "time": ""}\n',
        b"x" * 5000 + b"\n",
        b"x" * 5000,
    ],
)
def test_a_strange_line_is_told_with_its_number(tmp_path: Path, line: bytes) -> None:
    """A line that no receipt log writes ends the reading with its number."""
    path = tmp_path / "receipts.jsonl"
    with ReceiptLog(path) as kept:
        kept.add((RECEIPTS[0],), method="Decrypt")
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(ValueError, match="line 2"):
        list(read_receipt_log(path))


def test_limits_have_limits(tmp_path: Path) -> None:
    """Files of less than a line, or none at all, are refused."""
    for max_bytes, max_files in ((4095, 1), (4096, 0)):
        with pytest.raises(ValueError, match="max_bytes"):
            ReceiptLog(tmp_path / "receipts", max_bytes=max_bytes, max_files=max_files)


def test_kill_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    """After kill -9 every receipt that `flush` vouched for is there, and the file is whole."""
    path = tmp_path / "receipts.jsonl"
    program = (
        "import sys\n"
        "from strongroom.receipts import Receipt\n"
        "from strongroom_client import ReceiptLog\n"
        "kept = ReceiptLog(sys.argv[1])\n"
        "for n in range(1, 10**6):\n"
        "    kept.add((Receipt('eu-1', 1, n, bytes(32)),), method='Decrypt')\n"
        "    if n % 7 == 0:\n"
        "        kept.flush()\n"
        "        print(n, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        durable = [int(child.stdout.readline()) for _ in range(30)][-1]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    durable = max([durable, *(int(number) for number in rest[:-1])])
    with ReceiptLog(path):
        pass
    read = sequences(path)
    assert read == list(range(1, len(read) + 1))
    assert len(read) >= durable
