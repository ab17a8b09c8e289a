"""Limits of a credential and rules of a workspace: every form that people type them in, and that the store keeps to them."""

from datetime import timedelta
from typing import Any

import pytest

from storage import audit, credentials, lifecycle, limits, policy, workspaces
from storage.audit import What
from storage.database import Database
from storage.limits import Limits, clean_network, clean_networks, clean_number
from storage.models import Workspace
from storage.policy import Policy, clean_domain, clean_domains, clean_url
from storage.refusals import (
    DeviceNotAllowed,
    DomainInvalid,
    DomainProblem,
    LifeTooLong,
    LimitsContradict,
    NetworkInvalid,
    NetworkProblem,
    NotAllowed,
    NumberInvalid,
    ReasonRequired,
    Refusal,
    TooManyLive,
    WebhookInvalid,
    WebhookProblem,
)
from tests.test_storage import CHANNEL, OWNER, STRANGER, acme, by, make

__all__ = ["acme"]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1/128"),
        ("::1", "::1/128"),
        ("fe80::1", "fe80::1/128"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:c000:207", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
    ],
)
def test_networks_are_kept_in_one_form(typed: str, kept: str) -> None:
    assert clean_network(typed) == kept
    assert clean_network(kept) == kept


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("printer.example.com", NetworkProblem.HOST_NAME),
        ("example.com/24", NetworkProblem.HOST_NAME),
        ("localhost", NetworkProblem.NO_ADDRESS),
        ("192.0.2", NetworkProblem.NO_ADDRESS),
        ("192.0.2.256", NetworkProblem.NO_ADDRESS),
        ("192.0.02.7", NetworkProblem.NO_ADDRESS),
        ("0xC0000207", NetworkProblem.NO_ADDRESS),
        ("3221225991", NetworkProblem.NO_ADDRESS),
        ("2001:db8:::1", NetworkProblem.NO_ADDRESS),
        ("2001:db8::g", NetworkProblem.NO_ADDRESS),
        ("192.0.2.٧", NetworkProblem.NO_ADDRESS),
        ("/24", NetworkProblem.NO_ADDRESS),
        ("192.0.2.0/33", NetworkProblem.PREFIX),
        ("192.0.2.0/", NetworkProblem.PREFIX),
        ("192.0.2.0/-1", NetworkProblem.PREFIX),
        ("192.0.2.0/+24", NetworkProblem.PREFIX),
        ("192.0.2.0/024", NetworkProblem.PREFIX),
        ("192.0.2.0/²4", NetworkProblem.PREFIX),
        ("192.0.2.0/255.255.255.0", NetworkProblem.PREFIX),
        ("192.0.2.0/24/8", NetworkProblem.PREFIX),
        ("2001:db8::/129", NetworkProblem.PREFIX),
        ("::ffff:0:0/95", NetworkProblem.PREFIX),
        ("::/8", NetworkProblem.PREFIX),
        ("192.0.2.0-192.0.2.9", NetworkProblem.RANGE),
        ("192.0.2.1-9", NetworkProblem.RANGE),
        ("192.0.2.*", NetworkProblem.WILDCARD),
        ("*", NetworkProblem.WILDCARD),
        ("192.0.2.7:25", NetworkProblem.PORT),
        ("[2001:db8::1]:25", NetworkProblem.PORT),
        ("[2001:db8::1]", NetworkProblem.PORT),
        ("fe80::1%eth0", NetworkProblem.ZONE),
        ("0.0.0.0/0", NetworkProblem.ANYWHERE),
        ("::/0", NetworkProblem.ANYWHERE),
        ("0.0.0.0", NetworkProblem.ANYWHERE),
        ("::", NetworkProblem.ANYWHERE),
        ("::ffff:0.0.0.0/96", NetworkProblem.ANYWHERE),
        ("224.0.0.1", NetworkProblem.NO_CLIENT),
        ("255.255.255.255", NetworkProblem.NO_CLIENT),
        ("ff02::1", NetworkProblem.NO_CLIENT),
    ],
)
def test_wrong_networks_are_refused_with_what_is_wrong(typed: str, problem: NetworkProblem) -> None:
    with pytest.raises(NetworkInvalid) as refused:
        clean_network(typed)
    assert refused.value.problem is problem


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("192.0.2.7/24", "192.0.2.0/24"), ("2001:db8::1/64", "2001:db8::/64"), ("::ffff:192.0.2.7/120", "192.0.2.0/24")],
)
def test_an_address_with_a_prefix_is_asked_back_with_its_network(typed: str, meant: str) -> None:
    with pytest.raises(NetworkInvalid) as refused:
        clean_network(typed)
    assert (refused.value.problem, refused.value.meant) == (NetworkProblem.HOST_BITS, meant)


