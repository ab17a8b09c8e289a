"""Reading credentials: by username, by what a person typed, and in pages.

A word of a search matches a credential whose name contains it, whose username begins with it, or whose id contains it, if it has at least
four characters. Lists, Home and the commands that take a name all ask here, so that they mean the same by it.

An index of the parts of names (three letters each) leads to the rows that a rare word matches; a common word finds its page soon in the
order of the list. PostgreSQL chooses between the two by itself. For SQLite, `_Search` counts up to a bound first.
"""

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, bindparam, func, or_, select, text

from storage import names, passwords
from storage.credentials import already_deleted, rows
from storage.database import Transaction
from storage.models import CREDENTIALS, DELETED, LISTED, LIVE, NOT_DELETED, Credential, Listed, State, Workspace, as_row
from storage.refusals import NoSuchCredential

PAGE_ROWS = 10
COUNTED = 1000  # matches of a search; beyond, a page says that there are more
MOST_WORDS = 20
ID_PART = 4  # characters of an id that a word needs to match it
LONGEST_KEY = names.NAME_MAX * 18  # U+FDFA alone becomes 18 characters
GRAM = 3  # letters; what the index knows a name by
MOST_TERMS = 24  # parts that are looked up; the row is compared whole anyway
RARE = 2000  # rows with a part, below which it leads by itself
SCANNED = 2000  # rows that are sooner read in their order than looked up
CANDIDATES = 10_000  # that a rare word has at most
SUGGEST_AMONG = 500  # names that are compared with a mistyped one
SUGGEST_LOOKED_UP = 120  # rows that SQLite's index leads to for a part of it, some in other workspaces or deleted
SUGGEST_FOR_PART = 30  # names that contain a part of it
LONGEST_PART = 7  # letters
SIMILAR = 5  # names that are compared letter by letter


class Order(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True)
class Place:
    """Where in a list a page begins: after this credential, or before it."""

    credential_id: str
    before: bool = False
    position: int = 0
    """How many rows stand before the page; only shown, never counted with."""


@dataclass(frozen=True)
class Page:
    rows: Sequence[Listed]
    total: int
    first: int
    """The position of the first row, from 1."""
    previous: Place | None
    next: Place | None
    uncounted: bool = False
    """There are more than `total`."""


def by_username(tx: Transaction, username: str) -> Credential | None:
    """In whatever workspace, also deleted ones."""
    row = tx.connection.execute(_OF_USERNAME, {"username": username}).first()
    return as_row(Credential, row) if row else None


def by_usernames(tx: Transaction, usernames: Sequence[str]) -> list[Credential]:
    """Those that there are, also deleted ones, in the order of the usernames."""
    found = rows(tx, select(CREDENTIALS).where(CREDENTIALS.c.username.in_(usernames)))
    return sorted(found, key=lambda one: usernames.index(one.username))


def find(tx: Transaction, workspace: Workspace, target: str, limit: int = 10) -> list[Credential]:
    """The live credentials of the workspace that a typed name or username means: the one it names, or those that its words match.

    Raises:
        NoSuchCredential: with the closest name. AlreadyDeleted: it is the username of a deleted one of this workspace.
    """
    target = target.strip()
    key = names.name_key(target)
    found: list[Credential] = []
    if key and _storable(key):
        row = tx.connection.execute(_NAMED, {"workspace": workspace.id, "key": key}).first()
        found = [as_row(Credential, row)] if row else []
    known = by_username(tx, key) if names.USERNAME.fullmatch(key) else None
    if known and known.workspace_id != workspace.id:
        known = None
    if known and known.state in (State.ACTIVE, State.SUSPENDED):
        found.append(known)
    if not found and (search := _Search.of(workspace, key)).conditions:
        query = select(CREDENTIALS).where(CREDENTIALS.c.workspace_id == workspace.id, text(LIVE), *search.narrowing(tx))
        found = rows(tx, query.order_by(CREDENTIALS.c.number.desc()).limit(limit))
    if found:
        return found
    if known and known.state == State.DELETED:
        raise already_deleted(known)
    raise NoSuchCredential(target, _closest(tx, workspace, key))


