"""The configuration files of a development deployment, as TOML text.

Paths in them are relative to the file, except where the HSM module reads them itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from strongroom_server.cli.dev_layout import CLIENTS, OPERATOR, Layout, Ports, principal
from strongroom_server.hsm.softhsm import SoftHsmToken

LOG_ORIGIN: Final = "strongroom.dev/audit-log"

__all__ = ["audit_log_config", "client_config", "server_config"]


def server_config(layout: Layout, region: str, ports: Ports, *, token: SoftHsmToken) -> str:
    """Return the configuration of the server of one region."""
    mine = ports.servers[region]
    shard = f"shards/{region}"
    environment = ", ".join(
        f"{name} = {_quote(value)}" for name, value in sorted(token.environment.items())
    )
    return f"""\
# The server of region {region}: strongroom serve --config {layout.server_config(region).name}
[server]
listen = "127.0.0.1:{mine.port}"
reflection = true  # for development only

[tls]
certificate_file = "tls/server-{region}.pem"
private_key_file = "tls/server-{region}.key"
client_ca_file = "ca/ca.pem"

[ops]
listen = "127.0.0.1:{mine.ops_port}"

[access]
administrators = [{_quote(principal(OPERATOR))}]
key_creators = [{", ".join(_quote(principal(client)) for client in CLIENTS)}]
audit_consumers = [{_quote(principal("audit-log"))}]

[log]
level = "info"

[[shards]]
region = {_quote(region)}
module = {_quote(str(token.module))}
module_environment = {{ {environment} }}
token_label = {_quote(token.label)}
pin_file = "{shard}/pin"
store = "{shard}/store.sqlite3"
spool = "{shard}/spool"
"""


def audit_log_config(layout: Layout, regions: Sequence[str], ports: Ports) -> str:
    """Return the configuration of the audit log."""
    shards = "\n".join(
        f"""
[[shards]]
region = {_quote(region)}
endpoint = "127.0.0.1:{ports.servers[region].port}\""""
        for region in regions
    )
    return f"""\
# The audit log of all regions: strongroom audit-log --config {layout.audit_log_config.name}
[log]
directory = "audit-log/log"
state = "audit-log/state.sqlite3"
origin = {_quote(LOG_ORIGIN)}
private_key_file = "audit-log/log.key"
verifier_key_file = "audit-log/log.vkey"

[server]
listen = "127.0.0.1:{ports.audit_log.port}"

[tls]
certificate_file = "tls/audit-log.pem"
private_key_file = "tls/audit-log.key"
ca_file = "ca/ca.pem"

[ops]
listen = "127.0.0.1:{ports.audit_log.ops_port}"

[access]
readers = [{_quote(principal(OPERATOR))}]
{shards}
"""


def client_config(client: str, regions: Sequence[str], ports: Ports) -> str:
    """Return the configuration of one caller."""
    endpoints = "\n".join(
        f'{region} = "127.0.0.1:{ports.servers[region].port}"' for region in regions
    )
    return f"""\
# {principal(client)}: export STRONGROOM_CONFIG=this file
[tls]
certificate_file = "tls/{client}.pem"
private_key_file = "tls/{client}.key"
ca_file = "ca/ca.pem"

[endpoints]
{endpoints}

[audit_log]
endpoint = "127.0.0.1:{ports.audit_log.port}"

[defaults]
region = {_quote(regions[0])}
"""


def _quote(text: str) -> str:
    # A JSON string of these texts is a TOML basic string: same quotes, same escapes.
    return json.dumps(text)
