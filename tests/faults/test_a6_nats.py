"""A6 through NATS: forged publishers, replays, forged acknowledgements, and a NATS that loses."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import receipt_of, record
from tests.support.audit_shard import Shard
from tests.support.audit_transports import NatsTransport
from tests.support.nats_server import NatsServer
from tests.support.nats_shard import NatsShard, nats_endpoint
from tests.support.soak import rounds

from strongroom.jetstream.connection import JetStream
from strongroom.jetstream.endpoint import NatsError, ack_subject, batch_subject
from strongroom.jetstream.identity import SigningIdentity
from strongroom.jetstream.messages import (
    Acknowledgement,
    Batch,
    open_batch,
    seal_acknowledgement,
    seal_batch,
)
from strongroom_auditlog.tls import CredentialFiles
from strongroom_auditlog.verify import verify_log

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SUBJECT = batch_subject("eu-1")


@dataclass
class Field:
    """A shard, NATS and an audit log, and somebody who may do anything in NATS."""

    authority: CertificateAuthority
    nats: NatsServer
    log: AuditLogProcess
    shard: NatsShard
    admin: CredentialFiles

    async def covered(self, records: int, seconds: float = 60) -> None:
        """Wait until so many records are acknowledged."""
        async with asyncio.timeout(seconds):
            while self.shard.acknowledged < records:  # noqa: ASYNC110 - it happens elsewhere
                await asyncio.sleep(0.01)

    async def errors(self, kind: str) -> float:
        """Return how often the audit log counted an error."""
        name = f'strongroom_audit_ingest_errors_total{{kind="{kind}",region="eu-1"}} '
        lines = (await self.log.ops("/metrics"))[1].splitlines()
        return float(next(line for line in lines if line.startswith(name)).removeprefix(name))

    async def counted(self, kind: str, times: int) -> None:
        """Wait until the audit log has counted so many errors."""
        async with asyncio.timeout(30):
            while await self.errors(kind) < times:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.02)

    def identity(self, files: CredentialFiles) -> SigningIdentity:
        """Return who signs with a certificate."""
        return SigningIdentity.from_pem(
            files.certificate.read_bytes(), files.private_key.read_bytes()
        )

    @asynccontextmanager
    async def as_admin(self) -> AsyncIterator[JetStream]:
        """Connect as somebody who may do anything."""
        endpoint = nats_endpoint(self.nats.address, self.admin)
        async with JetStream.open(endpoint, name="admin") as connection:
            yield connection

    async def check(self) -> int:
        """End, and verify: each record once and nothing else; return how many there are."""
        assert await self.errors("forged") == await self.errors("gap") == 0
        assert await self.log.stop() == 0
        receipts = [receipt_of(item) for item in self.shard.records]
        verified = verify_log(self.log.config.log.directory, self.log.key, receipts=receipts)
        assert verified.shards == {"eu-1": (self.shard.epoch, len(receipts))}
        assert verified.checkpoint.size == len(set(verified.receipts.values())) == len(receipts)
        return len(receipts)


@pytest.fixture
async def field(tmp_path: Path) -> AsyncIterator[Field]:
    """Run all of it."""
    authority = CertificateAuthority.create(tmp_path / "tls")
    transport = NatsTransport()
    shard = transport.shard()
    process = None
    try:
        process = await transport.connect(tmp_path, authority, shard)
        assert transport.server is not None
        await process.start()
        admin = authority.issue("nats-admin")
        yield Field(authority, transport.server, process, shard, admin)
    finally:
        if process is not None:
            await process.kill()
        await transport.close()


def batch(first: int, count: int, *, epoch: int = 5, region: str = "eu-1") -> Batch:
    """Return a batch of records as a shard would write them."""
    records = tuple(record(region, epoch, first + i) for i in range(count))
    return Batch(region, epoch, first, 0, records)


async def test_what_the_shard_did_not_sign_is_dropped(
    field: Field, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """Whoever owns NATS, or has another certificate, adds nothing and stops nothing."""
    field.shard.add(100)
    await field.covered(100)
    shard = field.identity(field.shard.files(field.authority))
    elsewhere = CertificateAuthority.create(tmp_path / "elsewhere")
    namesake = elsewhere.issue("x", "spiffe://example.org/server-eu-1")
    twice = field.authority.issue(
        "twice", "spiffe://example.org/server-eu-1", "spiffe://example.org/b"
    )
    good = seal_batch(batch(101, 5), shard)
    forged = {
        "signed by another principal": seal_batch(batch(101, 5), field.identity(field.admin)),
        "signed by a namesake of another CA": seal_batch(batch(101, 5), field.identity(namesake)),
        "of a certificate with two names": seal_batch(batch(101, 5), _unchecked(twice)),
        "with the chain of the shard, and another key": seal_batch(
            batch(101, 5), SigningIdentity("x", shard.chain, field.identity(field.admin)._key)
        ),
        "a bit of it flipped": good[:-90] + bytes([good[-90] ^ 1]) + good[-89:],
        "cut": good[:-1],
        "longer": good + b"\0",
        "of another region": seal_batch(batch(101, 5, region="us-1"), shard),
        "an acknowledgement": seal_acknowledgement(Acknowledgement("eu-1", 5, 100, 0, 1), shard),
        "no message": b"records",
        "nothing": b"",
    }
    async with field.as_admin() as connection:
        for number, message in enumerate(forged.values()):
            await connection.publish(SUBJECT, message, f"forged-{number}")
        await field.counted("impostor", len(forged))
    field.shard.add(100)
    await field.covered(200)
    figures(forgeries=len(forged), dropped=len(forged), records=await field.check())


def _files(field: Field, name: str) -> CredentialFiles:
    root = field.authority.directory
    return CredentialFiles(root / f"{name}.pem", root / f"{name}.key", root / "ca.pem")


def _unchecked(files: CredentialFiles) -> SigningIdentity:
    """Return an identity that an honest sender would not begin with."""
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    key = serialization.load_pem_private_key(files.private_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return SigningIdentity("x", (certificate.public_bytes(serialization.Encoding.DER),), key)


async def test_old_messages_that_are_replayed_change_nothing(
    field: Field, figures: Callable[..., None]
) -> None:
    """What the shard once signed comes again in any order, of an older spool too."""
    shard = field.shard
    identity = field.identity(shard.files(field.authority))
    shard.epoch = 4
    shard.add(60)
    await shard.stop()
    await shard.publish_to(field.nats.address, field.authority)
    await field.covered(60)
    old = [seal_batch(batch(n, 20, epoch=4), identity) for n in (1, 21, 41)]
    # The spool was moved away once everything was in the log: a new one.
    await shard.stop()
    shard.epoch, shard.records, shard.acknowledged = 5, [], 0
    shard.add(60)
    await shard.publish_to(field.nats.address, field.authority)
    await field.covered(60)
    old += [seal_batch(batch(n, 20), identity) for n in (1, 21, 41)]
    async with field.as_admin() as connection:
        for message in [*old, *reversed(old), *old]:
            await connection.publish(SUBJECT, message, secrets.token_hex(8))
    shard.add(60)
    await field.covered(120)
    assert await field.errors("epoch") == await field.errors("conflict") == 0
    assert await field.log.stop() == 0
    verified = verify_log(field.log.config.log.directory, field.log.key)
    assert verified.shards == {"eu-1": (5, 120)}
    assert verified.checkpoint.size == 180
    figures(replayed=3 * len(old), records=180, twice=0)


async def test_an_old_spool_that_was_not_in_the_log_stops_the_shard(field: Field) -> None:
    """Records of an older epoch that the log has not are no replay: the shard signed them."""
    field.shard.add(10)
    await field.covered(10)
    identity = field.identity(field.shard.files(field.authority))
    async with field.as_admin() as connection:
        await connection.publish(SUBJECT, seal_batch(batch(1, 3, epoch=4), identity))
        await field.counted("epoch", 1)


async def test_only_the_audit_log_acknowledges(
    field: Field, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """A forged or replayed acknowledgement deletes nothing from the spool."""
    shard = field.shard
    shard.add(50)
    await field.covered(50)
    await field.log.kill()
    shard.add(50)
    log = field.identity(_files(field, "audit-log"))
    elsewhere = CertificateAuthority.create(tmp_path / "elsewhere")
    namesake = field.identity(elsewhere.issue("x", "spiffe://example.org/audit-log"))
    whole = Acknowledgement("eu-1", 5, 100, 0, int(time.time() * 1000) + 10**6)
    good = seal_acknowledgement(whole, log)
    forged = [
        seal_acknowledgement(whole, field.identity(field.admin)),
        seal_acknowledgement(whole, field.identity(shard.files(field.authority))),
        seal_acknowledgement(whole, namesake),
        good[:-90] + bytes([good[-90] ^ 1]) + good[-89:],
        seal_acknowledgement(Acknowledgement("us-1", 5, 100, 0, 1), log),
        seal_acknowledgement(Acknowledgement("eu-1", 4, 100, 0, 1), log),
        seal_acknowledgement(Acknowledgement("eu-1", 5, 20, 0, 1), log),
        b"",
    ]
    async with field.as_admin() as connection:
        for message in forged:
            await connection.publish(ack_subject("eu-1"), message)
            await asyncio.sleep(0.05)
        assert shard.acknowledged == 50
        # Were it the log's own word, it would count: the test looks at the right place.
        await connection.publish(ack_subject("eu-1"), good)
        await field.covered(100, 10)
    figures(forged=len(forged), believed=0)


async def test_a_restored_spool_is_noticed_by_its_shard(field: Field) -> None:
    """A spool that ends before what the log has of it is not published any more."""
    shard = field.shard
    shard.add(50)
    await field.covered(50)
    await shard.stop()
    shard.records, shard.acknowledged = shard.records[:30], 20
    await shard.publish_to(field.nats.address, field.authority)
    publisher = shard.publisher
    assert publisher is not None
    async with asyncio.timeout(20):
        while publisher.stopped is None:  # noqa: ASYNC110 - a task of the publisher
            await asyncio.sleep(0.01)
    assert "restored" in str(publisher.stopped)
    assert shard.acknowledged == 20


async def test_kills_of_nats_lose_and_repeat_nothing(
    field: Field, figures: Callable[..., None]
) -> None:
    """kill -9 of nats-server and of the audit log, a NATS that hangs: each record once."""
    shard = field.shard
    adding = asyncio.create_task(_add_steadily(shard))
    down = []
    try:
        for number in range(rounds(3)):
            await asyncio.sleep(0.4)
            field.nats.kill()
            if number % 2:
                await field.log.kill()
                await field.log.start()
            await asyncio.sleep(0.3)
            field.nats.start()
            began, before = time.perf_counter(), shard.acknowledged
            await field.covered(before + 1)
            down.append(time.perf_counter() - began)
        with field.nats.standing_still():
            await asyncio.sleep(1)
    finally:
        adding.cancel()
    await field.covered(len(shard.records))
    figures(records=await field.check(), acknowledged_again_seconds=down, lost=0, twice=0)


async def _add_steadily(shard: NatsShard) -> None:
    while True:
        shard.add(20)
        await asyncio.sleep(0.02)


async def test_a_nats_that_lost_its_store_is_sent_everything_again(
    field: Field, figures: Callable[..., None]
) -> None:
    """What JetStream had acknowledged and lost comes again from the spool, without a hole."""
    shard = field.shard
    shard.add(100)
    await field.covered(100)
    await field.log.kill()
    shard.add(1000)
    async with field.as_admin() as connection:
        async with asyncio.timeout(20):
            while await _last_published(field, connection) < 1100:  # noqa: ASYNC110 - in NATS
                await asyncio.sleep(0.02)
    field.nats.kill()
    field.nats.lose_everything()
    field.nats.start()
    await field.log.start()
    began = time.perf_counter()
    await field.covered(1100)
    figures(seconds=time.perf_counter() - began, records=await field.check(), lost=0)


async def test_records_that_went_missing_are_asked_for(
    field: Field, figures: Callable[..., None]
) -> None:
    """When somebody takes messages out of the stream, the log notices at the next batch."""
    shard = field.shard
    shard.add(100)
    await field.covered(100)
    await field.log.kill()
    shard.add(500)
    async with field.as_admin() as connection:
        async with asyncio.timeout(20):
            while await _last_published(field, connection) < 600:  # noqa: ASYNC110 - in NATS
                await asyncio.sleep(0.02)
        # As the consumer whom they are for, the thief takes all of them.
        stolen = await connection.consume("eu-1")
        async with asyncio.timeout(20):
            taken = 0
            while taken < 500:
                delivery = await stolen.get()
                taken += 500 if b'"sequence":600,' in delivery.data else 0
                await delivery.done()
    await field.log.start()
    shard.add(1)
    await field.covered(601)
    missing = await field.errors("missing")
    assert missing >= 1
    figures(missing=missing, records=await field.check())


async def _last_published(field: Field, connection: JetStream) -> int:
    last = await connection.last("STRONGROOM_AUDIT", SUBJECT)
    if last is None:
        return 0
    _, verifier = field.shard._signing.load()  # type: ignore[union-attr]
    return open_batch(last, verifier, now=datetime.now(UTC))[1].last


async def test_nats_keeps_shards_apart(field: Field) -> None:
    """With the permissions of the example, a shard neither writes nor reads another's subject."""
    files = field.shard.files(field.authority)
    async with JetStream.open(nats_endpoint(field.nats.address, files), name="shard-eu-1") as own:
        for call in (
            own.publish(batch_subject("us-1"), b"x"),
            own.publish(ack_subject("eu-1"), b"x"),
            own.last("STRONGROOM_AUDIT", batch_subject("us-1")),
            own.consume("eu-1"),
        ):
            with pytest.raises(NatsError):
                await call