def test_networks_are_typed_with_anything_between_them_and_at_most_twenty() -> None:
    assert clean_networks("192.0.2.7,\n 192.0.2.8;192.0.2.7/32\t::ffff:192.0.2.8") == ("192.0.2.7/32", "192.0.2.8/32")
    assert clean_networks(" \n") == ()
    assert len(clean_networks(" ".join(f"192.0.2.{one}" for one in range(1, 21)))) == 20
    for many in (" ".join(f"192.0.2.{one}" for one in range(1, 22)), "192.0.2.7 " * 1000):
        with pytest.raises(NetworkInvalid) as refused:
            clean_networks(many)
        assert refused.value.problem is NetworkProblem.TOO_MANY


@pytest.mark.parametrize("typed", ["0", "-1", "+1", "1.5", "1,000", "1e3", "ten", "١٠", "１０", "10000001", "9" * 40, "0x10", "1 0"])
def test_a_number_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(NumberInvalid) as refused:
        clean_number("messages_hour", typed, limits.COUNT_MAX)
    assert (refused.value.field, refused.value.least, refused.value.most) == ("messages_hour", 1, limits.COUNT_MAX)


def test_numbers() -> None:
    assert [clean_number("x", one, 100) for one in ("1", " 100 ", "007", "", None)] == [1, 100, 7, None, None]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("example.com", "example.com"),
        (" Example.COM. ", "example.com"),
        ("@example.com", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("ｅｘａｍｐｌｅ．com", "example.com"),
        ("a.b.c.d.example", "a.b.c.d.example"),
        ("3com.example", "3com.example"),
        ("exa\u200bmple.com", "example.com"),
    ],
)
def test_domains_are_kept_as_mail_has_them(typed: str, kept: str) -> None:
    assert clean_domain(typed) == kept
    assert clean_domain(kept) == kept


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("", DomainProblem.NO_DOMAIN),
        ("@", DomainProblem.NO_DOMAIN),
        (".", DomainProblem.NO_DOMAIN),
        (".example.com", DomainProblem.NO_DOMAIN),
        ("example..com", DomainProblem.NO_DOMAIN),
        ("-example.com", DomainProblem.NO_DOMAIN),
        ("example-.com", DomainProblem.NO_DOMAIN),
        ("exa_mple.com", DomainProblem.NO_DOMAIN),
        ("exa mple.com", DomainProblem.NO_DOMAIN),
        ("example.com:25", DomainProblem.NO_DOMAIN),
        ("xn--a.example", DomainProblem.NO_DOMAIN),
        ("💌.example", DomainProblem.NO_DOMAIN),
        ("a" * 64 + ".example", DomainProblem.NO_DOMAIN),
        (".".join(["abcdefgh"] * 40), DomainProblem.NO_DOMAIN),
        ("example", DomainProblem.ONE_LABEL),
        ("localhost", DomainProblem.ONE_LABEL),
        ("*.example.com", DomainProblem.WILDCARD),
        ("*", DomainProblem.WILDCARD),
        ("https://example.com", DomainProblem.URL),
        ("mailto://example.com", DomainProblem.URL),
        ("example.com/path", DomainProblem.URL),
        ("bob@example.com", DomainProblem.MAIL_ADDRESS),
        ("192.0.2.7", DomainProblem.ADDRESS_LITERAL),
        ("[192.0.2.7]", DomainProblem.ADDRESS_LITERAL),
        ("[IPv6:2001:db8::1]", DomainProblem.ADDRESS_LITERAL),
        ("1.2.3", DomainProblem.ADDRESS_LITERAL),
    ],
)
def test_wrong_domains_are_refused_with_what_is_wrong(typed: str, problem: DomainProblem) -> None:
    with pytest.raises(DomainInvalid) as refused:
        clean_domain(typed)
    assert refused.value.problem is problem


