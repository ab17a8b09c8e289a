"""The rules that guard everything, asked of the code that holds them and not only through surfaces that refuse before."""

import asyncio
import contextlib
import inspect
import itertools
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage.refusals
from bot import access_modal, acts, codec, create, texts
from bot.codec import Token
from mailauth.policy import DUNNO, PolicyRequest
from mailauth.verifier import Answer, Verifier
from sandbox.slack import Fault
from storage import access, credentials, grants, lifecycle, passwords, seen, workspaces
from storage.access import EMERGENCY, FRESH, STRONGEST_FIRST, TABLE, Action, Actor, Right, Role, Standing
from storage.audit import Origin, Surface, What
from storage.database import Database, Trouble
from storage.listing import Order
from storage.models import Workspace
from storage.passwords import Hasher
from storage.refusals import Barred, ChannelPaused, NotAllowed, PersonBarred, Refusal, RoleUnknown, SurfaceOutdated, WorkspaceRule
from storage.tidy import Only
from tests.stage import Stage

TEAM = "T0HOME"
OWNER = Origin(Actor("U0OWNER", TEAM, owner=True), Surface.MODAL, "ref", "C0MAIL", "V1")
CREW = "S0CREW"


def by(actor: Actor) -> Origin:
    return Origin(actor, Surface.MODAL, "ref", "C0MAIL", "V1")


def acting(user: str, **more: Any) -> Actor:
    return Actor(user, TEAM, **more)


@pytest.fixture
async def acme(db: Database) -> Workspace:
    """With a channel, and a crew and U0ADMIN that administer it."""
    acme = await db.change(workspaces.add, OWNER, "acme", "Acme")
    await db.change(workspaces.map_channel, OWNER, TEAM, "C0MAIL", acme.id)
    for principal in (CREW, "U0ADMIN"):
        await db.change(grants.grant, OWNER, TEAM, principal, Role.ADMIN, acme.id)
    return acme


@pytest.fixture
async def zeta(db: Database) -> Workspace:
    """Another workspace, with its own channel and admin."""
    zeta = await db.change(workspaces.add, OWNER, "zeta", "Zeta")
    await db.change(workspaces.map_channel, OWNER, TEAM, "C0ZETA", zeta.id)
    await db.change(grants.grant, OWNER, TEAM, "U0ZETA", Role.ADMIN, zeta.id)
    return zeta


# --- how old an answer of Slack may be ---
LONGEST: dict[Action, int] = {
    action: EMERGENCY if action is Action.DELETE else FRESH for action in Action if action is not Action.MAKE_WORKSPACE
}


def test_an_emergency_is_an_hour_and_everything_else_a_minute() -> None:
    assert (FRESH, EMERGENCY) == (60, 3600)


@pytest.mark.parametrize("action", LONGEST)
@pytest.mark.parametrize("what", ["membership", "account"])
async def test_an_answer_of_slack_counts_for_a_minute_and_for_stopping_an_hour(
    db: Database, acme: Workspace, action: Action, what: str
) -> None:
    def known(age: int) -> Actor:
        return acting("U0MIA", groups={CREW: age if what == "membership" else 0}, account_age=age if what == "account" else 0)

    assert (await db.read(access.may, known(LONGEST[action]), action, acme)).via == CREW
    with pytest.raises(RoleUnknown):
        await db.read(access.may, known(LONGEST[action] + 1), action, acme)


@pytest.mark.parametrize("action", LONGEST)
async def test_a_group_that_slack_was_not_asked_about_is_unknown_and_not_a_denial(db: Database, acme: Workspace, action: Action) -> None:
    with pytest.raises(RoleUnknown):
        await db.read(access.may, acting("U0MIA", unanswered=frozenset({CREW})), action, acme)


