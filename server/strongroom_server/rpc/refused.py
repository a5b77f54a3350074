"""What a refused request names, for its record: only names that are well-formed.

What broke a rule is not copied into the audit log: it may be long, or a secret in the
wrong field.
"""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.message import Message

from strongroom.resource_names import ResourceNameError, parse_key_or_alias
from strongroom_server.services.refusals import Refused

__all__ = ["describe_refused"]

# In the order in which they say where a call belongs.
_NAMES: Final = ("name", "key", "destination_key", "source_key", "parent", "alias")
_REGION: Final = re.compile(r"(?:regions/)?([a-z][a-z0-9-]{0,31})", re.ASCII)
_WITHIN: Final = re.compile(r"regions/([a-z][a-z0-9-]{0,31})/", re.ASCII)


def describe_refused(method: str, request: object) -> Refused:
    """Return what the record of a refused request will say of it."""
    if not isinstance(request, Message):
        return Refused(method)
    texts = [text for name in _NAMES if isinstance(text := getattr(request, name, None), str)]
    for text in texts:
        try:
            name = parse_key_or_alias(text)
        except ResourceNameError:
            continue
        return Refused(method, name.region, text)
    place = getattr(request, "through", request)
    region = getattr(place, "region", None)
    for text in [*texts, region]:
        if isinstance(text, str):
            match = _REGION.fullmatch(text) or _WITHIN.match(text)
            if match is not None:
                return Refused(method, match[1])
    return Refused(method)
