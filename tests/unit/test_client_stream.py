"""Files and streams: whole or not at all, constant memory, honest about cut input."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from strongroom_client import (
    ANY_CONTEXT,
    AsyncEnvelopeClient,
    DataKeyCache,
    EnvelopeClient,
    EnvelopeInvalidError,
    UnreachableError,
    async_stream,
    read_envelope_info,
    stream,
)
from strongroom_client.testing import FakeKms

CONTEXT = {"order": "17"}
SIZE = 3 * 2**20 + 5


@pytest.fixture
def fake() -> FakeKms:
    return FakeKms()


@pytest.fixture
def keys(fake: FakeKms) -> list[str]:
    return [fake.client().create_key(region).name for region in fake.regions]


@pytest.fixture
def client(fake: FakeKms, keys: list[str]) -> EnvelopeClient:
    return EnvelopeClient(fake.client(), keys=keys)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_permission_bits(client: EnvelopeClient, tmp_path: Path) -> None:
    """A ciphertext has the source's bits, a plaintext its owner's only, a replaced file its own."""
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(b"hello")
    plain.chmod(0o754)
    stream.encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
    assert _mode(sealed) == 0o644
    stream.decrypt_file(client, sealed, opened, encryption_context=CONTEXT)
    assert _mode(opened) == 0o600
    opened.chmod(0o640)
    stream.decrypt_file(client, sealed, opened, encryption_context=CONTEXT)
    assert _mode(opened) == 0o640
    sealed.chmod(0o600)
    stream.rekey_file(client, sealed, tmp_path / "renewed", encryption_context=CONTEXT)
    assert _mode(tmp_path / "renewed") == 0o600


def test_the_new_file_is_private_while_it_grows(client: EnvelopeClient, tmp_path: Path) -> None:
    """Until it is complete the plaintext is in a file that only its owner can read."""
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(bytes(SIZE))
    stream.encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
    modes: list[int] = []

    def progress(_bytes: int) -> None:
        assert not opened.exists()
        modes.extend(_mode(path) for path in tmp_path.glob(".opened.*.partial"))

    stream.decrypt_file(client, sealed, opened, encryption_context=CONTEXT, progress=progress)
    assert set(modes) == {0o600}
    assert opened.stat().st_size == SIZE


def test_an_error_leaves_the_old_file(client: EnvelopeClient, tmp_path: Path) -> None:
    """When decryption fails, or the caller's callback does, the destination is as it was."""
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(bytes(SIZE))
    opened.write_bytes(b"old")
    stream.encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    (tmp_path / "forged").write_bytes(data)
    with pytest.raises(EnvelopeInvalidError):
        stream.decrypt_file(client, tmp_path / "forged", opened, encryption_context=CONTEXT)

    def interrupt(_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.decrypt_file(client, sealed, opened, encryption_context=CONTEXT, progress=interrupt)
    assert opened.read_bytes() == b"old"
    assert list(tmp_path.glob(".*")) == []


def test_missing_files_are_os_errors(client: EnvelopeClient, tmp_path: Path) -> None:
    """A source or a directory that is not there is the OSError that names it."""
    with pytest.raises(FileNotFoundError, match="missing"):
        stream.encrypt_file(client, tmp_path / "missing", tmp_path / "x", encryption_context={})
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stream.encrypt_file(
            client, tmp_path / "plain", tmp_path / "nowhere" / "x", encryption_context={}
        )


def test_progress_adds_up(client: EnvelopeClient, keys: list[str], tmp_path: Path) -> None:
    """The steps told add up to the source's body, in every direction."""
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(bytes(SIZE))
    steps: list[int] = []
    stream.encrypt_file(client, plain, sealed, encryption_context=CONTEXT, progress=steps.append)
    assert sum(steps) == SIZE
    body = sealed.stat().st_size - read_envelope_info(sealed.read_bytes()).header_bytes
    steps.clear()
    stream.decrypt_file(
        client, sealed, tmp_path / "opened", encryption_context=CONTEXT, progress=steps.append
    )
    assert sum(steps) == body - 56
    steps.clear()
    report = stream.rekey_file(
        client,
        sealed,
        sealed,
        encryption_context=ANY_CONTEXT,
        keys=keys[:1],
        progress=steps.append,
    )
    assert sum(steps) == report.body_bytes == body
    assert report.encryption_context == CONTEXT


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a pipe does."""

    def __init__(self, data: bytes, step: int):
        self._data = io.BytesIO(data)
        self._step = step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type] # any writable buffer
        part = self._data.read(min(self._step, len(view)))
        view[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("step", [1000, 16384, 100_000])
def test_slow_streams_are_read_to_their_end(client: EnvelopeClient, step: int) -> None:
    """Short reads are not taken for the end."""
    data = os.urandom(200_000)
    sealed, opened = io.BytesIO(), io.BytesIO()
    source = Dribble(data, step)
    report = stream.encrypt_stream(client, source, sealed, encryption_context=CONTEXT)  # type: ignore[arg-type] # raw streams read too
    assert report.body_bytes == len(data)
    source = Dribble(sealed.getvalue(), step)
    stream.decrypt_stream(client, source, opened, encryption_context=CONTEXT)  # type: ignore[arg-type] # raw streams read too
    assert opened.getvalue() == data


def test_a_pipe_carries_an_envelope(client: EnvelopeClient) -> None:
    """Through real pipes a message of several MiB comes out whole, and a cut one raises."""
    data = os.urandom(SIZE)
    sealed = io.BytesIO()
    stream.encrypt_stream(client, io.BytesIO(data), sealed, encryption_context=CONTEXT)
    for envelope, complete in ((sealed.getvalue(), True), (sealed.getvalue()[:-1], False)):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
            assert cat.stdin is not None
            assert cat.stdout is not None
            stdin = cat.stdin

            def feed(into: io.BufferedIOBase = stdin, what: bytes = envelope) -> None:  # type: ignore[assignment] # a writer
                into.write(what)
                into.close()

            thread = threading.Thread(target=feed)
            thread.start()
            opened = io.BytesIO()
            if complete:
                stream.decrypt_stream(client, cat.stdout, opened, encryption_context=CONTEXT)  # type: ignore[arg-type] # a reader
                assert opened.getvalue() == data
            else:
                with pytest.raises(EnvelopeInvalidError):
                    stream.decrypt_stream(client, cat.stdout, opened, encryption_context=CONTEXT)  # type: ignore[arg-type] # a reader
                assert data.startswith(opened.getvalue())
                assert len(opened.getvalue()) < len(data)
            thread.join()


def test_nothing_is_released_under_another_context(client: EnvelopeClient) -> None:
    """With the wrong context not one byte of plaintext comes out."""
    sealed, opened = io.BytesIO(), io.BytesIO()
    stream.encrypt_stream(client, io.BytesIO(bytes(SIZE)), sealed, encryption_context=CONTEXT)
    with pytest.raises(EnvelopeInvalidError):
        stream.decrypt_stream(client, io.BytesIO(sealed.getvalue()), opened, encryption_context={})
    assert opened.getvalue() == b""


def test_streams_of_unknown_length_have_their_own_data_key(fake: FakeKms, keys: list[str]) -> None:
    """A stream that cannot be accounted for does not use the cache; a file does."""
    client = EnvelopeClient(fake.client(), keys=keys[:1], cache=DataKeyCache())
    for _ in range(2):
        stream.encrypt_stream(client, io.BytesIO(b"x"), io.BytesIO(), encryption_context={})
    assert [record.method for record in fake.records].count("GenerateDataKey") == 2


def test_rekeying_needs_no_body(client: EnvelopeClient, keys: list[str]) -> None:
    """The body is copied as it is, even a damaged one: re-keying is not a check of the body."""
    envelope = client.encrypt(bytes(100), encryption_context=CONTEXT)[:-1]
    renewed = io.BytesIO()
    stream.rekey_stream(
        client, io.BytesIO(envelope), renewed, encryption_context=CONTEXT, keys=keys[1:]
    )
    size = read_envelope_info(renewed.getvalue()).header_bytes
    assert renewed.getvalue()[size:] == envelope[read_envelope_info(envelope).header_bytes :]


async def test_async_files(fake: FakeKms, keys: list[str], tmp_path: Path) -> None:
    """The asyncio functions make and open the same files, with one region down."""
    client = AsyncEnvelopeClient(fake.async_client(), keys=keys)
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(os.urandom(SIZE))
    await async_stream.encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
    await async_stream.rekey_file(client, sealed, sealed, encryption_context=CONTEXT)
    fake.take_down("eu-1")
    report = await async_stream.decrypt_file(client, sealed, opened, encryption_context=ANY_CONTEXT)
    assert report.encryption_context == CONTEXT
    assert opened.read_bytes() == plain.read_bytes()
    assert _mode(opened) == 0o600
    sync = EnvelopeClient(fake.client(), keys=[])
    assert sync.decrypt(sealed.read_bytes(), encryption_context=CONTEXT) == plain.read_bytes()


async def test_async_errors_leave_no_file(fake: FakeKms, keys: list[str], tmp_path: Path) -> None:
    """A refused, forged or cancelled file operation leaves nothing behind."""
    client = AsyncEnvelopeClient(fake.async_client(), keys=keys)
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(bytes(SIZE))
    fake.take_down("us-1")
    with pytest.raises(UnreachableError):
        await async_stream.encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
    fake.bring_up("us-1")
    started, proceed = threading.Event(), threading.Event()

    def progress(_bytes: int) -> None:
        started.set()
        proceed.wait(10)

    task = asyncio.create_task(
        async_stream.encrypt_file(
            client, plain, sealed, encryption_context=CONTEXT, progress=progress
        )
    )
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _names(tmp_path) == ["plain"]
