"""Types that several sections of the server's configuration share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from strongroom.peers import PeerIdentityError, validate_spiffe_id

__all__ = ["Principal", "Section"]


class Section(BaseModel):
    """A table of settings: frozen, and nothing unknown in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_principal(text: str) -> str:
    try:
        return validate_spiffe_id(text)
    except PeerIdentityError as exc:
        raise ValueError(str(exc)) from exc


Principal = Annotated[str, AfterValidator(_check_principal)]
