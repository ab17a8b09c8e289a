"""The local Slack's own rules: it refuses, delays, escapes, forgets and breaks as Slack and the network do."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sandbox import escaping
from sandbox.faults import WRONG_ANSWERS, Fault
from sandbox.people import NotSeen, Person
from sandbox.slack import Slack
from sandbox.world import Channel
from tests.stage import MANIFEST

Json = dict[str, Any]
Handler = Callable[[str, Json], Awaitable[Any]]
"""What the app acknowledges to a payload of a kind; None is an empty acknowledgement."""


def manifest(*scopes: str, events: tuple[str, ...] = (), shortcuts: tuple[Json, ...] = ()) -> Json:
    """The bot's, with more scopes, events and shortcuts."""
    made = copy.deepcopy(MANIFEST)
    made["oauth_config"]["scopes"]["bot"] += scopes
    made["settings"]["event_subscriptions"]["bot_events"] += events
    made["features"]["shortcuts"] += shortcuts
    return made


class Place:
    """A served Slack with two people, a channel and an app that does as it is told."""

    def __init__(self, slack: Slack, client: aiohttp.ClientSession) -> None:
        self.slack = slack
        self.client = client
        self.app = slack.world.installed()
        self.ann: Person = slack.add_person("ann")
        self.bob: Person = slack.add_person("bob")
        self.room: Channel = slack.add_channel("room", self.ann, self.bob)
        self.heard: list[tuple[str, Json]] = []
        self.acknowledges: Handler | None = None

    async def call(self, method: str, **arguments: Any) -> Any:
        async with self.client.post(
            f"{self.slack.url}/api/{method}", json=arguments, headers={"authorization": f"Bearer {self.app.bot_token}"}
        ) as answer:
            return await answer.json()

    async def error(self, method: str, **arguments: Any) -> str:
        answer = await self.call(method, **arguments)
        assert answer["ok"] is False
        return str(answer["error"])

    async def receive(self, request: web.Request) -> web.Response:
        if request.content_type == "application/json":
            kind, payload = "event", (await request.json())["event"]
        else:
            form = dict(await request.post())
            kind, payload = ("interactive", json.loads(str(form["payload"]))) if "payload" in form else ("command", form)
        self.heard.append((kind, payload))
        answer = await self.acknowledges(kind, payload) if self.acknowledges else None
        return web.json_response(answer) if answer is not None else web.Response()

    def events(self, kind: str) -> list[Json]:
        return [one for what, one in self.heard if what == "event" and (one.get("subtype") or one["type"]) == kind]

    async def hears(self, kind: str, **where: Any) -> Json:
        """The event of this kind, or subtype, with these fields, as soon as the app has it."""

        def look() -> Json | None:
            return next((one for one in self.events(kind) if all(one.get(key) == value for key, value in where.items())), None)

        found = await self.slack.world.until(look, 5)
        assert found, f"no {kind}, but {self.heard}"
        return found

    async def opens(self, view: Json) -> str:
        """Opens a modal for ann; returns its id."""
        answer = await self.call("views.open", trigger_id=self.slack.world.new_trigger(self.ann.id, self.room.id), view=view)
        assert answer["ok"], answer
        return str(answer["view"]["id"])


@contextlib.asynccontextmanager
async def place(given: Json = MANIFEST, **knobs: Any) -> AsyncIterator[Place]:
    slack = Slack(**knobs)
    slack.install(given)
    async with aiohttp.ClientSession() as client, slack.serve():
        made = Place(slack, client)
        server = web.Application()
        server.router.add_post("/slack/events", made.receive)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.app.request_url = f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events"
        try:
            yield made
        finally:
            await runner.cleanup()


def modal(*blocks: Json, title: str = "A modal", **more: Any) -> Json:
    return {
        "type": "modal", "title": text(title), "submit": text("Go"), "blocks": list(blocks) or [{"type": "divider"}], **more,
    }  # fmt: skip