# --- who may what ---
async def test_a_paused_channel_gives_its_members_nothing(db: Database, acme: Workspace) -> None:
    member = acting("U0MIA", channel="C0MAIL")
    assert await db.read(access.rights, member, acme) == [Right(Standing.MEMBER, "C0MAIL")]
    await db.change(workspaces.channel_shared, OWNER, TEAM, "C0MAIL", True)
    assert await db.read(access.rights, member, acme) == []
    with pytest.raises(ChannelPaused):
        await db.read(workspaces.of_channel, TEAM, "C0MAIL")
    await db.change(workspaces.channel_shared, OWNER, TEAM, "C0MAIL", False)
    assert await db.read(access.rights, member, acme) == [Right(Standing.MEMBER, "C0MAIL")]


async def test_the_member_of_another_workspaces_channel_is_nobody(db: Database, acme: Workspace, zeta: Workspace) -> None:
    assert await db.read(access.rights, acting("U0MIA", channel="C0ZETA"), acme) == []
    assert await db.read(access.rights, Actor("U0MIA", "T0OTHER", channel="C0MAIL"), acme) == []


async def test_a_channel_is_taken_from_a_workspace_only_by_its_admins(db: Database, acme: Workspace, zeta: Workspace) -> None:
    for admin, channel, to in (("U0ADMIN", "C0ZETA", acme), ("U0ZETA", "C0MAIL", zeta), ("U0ADMIN", "C0MAIL", zeta)):
        with pytest.raises(NotAllowed):
            await db.change(workspaces.map_channel, by(acting(admin)), TEAM, channel, to.id)
    for channel, workspace in (("C0MAIL", acme), ("C0ZETA", zeta)):
        assert (await db.read(workspaces.of_channel, TEAM, channel)).id == workspace.id
    await db.change(grants.grant, OWNER, TEAM, "U0ADMIN", Role.ADMIN, zeta.id)
    await db.change(workspaces.map_channel, by(acting("U0ADMIN")), TEAM, "C0ZETA", acme.id)
    assert (await db.read(workspaces.of_channel, TEAM, "C0ZETA")).id == acme.id


async def test_a_role_in_all_workspaces_is_the_owners_to_give_and_to_take(db: Database, acme: Workspace) -> None:
    everywhere = await db.change(grants.grant, OWNER, TEAM, "U0ZOE", Role.READER, None)
    admin = by(acting("U0ADMIN"))
    with pytest.raises(NotAllowed):
        await db.change(grants.grant, admin, TEAM, "U0ADMIN", Role.ADMIN, None)
    with pytest.raises(NotAllowed):
        await db.change(grants.remove, admin, everywhere.id)
    # Not even by a role in all workspaces.
    await db.change(grants.grant, OWNER, TEAM, "U0ADMIN", Role.ADMIN, None)
    with pytest.raises(NotAllowed):
        await db.change(grants.remove, admin, everywhere.id)
    held = await db.read(grants.of_workspace, TEAM, acme)
    assert [(one.principal, one.role) for one in held if one.workspace_id is None] == [("U0ZOE", "reader"), ("U0ADMIN", "admin")]


async def test_an_admin_who_forges_a_submission_gives_and_takes_nothing_in_all_workspaces(play: Stage) -> None:
    team = play.slack.world.team.id
    everywhere = await play.db.change(grants.grant, by_owner(team), team, play.mia.id, Role.READER, None)
    await play.adam.types(play.mail, "/smtp access")
    view = await play.adam.sees_modal("Roles in Acme")
    play.adam.picks("Person", play.adam)
    play.adam.picks("Role", "admin")
    payload = play.adam.submission(view)
    box = {"type": "checkboxes", "selected_options": [{"text": {"type": "plain_text", "text": "x"}, "value": "everywhere"}]}
    payload["view"]["state"]["values"]["everywhere"] = {"everywhere": box}
    answer = await play.slack.deliver("interactive", payload)
    assert "Giving roles takes an owner of this app" in str(answer.body)
    press = {
        "type": "block_actions",
        "user": {"id": play.adam.id, "team_id": team},
        "team": {"id": team},
        "trigger_id": "1.2.3",
        "container": {"type": "view", "view_id": view.id},
        "view": payload["view"],
        "actions": [{"action_id": access_modal.REMOVE, "block_id": "x", "type": "button", "value": json.dumps({"grant": everywhere.id})}],
    }
    await play.slack.deliver("interactive", press)
    await play.adam.sees_modal("Taking roles away takes an owner of this app")
    held = await play.db.read(grants.of_workspace, team, play.acme)
    assert [one.principal for one in held if one.workspace_id is None] == [play.mia.id]