def test_domains_are_typed_with_anything_between_them_and_at_most_fifty() -> None:
    assert clean_domains("Example.com, bücher.example\nEXAMPLE.com") == ("example.com", "xn--bcher-kva.example")
    assert clean_domains("\n") == ()
    assert len(clean_domains(" ".join(f"d{one}.example" for one in range(50)))) == 50
    for many in (" ".join(f"d{one}.example" for one in range(51)), "example.com " * 2000):
        with pytest.raises(DomainInvalid) as refused:
            clean_domains(many)
        assert refused.value.problem is DomainProblem.TOO_MANY


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("", WebhookProblem.NO_URL),
        ("example.com/hook", WebhookProblem.NO_URL),
        ("https://", WebhookProblem.NO_URL),
        ("https:///hook", WebhookProblem.NO_URL),
        ("https://exa mple.com", WebhookProblem.NO_URL),
        ("https://example.com:99999", WebhookProblem.NO_URL),
        ("https://example.com:0", WebhookProblem.NO_URL),
        ("https://[::1", WebhookProblem.NO_URL),
        ("https://example.com\\@evil.example", WebhookProblem.NO_URL),
        ("https://example.com/\nhook", WebhookProblem.NO_URL),
        ("https://bücher.example", WebhookProblem.NO_URL),
        ("https://example.com/#part", WebhookProblem.NO_URL),
        ("https://example.com/" + "a" * 1000, WebhookProblem.NO_URL),
        ("http://example.com", WebhookProblem.NO_HTTPS),
        ("ftp://example.com", WebhookProblem.NO_HTTPS),
        ("javascript:alert(1)", WebhookProblem.NO_HTTPS),
        ("https://bob:pw@example.com", WebhookProblem.USER_INFO),
        ("https://bob@example.com", WebhookProblem.USER_INFO),
    ],
)
def test_wrong_webhooks_are_refused_with_what_is_wrong(typed: str, problem: WebhookProblem) -> None:
    with pytest.raises(WebhookInvalid) as refused:
        clean_url(typed)
    assert refused.value.problem is problem


async def refused(db: Database, kind: type[Refusal], *change: Any) -> None:
    """The change is refused, and changes nothing but the audit log, which has it."""
    before = await db.read(audit.latest, None, limit=100)
    with pytest.raises(kind):
        await db.change(*change)
    after = await db.read(audit.latest, None, limit=100)
    assert [(one.outcome, one.cause) for one in after[: len(after) - len(before)]] == [("refused", kind.cause)]


async def test_limits_are_kept_with_an_audit_row_and_only_writers_change_them(db: Database, acme: Workspace) -> None:
    credential_id = await make(db, "Relay")
    before, _ = await db.read(credentials.get, credential_id)
    wanted = Limits(("192.0.2.0/24", "2001:db8::/32"), 10, 100, None, 1000)
    credential, _ = await db.change(lifecycle.change_limits, by(OWNER), credential_id, wanted)
    read, _ = await db.read(credentials.get, credential_id)
    assert read == credential
    assert (Limits.of(read), read.version) == (wanted, before.version + 1)
    await db.change(lifecycle.change_limits, by(OWNER), credential_id, wanted)
    [event] = [one for one in await db.read(audit.latest, None) if one.action == What.LIMITS]
    assert event.subject == "from 192.0.2.0/24,2001:db8::/32 10 messages/hour 100 messages/day 1000 recipients/day"
    await refused(db, NotAllowed, lifecycle.change_limits, by(STRANGER), credential_id, Limits())
    await refused(db, LimitsContradict, lifecycle.change_limits, by(OWNER), credential_id, Limits((), 10, 9))
    await db.change(lifecycle.change_limits, by(OWNER), credential_id, Limits())
    assert not Limits.of((await db.read(credentials.get, credential_id))[0]).any