def text(words: str) -> Json:
    return {"type": "plain_text", "text": words}


def field(label: str, element: Json, **more: Any) -> Json:
    return {"type": "input", "block_id": label, "label": text(label), "element": {"action_id": "it", **element}, **more}


OPTIONS = [{"text": text(name), "value": name} for name in ("one", "two")]


# --- acknowledgements ---
@pytest.mark.parametrize("late", [0.0, 0.1])
async def test_a_late_acknowledgement_overwrites_the_update_that_came_before_it(late: float) -> None:
    async with place(late_acks=late) as made:
        updated = asyncio.Event()

        async def acknowledges(_kind: str, payload: Json) -> Json:
            async def update() -> None:
                hashed = await made.call("views.update", view_id=payload["view"]["id"], view=modal(title="Done"))
                assert hashed["ok"]
                updated.set()

            if late:
                made.slack.soon(update())
            return {"response_action": "update", "view": modal(title="Working")}

        made.acknowledges = acknowledges
        await made.opens(modal())
        await made.ann.submits()
        assert updated.is_set() == bool(late)
        assert made.ann.view
        assert made.ann.view.content["title"]["text"] == "Working"


async def test_an_acknowledgement_cannot_push_a_fourth_modal_nor_take_an_external_id() -> None:
    async with place() as made:
        action = {"response_action": "push", "view": modal(title="Next")}

        async def acknowledges(_kind: str, _payload: Json) -> Json:
            return action

        made.acknowledges = acknowledges
        await made.opens(modal(external_id="mine"))
        for _ in range(3):
            await made.ann.submits()
        assert len(made.slack.world.modals[made.ann.id]) == 3
        assert made.ann.view
        assert made.ann.view.trouble
        action |= {"response_action": "update", "view": modal(external_id="mine")}
        await made.ann.submits()
        assert "external_id" not in made.ann.view.content


# --- typed text ---
@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("create shop.example.com", "create <http://shop.example.com|shop.example.com>"),
        ("create Shop.Example.com.", "create <http://Shop.Example.com|Shop.Example.com>."),
        ("see https://a.example/x?y=1&z=2, ok", "see <https://a.example/x?y=1&amp;z=2>, ok"),
        ("mail me@example.com", "mail <mailto:me@example.com|me@example.com>"),
        ("smtp-acme-7k2m9x4p@mail.example.com", "<mailto:smtp-acme-7k2m9x4p@mail.example.com|smtp-acme-7k2m9x4p@mail.example.com>"),
        ("audit @ann", "audit <@ANN|ann>"),
        ("access @crew responder", "access <!subteam^CREW|@crew> responder"),
        ("in #room", "in <#ROOM|room>"),
        ("@channel hello", "<!channel> hello"),
        ("R&D <lab>", "R&amp;D &lt;lab&gt;"),
        ("`shop.example.com` & ```a.example\nb.example```", "`shop.example.com` &amp; ```a.example\nb.example```"),
        ("version 1.30.0, 198.51.100.7 and @nobody #nowhere", "version 1.30.0, 198.51.100.7 and @nobody #nowhere"),
        ("delete smtp-acme-7k2m9x4p", "delete smtp-acme-7k2m9x4p"),
    ],
)
async def test_typed_commands_arrive_escaped(typed: str, sent: str) -> None:
    async with place() as made:
        crew = made.slack.add_group("crew", made.ann)
        await made.ann.types(made.room, f"/smtp {typed}")
        expected = sent.replace("CREW", crew.id).replace("ANN", made.ann.id).replace("ROOM", made.room.id)
        assert made.heard[-1][1]["text"] == expected
        made.slack.escape_typed = False
        await made.ann.types(made.room, f"/smtp {typed}")
        assert made.heard[-1][1]["text"] == escaping.escape(typed)