def by_owner(team: str) -> Origin:
    return Origin(Actor("shell:test", team, owner=True), Surface.SHELL, "test")


LESS = {Action.DELETE: Role.READER, Action.CREATE: Role.RESPONDER, Action.ADMINISTER: Role.WRITER}
Try = Callable[[Database, Origin, Workspace, str], Awaitable[Any]]
ACTS: dict[str, tuple[Action, Try]] = {
    "create": (Action.CREATE, lambda db, who, _, __: db.change(credentials.create_pending, who, "C0MAIL", "New", "T:V9")),
    "rotate": (Action.CREATE, lambda db, who, _, one: db.change(lifecycle.begin_rotation, who, one, "C0MAIL", "T:V9", None)),
    "resume": (Action.CREATE, lambda db, who, _, one: db.change(lifecycle.resume, who, one)),
    "change expiry": (Action.CREATE, lambda db, who, _, one: db.change(lifecycle.change_expiry, who, one, None)),
    "delete": (Action.DELETE, lambda db, who, _, one: db.change(credentials.delete, who, one)),
    "suspend": (Action.DELETE, lambda db, who, _, one: db.change(lifecycle.suspend, who, one)),
    "end the old password": (Action.DELETE, lambda db, who, _, one: db.change(lifecycle.end_previous, who, one)),
    "map a channel": (Action.ADMINISTER, lambda db, who, at, _: db.change(workspaces.map_channel, who, TEAM, "C0NEW", at.id)),
    "unmap a channel": (Action.ADMINISTER, lambda db, who, _, __: db.change(workspaces.unmap_channel, who, TEAM, "C0MAIL")),
    "give a role": (Action.ADMINISTER, lambda db, who, at, _: db.change(grants.grant, who, TEAM, "U0MIA", Role.ADMIN, at.id)),
    "take a role": (Action.ADMINISTER, lambda db, who, _, __: db.change(grants.remove, who, 1)),
    "set notices": (Action.ADMINISTER, lambda db, who, at, _: db.change(workspaces.set_notices, who, at.id, True, False)),
    "suspend all": (Action.ADMINISTER, lambda db, who, at, _: db.change(workspaces.suspend_all, who, at.id)),
    "resume all": (Action.ADMINISTER, lambda db, who, at, _: db.change(workspaces.resume_all, who, at.id)),
    "revoke all": (Action.ADMINISTER, lambda db, who, at, _: db.change(credentials.order_revocation, who, at.id)),
}


async def everything(db: Database) -> list[Any]:
    """All that an act could change, but for the audit log."""

    def look(tx: Any) -> list[Any]:
        tables = ("credentials", "workspaces", "channel_mappings", "role_grants", "errands")
        return [[tuple(row) for row in tx.connection.exec_driver_sql(f"SELECT * FROM {name} ORDER BY 1, 2")] for name in tables]

    return await db.read(look)