def in_state(states: Sequence[State]) -> list[ColumnElement[bool]]:
    """What is so of the live credentials in these states, for `page`."""
    return [] if {State.ACTIVE, State.SUSPENDED} <= set(states) else [CREDENTIALS.c.state.in_([one.value for one in states])]


def deleted(tx: Transaction, workspace: Workspace, name: str) -> Credential | None:
    """The last one of the workspace that had this name and is deleted."""
    key = names.name_key(name.strip())
    which = (CREDENTIALS.c.workspace_id == workspace.id, CREDENTIALS.c.name_key == key, text(DELETED))
    query = select(CREDENTIALS).where(*which).order_by(CREDENTIALS.c.deleted_at.desc()).limit(1)
    return next(iter(rows(tx, query)), None) if key and _storable(key) else None


def is_named(credential: Credential, target: str) -> bool:
    """Whether the typed text is the credential's whole name or username, not only a part of it."""
    return names.name_key(target.strip()) == credential.name_key or target.strip().lower() == credential.username


def page(
    tx: Transaction,
    workspace: Workspace,
    order: Order,
    words: str = "",
    place: Place | None = None,
    size: int = PAGE_ROWS,
    only: Sequence[ColumnElement[bool]] = (),
) -> Page:
    """Some rows of the workspace's live credentials.

    Args:
        words: what each row must match, whatever the case.
        only: what else must be so of each row.
        place: where the page begins; None, or a credential of another workspace, begins at the top.
    """
    search = _Search.of(workspace, names.name_key(words))
    if search.hopeless:
        return Page([], 0, 1, None, None)
    backwards = place is not None and place.before
    descending = (order is Order.NEWEST) != backwards
    narrowing = [*search.narrowing(tx), *only]
    values: dict[str, Any] = {"workspace": workspace.id, "size": size + 1}
    if place is not None:
        values["anchor"] = place.credential_id
    query = _listed(descending, place is not None)
    if narrowing:
        query = query.where(*narrowing)
    found = [Listed(*row) for row in tx.connection.execute(query, values).all()]
    more = len(found) > size
    found = found[:size]
    if backwards:
        found.reverse()
    if place is not None and not more and len(found) < size and (backwards or not found):
        return page(tx, workspace, order, words, size=size, only=only)
    total = workspace.credential_count
    if narrowing and place is None and not more:
        total = len(found)  # all that match are here: a second search would only count them
    elif narrowing:
        matching = select(CREDENTIALS.c.number).where(CREDENTIALS.c.workspace_id == workspace.id, text(LIVE), *narrowing)
        some = matching.limit(COUNTED + 1).subquery()
        total = tx.connection.scalar(select(func.count()).select_from(some)) or 0
    uncounted = bool(narrowing) and total > COUNTED
    if uncounted:
        total = COUNTED
    first = 1
    if place is not None:
        last_begins = total - len(found)
        first = (place.position if uncounted else min(place.position, max(last_begins, 0))) + 1
        if not backwards and not more and not uncounted:
            first = max(last_begins, 0) + 1
    has_previous = more if backwards else place is not None
    has_next = True if backwards else more
    return Page(
        found,
        total,
        first,
        Place(found[0].id, before=True, position=max(first - 1 - size, 0)) if found and has_previous else None,
        Place(found[-1].id, position=first - 1 + len(found)) if found and has_next else None,
        uncounted,
    )


def anywhere(tx: Transaction, words: str, size: int, only: Sequence[ColumnElement[bool]]) -> list[Listed]:
    """The newest live credentials of all workspaces, by the rule of a search in one.

    A word matches the name anywhere, the username from its start, or at least four characters of its id.

    Args:
        only: what else must be so of each.
    """
    typed = names.name_key(words).split()[:MOST_WORDS]
    if not typed or not all(_storable(word) and len(word) <= LONGEST_KEY for word in typed):
        return []
    read = [_Word.read(word) for word in typed]
    matching = [or_(word.condition(tx), CREDENTIALS.c.username.startswith(word.name, autoescape=True)) for word in read]
    terms = [term for word in read for term in word.terms][:MOST_TERMS]
    if tx.sqlite and terms and not any(word.startswith("smtp-") for word in typed):
        matching.insert(0, _among(_indexed(tx, terms, CANDIDATES)))
    query = select(*LISTED).where(text(LIVE), *matching, *only).order_by(CREDENTIALS.c.number.desc()).limit(size)
    return [Listed(*row) for row in tx.connection.execute(query)]


