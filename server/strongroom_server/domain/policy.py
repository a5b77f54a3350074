"""Key policies: Cedar policy sets, one per key, checked against our schema.

A policy speaks of `Principal` (a SPIFFE ID, perhaps in Role::"administrator"), of the
actions below, of `Key`, and of `context.encryption_context`, a set of records
``{name: String, value: String}``. What no policy permits is denied. docs/policies.md has
examples.

Pure: no I/O, no clock. Cedar itself is the library cedarpy.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cedarpy

from strongroom_server.domain.policy_text import check_policy_text
from strongroom_server.errors import PolicyInvalidError

__all__ = [
    "DEFAULT_DENY",
    "GRANT_PREFIX",
    "SCHEMA",
    "USE_ACTIONS",
    "Action",
    "CompiledPolicy",
    "Question",
    "Verdict",
    "check_lock_out",
    "check_new_ids",
    "default_policy",
    "group_of",
]

DEFAULT_DENY: Final = "default-deny"
GRANT_PREFIX: Final = "grant/"
"""Of the ids of grants in audit records; `domain/grants.py`."""
MAX_MISTAKES: Final = 4
MAX_MISTAKE_CHARACTERS: Final = 200
# Both bound what a policy's author can put into other people's audit records.
MAX_NAMED_POLICIES: Final = 8
_POLICY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)


class Action(enum.StrEnum):
    """What can be done to a key; the names of Cedar actions."""

    GET_KEY = "GetKey"
    ENABLE_KEY = "EnableKey"
    DISABLE_KEY = "DisableKey"
    ROTATE_KEY = "RotateKey"
    LIST_KEY_VERSIONS = "ListKeyVersions"
    CREATE_ALIAS = "CreateAlias"
    UPDATE_KEY = "UpdateKey"
    SCHEDULE_KEY_DELETION = "ScheduleKeyDeletion"
    CANCEL_KEY_DELETION = "CancelKeyDeletion"
    GET_KEY_VERSION = "GetKeyVersion"
    SCHEDULE_KEY_VERSION_DELETION = "ScheduleKeyVersionDeletion"
    CANCEL_KEY_VERSION_DELETION = "CancelKeyVersionDeletion"
    UPDATE_ALIAS = "UpdateAlias"
    DELETE_ALIAS = "DeleteAlias"
    TAG_RESOURCE = "TagResource"
    UNTAG_RESOURCE = "UntagResource"
    GET_IMPORT_PARAMETERS = "GetImportParameters"
    IMPORT_KEY_MATERIAL = "ImportKeyMaterial"
    DELETE_IMPORTED_KEY_MATERIAL = "DeleteImportedKeyMaterial"
    GET_KEY_POLICY = "GetKeyPolicy"
    PUT_KEY_POLICY = "PutKeyPolicy"
    LIST_KEY_POLICY_REVISIONS = "ListKeyPolicyRevisions"
    EXPLAIN_ACCESS = "ExplainAccess"
    CREATE_GRANT = "CreateGrant"
    LIST_GRANTS = "ListGrants"
    RETIRE_GRANT = "RetireGrant"
    REVOKE_GRANT = "RevokeGrant"
    ENCRYPT = "Encrypt"
    DECRYPT = "Decrypt"
    RE_ENCRYPT_FROM = "ReEncryptFrom"
    RE_ENCRYPT_TO = "ReEncryptTo"
    GENERATE_DATA_KEY = "GenerateDataKey"
    GENERATE_DATA_KEY_WITHOUT_PLAINTEXT = "GenerateDataKeyWithoutPlaintext"
    GENERATE_DATA_KEY_PAIR = "GenerateDataKeyPair"
    GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT = "GenerateDataKeyPairWithoutPlaintext"
    SIGN = "Sign"
    VERIFY = "Verify"
    GET_PUBLIC_KEY = "GetPublicKey"
    GENERATE_MAC = "GenerateMac"
    VERIFY_MAC = "VerifyMac"
    DERIVE_SHARED_SECRET = "DeriveSharedSecret"  # noqa: S105 - the name of a call


SCHEMA: Final = """
entity Role;
entity Principal in [Role];
entity Key;
type ContextPair = { name: String, value: String };
type CallContext = { encryption_context: Set<ContextPair> };
action ManageKey, UseKey;
action GetKey, EnableKey, DisableKey, RotateKey, ListKeyVersions, CreateAlias, UpdateKey,
  ScheduleKeyDeletion, CancelKeyDeletion, GetKeyVersion, ScheduleKeyVersionDeletion,
  CancelKeyVersionDeletion, UpdateAlias, DeleteAlias, TagResource, UntagResource,
  GetKeyPolicy, PutKeyPolicy, ListKeyPolicyRevisions, ExplainAccess, CreateGrant, ListGrants,
  RetireGrant, RevokeGrant, GetImportParameters, ImportKeyMaterial, DeleteImportedKeyMaterial
  in [ManageKey]
  appliesTo { principal: [Principal], resource: [Key], context: CallContext };