async def test_messages_are_escaped_and_bring_rich_text_and_inputs_are_as_typed() -> None:
    async with place(manifest("channels:history", events=("message.channels",))) as made:
        await made.ann.posts(made.room, "@bob: `x` at shop.example.com\n```a & b```")
        event = await made.hears("message")
        assert event["text"] == f"<@{made.bob.id}>: `x` at <http://shop.example.com|shop.example.com>\n```a &amp; b```"
        section, code = event["blocks"][0]["elements"]
        assert [one["type"] for one in section["elements"]] == ["user", "text", "text", "text", "link", "text"]
        assert code["elements"][0]["text"] == "a & b"
        await made.opens(modal(field("Name", {"type": "plain_text_input"})))
        made.ann.fills("Name", "R&D <lab> shop.example.com")
        await made.ann.submits()
        assert made.heard[-1][1]["view"]["state"]["values"]["Name"]["it"]["value"] == "R&D <lab> shop.example.com"


# --- wrong answers ---
async def answered(made: Place, url: str, limit: float = 30) -> tuple[int, str, str] | str:
    """Status, content type and body; or how the connection ended, "never" after so many seconds without an answer."""
    headers = {"authorization": f"Bearer {made.app.bot_token}"}
    body = {"channel": made.room.id, "text": "hello"}
    try:
        async with made.client.post(url, json=body, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(limit)) as answer:
            return answer.status, answer.content_type, (await answer.read()).decode("latin-1")
    except TimeoutError:
        return "never"
    except (aiohttp.ClientError, OSError) as error:
        return type(error).__name__


@pytest.mark.parametrize("way", ["chat.postMessage", "response_url"])
@pytest.mark.parametrize("done", [False, True])
async def test_every_wrong_answer_is_given_before_or_after_the_work(way: str, done: bool) -> None:
    async with place() as made:
        messages = made.slack.world.messages[made.room.id]
        for name, wrong in WRONG_ANSWERS.items():
            messages.clear()
            made.slack.fail(way, replace(wrong, done=done))
            response_url = made.slack.new_response_url(made.ann.id, made.room.id)
            url = response_url if way == "response_url" else f"{made.slack.url}/api/{way}"
            said = await answered(made, url, 0.3 if wrong.silent else 30)
            await made.slack.world.until(lambda: len(messages) >= done or None, 30)
            assert len(messages) == done, name
            if wrong.silent:
                assert said == "never"
            elif wrong.hang_up or wrong.cut:
                assert said == ("ClientPayloadError" if wrong.cut else "ServerDisconnectedError") or said == "ClientOSError", name
            else:
                assert said[0] == wrong.status, name
                assert wrong.body is None or said[2].encode("latin-1") == (
                    wrong.body if isinstance(wrong.body, bytes) else wrong.body.encode()
                ), name
            made.slack.heals()
            right = await answered(made, url)
            assert right[0] == 200, (name, right)


async def test_a_silent_fault_answers_when_told_and_passes_let_calls_through() -> None:
    async with place() as made:
        made.slack.fail("team.info", Fault("late", silent=True))
        asked = asyncio.create_task(made.error("team.info"))
        await made.slack.world.until(lambda: made.slack.traffic or None, 5)
        assert not asked.done()
        made.slack.answers()
        assert await asked == "late"
        ends: list[str] = []
        made.slack.fail("*", Fault("down", passes=1, times=2, then=lambda: ends.append("ended")))
        assert (await made.call("auth.test"))["ok"]
        assert [await made.error("auth.test"), await made.error("users.list")] == ["down", "down"]
        assert ends == ["ended"] * 2
        assert (await made.call("auth.test"))["ok"]


