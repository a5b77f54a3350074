"""Lists: pages that neither lose nor repeat what was there, and tokens that cannot be bent."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_service import ORDERS, STRANGER, MemoryService, caller

from strongroom_server.errors import ArgumentInvalidError, KeyNotFoundError
from strongroom_server.services import key_lists
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.pages import (
    DEFAULT_PAGE_SIZE,
    key_position,
    key_token,
    version_position,
    version_token,
)

PARENT = "regions/eu-1"
KEY_ID = uuid.UUID(int=5)
TIME = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def service():
    return MemoryService()


async def pages_of_keys(service: MemoryService, who: str, size: int) -> list[list[uuid.UUID]]:
    """Read all pages."""
    pages, token = [], ""
    while True:
        keys, token, _ = await service.lifecycle.list_keys(
            caller(who), "eu-1", page_size=size, page_token=token
        )
        pages.append([key.key_id for key in keys])
        if not token:
            return pages


def encoded(position: object) -> str:
    """Encode a token as the service does."""
    data = json.dumps(position, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_pages_hold_every_visible_key_once_oldest_first(service):
    """Invisible keys leave neither gaps nor traces, whatever the size of the page."""
    other = f'permit (principal == Principal::"{STRANGER}", action, resource);'
    both = other + f'permit (principal == Principal::"{ORDERS}", action, resource);'
    keys = [await service.create_key(both if n % 3 == 0 else "") for n in range(10)]
    everything = [key.key_id for key in keys]
    visible = everything[::3]
    for size in (1, 2, 3, 4, 5, 1000, 0):
        pages = await pages_of_keys(service, ORDERS, size)
        assert [key_id for page in pages for key_id in page] == everything
        pages = await pages_of_keys(service, STRANGER, size)
        assert [key_id for page in pages for key_id in page] == visible
        assert all(len(page) == size for page in pages[:-1])
    assert await pages_of_keys(service, "spiffe://example.org/nobody", 3) == [[]]
    assert service.records()[-1].policy == "visible-keys"


async def test_a_caller_who_sees_few_of_many_gets_shorter_pages_and_all_of_them(
    service, monkeypatch
):
    """A page ends after so many keys that the caller may not see; the next goes on from there."""
    monkeypatch.setattr(key_lists, "READ_KEYS", 3)
    monkeypatch.setattr(key_lists, "MAX_READS", 2)
    other = f'permit (principal == Principal::"{STRANGER}", action, resource);'
    both = other + f'permit (principal == Principal::"{ORDERS}", action, resource);'
    keys = [await service.create_key(both if n in {0, 11, 12, 19} else "") for n in range(20)]
    pages = await pages_of_keys(service, STRANGER, 2)
    assert [key_id for page in pages for key_id in page] == [
        keys[n].key_id for n in (0, 11, 12, 19)
    ]
    assert all(len(page) <= 2 for page in pages)
    assert [] not in (await pages_of_keys(service, ORDERS, 2))
    assert await pages_of_keys(service, "spiffe://example.org/nobody", 5) == [[]] * 4


async def test_keys_made_between_pages_come_at_the_end(service):
    """A list under way loses nothing and repeats nothing when keys are made meanwhile."""
    seen, token = [], ""
    for _ in range(4):
        await service.create_key()
    while True:
        keys, token, _ = await service.lifecycle.list_keys(
            caller(), "eu-1", page_size=2, page_token=token
        )
        seen += [key.key_id for key in keys]
        if not token:
            break
        if len(service.eu.store.keys) < 8:
            await service.create_key()
    assert seen == list(service.eu.store.keys)


async def test_versions_are_listed_oldest_first(service):
    """Pages of versions hold each once; the default page has 100."""
    key = await service.create_key()
    for _ in range(6):
        await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    for size in (1, 3, 7, 0):
        numbers, token = [], ""
        while True:
            _, page, token, _ = await service.lifecycle.list_versions(
                caller(), key.name, page_size=size, page_token=token
            )
            assert len(page) <= (size or DEFAULT_PAGE_SIZE)
            numbers += [version.number for version in page]
            if not token:
                break
        assert numbers == list(range(1, 8))


async def test_a_token_of_another_list_is_refused(service):
    """Tokens are bound to their list: another region's, another key's, another kind's."""
    one, two = await service.create_key(), await service.create_key()
    for key in (one, two):
        await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    _, keys_token, _ = await service.lifecycle.list_keys(
        caller(), "eu-1", page_size=1, page_token=""
    )
    _, _, versions_token, _ = await service.lifecycle.list_versions(
        caller(), one.name, page_size=1, page_token=""
    )
    assert keys_token
    assert versions_token
    for attempt in (
        service.lifecycle.list_keys(caller(), "us-1", page_size=1, page_token=keys_token),
        service.lifecycle.list_keys(caller(), "eu-1", page_size=1, page_token=versions_token),
        service.lifecycle.list_versions(caller(), two.name, page_size=1, page_token=versions_token),
        service.lifecycle.list_versions(caller(), one.name, page_size=1, page_token=keys_token),
    ):
        with pytest.raises(ArgumentInvalidError) as refusal:
            await attempt
        assert refusal.value.violations[0].field == "page_token"
    garbage = "garbage"
    # Permission comes before the token, so that a token tells nothing about hidden keys.
    with pytest.raises(KeyNotFoundError):
        await service.lifecycle.list_versions(
            caller(STRANGER), one.name, page_size=1, page_token=garbage
        )


def test_positions_survive_a_round_trip():
    """A token leads back to the position that it was made from."""
    assert key_position(key_token(PARENT, TIME, KEY_ID), PARENT) == (TIME, KEY_ID)
    assert version_position(version_token("k", 7), "k") == 7
    assert key_position("", PARENT) is None
    assert version_position("", "k") == 0


@pytest.mark.parametrize(
    "token",
    [
        "garbage",
        "====",
        "é",
        "\ud800",
        "a" * 1024,
        encoded(None),
        encoded({}),
        encoded([]),
        encoded(["keys"]),
        encoded(["keys", PARENT, 1]),
        encoded(["keys", PARENT, "1", str(KEY_ID)]),
        encoded(["keys", PARENT, 1.5, str(KEY_ID)]),
        encoded(["keys", PARENT, 10**30, str(KEY_ID)]),
        encoded(["keys", PARENT, 1, "not-a-uuid"]),
        encoded(["keys", PARENT, 1, str(KEY_ID), 1]),
        encoded(["keys", "regions/us-1", 1, str(KEY_ID)]),
        encoded(["versions", PARENT, 1]),
        key_token(PARENT, TIME, KEY_ID) + "\n",
        key_token(PARENT, TIME, KEY_ID)[:-3],
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"9" * 700).decode(),
    ],
)
def test_garbage_is_not_a_token(token):
    """What the service did not make is an invalid argument, never another exception."""
    with pytest.raises(ArgumentInvalidError, match="page_token"):
        key_position(token, PARENT)
    if token != encoded(["versions", PARENT, 1]):
        with pytest.raises(ArgumentInvalidError, match="page_token"):
            version_position(token, PARENT)


@given(data=st.binary(max_size=60), token=st.text(max_size=40))
def test_no_text_raises_anything_else(data, token):
    """Any text is a position of this list or an invalid argument."""
    for candidate in (token, base64.urlsafe_b64encode(data).decode().rstrip("=")):
        for parse in (key_position, version_position):
            try:
                parse(candidate, PARENT)
            except ArgumentInvalidError as error:
                assert error.violations[0].rule == "page_token.invalid"  # noqa: PT017 - both ends
