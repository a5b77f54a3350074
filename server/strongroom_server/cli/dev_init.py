"""``strongroom dev init``: makes a development deployment, once.

The operator's client.toml is written last. A directory without it was left by a run that
was interrupted: it is neither used nor repaired, since half a deployment may have keys in
its tokens that nobody could name.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Final

from strongroom_auditlog.app import initialize
from strongroom_auditlog.config import load_config
from strongroom_server.cli import dev_configs
from strongroom_server.cli.dev_ca import CertificateAuthority
from strongroom_server.cli.dev_files import make_directory, write_private, write_public
from strongroom_server.cli.dev_layout import (
    CLIENTS,
    OPERATOR,
    Layout,
    Ports,
    check_regions,
    principal,
)
from strongroom_server.cli.failures import CliError
from strongroom_server.hsm.softhsm import SoftHsm, SoftHsmToken, find_softhsm, init_token

__all__ = ["REGIONS", "check_same", "create", "renew_certificates"]

REGIONS: Final = ("eu-1", "us-1")
PIN_BYTES: Final = 16


def create(layout: Layout, *, regions: Sequence[str], port_base: int) -> None:
    """Make a deployment in a directory that is not there, or empty.

    Raises:
        CliError: The directory holds something, or the regions cannot be laid out.
        StartRefusedError: SoftHSM is not there, or refuses.
    """
    check_regions(regions)
    if layout.root.exists() and any(layout.root.iterdir()):
        raise CliError(
            "FILE_EXISTS",
            f"{layout.root}: holds something that is no complete deployment",
            "an interrupted `dev init` leaves this: delete the directory, or name another",
        )
    softhsm = find_softhsm()
    ports = Ports.free(regions) if port_base == 0 else Ports.from_base(regions, port_base)
    for directory in (layout.root, layout.ca, layout.tls, layout.audit_log, layout.logs):
        make_directory(directory)
    authority = CertificateAuthority.create(now=_now())
    authority.save(layout.ca)
    _issue_all(authority, layout, regions)
    for region in regions:
        token = _make_shard(layout, region, softhsm)
        text = dev_configs.server_config(layout, region, ports, token=token)
        write_public(layout.server_config(region), text.encode())
    write_public(
        layout.audit_log_config,
        dev_configs.audit_log_config(layout, regions, ports).encode(),
    )
    initialize(load_config(layout.audit_log_config))
    for client in (*CLIENTS, OPERATOR):
        path = layout.client_config if client == OPERATOR else layout.client_config_of(client)
        write_public(path, dev_configs.client_config(client, regions, ports).encode())


def check_same(layout: Layout, regions: Sequence[str] | None) -> None:
    """Check that a deployment has the regions asked for; None asks for nothing.

    Raises:
        CliError: It has others.
    """
    present = list(layout.server_configs())
    if regions is not None and sorted(regions) != present:
        raise CliError(
            "FILE_EXISTS",
            f"{layout.root}: exists with the regions {', '.join(present)}",
            "name another directory with --dir",
        )


def renew_certificates(layout: Layout) -> list[str]:
    """Issue every certificate anew under the same CA; servers read them by themselves.

    Returns:
        The names of the certificates.

    Raises:
        CliError: There is no deployment here.
    """
    if not layout.is_complete:
        raise CliError("FILE", f"{layout.root}: no deployment; `strongroom dev init` makes one")
    authority = CertificateAuthority.load(layout.ca)
    return _issue_all(authority, layout, list(layout.server_configs()))


def _issue_all(
    authority: CertificateAuthority, layout: Layout, regions: Sequence[str]
) -> list[str]:
    now = _now()
    holders = {f"server-{region}": principal("server", region) for region in regions}
    holders |= {name: principal(name) for name in ("audit-log", OPERATOR, *CLIENTS)}
    for name, holder in holders.items():
        authority.issue(layout.tls, name, principal=holder, now=now)
    return list(holders)


def _make_shard(layout: Layout, region: str, softhsm: SoftHsm) -> SoftHsmToken:
    directory = layout.shard(region)
    make_directory(directory.parent)
    make_directory(directory)
    pin = secrets.token_hex(PIN_BYTES)
    write_private(directory / "pin", pin.encode())
    return init_token(directory, f"strongroom-{region}"[:32], pin, softhsm=softhsm)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