@pytest.mark.parametrize("act", ACTS)
async def test_the_store_itself_denies_who_may_not(db: Database, acme: Workspace, zeta: Workspace, act: str) -> None:
    action, attempt = ACTS[act]
    made = await new_credential(db)
    for user, where, role in (("U0LESS", acme.id, LESS[action]), ("U0MORE", zeta.id, Role.ADMIN)):
        await db.change(grants.grant, OWNER, TEAM, user, role, where)
    before = await everything(db)
    people: list[tuple[Actor, type[Refusal]]] = [
        (acting("U0LESS", channel="C0MAIL"), NotAllowed),
        (acting("U0MORE"), NotAllowed),
        (acting("U0NOBODY"), NotAllowed),
        (Actor("U0ADMIN", "T0OTHER"), NotAllowed),
        (acting("U0ADMIN", barred=Barred.GUEST), PersonBarred),
        (acting("U0OWNER", owner=True, barred=Barred.DEACTIVATED), PersonBarred),
        (acting("U0ADMIN", account_age=EMERGENCY + 1), RoleUnknown),
        (acting("U0MIA", unanswered=frozenset({CREW})), RoleUnknown),
    ]
    for actor, refusal in people:
        if act in ("create", "take a role") and actor.team != TEAM:
            continue  # there are no channels and grants of another team
        with pytest.raises(refusal):
            await attempt(db, by(actor), acme, made)
    assert await everything(db) == before


HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"


async def new_credential(db: Database, password_hash: str = HASH, tag: int = 1, expires_at: datetime | None = None) -> str:
    credential, _ = await db.change(credentials.create_pending, OWNER, "C0MAIL", "Relay", "T:V1", expires_at)
    await db.change(credentials.activate, OWNER, credential.id, password_hash, tag)
    return credential.id


# --- requests ---
@pytest.mark.parametrize("age", [-301, 301, -86_400, 86_400, 10**9])
async def test_a_request_that_slack_signed_counts_for_five_minutes(play: Stage, age: int) -> None:
    if play.bot.settings.mode != "http":
        return
    body = "command=%2Fsmtp&text=help&user_id=U0&channel_id=C0&trigger_id=1.2.3"
    form = {"content-type": "application/x-www-form-urlencoded"}
    play.clock.passes(seconds=-age)
    signed = play.slack.sign(body)
    play.clock.passes(seconds=age)
    assert (await play.slack.post(body, {**form, **signed}))[0] == 401


async def test_what_was_received_is_remembered_for_longer_than_a_signature_counts(db: Database) -> None:
    start = datetime(2026, 11, 25, tzinfo=UTC)
    now = start
    db.clock = lambda: now
    assert await db.note_one(seen.first_time, "signature")
    for seconds in (0, 1, 299, 300, 301, 599):
        now = start + timedelta(seconds=seconds)
        await db.note(seen.forget_old)
        assert not await db.note_one(seen.first_time, "signature"), seconds
    now = start + timedelta(days=1)
    await db.note(seen.forget_old)
    assert await db.note_one(seen.first_time, "signature")


async def test_a_password_is_sent_once_whatever_the_answer(play: Stage) -> None:
    for number, fault in enumerate((Fault(hang_up=True), Fault("internal_error", status=500), Fault(body="<p>", status=502))):
        play.slack.fail("response_url", fault)
        await play.wanda.types(play.mail, f"/smtp create Relay {number}")
        await play.wanda.sees_modal("New SMTP credential")
        await play.wanda.submits()
        await play.wanda.sees(f"Relay {number}: I couldn't make sure that your password message arrived")
        await play.settled()
    sent = [exchange for exchange in play.slack.traffic if exchange.way == "from app" and list(passwords.find(exchange.sent))]
    assert [one.what for one in sent] == ["response_url"] * 3


# --- the gate ---
class Held(Hasher):
    """Verifies when the test says so."""

    def __init__(self) -> None:
        super().__init__(8, 1, 1)
        self.began = asyncio.Event()
        self.gate = asyncio.Event()

    async def verify(self, phc: str, password: str) -> bool:
        self.began.set()
        await self.gate.wait()
        return await super().verify(phc, password)


ENDINGS: dict[str, Callable[[Database, str], Awaitable[Any]]] = {
    "deleted": lambda db, one: db.change(credentials.delete, OWNER, one),
    "suspended": lambda db, one: db.change(lifecycle.suspend, OWNER, one),
    "workspace suspended": lambda db, _: db.change(workspaces.suspend_all, OWNER, 1),
    "rotated": lambda db, one: rotate(db, one),
}


