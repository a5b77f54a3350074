"""The tree of commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from strongroom_server.cli import (
    aliases,
    audit,
    dev,
    files,
    grants,
    hsm,
    key_import,
    pairs,
    policy,
    secrets,
    serve,
    signatures,
)
from strongroom_server.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from strongroom_server.cli.failures import describe, format_failure
from strongroom_server.cli.options import Format, Invocation

__all__ = ["build_app", "run"]


def build_app() -> typer.Typer:
    """Return the command tree."""
    # Plain help: the rich one costs a quarter of a second at each --help.
    app = typer.Typer(
        name="strongroom",
        help="Key management with root keys in your own HSM.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for group, name in (
        (key_import.app, "keys"),
        (aliases.app, "aliases"),
        (policy.app, "policy"),
        (grants.app, "grants"),
        (audit.app, "audit"),
        (dev.app, "dev"),
        (hsm.app, "hsm"),
        (serve.config_app, "config"),
    ):
        app.add_typer(group, name=name)
    for function, name in (
        (files.encrypt, "encrypt"),
        (files.decrypt, "decrypt"),
        (files.rekey, "rekey"),
        (secrets.datakey, "datakey"),
        (secrets.random, "random"),
        (signatures.sign, "sign"),
        (signatures.verify, "verify"),
        (signatures.mac, "mac"),
        (signatures.verify_mac, "verify-mac"),
        (signatures.public_key, "public-key"),
        (pairs.derive, "derive"),
        (pairs.datakey_pair, "datakey-pair"),
        (serve.serve, "serve"),
        (serve.audit_log, "audit-log"),
        (serve.audit_witness, "audit-witness"),
    ):
        app.command(name)(function)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"strongroom {version('strongroom')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; None takes ``sys.argv``.

    Returns:
        The exit code, one of `ExitCode`, or the one that a server process ended with.
    """
    invocation = Invocation()
    if os.environ.get("STRONGROOM_OUTPUT") == "json":
        invocation.output = Format.JSON
    command = typer.main.get_command(build_app())
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name="strongroom",
            standalone_mode=False,
            obj=invocation,
        )
    except BrokenPipeError:
        # The reader went away (`| head`); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OTHER
    except (Exception, KeyboardInterrupt) as exc:
        # The edge of the program: what is known is told in one line, what is not is a
        # fault of ours and keeps its traceback.
        if type(exc).__name__ == "NoArgsIsHelpError":
            print(exc.format_message() if isinstance(exc, typer.TyperException) else "")
            return ExitCode.USAGE
        failure = describe(exc)
        if failure is None:
            raise
        as_json = invocation.output is Format.JSON
        print(format_failure(failure, as_json=as_json), file=sys.stderr)
        return failure.exit_code
    return result if isinstance(result, int) else ExitCode.OK