# --- the Web API ---
async def test_a_message_is_updated_and_deleted_by_its_app_only() -> None:
    async with place(manifest("channels:history", events=("message.channels",))) as made:
        posted = await made.call("chat.postMessage", channel=made.room.id, text="red", blocks=[{"type": "divider"}])
        own = {"channel": made.room.id, "ts": posted["ts"]}
        assert (await made.call("chat.update", **own, text="green"))["ok"]
        message = made.slack.world.find_message(made.room.id, posted["ts"])
        assert message
        assert (message.text, message.blocks) == ("green", [])
        changed = await made.hears("message_changed")
        assert (changed["previous_message"]["text"], changed["message"]["text"]) == ("red", "green")
        theirs = await made.ann.posts(made.room, "mine")
        ephemeral = await made.call("chat.postEphemeral", channel=made.room.id, user=made.ann.id, text="psst")
        assert await made.error("chat.update", channel=made.room.id, ts=theirs.ts, text="x") == "cant_update_message"
        assert await made.error("chat.delete", channel=made.room.id, ts=theirs.ts) == "cant_delete_message"
        assert await made.error("chat.update", channel=made.room.id, ts=ephemeral["message_ts"], text="x") == "message_not_found"
        assert await made.error("chat.update", channel="C0", ts=posted["ts"], text="x") == "channel_not_found"
        assert await made.error("chat.update", channel=made.room.id, text="x") == "invalid_arguments"
        assert await made.error("chat.update", **own) == "no_text"
        assert await made.error("chat.update", **own, text="x" * 4001) == "msg_too_long"
        assert await made.error("chat.update", **own, blocks=[{"type": "nothing"}]) == "invalid_blocks"
        assert (await made.call("chat.delete", **own))["ok"]
        assert (await made.hears("message_deleted"))["deleted_ts"] == posted["ts"]
        assert await made.error("chat.delete", **own) == "message_not_found"
        again = await made.call("chat.postMessage", channel=made.room.id, text="red")
        await made.ann.archives(made.room)
        assert await made.error("chat.update", channel=made.room.id, ts=again["ts"], text="x") == "is_inactive"
        assert await made.error("chat.postMessage", channel=made.room.id, text="x") == "is_archived"


async def test_payloads_bring_a_messages_plain_text_escaped() -> None:
    async with place() as made:
        button = {"type": "button", "action_id": "b", "text": text("R&D <lab>")}
        posted = await made.call("chat.postMessage", channel=made.room.id, text="x", blocks=[{"type": "actions", "elements": [button]}])
        assert posted["message"]["blocks"][0]["elements"][0]["text"]["text"] == "R&amp;D &lt;lab&gt;"
        await made.ann.presses("R&D <lab>")
        assert made.heard[-1][1]["message"]["blocks"] == posted["message"]["blocks"]


async def test_lists_come_in_pages_and_need_their_scopes() -> None:
    async with place() as made:
        made.room.members += [made.slack.world.add_user(f"user{number}").id for number in range(7)]
        members: list[str] = []
        cursor = ""
        while True:
            page = await made.call("conversations.members", channel=made.room.id, limit=4, cursor=cursor)
            assert len(page["members"]) <= 4
            members += page["members"]
            cursor = page["response_metadata"]["next_cursor"]
            if not cursor:
                break
        assert members == made.room.members
        assert await made.error("conversations.members", channel=made.room.id, cursor="next:99") == "invalid_cursor"
        assert await made.error("conversations.members", channel=made.room.id, limit="many") == "invalid_limit"
        page = await made.call("users.list", limit=2)
        assert (len(page["members"]), page["response_metadata"]["next_cursor"]) == (2, "next:2")
        private = made.slack.add_channel("den", made.ann, private=True)
        made.slack.add_channel("cave", made.ann, private=True, with_bot=False)
        listed = await made.call("conversations.list", types="public_channel,private_channel")
        assert [one["id"] for one in listed["channels"]] == [made.room.id, private.id]
        assert await made.error("conversations.list", types="im") == "missing_scope"
        assert await made.error("conversations.list", types="everything") == "invalid_types"
        assert await made.error("conversations.open", users=made.ann.id) == "missing_scope"
        assert await made.error("team.info") == "missing_scope"
        made.app.scopes += ["im:write", "team:read", "im:read"]
        opened = await made.call("conversations.open", users=made.ann.id)
        assert opened["channel"] == {"id": made.slack.world.dm(made.ann.id).id}
        assert await made.error("conversations.open", users="U0") == "user_not_found"
        assert await made.error("conversations.open") == "users_list_not_supplied"
        assert (await made.call("team.info"))["team"]["id"] == made.slack.world.team.id
        made.app.scopes.remove("groups:read")
        assert await made.error("conversations.info", channel=private.id) == "missing_scope"