async def rotate(db: Database, credential_id: str) -> None:
    await db.change(lifecycle.begin_rotation, OWNER, credential_id, "C0MAIL", "T:V2", None)
    await db.change(lifecycle.finish_rotation, OWNER, credential_id, "T:V2", HASH, 2)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_ends_while_its_password_is_computed_does_not_log_in(db: Database, acme: Workspace, ending: str) -> None:
    with contextlib.closing(Held()) as hasher:
        made = await new_credential(db)
        password = passwords.generate(made)
        await rotate_to(db, made, await hasher.hash(password), passwords.tag(password) or 0)
        username = (await db.read(credentials.get, made))[0].username
        asking = asyncio.create_task(Verifier(db, hasher).check(username, password, None, "smtp"))
        await hasher.began.wait()
        await ENDINGS[ending](db, made)
        hasher.gate.set()
        assert (await asking).answer is Answer.NO


async def rotate_to(db: Database, credential_id: str, password_hash: str, tag: int) -> None:
    """Without a rotation that later ones would follow."""

    def set_hash(tx: Any) -> None:
        tx.connection.exec_driver_sql(
            "UPDATE credentials SET password_hash = " + ("?" if tx.sqlite else "%s") + f", password_tag = {tag}", (password_hash,)
        )

    await db.note(set_hash)


async def test_an_open_session_ends_when_its_credential_expires(db: Database, acme: Workspace) -> None:
    made = await new_credential(db, expires_at=db.clock() + timedelta(hours=1))
    request = PolicyRequest((await db.read(credentials.get, made))[0].username, state="MAIL", client="192.0.2.7")
    with contextlib.closing(Hasher(8, 1, 1)) as hasher:
        verifier = Verifier(db, hasher)
        assert await verifier.gate.decide(request) == DUNNO
        await db.note(lambda tx: tx.connection.exec_driver_sql("UPDATE credentials SET expires_at = expires_at - 3600001"))
        assert await verifier.gate.decide(request) != DUNNO


# --- what travels through Slack ---
TOKENS = [one for one in vars(codec).values() if inspect.isclass(one) and issubclass(one, Token) and one is not Token]
ID = st.text(passwords.CROCKFORD, min_size=8, max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "channel": st.from_regex(r"[CDG][A-Z0-9]{2,30}", fullmatch=True),
    "credential": ID,
    "credentials": st.lists(ID, min_size=1, max_size=50),
    "slug": st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
    "words": st.text(max_size=codec.WORDS_MAX),
    "about": st.text(max_size=64),
    "inside": st.text(max_size=64),
    "order": st.sampled_from(Order),
    "home": st.builds(codec.InHome),
    "position": st.integers(0, 10**6),
    "word": st.from_regex(r"[a-z]{1,20}", fullmatch=True),
    "shown": st.lists(ID, min_size=1, max_size=20),
    "pasted": st.lists(ID, max_size=20),
    "ts": st.from_regex(r"[0-9]{1,12}\.[0-9]{1,12}", fullmatch=True),
    "owner": st.from_regex(r"[UWS][A-Z0-9]{2,30}", fullmatch=True),
    "role": st.sampled_from(Role),
    "what": st.none() | st.sampled_from(What),
    "only": st.none() | st.sampled_from(Only),
    **{name: st.integers(-(2**40), 2**40) for name in ("grant", "workspace", "mark", "before", "event", "step")},
}


def tokens() -> st.SearchStrategy[Token]:
    def one(kind: type[Token]) -> st.SearchStrategy[Token]:
        boxes = {"before": st.booleans()} if kind in (codec.InList, codec.InHome) else {}
        fields = {name: boxes.get(name, VALUES.get(name, st.booleans())) for name in kind.model_fields}
        return st.builds(kind, **fields)

    return st.sampled_from(TOKENS).flatmap(one)


