"""A deployment whose shards reach the audit log through NATS."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.deployment import Deployment
from tests.support.nats_server import NatsServer

from strongroom_auditlog.tls import CredentialFiles
from strongroom_server.cli.dev_layout import principal

__all__ = ["nats_between"]


@contextlib.contextmanager
def nats_between(deployment: Deployment, directory: Path) -> Iterator[NatsServer]:
    """Run a NATS server, and have a deployment that does not run yet use it."""
    layout = deployment.layout
    tls = layout.tls
    # Certificates of a development deployment are for this machine, whoever shows them.
    files = CredentialFiles(tls / "orders.pem", tls / "orders.key", layout.ca / "ca.pem")
    shards = {region: principal("server", region) for region in deployment.regions}
    server = NatsServer.create(directory, files, shards, log=principal("audit-log"))
    section = f'[nats]\nservers = ["{server.address}"]\n\n[[shards]]\n'
    for region in deployment.regions:
        path = layout.server_config(region)
        text = path.read_text()
        path.write_text(text.replace("[[shards]]\n", section + 'transport = "nats"\n', 1))
    path = layout.audit_log_config
    text = re.sub(r"(?m)^endpoint = .*$", 'transport = "nats"', path.read_text())
    for region, holder in shards.items():
        line = f'region = "{region}"\n'
        text = text.replace(line, f'{line}principal = "{holder}"\n')
    path.write_text(text.replace("[[shards]]\n", section, 1))
    server.start()
    try:
        yield server
    finally:
        server.kill()
