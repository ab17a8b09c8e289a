"""A workspace's own rules: what its credentials may be, and where its webhook goes.

The checks are called inside the transactions of what they rule. A rule counts for what is done from then on; credentials that were made
before it stay as they are.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from ipaddress import ip_address
from urllib.parse import urlsplit

import idna
from sqlalchemy import func, select, text

from storage.access import Action
from storage.audit import Origin, What, attempt
from storage.database import Transaction
from storage.models import CREDENTIALS, Workspace
from storage.refusals import (
    DeviceNotAllowed,
    DomainInvalid,
    DomainProblem,
    LifeTooLong,
    NumberInvalid,
    TooManyLive,
    WebhookInvalid,
    WebhookProblem,
)
from storage.workspaces import by_id, save

DOMAINS_MAX = 50
DAYS_MAX = 3660
LIVE_MAX = 1_000_000
TYPED_MAX = 16_000  # characters of typed domains that are looked at
URL_MAX = 1000
SAME_DAY = timedelta(days=1)  # a date counts until its end
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Policy:
    domains: tuple[str, ...] = ()
    """Sender domains as `clean_domain` writes them; none: any sender."""
    longest_days: int | None = None
    reason_required: bool = False
    devices_allowed: bool = True
    most_live: int | None = None

    @classmethod
    def of(cls, workspace: Workspace) -> "Policy":
        return cls(*(getattr(workspace, field.name) for field in fields(cls)))


def change(tx: Transaction, origin: Origin, workspace_id: int, policy: Policy) -> Workspace:
    """Sets all of the workspace's rules.

    Raises:
        NoSuchWorkspace, NotAllowed (it takes an admin), RoleUnknown, PersonBarred, NumberInvalid, DomainInvalid (too many).
    """
    with attempt(tx, What.CHANGE_WORKSPACE, origin) as current:
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        _check(policy)
        current.void = policy == Policy.of(workspace)
        current.subject = " ".join(words(policy)) or "no rules"
        if not current.void:
            current.workspace = workspace = save(tx, workspace, **{field.name: getattr(policy, field.name) for field in fields(policy)})
    return workspace


def _check(policy: Policy) -> None:
    if len(policy.domains) > DOMAINS_MAX:
        raise DomainInvalid(DomainProblem.TOO_MANY)
    for name, most in (("longest_days", DAYS_MAX), ("most_live", LIVE_MAX)):
        value = getattr(policy, name)
        if value is not None and not 1 <= value <= most:
            raise NumberInvalid(name, 1, most)


def words(policy: Policy) -> list[str]:
    """The rules in short, such as `domains example.com`, `at most 90 days`."""
    said = ["domains " + ",".join(policy.domains)] if policy.domains else []
    said += [f"at most {policy.longest_days} days"] if policy.longest_days else []
    said += [f"at most {policy.most_live} live"] if policy.most_live else []
    said += ["a reason for every stop"] if policy.reason_required else []
    return said if policy.devices_allowed else [*said, "no device passwords"]


# --- the checks ---
def check_life(workspace: Workspace, expires_at: datetime | None, now: datetime) -> None:
    """Raises LifeTooLong."""
    days = workspace.longest_days
    if days is not None and (expires_at is None or expires_at > now + timedelta(days=days) + SAME_DAY):
        raise LifeTooLong(workspace.name, days)


def check_device(workspace: Workspace, device: bool) -> None:
    """Raises DeviceNotAllowed."""
    if device and not workspace.devices_allowed:
        raise DeviceNotAllowed(workspace.name)


def check_room(tx: Transaction, workspace: Workspace) -> None:
    """Raises TooManyLive when one more would be too many, those whose password is on its way among them."""
    if workspace.most_live is None:
        return
    pending = select(func.count()).where(CREDENTIALS.c.workspace_id == workspace.id, text("state = 'pending'"))
    if workspace.credential_count + (tx.connection.scalar(pending) or 0) >= workspace.most_live:
        raise TooManyLive(workspace.name, workspace.most_live)


# --- sender domains ---
def clean_domains(typed: str) -> tuple[str, ...]:
    """The domains that stand in a text, with blanks, commas or line ends between them, each once. Raises DomainInvalid."""
    if len(typed) > TYPED_MAX:
        raise DomainInvalid(DomainProblem.TOO_MANY)
    return unique_domains(filter(None, re.split(r"[\s,;]+", typed)))


def unique_domains(typed: Iterable[str]) -> tuple[str, ...]:
    """Raises DomainInvalid."""
    found = tuple(dict.fromkeys(clean_domain(one) for one in typed))
    if len(found) > DOMAINS_MAX:
        raise DomainInvalid(DomainProblem.TOO_MANY)
    return found


def clean_domain(typed: str) -> str:
    """A sender domain as it is kept and compared: lower case, IDNA 2008 (RFC 5891) with UTS 46's mapping, no dot at its end.

    Raises:
        DomainInvalid.
    """
    given = typed.strip().removeprefix("@").removesuffix(".")
    problem = _why_no_domain(given)
    if problem is not None:
        raise DomainInvalid(problem, typed)
    try:
        domain = idna.encode(given, uts46=True, std3_rules=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise DomainInvalid(DomainProblem.NO_DOMAIN, typed) from None
    labels = domain.split(".")
    if len(labels) < 2:
        raise DomainInvalid(DomainProblem.ONE_LABEL, typed)
    if labels[-1].isdigit():
        raise DomainInvalid(DomainProblem.ADDRESS_LITERAL, typed)
    return domain


def _why_no_domain(given: str) -> DomainProblem | None:
    if not given or len(given) > 253:
        return DomainProblem.NO_DOMAIN
    if "*" in given:
        return DomainProblem.WILDCARD
    if _SCHEME.match(given) or "/" in given:
        return DomainProblem.URL
    if "@" in given:
        return DomainProblem.MAIL_ADDRESS
    try:
        ip_address(given.strip("[]").removeprefix("IPv6:"))
    except ValueError:
        return None
    return DomainProblem.ADDRESS_LITERAL


# --- the webhook ---
def set_webhook(tx: Transaction, origin: Origin, workspace_id: int, url: str | None) -> tuple[Workspace, str | None]:
    """Sends what happens in the workspace to the address, signed with a new secret; None: to nobody any more.

    Returns:
        The workspace, and the secret, which is told once.

    Raises:
        NoSuchWorkspace, NotAllowed (it takes an admin), RoleUnknown, PersonBarred, WebhookInvalid.
    """
    secret = f"whsec_{secrets.token_urlsafe(32)}" if url else None
    with attempt(tx, What.CHANGE_WORKSPACE, origin) as current:
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        address = clean_url(url) if url else None
        # A webhook's path often is its secret: the audit log keeps the host alone.
        current.subject = f"webhook {urlsplit(address).hostname}" if address else "no webhook"
        current.void = address is None and workspace.webhook_url is None
        if not current.void:
            current.workspace = workspace = save(tx, workspace, webhook_url=address, webhook_secret=secret)
    return workspace, secret


def clean_url(typed: str) -> str:
    """An https address without a name, a password or a fragment. Where it leads is asked when it is used. Raises WebhookInvalid."""
    given = typed.strip()
    if len(given) > URL_MAX or not given.isascii() or not given.isprintable() or " " in given or "\\" in given:
        raise WebhookInvalid(WebhookProblem.NO_URL)
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise WebhookInvalid(WebhookProblem.NO_URL) from None
    if parts.scheme.lower() != "https":
        raise WebhookInvalid(WebhookProblem.NO_HTTPS if parts.scheme else WebhookProblem.NO_URL)
    if not parts.hostname or port == 0:
        raise WebhookInvalid(WebhookProblem.NO_URL)
    if parts.username is not None or parts.password is not None:
        raise WebhookInvalid(WebhookProblem.USER_INFO)
    if parts.fragment:
        raise WebhookInvalid(WebhookProblem.NO_URL)
    return given
