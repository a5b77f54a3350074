"""ListRecords: from a request to a search, and page tokens.

A token is ``v2.{border}.{check}``: where to go on, and 16 hex digits of SHA-256 over the
border, the order and the filter. The check finds tokens of other lists and broken ones; it
keeps no secret, since `start_index` lets every reader begin anywhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import re
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from strongroom.audit.v1 import audit_log_service_pb2 as messages
from strongroom.audit.v1 import audit_record_pb2 as nouns
from strongroom_auditlog.errors import FieldViolation, RequestError
from strongroom_auditlog.record_filter import RecordFilter
from strongroom_auditlog.record_search import RecordSearch

__all__ = ["list_records"]

DEFAULT_PAGE_SIZE: Final = 100
_TOKEN: Final = re.compile(r"v2\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MAX_NANOS: Final = 999_999_999


def list_records(
    request: messages.ListRecordsRequest, *, search: RecordSearch, size: int
) -> messages.ListRecordsResponse:
    """Answer `request` from the tree of `size`. Reads files.

    Raises:
        RequestError: The token, the start or a time is not usable.
        EntryInvalidError: A bundle of the log is missing or malformed.
    """
    wanted = _filter_of(request.filter)
    descending = request.order == messages.RECORD_ORDER_DESCENDING
    border = _border(request, wanted, size, descending=descending)
    limit = request.page_size or DEFAULT_PAGE_SIZE
    if descending:
        found = search.descending(wanted, size=size, end=border, limit=limit)
    else:
        found = search.ascending(wanted, size=size, start=border, limit=limit)
    following = found.following
    return messages.ListRecordsResponse(
        records=[nouns.LoggedRecord(index=leaf, record=record) for leaf, record in found.records],
        next_page_token=(
            "" if following is None else _token(following, wanted, descending=descending)
        ),
        tree_size=size,
    )


def _border(
    request: messages.ListRecordsRequest, wanted: RecordFilter, size: int, *, descending: bool
) -> int:
    """Return where to begin: the first leaf upwards, one above it downwards."""
    if descending and request.start_index:
        raise _invalid("start_index", "order", "a list in descending order begins at the end")
    if not request.page_token:
        border = size if descending else request.start_index
    else:
        match = _TOKEN.fullmatch(request.page_token)
        border = int(match[1]) if match else 0
        expected = _token(border, wanted, descending=descending)
        if request.start_index or not hmac.compare_digest(
            expected.encode(), request.page_token.encode()
        ):
            raise _invalid(
                "page_token",
                "page_token",
                "not a token of this list: another filter or order, or with start_index",
            )
    if border > size:
        raise _invalid("start_index", "log.size", f"the log has {size} records")
    return border


def _token(border: int, wanted: RecordFilter, *, descending: bool) -> str:
    parts = [
        border,
        descending,
        *(
            sorted(values)
            for values in (
                wanted.keys,
                wanted.principals,
                wanted.methods,
                wanted.outcomes,
                wanted.reasons,
                wanted.regions,
            )
        ),
        wanted.since,
        wanted.until,
    ]
    return f"v2.{border}.{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def _filter_of(message: messages.RecordFilter) -> RecordFilter:
    return RecordFilter(
        keys=frozenset(message.keys),
        principals=frozenset(message.principals),
        methods=frozenset(message.methods),
        outcomes=frozenset(message.outcomes),
        reasons=frozenset(message.reasons),
        regions=frozenset(message.regions),
        since=_time("since", message.since) if message.HasField("since") else "",
        until=_time("until", message.until) if message.HasField("until") else "",
    )


def _time(field: str, timestamp: Timestamp) -> str:
    """Return a time as records spell it; rounded up, for theirs are whole microseconds."""
    micros = -(-timestamp.nanos // 1000)
    try:
        time = _EPOCH + dt.timedelta(seconds=timestamp.seconds, microseconds=micros)
    except OverflowError:
        time = None
    if time is None or not 0 <= timestamp.nanos <= _MAX_NANOS:
        raise _invalid(f"filter.{field}", "timestamp", "is not a time of the years 1 to 9999")
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond:06d}Z".zfill(27)


def _invalid(field: str, rule: str, description: str) -> RequestError:
    return RequestError.invalid(FieldViolation(field, rule, description))
