"""``strongroom hsm``: what an HSM can do, and what is on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from strongroom_server.cli import hsm_reconcile, hsm_roots
from strongroom_server.cli.hsm_shards import ShardOption
from strongroom_server.cli.options import Format, OutputOption

if TYPE_CHECKING:
    from strongroom_server.hsm.doctor import Diagnosis, Row
    from strongroom_server.hsm.errand import HsmTarget

__all__ = ["app"]

app = typer.Typer(
    help="Look at an HSM and at what is on it; rotate wrapping roots.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ROW_COLUMNS: Final = ("group", "feature", "result", "seen", "strongroom", "quirk")
QUIRK_COLUMNS: Final = ("quirk", "what", "strongroom", "source")
_RESULTS: Final = {"works": "works", "quirk": "works with quirk", "missing": "missing"}

ServerConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration of a server that names the HSM."),
]


class HsmName(NamedTuple):
    """An HSM as the command line names it."""

    module: Path | None
    token: str | None
    pin_file: Path | None
    parameters: str


def doctor(
    *,
    module: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The vendor's PKCS#11 library.")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="LABEL", help="Label of the token.")] = None,
    pin_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the user PIN, mode 0600.")
    ] = None,
    module_parameters: Annotated[
        str,
        typer.Option(metavar="TEXT", help="LibraryParameters of C_Initialize (NSS needs them)."),
    ] = "",
    config: ServerConfigOption = None,
    region: ShardOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out what takes seconds: RSA, speed.")
    ] = False,
    write_probes: Annotated[
        bool,
        typer.Option("--write-probes", help="Also make one object on the token and destroy it."),
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say what an HSM can do, before you rely on it.

    Asks a PKCS#11 module some 75 questions, in a process of its own, with objects that go
    with the session: known answers, what is refused to forged input, forms of wrapping,
    attributes, which changes are refused, kinds of key, sessions, speed. Each line says what
    was seen and what Strongroom will use or refuse. Logs in once for each process that the
    module brings down, and never again after a refused PIN.

    Name the HSM by --module, --token and --pin-file, with the environment that the module
    needs; or by --config, the configuration of a server. Ends with 5 when the module lacks
    what the server needs.
    """
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.hsm_errands import answering
    from strongroom_server.cli.output import note
    from strongroom_server.hsm.doctor import examine

    named = HsmName(module, token, pin_file, module_parameters)
    target = _find_target(named, config, region)
    with answering():
        diagnosis = examine(target, quick=quick, write_probes=write_probes)
    _print(diagnosis, output)
    note(_summary(diagnosis))
    if diagnosis.unfit:
        lacking = ", ".join(row.feature for row in diagnosis.unfit)
        raise CliError("HSM_UNFIT", f"the server cannot use this module: {lacking}")


def _find_target(named: HsmName, config: Path | None, region: str | None) -> HsmTarget:
    """Take the HSM from either way of naming it.

    Raises:
        CliError: USAGE: neither, or both.
    """
    from strongroom_server.cli.config_kinds import load_server_config
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.hsm_shards import choose_shard, target_of
    from strongroom_server.hsm.errand import HsmTarget

    if config is not None:
        if any(named):
            raise CliError.usage("--config, or --module, --token and --pin-file; not both")
        return target_of(choose_shard(load_server_config(config).shards, region))
    if named.module is None or named.token is None or named.pin_file is None:
        raise CliError.usage("--config, or all of --module, --token and --pin-file")
    return HsmTarget(named.module, named.token, named.pin_file, parameters=named.parameters)


def _print(diagnosis: Diagnosis, output: Format) -> None:
    import json

    from strongroom_server.cli.output import print_rows

    rows = [_shown(row) for row in diagnosis.rows]
    quirks = [
        {
            "quirk": quirk.id,
            "what": quirk.what,
            "strongroom": quirk.strongroom,
            "source": quirk.source,
        }
        for quirk in diagnosis.quirks
    ]
    if output is Format.JSON:
        document = {
            "fit": not diagnosis.unfit,
            "features": rows,
            "known_quirks": quirks,
            "left_out": list(diagnosis.left_out),
            "seconds": round(diagnosis.seconds, 3),
        }
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    print_rows(rows, ROW_COLUMNS, output)
    if quirks:
        print()
        print_rows(quirks, QUIRK_COLUMNS, output)


def _shown(row: Row) -> dict[str, str | float | bool | None]:
    unexplained = row.outcome.value != "works" and not row.quirk
    return {
        "group": row.group,
        "feature": row.feature,
        "result": _RESULTS[row.outcome.value],
        "seen": row.detail,
        "strongroom": row.consequence,
        "quirk": "not in the table of quirks" if unexplained else row.quirk,
        "needed": row.is_needed,
        "milliseconds": round(row.milliseconds, 1),
    }


def _summary(diagnosis: Diagnosis) -> str:
    counts = dict.fromkeys(_RESULTS, 0)
    for row in diagnosis.rows:
        counts[row.outcome.value] += 1
    text = (
        f"{len(diagnosis.rows)} features in {diagnosis.seconds:.1f} s: {counts['works']} work, "
        f"{counts['quirk']} with a quirk, {counts['missing']} missing"
    )
    if diagnosis.left_out:
        text += f", {len(diagnosis.left_out)} not asked after"
    return f"{text}; {'not fit' if diagnosis.unfit else 'fit'} for the server"


for _name, _command in (
    ("doctor", doctor),
    ("audit", hsm_reconcile.audit),
    ("reconcile", hsm_reconcile.reconcile),
    ("roots", hsm_roots.roots),
    ("rotate-root", hsm_roots.rotate_root),
):
    app.command(_name)(_command)