async def test_groups_and_people_are_described_as_slack_does() -> None:
    async with place() as made:
        crew = made.slack.add_group("crew", made.ann, made.bob)
        await made.ann.deactivates(made.bob)
        listed = (await made.call("usergroups.list", include_users=True, include_count="true"))["usergroups"]
        assert (listed[0]["handle"], listed[0]["users"], listed[0]["user_count"]) == ("crew", crew.users, 2)
        assert (await made.call("usergroups.users.list", usergroup=crew.id))["users"] == [made.ann.id]
        await made.ann.disables_group(crew)
        assert (await made.call("usergroups.list"))["usergroups"] == []
        assert await made.error("usergroups.users.list", usergroup=crew.id) == "no_such_subteam"
        grid = made.slack.add_person("gail", id="W0GRID", enterprise_id="E0ORG", teams=["T0SANDBOX", "T0OTHER"])
        told = (await made.call("users.info", user=grid.id))["user"]["enterprise_user"]
        assert (told["enterprise_id"], told["id"], told["teams"]) == ("E0ORG", grid.id, ["T0SANDBOX", "T0OTHER"])
        assert await made.error("users.info") == "invalid_arguments"


async def test_views_are_found_by_external_id_and_guarded_by_their_hash() -> None:
    async with place() as made:
        select = {"type": "users_select"}
        await made.opens(modal(field("Who", select), external_id="one"))
        assert await made.error("views.update", view=modal()) == "invalid_arguments"
        assert await made.error("views.update", external_id="two", view=modal()) == "not_found"
        made.ann.picks("Who", made.bob)
        who = field("Who", select | {"initial_user": made.ann.id})
        updated = await made.call("views.update", external_id="one", view=modal(who, external_id="one"))
        assert updated["view"]["state"]["values"]["Who"]["it"]["selected_user"] == made.bob.id, "Slack keeps what was chosen"
        assert await made.error("views.update", external_id="one", hash="1.a", view=modal()) == "hash_conflict"
        fresh = field("Who", select) | {"block_id": "Who 2"}
        updated = await made.call("views.update", external_id="one", hash=updated["view"]["hash"], view=modal(fresh))
        assert updated["view"]["state"]["values"]["Who 2"]["it"]["selected_user"] is None
        home = {"type": "home", "blocks": []}
        published = await made.call("views.publish", user_id=made.ann.id, view=home)
        assert await made.error("views.publish", user_id=made.ann.id, view=home, hash="1.a") == "hash_conflict"
        assert (await made.call("views.publish", user_id=made.ann.id, view=home, hash=published["view"]["hash"]))["ok"]
        await made.bob.deactivates(made.ann)
        assert await made.error("views.publish", user_id=made.ann.id, view=home) == "invalid_arguments"


async def test_an_uninstalled_app_can_say_nothing_more() -> None:
    async with place(manifest(events=("app_uninstalled", "tokens_revoked"))) as made:
        await made.ann.uninstalls_app()
        assert await made.error("auth.test") == "account_inactive"
        assert made.events("app_uninstalled")
        assert made.events("tokens_revoked")[0]["tokens"]["bot"] == [made.app.bot_user]


