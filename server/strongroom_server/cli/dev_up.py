"""``strongroom dev up``: everything runs until Ctrl-C, and ends together."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from strongroom_server.cli.dev_fleet import AUDIT_LOG, Fleet
from strongroom_server.cli.dev_layout import CLIENTS, Layout
from strongroom_server.cli.output import note

__all__ = ["run_until_stopped"]

WATCH_SECONDS = 0.2


def run_until_stopped(layout: Layout) -> int:
    """Start all, print how to reach it, wait for SIGINT or SIGTERM, end all.

    Returns:
        0 when all ended cleanly, 1 when a process had to be killed or failed to end well.

    Raises:
        CliError: A process ended by itself, or was not ready in time; the others are ended.
    """
    stop = threading.Event()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    # Before the first child: a signal in the middle of the start must end those that run.
    previous = {
        number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    fleet = Fleet(layout)
    codes: dict[str, int] = {}
    try:
        fleet.start_all()
        fleet.wait_ready(should_stop=stop.is_set)
        if not stop.is_set():
            _tell(layout, fleet)
        while not stop.wait(WATCH_SECONDS):
            fleet.check_alive()
    finally:
        codes = fleet.stop_all()
        for number, handler in previous.items():
            signal.signal(number, handler)
    bad = {name: code for name, code in codes.items() if code != 0}
    for name, code in bad.items():
        note(f"{name} ended with {code}; its log is {fleet.members[name].log}")
    note("stopped")
    return 1 if bad else 0


def _tell(layout: Layout, fleet: Fleet) -> None:
    """Print what runs on standard error, and the line to source on standard output."""
    for member in fleet.members.values():
        note(f"{member.name:<16} {member.address:<18} log {member.log}")
    note("")
    print(f"export STRONGROOM_CONFIG={layout.client_config.absolute()}", flush=True)
    note("")
    note("That is the operator. The example services have configurations of their own:")
    for client in CLIENTS:
        note(f"  {layout.client_config_of(client).absolute()}")
    note(f"The verifier key of the audit log: {(layout.audit_log / 'log.vkey').absolute()}")
    note(f"Ctrl-C stops everything ({AUDIT_LOG} last).")
