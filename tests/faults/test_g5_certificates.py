"""G5: certificates are replaced under load. Bad ones: test_bad_input.py."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable

import pytest
from cryptography import x509
from tests.support.deployment import AUDIT_LOG, Deployment
from tests.support.load import running_load

from strongroom_server.cli import dev_init
from strongroom_server.cli.dev_ca import CertificateAuthority
from strongroom_server.cli.dev_files import write_private, write_public

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SERVER = f"server-{EU}"


def _serial(deployment: Deployment) -> int:
    """Return the serial number of the certificate that a new handshake gets."""
    host, _, port = deployment.address(EU).rpartition(":")
    tls = deployment.tls_of("orders")
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.load_cert_chain(tls.certificate_file, tls.private_key_file)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


async def _wait_for_new(deployment: Deployment, old: int) -> float:
    began = time.monotonic()
    while await asyncio.to_thread(_serial, deployment) == old:
        assert time.monotonic() - began < 15
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def test_new_certificates_are_taken_up_under_load(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """All files replaced: no call fails, new handshakes get the new one, the log goes on."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    taken_up = []
    async with running_load(deployment, EU, key, callers=6, pause=0.03) as load:
        for _ in range(2):
            old = _serial(deployment)
            await asyncio.to_thread(dev_init.renew_certificates, deployment.layout)
            taken_up.append(await _wait_for_new(deployment, old))
            async with deployment.aio_channel(EU) as channel:
                await asyncio.wait_for(channel.channel_ready(), 10)
    figures(taken_up_seconds=taken_up, answers=load.answered)
    assert load.refusals == {}
    assert load.wrong == []
    # A restarted log connects with its new certificate to servers with theirs.
    deployment.stop(AUDIT_LOG)
    deployment.start(AUDIT_LOG)
    deployment.wait_ready()
    deployment.wait_drained()
    deployment.verify(load.receipts)


async def test_files_that_do_not_fit_are_not_taken(deployment: Deployment) -> None:
    """A certificate without its key stays out; the old pair serves, and the log says so."""
    tls = deployment.layout.tls
    pair = [tls / f"{SERVER}.pem", tls / f"{SERVER}.key"]
    good = [path.read_bytes() for path in pair]
    old = _serial(deployment)
    write_private(pair[1], (tls / "orders.key").read_bytes())
    write_public(pair[0], b"-----BEGIN CERTIFICATE-----\n")
    began = time.monotonic()
    while "the old ones stay" not in deployment.log_text(SERVER):
        assert time.monotonic() - began < 15
        await asyncio.sleep(0.1)
    assert _serial(deployment) == old
    assert deployment.is_ready(SERVER)
    authority = CertificateAuthority.load(deployment.layout.ca)
    authority.issue(
        tls,
        SERVER,
        principal="spiffe://strongroom.dev/server/eu-1",
        now=dt.datetime.now(dt.UTC).replace(microsecond=0),
    )
    assert [path.read_bytes() for path in pair] != good
    await _wait_for_new(deployment, old)
