"""What a policy text has to be before Cedar's parser may see it.

The parser recurses on the native stack: some thousand nested brackets end the process,
and with it the shard. Trees a few thousand deep pass Cedar's validator unchecked, and the
check of ``x has a.a.a...`` takes quadratic time. These limits are far above what people
write and far below where that begins.
"""

from __future__ import annotations

import re
from typing import Final

from strongroom_server.errors import PolicyInvalidError

__all__ = ["MAX_POLICY_BYTES", "check_policy_text"]

MAX_POLICY_BYTES: Final = 32 * 1024
MAX_NESTING: Final = 32
MAX_STATEMENT_WORDS: Final = 1024
MAX_DOTS_IN_A_ROW: Final = 8

# Strings, comments, words, anything else: as Cedar's lexer divides them. A string without
# an end takes the rest, so that the scan stays linear; Cedar's would not.
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|//[^\r\n]*|\w+|\S', re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NESTING: Final = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def check_policy_text(text: str) -> None:
    """Refuse a text that is too large or too deep to be parsed safely.

    Raises:
        PolicyInvalidError: It is longer than 32,768 bytes, is not valid Unicode, nests
            brackets more than 32 deep, or has a policy of more than 1,024 words (names,
            strings, signs) or with more than 8 attributes of attributes.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise PolicyInvalidError("policy: not valid Unicode") from exc
    if size > MAX_POLICY_BYTES:
        raise PolicyInvalidError(f"policy: longer than {MAX_POLICY_BYTES} bytes")
    _check_shape(text)


def _check_shape(text: str) -> None:
    depth = words = dots = 0
    for match in _WORD.finditer(text):
        word = match[0]
        if word.startswith("//"):
            continue
        if word[0] == '"' and not _STRING.fullmatch(word):
            raise PolicyInvalidError("policy: a string has no end")
        words = 0 if word == ";" else words + 1
        depth = max(0, depth + _NESTING.get(word, 0))
        if word == ".":
            dots += 1
        elif not (word[0].isalnum() or word[0] == "_"):
            dots = 0
        if depth > MAX_NESTING:
            raise PolicyInvalidError(f"policy: brackets nested more than {MAX_NESTING} deep")
        if words > MAX_STATEMENT_WORDS:
            raise PolicyInvalidError(
                f"policy: one policy has more than {MAX_STATEMENT_WORDS} words; divide it"
            )
        if dots > MAX_DOTS_IN_A_ROW:
            raise PolicyInvalidError(
                f"policy: more than {MAX_DOTS_IN_A_ROW} attributes of attributes"
            )
