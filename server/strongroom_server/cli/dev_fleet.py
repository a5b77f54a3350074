"""The processes of a development deployment: started, watched and ended as children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from strongroom_server.cli.dev_layout import Layout
from strongroom_server.cli.failures import CliError

__all__ = ["AUDIT_LOG", "Fleet", "Member"]

AUDIT_LOG: Final = "audit-log"
CHILD: Final = "strongroom_server.cli.dev_child"
POLL_SECONDS: Final = 0.1
STOP_SECONDS: Final = 20.0  # a server drains for 10 s at most, by default


@dataclass(slots=True)
class Member:
    """One process: how it is started, where it answers, and the child while there is one."""

    name: str
    arguments: tuple[str, ...]
    address: str
    ops_address: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def is_running(self) -> bool:
        """Whether the child is there and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def process_id(self) -> int | None:
        """Process id of the child; None when there is none."""
        return None if self.process is None else self.process.pid

    def is_ready(self) -> bool:
        """Ask ``/readyz`` once."""
        try:
            with urllib.request.urlopen(f"http://{self.ops_address}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004 - HTTP
        except (OSError, urllib.error.URLError):
            return False


class Fleet:
    """Owns the children; not thread safe.

    A child gets SIGTERM from the kernel when the thread that started it ends, so nothing
    is left behind when this process is killed. Children have sessions of their own: Ctrl-C
    reaches this process alone, which then ends them in order.
    """

    def __init__(self, layout: Layout):
        from strongroom_auditlog.config import (
            load_config as load_log_config,
        )
        from strongroom_server.config import load_config

        self._layout = layout
        self.members: dict[str, Member] = {}
        for region, path in layout.server_configs().items():
            config = load_config(path)
            self._add(f"server-{region}", "serve", path, config.server.listen, config.ops.listen)
        log_config = load_log_config(layout.audit_log_config)
        self._add(
            AUDIT_LOG,
            "audit-log",
            layout.audit_log_config,
            log_config.server.listen,
            log_config.ops.listen,
        )

    def _add(self, name: str, verb: str, config: Path, address: str, ops_address: str) -> None:
        self.members[name] = Member(
            name=name,
            arguments=(verb, "--config", str(config)),
            address=address,
            ops_address=ops_address,
            log=self._layout.logs / f"{name}.log",
        )

    def start(self, name: str) -> Member:
        """Start a member that does not run; what it prints is appended to its log."""
        member = self.members[name]
        if member.is_running:
            raise CliError.usage(f"{name} is running already")
        with member.log.open("ab") as log:
            member.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", CHILD, str(os.getpid()), *member.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return member

    def start_all(self) -> None:
        """Start every member that does not run."""
        for name, member in self.members.items():
            if not member.is_running:
                self.start(name)

    def wait_ready(
        self,
        timeout_seconds: float = 30.0,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until every running member is ready, or until `should_stop` says so.

        Raises:
            CliError: One ended, or one is not ready in time; the message has its last words.
        """
        deadline = time.monotonic() + timeout_seconds
        waiting = [member for member in self.members.values() if member.process is not None]
        while waiting and not should_stop():
            self.check_alive()
            waiting = [member for member in waiting if not member.is_ready()]
            if waiting and time.monotonic() > deadline:
                late = waiting[0]
                raise CliError(
                    "UNAVAILABLE",
                    f"{late.name} is not ready after {timeout_seconds:.0f} s\n{_tail(late.log)}",
                    f"its log is {late.log}",
                )
            if waiting:
                time.sleep(POLL_SECONDS)

    def check_alive(self) -> None:
        """Check that no member has ended by itself.

        Raises:
            CliError: One has; the message has its last words.
        """
        for member in self.members.values():
            if member.process is not None and not member.is_running:
                raise CliError(
                    "CHILD_DIED",
                    f"{member.name} ended with {member.process.returncode}\n{_tail(member.log)}",
                    f"its log is {member.log}",
                )

    def stop(self, name: str) -> int:
        """End a member with SIGTERM, after 20 s with SIGKILL; return its exit code."""
        process = self.members[name].process
        if process is None:
            raise CliError.usage(f"{name} is not running")
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return self._reap(name, process)

    def kill(self, name: str) -> None:
        """Kill a member at once, as a crash would."""
        process = self.members[name].process
        if process is None:
            raise CliError.usage(f"{name} is not running")
        process.kill()
        self._reap(name, process)

    def _reap(self, name: str, process: subprocess.Popen[bytes]) -> int:
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self.members[name].process = None
        return code

    def stop_all(self) -> dict[str, int]:
        """End every member, servers before the log; return the exit codes."""
        running = {n: m.process for n, m in self.members.items() if m.process is not None}
        servers = [name for name in running if name != AUDIT_LOG]
        # All servers drain at once; the log is there until the last one is done.
        for name in servers:
            if self.members[name].is_running:
                running[name].send_signal(signal.SIGTERM)
        codes = {name: self._reap(name, running[name]) for name in servers}
        if AUDIT_LOG in running:
            codes[AUDIT_LOG] = self.stop(AUDIT_LOG)
        return codes


def _tail(log: Path, lines: int = 5) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])