async def test_rules_of_a_workspace_count_in_every_transaction(db: Database, acme: Workspace) -> None:
    old = await make(db, "Old")
    rules = Policy(("example.com",), 90, True, False, 3)
    changed = await db.change(policy.change, by(OWNER), acme.id, rules)
    assert Policy.of(changed) == Policy.of(await db.read(workspaces.by_id, acme.id)) == rules
    now = db.clock()
    soon, late = now + timedelta(days=90), now + timedelta(days=92)
    new = (by(OWNER), CHANNEL, "New", "view-new")
    await refused(db, LifeTooLong, credentials.create_pending, *new)
    await refused(db, LifeTooLong, credentials.create_pending, *new, late)
    await refused(db, DeviceNotAllowed, credentials.create_pending, *new, soon, True)
    await db.change(credentials.create_pending, *new, soon)
    await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Newer", "view-newer", soon)
    await refused(db, TooManyLive, credentials.create_pending, by(OWNER), CHANNEL, "Newest", "view-newest", soon)
    await refused(db, LifeTooLong, lifecycle.change_expiry, by(OWNER), old, None)
    await refused(db, LifeTooLong, lifecycle.change_expiry, by(OWNER), old, late)
    await db.change(lifecycle.change_expiry, by(OWNER), old, soon)
    await refused(db, DeviceNotAllowed, lifecycle.begin_rotation, by(OWNER), old, CHANNEL, "T:V", None, True)
    for reason in (None, "", " \n"):
        await refused(db, ReasonRequired, lifecycle.suspend, by(OWNER), old, reason)
        await refused(db, ReasonRequired, credentials.delete, by(OWNER), old, reason)
        await refused(db, ReasonRequired, credentials.revoke_each, by(OWNER), [old], reason)
        await refused(db, ReasonRequired, credentials.order_revocation, by(OWNER), acme.id, reason)
    await db.change(lifecycle.suspend, by(OWNER), old, "odd traffic")
    await db.change(credentials.delete, by(OWNER), old, "leaked")
    await db.change(policy.change, by(OWNER), acme.id, Policy())
    await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Newest", "view-newest", None, True)


async def test_rules_are_an_admins_and_within_bounds(db: Database, acme: Workspace) -> None:
    await refused(db, NotAllowed, policy.change, by(STRANGER), acme.id, Policy(("example.com",)))
    await refused(db, NumberInvalid, policy.change, by(OWNER), acme.id, Policy(longest_days=0))
    await refused(db, NumberInvalid, policy.change, by(OWNER), acme.id, Policy(most_live=policy.LIVE_MAX + 1))
    await refused(db, NotAllowed, policy.set_webhook, by(STRANGER), acme.id, "https://example.com/hook")
    await refused(db, WebhookInvalid, policy.set_webhook, by(OWNER), acme.id, "http://example.com/hook")


async def test_a_webhook_has_a_new_secret_each_time_which_the_audit_log_never_holds(db: Database, acme: Workspace) -> None:
    first = (await db.change(policy.set_webhook, by(OWNER), acme.id, "https://example.com/token-in-path"))[1]
    workspace, second = await db.change(policy.set_webhook, by(OWNER), acme.id, "https://example.com/token-in-path")
    assert first
    assert second not in (None, first)
    assert (workspace.webhook_url, workspace.webhook_secret) == ("https://example.com/token-in-path", second)
    log = repr(await db.read(audit.latest, None))
    assert "webhook example.com" in log
    assert not any(secret in log for secret in (first, str(second), "token-in-path"))
    workspace, none = await db.change(policy.set_webhook, by(OWNER), acme.id, None)
    assert (workspace.webhook_url, workspace.webhook_secret, none) == (None, None, None)