async def test_who_is_not_known_to_nats_gets_no_connection(field: Field) -> None:
    """A certificate of the CA whose principal has no user is refused, and so is another CA."""
    stranger = field.authority.issue("stranger")
    with pytest.raises(NatsError, match="no NATS server"):
        async with JetStream.open(nats_endpoint(field.nats.address, stranger), name="x"):
            pass


async def test_a_stream_that_could_forget_is_refused(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    """A stream with other settings than the format's is not used, and the message says which."""
    admin = authority.issue("nats-admin")
    server = NatsServer.create(
        tmp_path / "nats", authority.issue("nats"), {}, admins=["spiffe://example.org/nats-admin"]
    )
    server.start()
    try:
        endpoint = nats_endpoint(server.address, admin)
        async with JetStream.open(endpoint, name="x") as connection:
            context = connection._context
            await context.delete_stream("STRONGROOM_AUDIT")
            await context.add_stream(name="STRONGROOM_AUDIT", subjects=["strongroom.audit.*"])
        with pytest.raises(NatsError, match="retention, discard"):
            async with JetStream.open(endpoint, name="x"):
                pass
    finally:
        server.kill()


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    """Give a CA."""
    return CertificateAuthority.create(tmp_path / "ca")


async def test_a_shard_changes_its_transport(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    """From direct to NATS and back: each record once, and the principal counts with both."""
    shard = NatsShard()
    files = shard.files(authority)
    nats = NatsServer.create(
        tmp_path / "nats",
        authority.issue("nats"),
        {"eu-1": "spiffe://example.org/server-eu-1"},
    )
    port = await shard.start(authority, files)
    process = AuditLogProcess.create(
        tmp_path / "home", authority.issue("audit-log"), {"eu-1": port}
    )
    direct = process.config_file.read_text()
    direct += '\nprincipal = "spiffe://example.org/server-eu-1"\n'
    head, endpoint = direct.split("[[shards]]")
    endpoint = endpoint.replace("endpoint = ", 'transport = "nats" #')
    through_nats = f'{head}[nats]\nservers = ["{nats.address}"]\n[[shards]]{endpoint}'
    nats.start()
    try:
        for way in (direct, through_nats, direct):
            process.config_file.write_text(way)
            shard.add(100)
            if way is through_nats:
                await shard.publish_to(nats.address, authority)
            await process.start()
            async with asyncio.timeout(30):
                while shard.acknowledged < len(shard.records):  # noqa: ASYNC110 - elsewhere
                    await asyncio.sleep(0.01)
            await shard.stop()
            assert await process.stop() == 0
    finally:
        await process.kill()
        await shard.stop()
        await Shard.stop(shard)
        nats.kill()
    verified = verify_log(process.config.log.directory, process.key)
    assert verified.shards == {"eu-1": (5, 300)}
    assert verified.checkpoint.size == 300
