"""Envelopes in memory and in files, against raw AESGCM in the same run."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.bench.measure import Row, repeat_for
from tests.bench.peers import age_program, aws_sdk_figures

from strongroom_client import DataKeyCache, EnvelopeClient
from strongroom_client.stream import decrypt_file, encrypt_file
from strongroom_client.testing import FakeKms

__all__ = ["envelope_rows"]

CONTEXT = {"tenant": "42"}
MIB = 2**20


def envelope_rows() -> list[Row]:
    """Measure with the SDK's in-memory service: no call is part of what is measured."""
    fake = FakeKms()
    region = "eu-1"
    kms = fake.client()
    key = kms.create_key(region).name
    cache = DataKeyCache(max_age_seconds=3600, max_messages=2**32, max_bytes=2**60)
    envelopes = EnvelopeClient(kms, keys=[key], cache=cache)
    aws = aws_sdk_figures()
    rows = [_small(envelopes, aws)]
    for size in (MIB, 16 * MIB):
        rows += _in_memory(envelopes, size, aws)
    rows += _files(envelopes)
    return rows


def _small(envelopes: EnvelopeClient, aws: dict[int, float] | None) -> Row:
    data = secrets.token_bytes(1024)
    cpu, _ = repeat_for(lambda: envelopes.encrypt(data, encryption_context=CONTEXT), seconds=1.5)
    note = "" if aws is None else f"{aws[1024] / cpu:.0f}x aws-encryption-sdk's speed"
    return Row(
        "envelope encrypt 1 KiB, data key cached", cpu * 1e6, "us CPU", goal="<= 15", note=note
    )


def _in_memory(envelopes: EnvelopeClient, size: int, aws: dict[int, float] | None) -> list[Row]:
    data = secrets.token_bytes(size)
    nonce, raw_key = bytes(12), AESGCM(bytes(32))
    buffer = bytearray(size + 16)
    floor, _ = repeat_for(lambda: raw_key.encrypt_into(nonce, data, None, buffer), seconds=1)
    sealed = raw_key.encrypt(nonce, data, None)
    plain = bytearray(size)
    open_floor, _ = repeat_for(lambda: raw_key.decrypt_into(nonce, sealed, None, plain), seconds=1)
    envelope = envelopes.encrypt(data, encryption_context=CONTEXT)
    name = f"{size // MIB} MiB in memory"

    def row(verb: str, work: Callable[[], object], floor: float, note: str = "") -> Row:
        cpu, _ = repeat_for(work, seconds=1.5)
        return Row(
            f"envelope {verb} {name}",
            size / cpu / 1e6,
            "MB/s",
            floor=f"AESGCM {size / floor / 1e6:,.0f} MB/s",
            ratio=floor / cpu,
            goal=">= 0.5",
            note=note,
        )

    note = "" if aws is None else f"aws-encryption-sdk {size / aws[size] / 1e6:,.0f} MB/s"
    return [
        row("encrypt", lambda: envelopes.encrypt(data, encryption_context=CONTEXT), floor, note),
        row("decrypt", lambda: envelopes.decrypt(envelope, encryption_context=CONTEXT), open_floor),
    ]


def _files(envelopes: EnvelopeClient) -> list[Row]:
    """256 MiB on disk; both sides write and sync what they write."""
    size = 256 * MIB
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch:
        folder = Path(scratch)
        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(size // MIB):
                file.write(secrets.token_bytes(MIB))
        sealed, opened = folder / "sealed", folder / "opened"
        ours = _best(lambda: encrypt_file(envelopes, source, sealed, encryption_context=CONTEXT))
        ours_back = _best(
            lambda: decrypt_file(envelopes, sealed, opened, encryption_context=CONTEXT)
        )
        age = _age_seconds(folder, source)
    rows = []
    for number, (verb, seconds) in enumerate((("encrypt", ours), ("decrypt", ours_back))):
        rows.append(
            Row(
                f"envelope {verb} 256 MiB file",
                size / seconds / 1e6,
                "MB/s",
                floor="" if age is None else f"age {size / age[number] / 1e6:,.0f} MB/s",
                ratio=None if age is None else age[number] / seconds,
                goal=">= 1 (age)",
                note="wall time",
            )
        )
    return rows


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _age_seconds(folder: Path, source: Path) -> tuple[float, float] | None:
    program = age_program()
    if program is None:
        return None
    identity, sealed, opened = folder / "identity", folder / "sealed.age", folder / "opened.age"
    subprocess.run([f"{program}-keygen", "-o", identity], check=True, stderr=subprocess.DEVNULL)
    recipient = next(
        line.split(": ")[1].strip()
        for line in identity.read_text(encoding="ascii").splitlines()
        if line.startswith("# public key")
    )

    def run(*arguments: str | Path) -> None:
        subprocess.run([program, *arguments], check=True)
        with (sealed if "-r" in arguments else opened).open("rb") as file:
            os.fsync(file.fileno())

    return (
        _best(lambda: run("-r", recipient, "-o", sealed, source)),
        _best(lambda: run("-d", "-i", identity, "-o", opened, sealed)),
    )
