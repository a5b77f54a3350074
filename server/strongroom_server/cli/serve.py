"""The processes, and ``strongroom config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["audit_log", "audit_witness", "config_app", "serve"]

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
    rebuild_state: Annotated[
        bool,
        typer.Option(
            "--rebuild-state",
            help="Make a lost state again from the log and its last checkpoint, then end.",
        ),
    ] = False,
    rebuild_last_checkpoint: Annotated[
        bool,
        typer.Option(
            "--rebuild-last-checkpoint",
            help="Make a lost last checkpoint again from log and state, which must be the newest; "
            "then end.",
        ),
    ] = False,
) -> None:
    """Keep the records of all regions in a log.

    Reads every shard's spool, appends to a Merkle log, signs checkpoints and serves
    proofs until SIGTERM.
    """
    from strongroom_auditlog.app import run
    from strongroom_auditlog.lifecycle import initialize
    from strongroom_auditlog.lifecycle import rebuild_last_checkpoint as make_last_checkpoint
    from strongroom_auditlog.lifecycle import rebuild_state as make_state
    from strongroom_server.cli.config_kinds import load_audit_log_config
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note

    if init + rebuild_state + rebuild_last_checkpoint > 1:
        raise CliError.usage("--init and the two --rebuild- options: one at a time")
    loaded = load_audit_log_config(config)
    if rebuild_state:
        note(f"{loaded.log.state}: made, at {make_state(loaded).size} records")
        return
    if rebuild_last_checkpoint:
        made = make_last_checkpoint(loaded)
        note(f"{loaded.last_checkpoint_file}: made, at {made.size} records")
        return
    if init:
        # Standard output gets the key alone: whoever verifies the log needs it out of band.
        print(initialize(loaded))
        note(f"written to {loaded.verifier_key_file}")
        return
    raise typer.Exit(run(loaded))


def audit_witness(
    config: ConfigFileOption,
    init: Annotated[
        bool, typer.Option("--init", help="Make the witness's key and an empty state, then end.")
    ] = False,
) -> None:
    """Cosign the checkpoints of audit logs.

    A C2SP tlog-witness: it signs what a log has signed as long as the log only grew. To be
    run by somebody else than the log.
    """
    from strongroom_auditlog.witness.app import initialize, run
    from strongroom_server.cli.config_kinds import load_witness_config
    from strongroom_server.cli.output import note

    loaded = load_witness_config(config)
    if init:
        # Standard output gets the key alone: logs and verifiers need it out of band.
        print(initialize(loaded))
        note(f"written to {loaded.verifier_key_file}")
        return
    raise typer.Exit(run(loaded))


@config_app.command("digest")
def digest(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration of a server.")],
) -> None:
    """Print the SHA-256 of a server's effective configuration.

    As its record ServerStarted has it; settings from the environment count.
    """
    from strongroom_server.cli.config_kinds import load_server_config

    print(load_server_config(file).digest())


@config_app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(help="Configuration of a server, audit log, witness or client.")
    ],
) -> None:
    """Read a configuration as its process would.

    Prints ok, or every mistake and ends with 2.
    """
    from strongroom_server.cli.config_kinds import check_config

    print(f"{file}: ok, configuration of a {check_config(file)}")
