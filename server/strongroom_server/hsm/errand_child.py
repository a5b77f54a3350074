"""The child of an `errand`: one process, one C_Login, one task.

``python -m strongroom_server.hsm.errand_child FD`` reads its order from standard input
and writes JSON objects, one a line, to FD. The last one is ``{"done": true}``, or
``{"failed": KIND, "text": TEXT}``. What a crash leaves: session objects, which go with the
login; and of `destroy`, objects that the next look finds again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from strongroom_server.hsm import inventory
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.probes import PROBES
from strongroom_server.hsm.probes.probe import Finding, Outcome, Probe, Scratch
from strongroom_server.hsm.process_guard import harden
from strongroom_server.hsm.quirks import quirks_of
from strongroom_server.hsm.return_codes import (
    HsmTokenError,
    ModuleUnusableError,
    PinRefusedError,
    ReturnCodeError,
    TokenAbsentError,
)
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.worker import read_pin

__all__ = ["main"]

Say = Callable[[Mapping[str, object]], None]

_KINDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (PinRefusedError, "pin"),
    (OSError, "pin-file"),
    (TokenAbsentError, "token"),
    (ModuleUnusableError, "module"),
    (HsmTokenError, "fault"),
)


def main(arguments: list[str]) -> None:
    """Do one task and end; never returns."""
    harden()
    pipe = int(arguments[0])

    def say(message: Mapping[str, object]) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    status = 1
    try:
        _run(json.load(sys.stdin), say)
        say({"done": True})
        status = 0
    except tuple(error for error, _ in _KINDS) as exc:
        kind = next(kind for error, kind in _KINDS if isinstance(exc, error))
        say({"failed": kind, "text": str(exc)})
    finally:
        # Not sys.exit, and no C_Finalize: modules crash and hang in both, after all is said.
        os._exit(status)


def _run(order: dict[str, Any], say: Say) -> None:
    session = TokenSession.open(
        order["module"],
        order["token_label"],
        read_pin(Path(order["pin_file"])),
        parameters=order["parameters"],
    )
    _TASKS[order["task"]](session, order, say)


def _probe(session: TokenSession, order: dict[str, Any], say: Say) -> None:
    """Ask the probes from `first` on; say which one begins before it does."""
    info = session.info()
    say({"facts": {"quirks": [quirk.id for quirk in quirks_of(info)], "label": info.label}})
    scratch = Scratch(session)
    for probe in PROBES[order["first"] :]:
        if (probe.is_slow and order["quick"]) or (probe.writes and not order["write_probes"]):
            continue
        say({"begin": probe.feature})
        with scratch:
            finding = _ask(probe, scratch)
        say({"finding": [finding.outcome.value, finding.detail, finding.consequence]})


def _ask(probe: Probe, scratch: Scratch) -> Finding:
    try:
        return probe.run(scratch)
    except ReturnCodeError as exc:
        return Finding(Outcome.MISSING, str(exc), probe.without)


def _list(session: TokenSession, order: dict[str, Any], say: Say) -> None:
    del order
    capabilities, _ = check_module(session)
    for item in inventory.list_objects(session, capabilities):
        say({"object": item.to_json()})


def _destroy(session: TokenSession, order: dict[str, Any], say: Say) -> None:
    """Destroy objects by name, each found anew."""
    for name in order["names"]:
        say({"destroyed": [name, inventory.destroy_named(session, name)]})


_TASKS: Final[Mapping[str, Callable[[TokenSession, dict[str, Any], Say], None]]] = {
    "probe": _probe,
    "list": _list,
    "destroy": _destroy,
}


if __name__ == "__main__":
    main(sys.argv[1:])