# --- what people do ---
async def test_the_app_hears_who_joins_leaves_and_changes() -> None:
    events = ("member_joined_channel", "member_left_channel", "channel_left")
    async with place(manifest(events=events)) as made:
        hall = made.slack.add_channel("hall", made.ann, with_bot=False)
        await made.ann.posts(hall, "nobody hears this")
        await made.ann.invites_app(hall)
        joined = made.events("member_joined_channel")
        assert [(one["user"], one["inviter"], one["channel"]) for one in joined] == [(made.app.bot_user, made.ann.id, hall.id)]
        await made.bob.joins(hall)
        await made.bob.leaves(hall)
        assert made.events("member_left_channel")[0]["user"] == made.bob.id
        with pytest.raises(NotSeen):
            await made.bob.types(hall, "/smtp")
        await made.ann.removes_app(hall)
        assert made.events("channel_left")[0]["channel"] == hall.id
        assert await made.error("chat.postMessage", channel=hall.id, text="x") == "not_in_channel"
        await made.ann.makes_guest(made.bob)
        assert made.events("user_change")[-1]["user"]["is_restricted"] is True
        crew = made.slack.add_group("crew", made.ann)
        await made.ann.changes_group(crew, add=(made.bob,), remove=(made.ann,))
        assert crew.users == [made.bob.id]
        [delta], [whole] = made.events("subteam_members_changed"), made.events("subteam_updated")
        assert (delta["added_users"], delta["removed_users"], whole["subteam"]["users"]) == ([made.bob.id], [made.ann.id], crew.users)
        await made.ann.shares(made.room)
        await made.ann.unshares(made.room)
        assert made.events("channel_unshared")[0]["is_ext_shared"] is False


async def test_messages_of_people_and_apps_are_heard_where_the_app_is_and_may() -> None:
    with pytest.raises(ValueError, match="channels:history"):
        Slack().install(manifest(events=("message.channels",)))
    async with place(manifest("channels:history", events=("message.channels",))) as made:
        message = await made.ann.posts(made.room, "one")
        await made.ann.edits(message, "two")
        with pytest.raises(NotSeen):
            await made.bob.deletes(message)
        await made.ann.deletes(message)
        assert (await made.hears("message_deleted"))["previous_message"]["text"] == "two"
        await made.slack.add_app("Build log").posts(made.room, "password=x", attachments=[{"text": "more"}])
        heard = await made.hears("message", text="password=x")
        assert (heard["bot_profile"]["name"], heard["attachments"]) == ("Build log", [{"text": "more"}])
        await made.slack.add_app("Alarm", webhook=True).posts(made.room, "on fire")
        heard = await made.hears("bot_message")
        assert "user" not in heard
        assert heard["username"] == "Alarm"
        den = made.slack.add_channel("den", made.ann, private=True)
        await made.ann.posts(den, "not subscribed to")
        await made.ann.posts(made.slack.add_channel("hall", made.ann, with_bot=False), "not a member of")
        await made.ann.posts(made.room, "last")
        await made.hears("message", text="last")
        heard_all = json.dumps(made.heard)
        assert "not subscribed to" not in heard_all
        assert "not a member of" not in heard_all


async def test_shortcuts_are_those_of_the_manifest() -> None:
    ours = (
        {"name": "Who wrote this?", "type": "message", "callback_id": "whose_message", "description": "x"},
        {"name": "Create it", "type": "global", "callback_id": "create_it", "description": "x"},
    )
    async with place(manifest(shortcuts=ours)) as made:
        message = await made.slack.add_app("Build log").posts(made.room, "x")
        await made.ann.uses_shortcut("Who wrote this?", message)
        assert (made.heard[-1][1]["type"], made.heard[-1][1]["callback_id"]) == ("message_action", "whose_message")
        await made.ann.uses_shortcut("Create it")
        kind, payload = made.heard[-1]
        assert (kind, payload["type"], payload["callback_id"]) == ("interactive", "shortcut", "create_it")
        assert not {"response_url", "channel", "message"} & set(payload)
        opened = await made.call("views.open", trigger_id=payload["trigger_id"], view=modal())
        assert opened["ok"]
        with pytest.raises(NotSeen):
            await made.ann.uses_shortcut("Who wrote this?")


