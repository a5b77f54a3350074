"""A6: duplicates, replays, reordering and forgeries against the real audit log process."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import receipt_of, record
from tests.support.audit_shard import Shard, message
from tests.support.audit_transports import DirectTransport, NatsTransport, Transport
from tests.support.soak import factor, rounds

from strongroom.audit.v1 import audit_service_pb2 as messages
from strongroom_auditlog.verify import verify_log

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

Responses = list[messages.StreamRecordsResponse]


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    """Give a CA."""
    return CertificateAuthority.create(tmp_path / "tls")


@pytest.fixture(params=[DirectTransport, NatsTransport], ids=["direct", "nats"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Give each way from shards to the log."""
    made: Transport = request.param()
    return made


@asynccontextmanager
async def running(
    root: Path, authority: CertificateAuthority, transport: Transport, *shards: Shard
) -> AsyncIterator[AuditLogProcess]:
    """Run the audit log of `shards`, which this starts and stops too."""
    process = None
    try:
        process = await transport.connect(root, authority, *shards)
        await process.start()
        yield process
    finally:
        if process is not None:
            await process.kill()
        await transport.close()


async def wait_covered(*shards: Shard, seconds: float = 60) -> None:
    """Wait until every record is acknowledged."""
    async with asyncio.timeout(seconds):
        while any(shard.acknowledged < len(shard.records) for shard in shards):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)


async def errors(process: AuditLogProcess) -> dict[str, str]:
    """Return region -> kind of error of what a shard did; through NATS a gap does not stop it."""
    text = (await process.ops("/metrics"))[1]
    found = {}
    for line in text.splitlines():
        if line.startswith("strongroom_audit_ingest_errors_total{") and not line.endswith(" 0.0"):
            labels = dict(
                part.split("=", 1) for part in line.partition("{")[2].partition("}")[0].split(",")
            )
            kind = labels["kind"].strip('"')
            if kind not in {"rpc", "commit"}:
                found[labels["region"].strip('"')] = kind
    return found


def check_exact(process: AuditLogProcess, *shards: Shard) -> int:
    """Verify the log: each record once, in order per shard, nothing else; return its size."""
    receipts = [receipt_of(item) for shard in shards for item in shard.records]
    verified = verify_log(process.config.log.directory, process.key, receipts=receipts)
    assert verified.shards == {
        shard.region: (shard.epoch, len(shard.records)) for shard in shards if shard.records
    }
    assert verified.checkpoint.size == len(receipts) == len(set(verified.receipts.values()))
    for shard in shards:
        leaves = [verified.receipts[receipt_of(item)] for item in shard.records]
        assert leaves == sorted(leaves)
    return verified.checkpoint.size


class Repeating:
    """Streams a shard's records in order, with 10 % of the batches again and old ones replayed."""

    def __init__(self, shard: Shard, seed: int):
        self._shard = shard
        self._rng = random.Random(seed)  # noqa: S311 - which batches
        self.sent = 0
        self.repeated = 0

    def __call__(
        self, request: messages.StreamRecordsRequest
    ) -> Iterator[messages.StreamRecordsResponse]:
        start = request.from_sequence or 1
        records = self._shard.records
        while start <= len(records):
            count = min(self._rng.randrange(1, 60), len(records) + 1 - start)
            yield self._batch(start, count)
            start += count
            draw = self._rng.random()
            if draw < 0.10:  # again, or overlapping with what comes next
                first = max(1, start - self._rng.randrange(1, 60))
                yield self._batch(first, start - first, repeated=True)
            elif draw < 0.13:  # an old batch, from anywhere
                first = self._rng.randrange(1, start)
                yield self._batch(first, min(40, start - first), repeated=True)

    def _batch(
        self, start: int, count: int, *, repeated: bool = False
    ) -> messages.StreamRecordsResponse:
        self.sent += count
        self.repeated += count if repeated else 0
        records = self._shard.records[start - 1 : start - 1 + count]
        return message(self._shard.region, self._shard.epoch, start, records)


async def test_duplicates_and_replays_enter_once(
    tmp_path: Path,
    authority: CertificateAuthority,
    transport: Transport,
    figures: Callable[..., None],
) -> None:
    """10 % of the batches twice, 3 % old ones again, two kill -9: each record once, in order."""
    shards = transport.shard("eu-1"), transport.shard("us-1", 6)
    scripts = []
    for seed, shard in enumerate(shards):
        shard.add(6_000 * factor())
        scripts.append(Repeating(shard, seed))
        shard.script = scripts[-1]
    began = time.perf_counter()
    async with running(tmp_path, authority, transport, *shards) as process:
        for pause in (0.3, 0.6):
            await asyncio.sleep(pause)
            await process.kill()
            await process.start()
        await wait_covered(*shards)
        seconds = time.perf_counter() - began
        assert await errors(process) == {}
        assert await process.stop() == 0
        size = check_exact(process, *shards)
    figures(
        records=size,
        sent=sum(script.sent for script in scripts),
        sent_again_on_purpose=sum(script.repeated for script in scripts),
        lost=0,
        twice=0,
        seconds=seconds,
    )


