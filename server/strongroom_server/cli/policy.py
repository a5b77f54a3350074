"""``strongroom policy``: who may do what with a key, by its policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli import policy_check
from strongroom_server.cli.keys import KeyArgument
from strongroom_server.cli.options import (
    ConfigOption,
    ContextOption,
    Format,
    OutputOption,
    RegionOption,
)

if TYPE_CHECKING:
    from strongroom_client import AccessExplanation, KeyPolicy

__all__ = ["app"]

app = typer.Typer(
    help="Who may do what with a key, by its policy.", no_args_is_help=True, rich_markup_mode=None
)
app.command("check")(policy_check.check)
app.command("test")(policy_check.run_cases)

Cell = str | int | float | bool | None
HISTORY_COLUMNS = ("revision", "author", "create_time", "policy_sha256")
CONSIDERED_COLUMNS = ("id", "effect", "applies", "because")


@app.command("get")
def get(
    key: KeyArgument,
    *,
    revision: Annotated[
        int, typer.Option(metavar="N", min=0, help="A policy that it had; 0: the one that holds.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the text there, and nothing else.")
    ] = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Print the policy of a key.

    The text alone, as `policy put` takes it; with -o json, all that is known of it.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import note, print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        policy = client.get_key_policy(resolve_key(client, target), revision=revision)
    if out is not None:
        out.write_text(policy.policy, encoding="utf-8")
    if output is Format.JSON:
        print_fields({"policy": policy.policy, **_describe(policy)}, output)
    elif out is None:
        sys.stdout.write(_visible(policy.policy))
    else:
        note(f"revision {policy.revision}, etag {policy.etag}")


@app.command("put")
def put(
    key: KeyArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Cedar policy set.")],
    *,
    etag: Annotated[
        str, typer.Option(metavar="ETAG", help="Of the policy that must still hold.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the service check all, and change nothing.")
    ] = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Give a key another policy.

    The policies before are kept: `policy history`. In force everywhere within one second.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    text = file.read_text(encoding="utf-8")
    with KmsClient(options) as client:
        policy = client.put_key_policy(
            resolve_key(client, target), text, etag=etag, validate_only=dry_run
        )
    print_fields(_describe(policy), output)


@app.command("history")
def history(
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the policies that a key has had, the first one first.

    `policy get --revision N` prints one of them.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_rows
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        rows = [
            _describe(policy)
            for policy in client.list_policy_revisions(resolve_key(client, target))
        ]
    print_rows(rows, HISTORY_COLUMNS, output)


@app.command("explain")
def explain(
    key: KeyArgument,
    operation: Annotated[
        str, typer.Argument(metavar="OPERATION", help="Such as Decrypt, or ReEncryptFrom.")
    ],
    *,
    principal: Annotated[
        str, typer.Option(metavar="SPIFFE-ID", help="Whose permission; yours without one.")
    ] = "",
    context: ContextOption = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="By the policy of then: 2026-01-02, or 7d ago."),
    ] = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say whether somebody may do something, what decides that, and why the rest does not.

    Permission alone: a disabled key is refused all the same.
    """
    import json
    from datetime import UTC, datetime

    from strongroom_client import KmsClient
    from strongroom_server.cli.audit_times import parse_time
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_fields, print_rows
    from strongroom_server.cli.targets import parse_contexts, parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    moment = parse_time("--at", at, now=datetime.now(UTC))
    with KmsClient(options) as client:
        found = client.explain_access(
            str(target),
            operation,
            encryption_context=parse_contexts(context or []),
            principal=principal,
            at_time=datetime.fromisoformat(moment) if moment else None,
        )
    fields: dict[str, Cell] = {
        "allowed": found.allowed,
        "decided_by": found.decided_by,
        "policy_revision": found.policy_revision,
        "is_administrator": found.is_administrator,
    }
    if output is Format.JSON:
        rows = _considered(found)
        print(json.dumps({**fields, "considerations": rows}, ensure_ascii=False, indent=2))
        return
    print_fields(fields, output)
    print()
    print_rows(_considered(found), CONSIDERED_COLUMNS, output)


def _considered(found: AccessExplanation) -> list[dict[str, Cell]]:
    return [
        {
            "id": each.id,
            "effect": "forbid" if each.forbids else "permit",
            "applies": each.applies,
            "because": "; ".join(
                f"{mismatch.part.lower()}: {mismatch.detail}"
                if mismatch.detail
                else f"another {mismatch.part.lower()}"
                for mismatch in each.mismatches
            ),
        }
        for each in found.considerations
    ]


def _describe(policy: KeyPolicy) -> dict[str, Cell]:
    return {
        "key": policy.key,
        "revision": policy.revision,
        "author": policy.author,
        "create_time": policy.create_time.isoformat(),
        "etag": policy.etag,
        "policy_sha256": policy.policy_sha256.hex(),
        "receipt": " ".join(str(receipt) for receipt in policy.receipts),
    }


def _visible(text: str) -> str:
    """Return a text that others wrote, without what would move a terminal's cursor."""
    from strongroom_server.cli.output import printable

    if not sys.stdout.isatty():
        return text
    return "\n".join(printable(line) for line in text.split("\n"))