action Encrypt, Decrypt, ReEncryptFrom, ReEncryptTo, GenerateDataKey,
  GenerateDataKeyWithoutPlaintext, GenerateDataKeyPair, GenerateDataKeyPairWithoutPlaintext,
  Sign, Verify, GetPublicKey, GenerateMac, VerifyMac, DeriveSharedSecret
  in [UseKey]
  appliesTo { principal: [Principal], resource: [Key], context: CallContext };
"""

# Parsed once: parsing it takes longer than everything else that is done with a policy.
_PARSED_SCHEMA: Final = cedarpy.Schema.from_str(SCHEMA)

_ADMINISTRATOR: Final = {"type": "Role", "id": "administrator"}

USE_ACTIONS: Final = frozenset(
    {
        Action.ENCRYPT,
        Action.DECRYPT,
        Action.RE_ENCRYPT_FROM,
        Action.RE_ENCRYPT_TO,
        Action.GENERATE_DATA_KEY,
        Action.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Action.GENERATE_DATA_KEY_PAIR,
        Action.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
        Action.SIGN,
        Action.VERIFY,
        Action.GET_PUBLIC_KEY,
        Action.GENERATE_MAC,
        Action.VERIFY_MAC,
        Action.DERIVE_SHARED_SECRET,
    }
)
"""The actions in the schema's group UseKey; all others are in ManageKey."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a policy: allowed or not, and the id of the policy that decided."""

    allowed: bool
    policy_id: str

    @property
    def is_silent(self) -> bool:
        """Whether no policy applies, neither permit nor forbid: a grant may allow it."""
        return not self.allowed and self.policy_id == DEFAULT_DENY


def group_of(action: Action) -> str:
    """Return the schema's group that an action is in."""
    return "UseKey" if action in USE_ACTIONS else "ManageKey"