_OF_USERNAME = select(CREDENTIALS).where(CREDENTIALS.c.username == bindparam("username"))
# The index of names holds what is not deleted, so the query says so too.
_NAMED = select(CREDENTIALS).where(
    CREDENTIALS.c.workspace_id == bindparam("workspace"), CREDENTIALS.c.name_key == bindparam("key"), text(LIVE), text(NOT_DELETED)
)


@cache
def _listed(descending: bool, beyond: bool) -> Select[Any]:
    """The rows of a page; `beyond`: those that follow the credential `anchor`."""
    at, here = CREDENTIALS.c.number, CREDENTIALS.c.workspace_id == bindparam("workspace")
    query = select(*LISTED).where(here, text(LIVE)).order_by(at.desc() if descending else at).limit(bindparam("size"))
    if not beyond:
        return query
    anchor = select(at).where(CREDENTIALS.c.id == bindparam("anchor"), here).scalar_subquery()
    return query.where(at < anchor if descending else at > anchor)


@dataclass(frozen=True)
class _Word:
    """What a word must stand in, any of these."""

    name: str
    id_part: str = ""
    """Anywhere in the id."""
    id_start: str = ""

    @classmethod
    def read(cls, key: str, username_start: str | None = None) -> "_Word":
        """`username_start`: what all usernames of the workspace begin with, up to the id; None when searching in several."""
        if username_start and key.startswith(username_start):
            return cls(key, id_start=_id(key.removeprefix(username_start)))
        return cls(key, id_part=_id(key) if len(key) >= ID_PART else "")

    def condition(self, tx: Transaction) -> ColumnElement[bool]:
        arms = [_contains(tx, CREDENTIALS.c.name_key, self.name)]
        if self.id_part:
            arms.append(_contains(tx, CREDENTIALS.c.id, self.id_part))
        if self.id_start:
            arms.append(CREDENTIALS.c.id.between(self.id_start, self.id_start + "z" * passwords.ID_LENGTH))
        return or_(*arms)

    @property
    def terms(self) -> list[str]:
        """FTS5's queries that rows which can match fulfil all of; none when the index cannot tell."""
        name = _terms(self.name)
        if not self.id_start or not name:
            return name  # a part of an id has the same three-letter parts, whichever column they stand in
        start = _terms(self.id_start)
        return [f"(({' AND '.join(name)}) OR ({' AND '.join(start)}))"] if start else []


