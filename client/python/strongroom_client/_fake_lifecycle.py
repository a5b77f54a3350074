"""The fake's deletion, descriptions, tags and aliases: from request to response.

Its one clock is believed: what is due is destroyed when it is next looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from strongroom import resource_names
from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom.resource_names import AliasName, KeyVersionName, RegionName
from strongroom_client._fake_ends import FakeAlias, FakeEnd, state_invalid
from strongroom_client._fake_pair_calls import Answer
from strongroom_client._fake_shards import (
    MAX_TAG_NAME,
    MAX_TAGS,
    FakeKey,
    FakeShards,
    check_etag,
    check_tags,
    check_text,
    refuse,
    require_changeable,
)
from strongroom_client.errors import KeyNotFoundError, WrongRegionError

__all__ = ["FakeLifecycle"]

MIN_DAYS: Final = 7
MAX_DAYS: Final = 30
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100


class FakeLifecycle:
    """Answers requests about the keys of `FakeShards`."""

    def __init__(self, shards: FakeShards):
        self._shards = shards
        self._hosted: tuple[str, ...] = ()

    def handlers(self, hosted: tuple[str, ...]) -> Mapping[str, Callable[..., Answer]]:
        """Return the methods by name, for a server that hosts these regions."""
        self._hosted = hosted
        return {
            "UpdateKey": self._update_key,
            "ScheduleKeyDeletion": self._schedule_key,
            "CancelKeyDeletion": self._cancel_key,
            "GetKeyVersion": self._get_version,
            "ScheduleKeyVersionDeletion": self._schedule_version,
            "CancelKeyVersionDeletion": self._cancel_version,
            "TagResource": self._tag,
            "UntagResource": self._untag,
            "UpdateAlias": self._update_alias,
            "DeleteAlias": self._delete_alias,
            "ListAliases": self._list_aliases,
        }

    def _update_key(self, request: rpc.UpdateKeyRequest) -> Answer:
        if list(request.update_mask.paths) != ["description"]:
            raise refuse("update_mask", "update_mask.paths", "one or more of: description")
        check_text("key.description", request.key.description, 8192)
        key = self._changeable(request.key.name, request.etag, "key.name")
        if not request.validate_only and key.description != request.key.description:
            key.description = request.key.description
            self._shards.touch(key)
        return rpc.UpdateKeyResponse(key=key.to_proto()), _record(key, "UpdateKey")

    def _schedule_key(self, request: rpc.ScheduleKeyDeletionRequest) -> Answer:
        days = _days(request.pending_days)
        key = self._changeable(request.name, request.etag)
        if not request.validate_only:
            key.end.due = self._shards.now() + timedelta(days=days)
            self._shards.touch(key)
        response = rpc.ScheduleKeyDeletionResponse(key=key.to_proto())
        return response, _record(key, "ScheduleKeyDeletion")

    def _cancel_key(self, request: rpc.CancelKeyDeletionRequest) -> Answer:
        key = self._find(request.name, request.etag)
        if key.end.due is None:
            raise state_invalid(str(key.name))
        if not request.validate_only:
            key.end.due, key.enabled = None, False
            self._shards.touch(key)
        response = rpc.CancelKeyDeletionResponse(key=key.to_proto())
        return response, _record(key, "CancelKeyDeletion")

    def _get_version(self, request: rpc.GetKeyVersionRequest) -> Answer:
        key, number = self._version(request.name, "")
        response = rpc.GetKeyVersionResponse(key_version=key.version_to_proto(number))
        return response, _record(key, "GetKeyVersion")

    def _schedule_version(self, request: rpc.ScheduleKeyVersionDeletionRequest) -> Answer:
        days = _days(request.pending_days)
        key, number = self._version(request.name, request.etag)
        require_changeable(key)
        end = key.version_ends.get(number, FakeEnd())
        if number == len(key.materials) or end != FakeEnd():
            raise state_invalid(request.name)
        if not request.validate_only:
            key.version_ends[number] = FakeEnd(self._shards.now() + timedelta(days=days))
            self._shards.touch(key)
        response = rpc.ScheduleKeyVersionDeletionResponse(key_version=key.version_to_proto(number))
        return response, _record(key, "ScheduleKeyVersionDeletion")

    def _cancel_version(self, request: rpc.CancelKeyVersionDeletionRequest) -> Answer:
        key, number = self._version(request.name, request.etag)
        end = key.version_ends.get(number, FakeEnd())
        if end.due is None:
            raise state_invalid(request.name)
        if not request.validate_only:
            del key.version_ends[number]
            self._shards.touch(key)
        response = rpc.CancelKeyVersionDeletionResponse(key_version=key.version_to_proto(number))
        return response, _record(key, "CancelKeyVersionDeletion")

    def _tag(self, request: rpc.TagResourceRequest) -> Answer:
        if not request.tags:
            raise refuse("tags", "map.min_pairs", "at least one")
        check_tags(request.tags)
        key = self._changeable(request.name, request.etag)
        after = key.tags | dict(request.tags)
        check_tags(after)
        self._set_tags(key, after, dry=request.validate_only)
        return rpc.TagResourceResponse(key=key.to_proto()), _record(key, "TagResource")

    def _untag(self, request: rpc.UntagResourceRequest) -> Answer:
        names = request.tag_names
        if not 1 <= len(names) <= MAX_TAGS or any(not 1 <= len(n) <= MAX_TAG_NAME for n in names):
            raise refuse("tag_names", "tags.size", "1 to 50, of 1 to 128 characters")
        key = self._changeable(request.name, request.etag)
        after = {name: key.tags[name] for name in key.tags if name not in request.tag_names}
        self._set_tags(key, after, dry=request.validate_only)
        return rpc.UntagResourceResponse(key=key.to_proto()), _record(key, "UntagResource")

    def _update_alias(self, request: rpc.UpdateAliasRequest) -> Answer:
        alias = self._alias(request.name)
        key = self._shards.find_exact(request.key, "key", self._hosted)
        if key.name.region != alias.name.region:
            raise refuse("key", "alias.region", "the key lives in another region")
        if alias.key.state == pb.KEY_STATE_DESTROYED:
            raise state_invalid(str(alias.key.name))
        require_changeable(key)
        if (key.spec, key.usage) != (alias.key.spec, alias.key.usage):
            raise refuse("key", "alias.kind", "the key is of another kind")
        if not request.validate_only and alias.key is not key:
            alias.key, alias.update_time = key, self._shards.now()
        return rpc.UpdateAliasResponse(alias=alias.to_proto()), _record(key, "UpdateAlias")

    def _delete_alias(self, request: rpc.DeleteAliasRequest) -> Answer:
        alias = self._alias(request.name)
        if not request.validate_only:
            del self._shards.aliases[alias.name]
        response = rpc.DeleteAliasResponse(alias=alias.to_proto())
        return response, _record(alias.key, "DeleteAlias")

    def _list_aliases(self, request: rpc.ListAliasesRequest) -> Answer:
        region = self._region(request.parent)
        if request.page_size > MAX_PAGE:
            raise refuse("page_size", "uint32.lte", f"0 to {MAX_PAGE:,}")
        of = self._shards.find_exact(request.key, "key", self._hosted) if request.key else None
        names = sorted(
            alias.name.alias
            for alias in self._shards.aliases.values()
            if alias.name.region == region
            and (of is None or of is alias.key)
            and alias.name.alias > request.page_token
        )
        page = names[: request.page_size or DEFAULT_PAGE]
        response = rpc.ListAliasesResponse(
            aliases=[self._shards.aliases[AliasName(region, name)].to_proto() for name in page],
            next_page_token=page[-1] if len(page) < len(names) else "",
        )
        return response, ((region, "ListAliases"),)

    def _find(self, text: str, etag: str, field: str = "name") -> FakeKey:
        key = self._shards.find_exact(text, field, self._hosted)
        check_etag(key, etag)
        return key

    def _changeable(self, text: str, etag: str, field: str = "name") -> FakeKey:
        key = self._find(text, etag, field)
        require_changeable(key)
        return key

    def _version(self, text: str, etag: str) -> tuple[FakeKey, int]:
        try:
            name = KeyVersionName.parse(text)
        except resource_names.ResourceNameError as exc:
            raise refuse("name", "string.pattern", str(exc)) from None
        key = self._find(str(name.key), etag)
        if name.version > len(key.materials):
            raise KeyNotFoundError(f"no key {text}, or you may not see it")
        return key, name.version

    def _alias(self, text: str) -> FakeAlias:
        try:
            name = AliasName.parse(text)
        except resource_names.ResourceNameError as exc:
            raise refuse("name", "string.pattern", str(exc)) from None
        if name.alias.startswith("service/"):
            raise refuse("name", "alias.reserved", "service/ is reserved")
        self._shards.find(text, "name", self._hosted)
        return self._shards.aliases[name]

    def _set_tags(self, key: FakeKey, after: dict[str, str], *, dry: bool) -> None:
        if not dry and after != key.tags:
            key.tags = after
            self._shards.touch(key)

    def _region(self, parent: str) -> str:
        try:
            region = RegionName.parse(parent).region
        except resource_names.ResourceNameError as exc:
            raise refuse("parent", "string.pattern", str(exc)) from None
        if region not in self._hosted:
            raise WrongRegionError(
                f"region {region} is not hosted here",
                metadata={"region": region, "hostedRegions": ",".join(self._hosted)},
            )
        return region


def _days(asked: int) -> int:
    days = asked or MAX_DAYS
    if not MIN_DAYS <= days <= MAX_DAYS:
        raise refuse("pending_days", "pending_days.range", f"{MIN_DAYS} to {MAX_DAYS} days")
    return days


def _record(key: FakeKey, method: str) -> tuple[tuple[str, str], ...]:
    return ((key.name.region, method),)
