"""``[limits]`` of the server's configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from strongroom_server.config_types import Principal, Section
from strongroom_server.domain.limits import LimitName, Limits, parse_rate

__all__ = ["LimitsConfig", "PrincipalLimitsConfig"]


def _check_rate(text: str) -> str:
    parse_rate(text)
    return text


Rates = Annotated[tuple[Annotated[str, AfterValidator(_check_rate)], ...], Field(max_length=8)]


class PrincipalLimitsConfig(Section):
    """``[[limits.principals]]``: limits of one principal; what is left out is as for all."""

    principal: Principal = Field(description="whose limits these are")
    data: Rates | None = Field(None, description="instead of that of all; [] is no limit")
    control: Rates | None = Field(None, description="instead of that of all; [] is no limit")
    create: Rates | None = Field(None, description="instead of that of all; [] is no limit")
    key: Rates | None = Field(None, description="instead of that of all; [] is no limit")


class LimitsConfig(Section):
    """``[limits]``: what each principal may ask of one server process."""

    data: Rates = Field(
        ("10000/second", "500000000/day"),
        description="uses of keys by one principal, as rates COUNT/second, /minute, /hour or "
        "/day that all must hold; ReEncrypt counts twice; [] is no limit",
    )
    control: Rates = Field(
        ("500/second", "10000000/day"),
        description="reads and changes of keys, aliases and policies by one principal",
    )
    create: Rates = Field(
        ("50/second", "100000/day"),
        description="calls of one principal that have the HSM make keys or key pairs: CreateKey, "
        "RotateKey, GenerateDataKeyPair and the like",
    )
    key: Rates = Field(
        ("10000/second",), description="uses of one key by one principal, beside `data`"
    )
    principals: tuple[PrincipalLimitsConfig, ...] = Field(
        (), description="limits of single principals"
    )

    def compile(self) -> Limits:
        """Return the limits, ready to count."""
        defaults = {
            LimitName(name): tuple(map(parse_rate, getattr(self, name))) for name in LimitName
        }
        overrides = {
            each.principal: {
                name: tuple(map(parse_rate, getattr(each, name)))
                for name in LimitName
                if getattr(each, name) is not None
            }
            for each in self.principals
        }
        return Limits(defaults, overrides)
