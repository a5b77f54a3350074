"""The process log: shape, masking, and what happens when the stream fails."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from strongroom.json_log import MAX_NAMES, SECRET_NAMES, _Logger, _Shape, configure_logging
from strongroom_server.ops import logging as server_logging


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Leave structlog and the root logger as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.BytesIO:
    stream = io.BytesIO()
    configure_logging("info", stream, service_name="tested", service_version="1.2.3")
    return stream


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_documented_members(stream: io.BytesIO) -> None:
    """Time (UTC, microseconds), level, event, logger and service stand first, in order."""
    structlog.get_logger("strongroom_server.rpc").info("call", duration_ms=1.5)
    (line,) = lines(stream)
    assert list(line) == [
        "timestamp",
        "level",
        "event",
        "logger",
        "service.name",
        "service.version",
        "duration_ms",
    ]
    written = datetime.strptime(str(line["timestamp"]), "%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: DTZ007 - Z is checked by the pattern
    assert abs(datetime.now(UTC) - written.replace(tzinfo=UTC)) < timedelta(minutes=1)
    assert line["level"] == "info"
    assert line["event"] == "call"
    assert line["logger"] == "strongroom_server.rpc"
    assert (line["service.name"], line["service.version"]) == ("tested", "1.2.3")


def test_lower_levels_are_dropped(stream: io.BytesIO) -> None:
    """What is below the configured level is not written."""
    log = structlog.get_logger("x")
    log.debug("no")
    log.warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


@pytest.mark.parametrize("name", [*sorted(SECRET_NAMES), "PIN", "Plaintext"])
def test_values_under_secret_names_are_masked(stream: io.BytesIO, name: str) -> None:
    """Whoever logs a secret by mistake logs a mask."""
    structlog.get_logger("x").error("oops", **{name: "MARKER"})
    assert b"MARKER" not in stream.getvalue()
    assert lines(stream)[0][name] == "[masked]"


def test_bytes_and_unknown_objects_are_not_shown(stream: io.BytesIO) -> None:
    """Neither payloads nor a foreign repr get into a line."""

    class Leaky:
        def __repr__(self) -> str:
            return "MARKER"

    structlog.get_logger("x").info(
        "call", blob=b"MARKER", buffer=bytearray(b"MARKER"), thing=Leaky(), nested=[Leaky()]
    )
    assert b"MARKER" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["blob"] == "[6 bytes]"
    assert line["thing"] == "[Leaky]"


def test_ids_and_paths_are_shown_as_text(stream: io.BytesIO) -> None:
    """Plain values of the standard library stay readable."""
    key_id = uuid.UUID(int=7)
    structlog.get_logger("x").info("call", key_id=key_id, path=Path("/tmp/x"))  # noqa: S108 - a name
    (line,) = lines(stream)
    assert line["key_id"] == str(key_id)
    assert line["path"] == "/tmp/x"  # noqa: S108 - a name


def test_a_traceback_has_no_local_variables(stream: io.BytesIO) -> None:
    """An exception is logged with its traceback, and without the values around it."""
    pin_of_nobody = "MARK" + "ER"
    try:
        int(f"{len(pin_of_nobody)} bytes")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert "invalid literal for int() with base 10: '6 bytes'" in str(line["exception"])
    assert b"MARKER" not in stream.getvalue()


def test_standard_library_logging_comes_out_as_json(stream: io.BytesIO) -> None:
    """Libraries that use logging write the same lines."""
    logging.getLogger("some.library").warning("took %d s", 3)
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "took 3 s", "some.library")


def test_bound_context_is_in_every_line(stream: io.BytesIO) -> None:
    """Context variables of the request are merged in."""
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("x").info("call")
    assert lines(stream)[0]["request_id"] == "r1"


@pytest.mark.parametrize("text", ["zwei\nZeilen", "ctrl \x00 \x1b", "\udce4 not UTF-8", "☃"])
def test_a_line_is_one_line_whatever_it_holds(stream: io.BytesIO, text: str) -> None:
    """Texts from outside cannot start a line of their own or fail the call."""
    structlog.get_logger("x").info("call", text=text)
    assert stream.getvalue().count(b"\n") == 1
    lines(stream)


def test_a_failing_stream_does_not_fail_the_call(tmp_path: Path) -> None:
    """When the log cannot be written the service goes on."""
    stream = (tmp_path / "log").open("wb")
    configure_logging("info", stream, service_name="tested", service_version="1")
    stream.close()
    structlog.get_logger("x").info("call")
    with Path("/dev/full").open("wb", buffering=0) as full:
        configure_logging("info", full, service_name="tested", service_version="1")
        structlog.get_logger("x").info("call")


@pytest.mark.parametrize(("regions", "region"), [(["eu-1"], "eu-1"), (["eu-1", "us-1"], None)])
def test_the_server_names_its_region_when_it_has_one(
    regions: list[str], region: str | None
) -> None:
    """Lines of a server with one region carry it; with several, lines name their own."""
    stream = io.BytesIO()
    server_logging.configure_logging("info", stream, service_version="1", regions=regions)
    structlog.get_logger("x").info("started")
    (line,) = lines(stream)
    assert line["service.name"] == "strongroom-server"
    assert line.get("region") == region


def test_an_unknown_level_is_refused() -> None:
    """A level outside the closed set is a programming error."""
    with pytest.raises(KeyError):
        configure_logging("chatty", io.BytesIO(), service_name="x", service_version="1")


_values = st.recursive(
    st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_names = st.text(max_size=12) | st.sampled_from(["region", "level", "pin", "PIN", "timestamp"])


@given(st.dictionaries(_names, _values, max_size=6))
def test_the_line_put_together_by_hand_is_the_same(members: dict[str, Any]) -> None:
    """Whatever is logged, the line is what JSON's own encoder makes of it, byte by byte."""
    shape = _Shape({"service.name": "tested", "region": "eu-1"})
    logger = cast("_Logger", SimpleNamespace(name="x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "_now", lambda: "2026-01-02T03:04:05.678901Z")
        for _ in range(2):  # the second time the names are known
            event = {"event": "call", **members}
            ((line,), _) = shape(logger, "info", dict(event))
            name, source = event.pop("event"), event.pop("logger", "x")
            exc_info = event.pop("exc_info", None)
            expected = shape._unusual("info", name, source, event, exc_info)
            assert line == expected.encode("utf-8", "backslashreplace")


def test_names_from_outside_do_not_fill_the_memory(stream: io.BytesIO) -> None:
    """What is kept of names is bounded."""
    log = structlog.get_logger("x")
    for number in range(MAX_NAMES + 10):
        log.info("call", **{f"name{number}": 1})
    shape = structlog.get_config()["processors"][-1]
    assert len(shape._members) == MAX_NAMES
    assert lines(stream)[-1][f"name{MAX_NAMES + 9}"] == 1
