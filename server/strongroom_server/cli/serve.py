"""The processes: ``strongroom serve``, ``strongroom audit-log``, ``strongroom config check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["audit_log", "config_app", "serve"]

config_app = typer.Typer(
    help="Look at configuration files.", no_args_is_help=True, rich_markup_mode=None
)

ConfigFileOption = Annotated[
    Path,
    typer.Option(
        "--config", metavar="FILE", help="TOML file; `strongroom dev init` writes examples."
    ),
]


def serve(config: ConfigFileOption) -> None:
    """Serve regions until SIGTERM.

    SIGTERM drains: no new calls, those under way end, no answer is lost.
    """
    from strongroom_server.app import run
    from strongroom_server.cli.config_kinds import load_server_config

    raise typer.Exit(run(load_server_config(config)))


def audit_log(
    config: ConfigFileOption,
    init: Annotated[
        bool, typer.Option("--init", help="Make an empty log and its signing key, then end.")
    ] = False,
) -> None:
    """Keep the records of all regions in a log.

    Reads every shard's spool, appends to a Merkle log, signs checkpoints and serves
    proofs until SIGTERM.
    """
    from strongroom_auditlog.app import initialize, run
    from strongroom_server.cli.config_kinds import load_audit_log_config
    from strongroom_server.cli.output import note

    loaded = load_audit_log_config(config)
    if init:
        # Standard output gets the key alone: whoever verifies the log needs it out of band.
        print(initialize(loaded))
        note(f"written to {loaded.verifier_key_file}")
        return
    raise typer.Exit(run(loaded))


@config_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Configuration of a server, audit log or client.")],
) -> None:
    """Read a configuration as its process would.

    Prints ok, or every mistake and ends with 2.
    """
    from strongroom_server.cli.config_kinds import check_config

    print(f"{file}: ok, configuration of a {check_config(file)}")