def default_policy(creator: str) -> str:
    """Return the policy of a key whose creator gave none.

    Args:
        creator: A validated SPIFFE ID (so it has no character to escape in Cedar).
    """
    return (
        '@id("administrators")\n'
        'permit (principal in Role::"administrator", action, resource);\n'
        '@id("creator")\n'
        f'permit (principal == Principal::"{creator}", action, resource);\n'
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of policies: may this principal do this to that key, in this context?"""

    principal: str
    is_administrator: bool
    action: Action
    key: str
    encryption_context: Mapping[str, str]

    def ask(self, policies: cedarpy.PolicySet | str) -> cedarpy.AuthzResult:
        """Have Cedar decide."""
        entities = [
            {
                "uid": {"type": "Principal", "id": self.principal},
                "attrs": {},
                "parents": [_ADMINISTRATOR] if self.is_administrator else [],
            },
            {
                "uid": {"type": "Action", "id": self.action.value},
                "attrs": {},
                # Cedar evaluates without the schema and so has to be told of the groups: an
                # action that is in none slips through every forbid that names one.
                "parents": [{"type": "Action", "id": group_of(self.action)}],
            },
        ]
        return cedarpy.is_authorized(
            {
                # As data, not as Cedar text: nothing in a name can be read as syntax.
                "principal": {"type": "Principal", "id": self.principal},
                "action": {"type": "Action", "id": self.action.value},
                "resource": {"type": "Key", "id": self.key},
                "context": {
                    "encryption_context": [
                        {"name": name, "value": value}
                        for name, value in self.encryption_context.items()
                    ]
                },
            },
            policies,
            json.dumps(entities),
        )

    def holds(self, policy: str) -> tuple[bool, str]:
        """Say whether one policy that permits applies, and the error that it met, if any."""
        result = self.ask(policy)
        errors = [str(error) for error in result.diagnostics.errors]
        return result.decision is cedarpy.Decision.Allow, "; ".join(errors)


class CompiledPolicy:
    """A parsed policy set.

    Thread safety: immutable after construction.
    """

    __slots__ = ("_policies", "depends_on_context", "statements", "text_sha256")

    def __init__(self, text: str) -> None:
        """Parse `text` and check it against the schema.

        Raises:
            PolicyInvalidError: It is too long or too deep, does not parse, does not fit
                the schema, has templates, or its ids are not short and unique; the
                message says where.
        """
        check_policy_text(text)
        result = cedarpy.validate_policies(text, _PARSED_SCHEMA)
        if not result.validation_passed:
            mistakes = _shorten([str(error.error) for error in result.errors])
            raise PolicyInvalidError(f"policy: {mistakes or 'does not fit the schema'}")
        try:
            self._policies = cedarpy.PolicySet.from_str(text)
            document = json.loads(cedarpy.policies_to_json_str(text))
        except ValueError as exc:
            raise PolicyInvalidError(f"policy: {_shorten([str(exc)])}") from exc
        if document["templates"]:
            raise PolicyInvalidError("policy: ?principal and ?resource have no meaning here")
        _check_ids(document["staticPolicies"].values())
        #: The policies as Cedar's JSON, by `policy0`, `policy1`, …; only read.
        self.statements: Mapping[str, Any] = document["staticPolicies"]
        self.text_sha256 = hashlib.sha256(text.encode()).hexdigest()
        # Textual and so conservative: a policy without the word cannot read the context.
        self.depends_on_context = "context" in text

    def evaluate(
        self,
        *,
        principal: str,
        is_administrator: bool,
        action: Action,
        key: str,
        encryption_context: Mapping[str, str],
    ) -> Verdict:
        """Decide. An error inside a policy makes that policy not apply, as Cedar says.

        Args:
            principal: A validated SPIFFE ID.
            key: Resource name of the key.
        """
        return self.decide(Question(principal, is_administrator, action, key, encryption_context))

    def decide(self, question: Question) -> Verdict:
        """Decide, as `evaluate` does."""
        result = question.ask(self._policies)
        names = result.diagnostics.id_annotations_by_reason
        reasons = sorted(names.get(r) or r for r in result.diagnostics.reasons)
        if len(reasons) > MAX_NAMED_POLICIES:
            more = len(reasons) - MAX_NAMED_POLICIES
            reasons = [*reasons[:MAX_NAMED_POLICIES], f"and {more} more"]
        policy_id = ",".join(reasons) if reasons else DEFAULT_DENY
        return Verdict(result.decision is cedarpy.Decision.Allow, policy_id)


def _shorten(mistakes: Sequence[str]) -> str:
    """Join the first mistakes; an answer's headers have room for no more."""
    shown = [
        text if len(text) <= MAX_MISTAKE_CHARACTERS else text[:MAX_MISTAKE_CHARACTERS] + "…"
        for text in mistakes[:MAX_MISTAKES]
    ]
    if len(mistakes) > MAX_MISTAKES:
        shown.append(f"and {len(mistakes) - MAX_MISTAKES} more")
    return "; ".join(shown)


def _check_ids(policies: Iterable[Mapping[str, Any]]) -> None:
    """Refuse ids that could not stand in an audit record, or would mislead its reader."""
    seen = set()
    for policy in policies:
        annotations = policy.get("annotations", {})
        if "id" not in annotations:
            continue
        policy_id = annotations["id"] or ""
        if _POLICY_ID.fullmatch(policy_id) is None or policy_id == DEFAULT_DENY:
            raise PolicyInvalidError(
                "policy: @id must be 1 to 64 letters, digits or any of ._:/- and not "
                f"{DEFAULT_DENY}"
            )
        if policy_id in seen:
            raise PolicyInvalidError(f'policy: two policies have @id("{policy_id}")')
        seen.add(policy_id)


def check_new_ids(policy: CompiledPolicy) -> None:
    """Refuse ids that would pass for those of grants, in a policy that is not stored yet.

    Raises:
        PolicyInvalidError: An id begins with ``grant/``.
    """
    for statement in policy.statements.values():
        if (statement.get("annotations", {}).get("id") or "").startswith(GRANT_PREFIX):
            raise PolicyInvalidError(f"policy: @id must not begin with {GRANT_PREFIX}")


def check_lock_out(
    policy: CompiledPolicy, *, creator: str, creator_is_administrator: bool, key: str
) -> None:
    """Refuse a policy under which neither creator nor administrators can manage the key.

    Raises:
        PolicyInvalidError: Nobody known could see, enable and disable the key and put
            another policy.
    """
    needed = (Action.GET_KEY, Action.ENABLE_KEY, Action.DISABLE_KEY, Action.PUT_KEY_POLICY)
    # Stands for "any administrator": a text cannot name the principal made from its hash.
    some_administrator = f"spiffe://invalid/{policy.text_sha256}"
    for principal, is_administrator in (
        (creator, creator_is_administrator),
        (some_administrator, True),
    ):
        if all(
            policy.evaluate(
                principal=principal,
                is_administrator=is_administrator,
                action=action,
                key=key,
                encryption_context={},
            ).allowed
            for action in needed
        ):
            return
    raise PolicyInvalidError(
        'policy: locks everybody out: neither you nor Role::"administrator" may '
        f"{', '.join(needed)}"
    )
