"""How a command names a key: the full resource name, or a short form with a region.

    regions/eu-1/keys/{uuid}    regions/eu-1/aliases/orders/invoices
    keys/{uuid}   {uuid}        aliases/orders/invoices    orders/invoices

The short forms take the region from ``--region`` or the configuration. A text in the
form of a UUID is a key, never an alias.
"""

from __future__ import annotations

import re
from typing import Final

from strongroom.resource_names import AliasName, KeyName, ResourceNameError, parse_key_or_alias
from strongroom_server.cli.failures import CliError

__all__ = ["is_key_id", "parse_alias", "parse_contexts", "parse_tags", "parse_target"]

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def is_key_id(text: str) -> bool:
    """Whether `text` is the UUID of a key."""
    return _UUID.fullmatch(text) is not None


def parse_target(text: str, *, region: str | None) -> KeyName | AliasName:
    """Parse the name of a key or alias in any of its forms.

    Raises:
        CliError: It is none, or a short form needs a region and there is none.
    """
    if text.startswith("regions/"):
        full = text
    else:
        if region is None:
            raise CliError.usage(
                f"{text!r} does not say which region",
                "give --region, set [defaults] region in the configuration, "
                "or write regions/REGION/...",
            )
        if is_key_id(text):
            full = f"regions/{region}/keys/{text}"
        elif text.startswith(("keys/", "aliases/")):
            full = f"regions/{region}/{text}"
        else:
            full = f"regions/{region}/aliases/{text}"
    try:
        return parse_key_or_alias(full)
    except ResourceNameError as exc:
        raise CliError.usage(f"{text!r} does not name a key: {exc}") from exc


def parse_alias(text: str, *, region: str | None) -> AliasName:
    """Parse the name of an alias in any of its forms.

    Raises:
        CliError: It is none.
    """
    target = parse_target(text, region=region)
    if isinstance(target, KeyName):
        raise CliError.usage(f"{text!r} names a key, not an alias")
    return target


def parse_tags(pairs: list[str]) -> dict[str, str]:
    """Parse tags ``NAME=VALUE``; the first ``=`` divides.

    Raises:
        CliError: One has no ``=``, or a name comes twice.
    """
    tags: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CliError.usage(f"tag {pair!r}: expected NAME=VALUE")
        if name in tags:
            raise CliError.usage(f"tag {name!r} is given twice")
        tags[name] = value
    return tags


def parse_contexts(pairs: list[str]) -> dict[str, str]:
    """Parse ``--context KEY=VALUE`` options; the first ``=`` divides.

    Raises:
        CliError: A pair has no ``=``, an empty key, or a key that was given before.
    """
    context: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CliError.usage(f"--context {pair!r}: expected KEY=VALUE")
        if key in context:
            raise CliError.usage(f"--context: {key!r} is given twice")
        context[key] = value
    return context
