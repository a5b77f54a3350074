"""`encrypt`, `decrypt` and `rekey` against two real regions."""

from __future__ import annotations

import hashlib
import os
import pty
import random
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_client import read_envelope_info
from strongroom_server.cli.dev_fleet import Fleet

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(600)]
EU, US = "regions/eu-1/aliases/files", "regions/us-1/aliases/files"
BOTH = ("--key", EU, "--key", US)
CHUNK = 16 * 1024


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, Fleet]]:
    """Run two regions with a key each."""
    with running_deployment(tmp_path_factory.mktemp("files") / "dev") as made:
        for region in ("eu-1", "us-1"):
            made[0]("keys", "create", "--region", region, "--alias", "files")
        yield made


@pytest.fixture
def cli(deployment: tuple[Cli, Fleet]) -> Cli:
    """Return the command line."""
    return deployment[0]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _left_over(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_files_come_back(cli, size, tmp_path: Path):
    """A file of any size decrypts to the same bytes, readable by its owner only."""
    source = tmp_path / "data"
    source.write_bytes(os.urandom(size))
    report = cli("encrypt", source, *BOTH, "--context", "a=b", "-o", "json").json
    assert report == [{"source": str(source), "target": f"{source}.srm", "bytes": size}]
    cli("decrypt", f"{source}.srm", "--context", "a=b", "--out", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o600


def test_streams_come_back(cli):
    """- reads standard input and writes standard output, and nothing else goes there."""
    data = os.urandom(3 * CHUNK)
    sealed = cli.process("encrypt", "-", *BOTH, stdin=data)
    opened = cli.process("decrypt", "-", stdin=sealed.stdout)
    assert opened.stdout == data
    assert "no encryption context" in opened.stderr
    rekeyed = cli.process("rekey", "-", "--key", US, stdin=sealed.stdout)
    assert read_envelope_info(rekeyed.stdout).keys[0].startswith("regions/us-1/")
    assert cli.process("decrypt", "-", stdin=rekeyed.stdout).stdout == data


def test_a_cut_stream_ends_with_6(cli):
    """A stream without its end is an error, whatever was written before."""
    sealed = cli.process("encrypt", "-", "--key", EU, stdin=os.urandom(3 * CHUNK)).stdout
    cut = cli.process("decrypt", "-", "-o", "json", stdin=sealed[: len(sealed) - CHUNK], code=6)
    assert cut.error["reason"] == "ENVELOPE_INVALID"


def test_the_context_must_match(cli, tmp_path: Path):
    """Another context is refused without a file; without one, the envelope's own is shown."""
    source = tmp_path / "data"
    source.write_bytes(b"x")
    cli("encrypt", source, "--key", EU, "--context", "tenant=acme\x1b[2J")
    out = tmp_path / "out"
    envelope = f"{source}.srm"
    refused = cli("decrypt", envelope, "--context", "tenant=evil", "--out", out, code=6)
    assert refused.stderr.startswith("error: ENVELOPE_INVALID: ")
    assert not out.exists()
    shown = cli("decrypt", envelope, "--out", out).stderr
    assert "encryption context tenant=acme\\x1b[2J" in shown
    assert out.read_bytes() == b"x"
    assert _left_over(tmp_path) == []


def test_damaged_envelopes_leave_no_file(cli, tmp_path: Path):
    """A flipped bit anywhere, a cut or a longer file: one error, nothing in place."""
    source = tmp_path / "data"
    source.write_bytes(os.urandom(3 * CHUNK))
    cli("encrypt", source, "--key", EU, "--context", "a=b")
    sealed = Path(f"{source}.srm").read_bytes()
    bad = tmp_path / "bad.srm"
    header = read_envelope_info(sealed).header_bytes
    flips = [0, 5, 6, 7, 8, 30, header - 40, header - 1, header, header + 30, header + 100, -1]
    damaged = [sealed[: len(sealed) - CHUNK], sealed[:10], b"", sealed + b"\x00"]
    for at in flips:
        copy = bytearray(sealed)
        copy[at] ^= 0x10
        damaged.append(bytes(copy))
    for number, data in enumerate(damaged):
        bad.write_bytes(data)
        answer = cli("decrypt", bad, "--context", "a=b", "-o", "json", code=6)
        assert answer.error["reason"] == "ENVELOPE_INVALID", number
        assert not (tmp_path / "bad").exists(), number
    assert _left_over(tmp_path) == []


def test_existing_files_are_kept(cli, tmp_path: Path):
    """Nothing is replaced without --force."""
    source, target = tmp_path / "data", tmp_path / "data.srm"
    source.write_bytes(b"x")
    target.write_bytes(b"old")
    refused = cli("encrypt", source, "--key", EU, code=5)
    assert refused.stderr == f"error: FILE_EXISTS: {target} exists\nhint: --force replaces it\n"
    assert target.read_bytes() == b"old"
    cli("encrypt", source, "--key", EU, "--force")
    assert target.read_bytes() != b"old"


def test_one_bad_file_does_not_stop_the_others(cli, tmp_path: Path):
    """Of several files the good ones are done, the bad one is told, and the code is 6."""
    names = [tmp_path / name for name in ("a", "b", "c")]
    for path in names:
        path.write_bytes(path.name.encode())
    cli("encrypt", *names, "--key", EU)
    envelopes = [Path(f"{path}.srm") for path in names]
    envelopes[1].write_bytes(b"rubbish")
    out = tmp_path / "out"
    answer = cli("decrypt", *envelopes, "--output-dir", out, code=6)
    assert sorted(path.name for path in out.iterdir()) == ["a", "c"]
    assert f"error: ENVELOPE_INVALID: {envelopes[1]}: " in answer.stderr
    assert "1 of 3 files left out" in answer.stderr


def test_rekeying_leaves_the_body(cli, tmp_path: Path):
    """`rekey` replaces the list of keys in place; the bytes of the body are the same."""
    source = tmp_path / "data"
    source.write_bytes(os.urandom(2 * CHUNK))
    envelope = Path(f"{source}.srm")
    cli("encrypt", source, "--key", EU, "--context", "a=b")
    before = envelope.read_bytes()
    cli("rekey", envelope, *BOTH)
    after = envelope.read_bytes()
    assert len(read_envelope_info(after).keys) == 2
    body_before = before[read_envelope_info(before).header_bytes :]
    assert after[read_envelope_info(after).header_bytes :] == body_before
    cli("decrypt", envelope, "--context", "a=b", "--out", tmp_path / "back", "--region", "us-1")
    assert _digest(tmp_path / "back") == _digest(source)
    cli("rekey", envelope, "--key", US, "--context", "a=c", code=6)
    assert envelope.read_bytes() == after


def test_four_hundred_files_open_in_the_other_region(deployment, tmp_path: Path):
    """400 files of 0 bytes to 64 MiB, encrypted for both, open while the first is down."""
    cli, fleet = deployment
    sizes = random.Random(1)  # noqa: S311 - sizes of test files
    plain = tmp_path / "plain"
    plain.mkdir()
    digests = {}
    for number in range(400):
        size = (0, 64 * 2**20)[number] if number < 2 else int(2 ** sizes.uniform(0, 18))
        path = plain / f"{number:03}"
        path.write_bytes(os.urandom(size))
        digests[path.name] = _digest(path)
    context = ("--context", "purpose=archive")
    sealed, back = tmp_path / "sealed", tmp_path / "back"
    files = sorted(plain.iterdir())
    cli("encrypt", *files, *BOTH, *context, "--output-dir", sealed)
    fleet.stop("server-eu-1")
    try:
        cli("decrypt", *sorted(sealed.iterdir()), *context, "--output-dir", back)
    finally:
        fleet.start("server-eu-1")
        fleet.wait_ready(120)
    assert {path.name: _digest(path) for path in back.iterdir()} == digests


def test_a_region_that_is_down_is_unavailable(deployment, tmp_path: Path):
    """With no server for the key, encryption ends with 7 and leaves no file."""
    cli, fleet = deployment
    source = tmp_path / "data"
    source.write_bytes(b"x")
    fleet.stop("server-us-1")
    try:
        answer = cli("encrypt", source, *BOTH, "-o", "json", code=7)
    finally:
        fleet.start("server-us-1")
        fleet.wait_ready(120)
    assert answer.error["reason"] in {"UNREACHABLE", "DEADLINE_EXCEEDED"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupt_leaves_no_file(cli, tmp_path: Path):
    """Ctrl-C ends with 130; neither the result nor a temporary file stays."""
    target = tmp_path / "out"
    with subprocess.Popen(
        cli.command("encrypt", "-", "--key", EU, "--out", target),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(os.urandom(CHUNK))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not _left_over(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_on_a_terminal_only(cli, tmp_path: Path):
    """With a terminal as standard error there is a bar; standard output stays clean."""
    source = tmp_path / "data"
    source.write_bytes(os.urandom(CHUNK))
    ours, theirs = pty.openpty()
    try:
        command = cli.command("encrypt", source, "--key", EU, "--out", "-")
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
        ) as process:
            sealed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert read_envelope_info(sealed).keys
        assert os.read(ours, 2**16)
    finally:
        os.close(theirs)
        os.close(ours)
