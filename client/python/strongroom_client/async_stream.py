"""Envelope encryption of files, for asyncio: calls are awaited, file work is in threads.

The same as `strongroom_client.stream`, in the same formats, with the same promises.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from strongroom import encryption_context as contexts
from strongroom_client import _format
from strongroom_client._bodies import (
    Progress,
    copy_body,
    decrypt_body,
    encrypt_body,
    read_exactly,
)
from strongroom_client._cobblestone import PREFIX_BYTES
from strongroom_client._files import OWNER_ONLY, open_source, replacing
from strongroom_client.envelope import AsyncEnvelopeClient, ExpectedContext, expected_aad
from strongroom_client.stream import StreamReport

__all__ = ["decrypt_file", "encrypt_file", "rekey_file"]

P = ParamSpec("P")
T = TypeVar("T")


async def encrypt_file(
    envelopes: AsyncEnvelopeClient,
    source: Path | str,
    destination: Path | str,
    *,
    encryption_context: Mapping[str, str],
    progress: Progress | None = None,
) -> StreamReport:
    """Encrypt a file; as `stream.encrypt_file`. `progress` is called in a thread."""
    with await asyncio.to_thread(open_source, Path(source)) as file:
        status = os.fstat(file.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        async with _replacing(Path(destination), mode=status.st_mode & 0o666) as sink:
            header, encryptor = await envelopes.driver.run(
                envelopes.core.start_encrypting(encryption_context, size)
            )
            sink.write(header)
            written = await _in_thread(encrypt_body, file, sink, encryptor, progress)
    return StreamReport(dict(encryption_context), written)


async def decrypt_file(
    envelopes: AsyncEnvelopeClient,
    source: Path | str,
    destination: Path | str,
    *,
    encryption_context: ExpectedContext,
    progress: Progress | None = None,
) -> StreamReport:
    """Decrypt a file; as `stream.decrypt_file`. `progress` is called in a thread."""
    with await asyncio.to_thread(open_source, Path(source)) as file:
        size = os.fstat(file.fileno()).st_size
        async with _replacing(Path(destination), mode=OWNER_ONLY) as sink:
            header = await _read_header(file, encryption_context)
            prefix = await asyncio.to_thread(read_exactly, file, PREFIX_BYTES)
            decryptor = await envelopes.driver.run(
                envelopes.core.start_decrypting(header, prefix, size)
            )
            written = await _in_thread(decrypt_body, file, sink, decryptor, progress)
    return StreamReport(contexts.decode(header.aad), written)


async def rekey_file(
    envelopes: AsyncEnvelopeClient,
    source: Path | str,
    destination: Path | str,
    *,
    encryption_context: ExpectedContext,
    keys: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> StreamReport:
    """Wrap the data key of a file anew; as `stream.rekey_file`."""
    with await asyncio.to_thread(open_source, Path(source)) as file:
        mode = os.fstat(file.fileno()).st_mode & 0o666
        async with _replacing(Path(destination), mode=mode) as sink:
            header = await _read_header(file, encryption_context)
            sink.write(await envelopes.driver.run(envelopes.core.rekey(header, keys)))
            copied = await _in_thread(copy_body, file, sink, progress)
    return StreamReport(contexts.decode(header.aad), copied)


@asynccontextmanager
async def _replacing(path: Path, *, mode: int) -> AsyncIterator[BinaryIO]:
    """Do as `_files.replacing`, with the wait for the disk in a thread."""
    manager = replacing(path, mode=mode)
    sink = manager.__enter__()
    try:
        yield sink
    except BaseException as exc:
        if not manager.__exit__(type(exc), exc, exc.__traceback__):
            raise
    else:
        await _in_thread(manager.__exit__, None, None, None)


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread, and stay until it has ended, also when this task is cancelled.

    A cancelled task must not close the files and remove the new one while a thread is
    still writing to it.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):  # the cancellation is what the caller is told
            await task
        raise


async def _read_header(source: BinaryIO, encryption_context: ExpectedContext) -> _format.Header:
    def read(size: int) -> bytes:
        return read_exactly(source, size)

    aad = expected_aad(encryption_context)
    return await asyncio.to_thread(_format.parse_header, read, expected_aad=aad)