async def test_a_window_of_reordering_is_never_sorted_into_the_log(
    tmp_path: Path,
    authority: CertificateAuthority,
    transport: Transport,
    figures: Callable[..., None],
) -> None:
    """Batches shuffled within 100 records are refused; the log has no hole, then all of it.

    A shard that sends them itself is stopped. NATS may have lost what is missing, so there
    the log asks for it, and gets a bit further each time.
    """
    rng = random.Random(3)  # noqa: S311 - the order
    kind = "gap" if transport.name == "direct" else "missing"
    shard, honest = transport.shard("eu-1"), transport.shard("us-1", 6)
    shard.add(2_000)
    honest.add(500)

    def shuffled(request: messages.StreamRecordsRequest) -> Responses:
        start = request.from_sequence or 1
        batches = [
            message("eu-1", 5, first, shard.records[first - 1 : first + 9])
            for first in range(start, len(shard.records) + 1, 10)
        ]
        # In order for a while, so that each round gets further.
        head = rng.randrange(1, 12)
        windows = [batches[:head]]
        for at in range(head, len(batches), 10):
            window = batches[at : at + 10]
            rng.shuffle(window)
            windows.append(window)
        return [batch for window in windows for batch in window]

    shard.script = shuffled
    total = rounds(5)
    reached = []
    async with running(tmp_path, authority, transport, shard, honest) as process:
        for _ in range(total):
            async with asyncio.timeout(20):
                while "eu-1" not in (kinds := await errors(process)):  # noqa: ASYNC110 - metrics of another process
                    await asyncio.sleep(0.02)
            assert kinds == {"eu-1": kind}
            await wait_covered(honest)
            honest.add(20)
            await wait_covered(honest)
            await process.stop()
            verified = verify_log(process.config.log.directory, process.key)
            reached.append(verified.shards.get("eu-1", (5, 0))[1])
            await process.start()
        await process.stop()
        shard.script = None
        await process.start()
        await wait_covered(shard, honest)
        await process.stop()
        size = check_exact(process, shard, honest)
    assert reached == sorted(reached)
    figures(rounds=total, refused_as=kind, records=size, lost=0, out_of_order=0)


def forgeries(region: str, epoch: int) -> dict[str, tuple[str, messages.StreamRecordsResponse]]:
    """Return what -> (kind of error, what a shard sends behind its first 10 records)."""
    good = [record(region, epoch, n) for n in range(11, 15)]
    return {
        "batch of another region": ("forged", message("eu-1", epoch, 11, good)),
        "record of another region": (
            "forged",
            message(region, epoch, 11, [record("eu-1", epoch, 11)]),
        ),
        "record of another sequence": ("forged", message(region, epoch, 11, good[1:])),
        "record of another epoch": (
            "forged",
            message(region, epoch, 11, [record(region, epoch + 1, 11)]),
        ),
        "two stories": (
            "conflict",
            message(region, epoch, 10, [record(region, epoch, 10, outcome="DENIED")]),
        ),
        "an older epoch": (
            "epoch",
            message(region, epoch - 1, 1, [record(region, epoch - 1, 1)]),
        ),
        "a hole": ("gap", message(region, epoch, 12, good[1:])),
        "no record": ("malformed", message(region, epoch, 11, [b'{"region":"x"}'])),
    }


async def test_forgeries_stop_their_shard_and_no_other(
    tmp_path: Path,
    authority: CertificateAuthority,
    transport: Transport,
    figures: Callable[..., None],
) -> None:
    """Eight shards forge at once; each is stopped, and an honest one goes on meanwhile."""
    honest = transport.shard("eu-1")
    honest.add(300)
    liars: list[Shard] = []
    expected: dict[str, str] = {}
    for number, what in enumerate(forgeries("x", 2)):
        shard = transport.shard(f"liar-{number}", 7)
        shard.add(10)
        kind, bad = forgeries(shard.region, 7)[what]
        good = message(shard.region, 7, 1, shard.records)
        shard.script = lambda _request, good=good, bad=bad: [good, bad]
        liars.append(shard)
        expected[shard.region] = kind
        if transport.name == "nats":
            # Somebody else's region is somebody else's message, and a hole is asked for.
            through_nats = {"batch of another region": "impostor", "a hole": "missing"}
            expected[shard.region] = through_nats.get(what, kind)
    async with running(tmp_path, authority, transport, honest, *liars) as process:
        async with asyncio.timeout(30):
            while len(found := await errors(process)) < len(expected):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        assert found == expected
        honest.add(300)
        # What the liars sent before is in the log; they are not told, being stopped.
        await wait_covered(honest)
        assert await process.stop() == 0
        size = check_exact(process, honest, *liars)
    figures(forgeries=len(liars), refused=len(liars), records=size)


async def test_another_shard_at_the_endpoint_is_not_believed(
    tmp_path: Path, authority: CertificateAuthority, figures: Callable[..., None]
) -> None:
    """A shard with a good certificate, but another shard's name, delivers nothing."""
    shards = Shard("eu-1"), Shard("us-1", 6)
    ports = {}
    for shard in shards:
        shard.add(50)
        files = authority.issue(shard.region, dns=f"{shard.region}.kms.example.org")
        ports[shard.region] = await shard.start(authority, files)
    # us-1's server answers where eu-1's should be, with records that claim to be of eu-1.
    impostor = shards[1]
    impostor.script = lambda _request: [message("eu-1", 5, 1, shards[0].records)]
    ports["eu-1"] = ports["us-1"]
    process = AuditLogProcess.create(tmp_path / "home", authority.issue("audit-log"), ports)
    text = process.config_file.read_text()
    for region in ports:
        section = f'region = "{region}"'
        text = text.replace(section, f'{section}\nserver_name = "{region}.kms.example.org"')
    process.config_file.write_text(text)
    impostor.region = "eu-1"
    await process.start()
    try:
        async with asyncio.timeout(20):
            while 'kind="rpc",region="eu-1"} 0.0' in (await process.ops("/metrics"))[1]:  # noqa: ASYNC110 - metrics of another process
                await asyncio.sleep(0.05)
        eu_requests = [r for r in impostor.requests if r.region == "eu-1"]
        assert eu_requests == []
        assert await process.stop() == 0
    finally:
        await process.kill()
        for shard in shards:
            await shard.stop()
    assert "eu-1" not in verify_log(process.config.log.directory, process.key).shards
    figures(records_of_the_impostor=0)
