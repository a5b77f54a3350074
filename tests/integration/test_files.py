"""Many files of mixed sizes through the command line; one region opens what two sealed."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.support.deployment import Deployment

from strongroom_client import read_envelope_info

pytestmark = [pytest.mark.integration, pytest.mark.hsm]

MEBIBYTE = 2**20
CHUNK = 16 * 1024
SEALED_CHUNK = CHUNK + 16
PREFIX = 56
BORDERS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, size: int, source: random.Random) -> None:
    with path.open("wb") as file:
        for start in range(0, size, MEBIBYTE):
            file.write(source.randbytes(min(MEBIBYTE, size - start)))


def _round_trip(
    deployment: Deployment, directory: Path, count: int, longest: int, figures: Callable[..., None]
) -> None:
    cli, source = Cli(deployment.layout), random.Random(count)  # noqa: S311 - data, no secret
    plain, sealed, opened = (directory / name for name in ("plain", "sealed", "opened"))
    for each in (plain, sealed, opened):
        each.mkdir()
    sizes = [*BORDERS, longest]
    # Small ones are many, and there are some of each order of magnitude.
    sizes += [int(longest ** source.random()) for _ in range(count - len(sizes))]
    digests = {}
    for number, size in enumerate(sizes):
        path = plain / f"{number:03}"
        _write(path, size, source)
        digests[path.name] = _digest(path)
    keys = []
    for region in deployment.regions:
        keys += ["--key", cli("keys", "create", "--region", region, "-o", "json").json["name"]]
    began = time.monotonic()
    names = [plain / name for name in digests]
    cli("encrypt", *names, *keys, "--context", "a=b", "--output-dir", sealed)
    encrypted = time.monotonic() - began
    for path in names:
        path.unlink()
    deployment.stop("server-eu-1")
    began = time.monotonic()
    envelopes = [sealed / f"{name}.srm" for name in digests]
    cli("decrypt", *envelopes, "--context", "a=b", "--output-dir", opened)
    decrypted = time.monotonic() - began
    assert {path.name: _digest(path) for path in opened.iterdir()} == digests
    for each in (sealed, opened):
        shutil.rmtree(each)  # gigabytes, which pytest would keep for three more runs
    figures(
        files=len(digests),
        mebibytes=sum(sizes) / MEBIBYTE,
        encrypt_seconds=encrypted,
        decrypt_seconds=decrypted,
    )


@pytest.mark.timeout(120)
def test_files_open_in_the_other_region(
    deployment: Deployment, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """40 files of 0 bytes to 1 MiB decrypt to the same bytes with the first region stopped."""
    _round_trip(deployment, tmp_path, 40, MEBIBYTE, figures)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_large_files_open_in_the_other_region(
    deployment: Deployment, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """400 files of 0 bytes to 64 MiB decrypt to the same bytes with the first region stopped."""
    _round_trip(deployment, tmp_path, 400, 64 * MEBIBYTE, figures)


def test_damaged_files_leave_nothing(shared_deployment: Deployment, tmp_path: Path) -> None:
    """Cut at each border and beside it, reordered, doubled, under another header: no output."""
    cli = Cli(shared_deployment.layout)
    key = cli("keys", "create", "-o", "json").json["name"]
    one, two = (tmp_path / name for name in ("one", "two"))
    for path in (one, two):
        _write(path, 3 * CHUNK + 9, random.Random(path.name))  # noqa: S311 - data, no secret
    cli("encrypt", one, two, "--key", key, "--context", "a=b")
    whole, other = (Path(f"{path}.srm").read_bytes() for path in (one, two))
    start = read_envelope_info(whole).header_bytes
    assert read_envelope_info(other).header_bytes == start
    body = start + PREFIX
    head, chunks = (
        whole[:body],
        [whole[at : at + SEALED_CHUNK] for at in range(body, len(whole), SEALED_CHUNK)],
    )
    borders = [start, start + 24, body, *(body + n * SEALED_CHUNK for n in (1, 2, 3)), len(whole)]
    damaged = [whole[: border + delta] for border in borders for delta in (-1, 0, 1)]
    damaged = [data for data in damaged if len(data) < len(whole)] + [whole + b"\0"]
    for order in ((1, 0, 2, 3), (0, 0, 1, 2, 3), (0, 2, 3), (0, 1, 2, 2, 3), (0, 1, 3, 2)):
        damaged.append(head + b"".join(chunks[number] for number in order))
    damaged += [whole[:start] + other[start:], other[:start] + whole[start:]]
    bad, out = tmp_path / "bad.srm", tmp_path / "out"
    before = sorted(path.name for path in tmp_path.iterdir())
    for number, data in enumerate(damaged):
        bad.write_bytes(data)
        answer = cli("decrypt", bad, "--context", "a=b", "--out", out, "-o", "json", code=6)
        assert answer.error["reason"] == "ENVELOPE_INVALID", number
        assert answer.stdout == b""
        bad.unlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == before, number
    # A stream has no name that could appear: what came before the cut was genuine, and the
    # exit code says that it is not the whole.
    cut = cli.process("decrypt", "-", "--context", "a=b", stdin=whole[: body + 20_000], code=6)
    assert one.read_bytes().startswith(cut.stdout)
    assert len(cut.stdout) <= CHUNK
    bad.write_bytes(whole)
    cli("decrypt", bad, "--context", "a=b", "--out", out)
    assert out.read_bytes() == one.read_bytes()
