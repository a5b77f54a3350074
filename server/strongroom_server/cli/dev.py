"""``strongroom dev``: a deployment for development, in one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="A deployment for development: own CA, SoftHSM tokens, real TLS.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DirOption = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Directory of the deployment.")
]
RegionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--region", metavar="REGION", help="Region; may be repeated. Default: eu-1 and us-1."
    ),
]
PortBaseOption = Annotated[
    int,
    typer.Option(
        metavar="PORT",
        min=0,
        max=60000,
        help="First port; the ops ports lie 2021 above. 0 takes free ports.",
    ),
]


@app.command("init")
def init(
    directory: DirOption = Path("dev"),
    regions: RegionsOption = None,
    port_base: PortBaseOption = 7443,
    renew_certificates: Annotated[
        bool,
        typer.Option("--renew-certificates", help="Issue all certificates anew, same CA."),
    ] = False,
) -> None:
    """Make a deployment.

    CA, certificates, one SoftHSM token for each region, configurations. A complete
    deployment is left as it is.
    """
    from strongroom_server.cli import dev_init
    from strongroom_server.cli.dev_layout import Layout
    from strongroom_server.cli.output import note

    layout = Layout(directory.absolute())
    if renew_certificates:
        names = dev_init.renew_certificates(layout)
        note(f"{directory}: issued {len(names)} certificates: {', '.join(names)}")
        return
    if layout.is_complete:
        dev_init.check_same(layout, regions)
        note(f"{directory}: exists, left as it is")
        return
    dev_init.create(layout, regions=regions or list(dev_init.REGIONS), port_base=port_base)
    note(f"{directory}: made; `strongroom dev up --dir {directory}` starts it")


@app.command("up")
def up(
    directory: DirOption = Path("dev"),
    regions: RegionsOption = None,
    port_base: PortBaseOption = 7443,
) -> None:
    """Run a deployment until Ctrl-C.

    Makes it first when it is not there. Standard output gets one line to source:
    export STRONGROOM_CONFIG=...
    """
    from strongroom_server.cli import dev_init
    from strongroom_server.cli.dev_layout import Layout
    from strongroom_server.cli.dev_up import run_until_stopped

    layout = Layout(directory.absolute())
    if layout.is_complete:
        dev_init.check_same(layout, regions)
    else:
        dev_init.create(layout, regions=regions or list(dev_init.REGIONS), port_base=port_base)
    raise typer.Exit(run_until_stopped(layout))