async def test_a_search_field_asks_the_app_and_offers_what_it_answers() -> None:
    async with place() as made:
        answer: Json = {"options": OPTIONS}

        async def acknowledges(_kind: str, _payload: Json) -> Json:
            return answer

        made.acknowledges = acknowledges
        select = {"type": "external_select", "min_query_length": 2}
        await made.opens(modal(field("Credential", select)))
        assert await made.ann.searches("Credential", "r") == []
        assert not made.heard
        assert await made.ann.searches("Credential", "re") == ["one", "two"]
        assert made.ann.view
        asked = made.heard[-1][1]
        assert (asked["type"], asked["value"], asked["action_id"], asked["view"]["id"]) == (
            "block_suggestion",
            "re",
            "it",
            made.ann.view.id,
        )
        made.ann.picks("Credential", "two")
        answer["options"] = OPTIONS * 51
        assert await made.ann.searches("Credential", "all") == [], "more than 100 are shown to nobody"
        with pytest.raises(NotSeen):
            made.ann.picks("Credential", "one")
        answer.clear()
        await made.ann.submits()
        chosen = made.heard[-1][1]["view"]["state"]["values"]["Credential"]["it"]["selected_option"]
        assert chosen["value"] == "two"


async def test_an_input_that_acts_at_once_sends_what_was_chosen() -> None:
    async with place() as made:
        radios = field("Ends", {"type": "radio_buttons", "options": OPTIONS}, dispatch_action=True)
        day = field("At", {"type": "timepicker"}, optional=True)
        await made.opens(modal(radios, day))
        with pytest.raises(NotSeen):
            made.ann.picks("Ends", "two")
        await made.ann.selects("Ends", "two")
        assert made.heard[-1][1]["actions"][0]["selected_option"]["value"] == "two"
        with pytest.raises(NotSeen):
            await made.ann.selects("At", "09:30")
        with pytest.raises(NotSeen):
            made.ann.picks("At", "9:30")
        made.ann.picks("At", "09:30")
        await made.ann.submits()
        values = made.heard[-1][1]["view"]["state"]["values"]
        assert (values["Ends"]["it"]["selected_option"]["value"], values["At"]["it"]["selected_time"]) == ("two", "09:30")


async def test_direct_messages_are_the_apps_or_of_two_people() -> None:
    async with place() as made:
        world = made.slack.world
        with pytest.raises(NotSeen):
            await made.ann.types(world.dm(made.ann.id), "/smtp")
        between = world.direct(made.ann.id, made.bob.id)
        await made.ann.types(between, "/smtp")
        assert made.heard[-1][1]["channel_name"] == "directmessage"
        assert await made.error("chat.postEphemeral", channel=between.id, user=made.ann.id, text="x") == "channel_not_found"
        url = made.heard[-1][1]["response_url"]
        async with made.client.post(url, json={"text": "seen"}) as answer:
            assert await answer.text() == "ok"
        await made.ann.sees("seen", between)
        assert "seen" not in made.bob.screen()
        made.app.read_only = False
        await made.ann.types(world.dm(made.ann.id), "/smtp")


async def test_a_channel_menu_offers_what_its_filter_lets_through() -> None:
    async with place() as made:
        den = made.slack.add_channel("den", made.bob, private=True)
        club = made.slack.add_channel("club", made.ann)
        await made.ann.shares(club)
        only = {"filter": {"include": ["public", "private"], "exclude_external_shared_channels": True}}
        await made.opens(modal(field("Channel", {"type": "conversations_select", **only})))
        for channel in (den, club, made.slack.world.dm(made.ann.id)):
            with pytest.raises(NotSeen):
                made.ann.picks("Channel", channel)
        made.ann.picks("Channel", made.room)