@given(tokens())
def test_a_token_is_read_as_it_was_written_and_with_nothing_beside(token: Token) -> None:
    written = token.encode()
    assert type(token).decode(written) == token
    with pytest.raises(SurfaceOutdated):
        type(token).decode(json.dumps(json.loads(written) | {"another": 1}))


@given(ID, st.text(max_size=codec.BLOCK_ID_MAX - 9))
def test_a_row_is_read_as_it_was_written_and_with_no_other_id(credential: str, place: str) -> None:
    row = codec.InRow(credential, place)
    assert codec.InRow.decode(row.encode()) == row
    for strange in (credential, credential[1:] + f" {place}", f"U{row.encode()}", f" {row.encode()}", ""):
        with pytest.raises(SurfaceOutdated):
            codec.InRow.decode(strange)


@given(st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_no_text_breaks_a_token(text: str) -> None:
    for kind in TOKENS:
        with contextlib.suppress(SurfaceOutdated):
            assert isinstance(kind.decode(text), kind)


# --- tables ---
def refusals(kind: type[Refusal] = Refusal) -> list[type[Refusal]]:
    return [one for direct in kind.__subclasses__() for one in (direct, *refusals(direct)) if one is not WorkspaceRule]


def made_up(kind: type[Refusal]) -> Refusal:
    """One with arguments of the types that it asks for."""
    hints = get_type_hints(kind.__init__, vars(storage.refusals))
    given: dict[str, Any] = {}
    own = any("__init__" in vars(one) for one in kind.__mro__ if one is not Refusal and issubclass(one, Refusal))
    for name in inspect.signature(kind).parameters if own else ():
        hint = hints.get(name)
        if name == "action":
            given[name] = Action.CREATE
        elif name == "role":
            given[name] = Role.READER.value
        elif inspect.isclass(hint) and issubclass(hint, StrEnum):
            given[name] = next(iter(hint))
        elif hint is datetime:
            given[name] = datetime(2026, 11, 25, tzinfo=UTC)
        elif "Sequence" in str(hint):
            given[name] = ["U0ADMIN"]
        else:
            given[name] = "word"
    return kind(**given)


@pytest.mark.parametrize("kind", refusals(), ids=lambda kind: kind.__name__)
def test_every_refusal_has_a_sentence_and_a_cause_of_its_own(kind: type[Refusal]) -> None:
    assert "cause" in vars(kind)
    said = texts.sentence(made_up(kind), "/smtp")
    assert said
    assert all(said)


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (acts.ACTS, What),
        (texts.BARRED, Barred),
        (texts.TROUBLES, Trouble),
        (access_modal.CAN, Role),
        (TABLE, [*Role, *Standing]),
        (STRONGEST_FIRST, [*Role, *Standing]),
    ],
    ids=["ACTS", "BARRED", "TROUBLES", "CAN", "TABLE", "STRONGEST_FIRST"],
)
def test_a_table_has_a_row_for_each(table: Any, keys: Any) -> None:
    assert sorted(table) == sorted(keys)


def test_a_stronger_role_may_do_what_a_weaker_may() -> None:
    strongest_first: tuple[Any, ...] = STRONGEST_FIRST
    for stronger, weaker in itertools.pairwise(strongest_first):
        assert TABLE[stronger] >= TABLE[weaker]


# --- a modal of an older release ---
@pytest.mark.parametrize("change", [{"callback_id": "create_v0"}, {"private_metadata": '{"workspace": 1}'}, {"private_metadata": "x"}])
async def test_a_modal_of_an_older_release_says_how_to_start_again(play: Stage, change: dict[str, str]) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    view = await play.wanda.sees_modal("New SMTP credential")
    assert view.content["callback_id"] == create.CREATE
    view.content.update(change)
    answer = await play.slack.deliver("interactive", play.wanda.submission(view))
    assert "made before I was updated" in str(answer.body)
    assert await play.credentials() == []