@dataclass(frozen=True)
class _Search:
    """What a workspace's live credentials are narrowed to."""

    workspace: Workspace
    conditions: Sequence[_Word]
    hopeless: bool = False
    """No name can hold one of the words."""

    @classmethod
    def of(cls, workspace: Workspace, key: str) -> "_Search":
        start = names.username(workspace.slug, "")
        typed = list(dict.fromkeys(key.split()))[:MOST_WORDS]
        hopeless = any(len(word) > LONGEST_KEY or not _storable(word) for word in typed)
        # What every username begins with says nothing.
        return cls(workspace, [] if hopeless else [_Word.read(word, start) for word in typed if not start.startswith(word)], hopeless)

    def narrowing(self, tx: Transaction) -> list[ColumnElement[bool]]:
        """What the rows fulfil together; on SQLite led by the index when that leads to few."""
        conditions = [word.condition(tx) for word in self.conditions]
        if not tx.sqlite or self.workspace.credential_count <= SCANNED:
            return conditions
        numbers = self._few(tx)
        return conditions if numbers is None else [_among(numbers), *conditions]

    def _few(self, tx: Transaction) -> list[int] | None:
        """The rows that the index leads to; None when it is less work to read the workspace's list."""
        terms = list(dict.fromkeys(term for word in self.conditions for term in word.terms))[:MOST_TERMS]
        if not terms:
            return None
        # What rare parts lead to is soon read and compared; common ones have long lists, of which nothing is gained then.
        counted = f"(SELECT count(*) FROM ({_INDEXED} LIMIT {RARE}))"  # noqa: S608 (ours, without anything typed)
        counts = tx.connection.exec_driver_sql(f"SELECT {', '.join([counted] * len(terms))}", tuple(terms)).one()
        rare = [term for term, count in zip(terms, counts, strict=True) if count < RARE]
        most = min(self.workspace.credential_count // 4, CANDIDATES)
        if not rare:
            count = f"SELECT count(*) FROM ({_INDEXED} LIMIT {most})"  # noqa: S608 (ours, without anything typed)
            if tx.connection.exec_driver_sql(count, (" AND ".join(terms),)).scalar() == most:
                return None
        numbers = _indexed(tx, rare or terms, most)
        return numbers if len(numbers) < most else None


_INDEXED = "SELECT rowid FROM credential_words WHERE credential_words MATCH ?"


def _indexed(tx: Transaction, terms: Iterable[str], most: int) -> list[int]:
    """The numbers of rows that SQLite's index leads to, at most so many."""
    return list(tx.connection.exec_driver_sql(f"{_INDEXED} LIMIT {most}", (" AND ".join(terms),)).scalars().all())


def _among(numbers: list[int]) -> ColumnElement[bool]:
    listed = func.json_each(json.dumps(numbers)).table_valued("value")
    return CREDENTIALS.c.number.in_(select(listed.c.value))


def _grams(key: str) -> list[str]:
    """The three-letter parts, each once."""
    return list(dict.fromkeys(key[at : at + GRAM] for at in range(len(key) - GRAM + 1)))


def _terms(key: str) -> list[str]:
    """FTS5's queries that what contains it fulfils; none for less than three letters. Parts side by side, which hold all letters."""
    found = _grams(key)
    return ['"' + gram.replace('"', '""') + '"' for gram in dict.fromkeys([*found[::GRAM], *found[-1:]])]


def _contains(tx: Transaction, where: ColumnElement[str], part: str) -> ColumnElement[bool]:
    if tx.sqlite:
        return func.instr(where, part) > 0
    pattern = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    # PostgreSQL must see it to choose between the index and the order of the list.
    return where.like(bindparam(None, f"%{pattern}%", Text, literal_execute=True))


def _storable(key: str) -> bool:
    """Whether a name can hold it; the databases refuse a NUL and half a surrogate pair even in a question."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in key)


def _id(typed: str) -> str:
    """The part of an id that was typed; nothing when it cannot be one."""
    return typed if len(typed) <= passwords.ID_LENGTH and all(character in passwords.CROCKFORD for character in typed) else ""


def _closest(tx: Transaction, workspace: Workspace, key: str) -> str | None:
    """The name that a mistyped one may mean: among all of a small workspace, else among those that contain a part of what was typed."""
    if not _storable(key) or not len(key) <= names.NAME_MAX * 2:
        return None
    typed = set(_grams(key))
    some = select(CREDENTIALS.c.name_key, CREDENTIALS.c.name).where(CREDENTIALS.c.workspace_id == workspace.id, text(LIVE))
    candidates: dict[str, str] = {}
    if workspace.credential_count <= SUGGEST_AMONG:
        candidates = {row.name_key: row.name for row in tx.connection.execute(some)}
    else:
        for part in _parts(key):
            if tx.sqlite:
                narrowed = some.where(_among(_indexed(tx, _terms(part), SUGGEST_LOOKED_UP)))
            else:
                narrowed = some.where(_contains(tx, CREDENTIALS.c.name_key, part))
            found = tx.connection.execute(narrowed.limit(SUGGEST_FOR_PART))
            candidates.update({row.name_key: row.name for row in found})

    def shared(name: str) -> float:
        grams = set(_grams(name))
        return len(typed & grams) / (len(typed | grams) or 1)

    similar = sorted(candidates, key=shared, reverse=True)[:SIMILAR]
    closest = difflib.get_close_matches(key, similar, n=1)
    return candidates[closest[0]] if closest else None


def _parts(key: str) -> Iterable[str]:
    """Parts of a mistyped name of which one is likely right: of its beginning, its middle and its end."""
    length = min(max(len(key) // 2, GRAM), LONGEST_PART)
    middle = (len(key) - length) // 2
    return [part for part in dict.fromkeys((key[:length], key[-length:], key[middle : middle + length])) if len(part) >= GRAM]
