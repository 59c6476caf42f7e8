"""What an error says, as policies let it be seen: an exception may quote the payload that it is about, in any form.

`KeyError: 'ada@example.com'`, `input_value='ada@exam…'`, a total in another currency: nobody can find all that was made
of a value. So where a policy hides something of an event, its errors are shown without what they say: the class, and of
the stack the places, the lines of code and the classes. `errors = "replace"` of a policy takes the value itself out of the
text instead, wherever it is quoted letter for letter; `errors = "show"` leaves errors alone, for handlers that are known
to quote nothing.

With the record at hand (`dlq show`, payloads in a view) an event of which nothing is hidden keeps its errors. In lists it
is not at hand: there an event that a policy may be about is taken for one that has. Classes, fingerprints and handlers are
always shown. A consumer's own log, and the topic that mirrors dead letters, have errors as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evkit.masking import (
    MASK,
    WITHHELD,
    Headers,
    Policy,
    applying,
    hidden_headers,
    masked_document,
    masked_text,
    masked_value,
)

HIDDEN = "(hidden by a masking policy)"
HIDDEN_STACK = "(what the errors say is hidden by a masking policy)"

# As Python and Java write a place; what a message adds in lines of its own looks otherwise.
_PYTHON_PLACE = re.compile(r'[ |]*File "[^"\n]+", line \d+, in [\w<>.]+')
_JAVA_PLACE = re.compile(r"\s+at [\w.$<>/@-]+\([\w.$<> :-]+\)")
_CLASS = re.compile(r"[ |+]*(?:Caused by: )?[A-Za-z_][\w$]*(?:\.[\w$<>]+)*(?=: |:?$)")
_MARKS = re.compile(r"[ |]*[~^]+[~^ ]*")
_BETWEEN = (
    "Traceback (most recent call last):",
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)


@dataclass(frozen=True, slots=True)
class Quoted:
    """What may be shown of the errors of one record.

    Attributes:
        is_hidden  nothing of what they say
        texts      else these are taken out of it
    """

    is_hidden: bool = False
    texts: tuple[str, ...] = ()

    def message(self, text: str | None) -> str | None:
        """A message of an error."""
        if self.is_hidden:
            return HIDDEN if text else text
        return masked_text(text, self.texts)

    def stack(self, text: str | None) -> str | None:
        """A stack trace: hidden, it is the places, the lines of code and the classes."""
        return places_of(text) if self.is_hidden and text else masked_text(text, self.texts)

    def titled(self, text: str | None) -> str | None:
        """A text of the form `class: message`."""
        if not self.is_hidden or not text:
            return masked_text(text, self.texts)
        found = _CLASS.match(text)
        return f"{found[0]}: {HIDDEN}" if found else HIDDEN

    def facts(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """What another framework said of a letter: numbers and classes; its texts may be messages."""
        if not self.is_hidden or found is None:
            return found
        return {
            name: HIDDEN if isinstance(value, str) and not name.endswith("_class") else value
            for name, value in found.items()
        }


def quoted(value: bytes | None, headers: Headers, policies: Sequence[Policy], *, is_own: bool = True) -> Quoted:
    """What may be shown of the errors of a record that is under these policies.

    Args:
        is_own  False: the errors are of another payload than this one, which nobody can look into
    """
    asking = [p for p in policies if p.errors != "show"]
    if not asking:
        return Quoted()
    texts: list[str] = []
    _, state = masked_value(value, asking, texts)
    if not is_own or (state == WITHHELD and any(p.field is not None for p in asking)):
        return Quoted(is_hidden=True)
    headers = list(headers)
    document = None
    if value is not None and any(p.field is not None for p in asking):
        try:
            document = json.loads(value.decode("utf-8-sig"), object_pairs_hook=_once)
        except ValueError:
            return Quoted(is_hidden=True)
    found = [p for p in asking if _finds(p, document, headers)]
    if any(p.errors == "hide" for p in found):
        return Quoted(is_hidden=True)
    return Quoted(texts=(*texts, *hidden_headers(headers, asking)))


def hides_errors(policies: Iterable[Policy], topic: str | None, event_type: str | None) -> bool:
    """Whether nothing is shown of what errors of such an event say, where its record is not at hand; None: not known."""
    under = policies if topic is None else applying(policies, topic, event_type)
    return any(p.errors != "show" for p in under)


def message_of(text: str | None, policies: Iterable[Policy], topic: str | None, event_type: str | None) -> str | None:
    """A message of an error whose record is not at hand."""
    return HIDDEN if text and policies and hides_errors(policies, topic, event_type) else text


def places_of(stack: str) -> str:
    """A stack trace without messages: of Python and of Java the places, code and classes; nothing of others."""
    lines = [line.rstrip("\r") for line in stack.split("\n")]
    is_java = any(_JAVA_PLACE.fullmatch(line) for line in lines)
    kept = [HIDDEN_STACK]
    # What may come next: after a place its line of code, after either the class of the exception.
    code_next = False
    class_next = is_java
    for line in lines:
        is_place = _PYTHON_PLACE.fullmatch(line) is not None
        if is_place or line in _BETWEEN or (is_java and _JAVA_PLACE.fullmatch(line)):
            kept.append(line)
            code_next = class_next = is_place
        elif code_next and line.startswith("    "):
            kept.append(line)
            code_next = False
        elif not (class_next and _MARKS.fullmatch(line)):
            is_class = class_next or (is_java and line.startswith("Caused by: "))
            if is_class and (found := _CLASS.match(line)):
                kept.append(f"{found[0]}: {MASK}")
            code_next = class_next = False
    return "\n".join(kept)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that comes twice nobody can say which one a handler has read."""
    if len(made := dict(pairs)) != len(pairs):
        raise ValueError("a name comes twice")
    return made


def _finds(policy: Policy, document: Any, headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether there is something that the policy hides."""
    if policy.header is not None:
        return any(name == policy.header and value is not None for name, value in headers)
    return bool(masked_document(document, (policy,)) != document)
