"""Builds an index in a process that is about to be killed."""

from __future__ import annotations

import threading
from pathlib import Path

from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_index import RecordIndex
from strongroom_auditlog.tiles import LogFiles

__all__ = ["follow"]


def follow(directory: str, path: str, size: str) -> None:
    """Follow the log in `directory` for ever."""
    index = RecordIndex(
        Path(path),
        origin="test",
        files=LogFiles(Path(directory)),
        size=lambda: int(size),
        metrics=Metrics(regions=("eu-1",), version="0"),
    )
    print("following", flush=True)  # noqa: T201 - tells the test when to kill
    index.start()
    threading.Event().wait()
