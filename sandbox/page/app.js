// One window of the sandbox: acts as one person, and draws what the server says that this person sees.
import { Drawing, make, menu, trap, when } from "/page/blocks.js";

const $ = (id) => document.getElementById(id);
const PASSWORD = /\b(smtp1[0-9A-Za-z]{35}|smt[0-9a-z]{17})\b/, USERNAME = /smtp-[a-z0-9-]{1,12}-[0-9a-z]{8}/;
const FORGET = "forget"; // the only thing that this page keeps in the browser
// The guided minute: what the server ticks, what the button says, what it does.
const STEPS = [
  ["create", "Create a credential", () => { go(mailChannel()); send({ do: "type", channel: here, text: "/smtp create Website relay" }); }],
  ["send", "Send a mail with it", () => withSecret(mail)],
  ["leak", "Leak it", () => withSecret((username, password) => send({ do: "type", channel: here, text: `Our relay: MAIL_USERNAME=${username} MAIL_PASSWORD=${password}` }))],
  ["become", "Become rex, on call", () => act_as(state.people.find((one) => one.role.startsWith("responder"))?.id)],
  ["revoke", "Revoke it from the message", () => {
    const leaked = Object.entries(state.messages).flatMap(([channel, all]) => all.map((one) => ({ channel, ...one }))).findLast((one) => !one.ephemeral && PASSWORD.test(one.text));
    if (!leaked) return say("There is no message with a password yet. Leak one first.");
    go(leaked.channel);
    send({ do: "shortcut", name: state.shortcuts[0], channel: leaked.channel, ts: leaked.ts });
  }],
  ["refused", "Send again: 535", () => withSecret(mail)],
];
const url = new URLSearchParams(location.search);
const me = url.get("person") ?? "";
const forget = $("forget");
forget.checked = localStorage.getItem(FORGET) !== "no";
forget.addEventListener("change", () => localStorage.setItem(FORGET, forget.checked ? "yes" : "no"));
let socket, state, here = url.get("in"), waiting = 1;
let since = forget.checked ? "now" : ""; // ephemeral messages from before are forgotten, as after a reload of Slack
const drafts = {}; // what was entered in each view, by view id

function connect() {
  socket = new WebSocket(`ws://${location.host}/live?person=${encodeURIComponent(me)}&since=${encodeURIComponent(since)}`);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("open", () => {
    if (waiting > 1) say("");
    waiting = 1;
  });
  socket.addEventListener("close", () => {
    say("The sandbox is gone. Waiting for it… What you typed is kept.", true);
    setTimeout(connect, Math.min(waiting *= 2, 10) * 500);
  });
}

// Whether it went out.
function send(what) {
  const open = socket.readyState === WebSocket.OPEN;
  if (open) socket.send(JSON.stringify(what));
  else say("Not sent: the sandbox is away. What you typed is kept; try again when it is back.", true);
  return open;
}

function mailChannel() {
  return state.channels.find((one) => one.kind === "public")?.id;
}

// The newest username and password that this window shows.
function withSecret(use) {
  const all = Object.values(state.messages).flat().sort((one, other) => other.ts - one.ts).map((one) => one.text + JSON.stringify(one.blocks));
  const found = all.find((one) => PASSWORD.test(one) && USERNAME.test(one));
  if (found) use(found.match(USERNAME)[0], found.match(PASSWORD)[0]);
  else say("No password is on the screen. Create a credential first.");
}

function mail(username, password) {
  $("mailuser").value = username;
  $("mailpass").value = password;
  $("mail").requestSubmit();
}

function act_as(person) {
  location.search = new URLSearchParams({ person, in: here });
}

let quiet;
function say(text, stays = false) {
  $("notice").textContent = text;
  clearTimeout(quiet);
  if (text && !stays) quiet = setTimeout(() => say(""), 6000);
}

function receive(news) {
  if (news.error) return say(news.error);
  if (news.offered) return fillOffered(news);
  if (news.mailed) {
    $("mailed").textContent = news.mailed;
    return;
  }
  const first = !state;
  state = news;
  since = state.since;
  const known = state.channels.some((one) => one.id === here) || (here === "home" && state.bot.home);
  if (!known) here = mailChannel() ?? state.channels[0]?.id;
  if (first && here === "home") send({ do: "home" });
  draw();
  if (first) typed.focus();
}

// The options that the app has for a search field.
function fillOffered({ offered, block }) {
  const select = document.querySelector(`[data-offers="${CSS.escape(block)}"]`);
  if (!select) return;
  select.replaceChildren(...[make("option", { value: "", text: offered.length ? "Choose…" : "Nothing found" }), ...offered.map((one) => make("option", { value: one.value, text: one.text.text }))]);
}

function names() {
  return {
    users: state.users, groups: state.groups, people: state.people, list: state.channels,
    channels: Object.fromEntries(state.channels.map((one) => [one.id, one.name])),
  };
}

// Draws a part anew only when what it shows has changed, so that focus, open menus and scrolling stay.
const drawn = {};
function part(id, shown, fill) {
  const key = JSON.stringify(shown);
  if (drawn[id] === key) return false;
  drawn[id] = key;
  const focused = $(id).contains(document.activeElement);
  $(id).replaceChildren(...fill());
  if (focused && document.activeElement === document.body) typed.focus(); // what was pressed is gone
  return true;
}

function draw() {
  part("actor", [state.me, state.people], () => state.people.map((one) => {
    const option = make("option", { value: one.id, text: `${one.name}, ${one.role}` });
    option.selected = one.id === state.me;
    return option;
  }));
  const other = state.people.find((one) => one.id !== state.me);
  $("second").href = `/?${new URLSearchParams({ person: other?.id ?? "", in: here })}`;
  document.title = `${state.people.find((one) => one.id === state.me)?.name} · Sandbox`;
  drawGuide();
  part("channels", [state.channels, here, state.bot], () => [
    ...state.channels.map((one) => entry(one.kind === "im" ? one.name : `# ${one.name}${one.kind === "private" ? " (private)" : ""}`, one.id)),
    ...(state.bot.home ? [entry(`${state.bot.name}: Home`, "home")] : []),
  ]);
  part("globals", state.globals, () => state.globals.length ? [menu("Shortcuts", state.globals.map((name) => [name, () => send({ do: "shortcut", name })]), "⚡")] : []);
  drawMessages();
  drawModal();
  $("mailport").textContent = `127.0.0.1 port ${state.mail.port}`;
  part("logins", state.mail.logins, () => state.mail.logins.toReversed().map((one) => make("li", {},
    make("span", { class: one.ok ? "yes" : "no", text: one.ok ? "accepted " : "refused " }), make("code", { text: one.username }),
    make("div", { class: "muted", text: `${when(one.at)}, from ${one.from}${one.ok ? "" : `: ${one.why}`}` }))));
  $("taken").textContent = state.mail.taken === 1 ? "1 message" : `${state.mail.taken} messages`;
  part("queue", state.mail.queue, () => state.mail.queue.toReversed().map((one) => make("li", {},
    make("div", { text: one.subject || "(no subject)" }), make("div", { class: "muted", text: `${when(one.at)}, from ${one.from} to ${one.to}, as ` }, make("code", { text: one.username })))));
  part("log", $("logpane").open ? state.log : [], () => ($("logpane").open ? state.log : []).toReversed().map((one) => make("li", {},
    `${one.way} · ${one.what} · ${one.status}`, make("code", { text: one.text, tabindex: 0 }))));
}

function entry(text, id) {
  return make("li", {}, make("button", { type: "button", text, "aria-current": String(id === here), onclick: () => go(id) }));
}

function drawGuide() {
  const done = new Set(state.steps);
  const role = state.people.find((one) => one.id === state.me)?.role ?? "";
  if (done.has("leak") && (role.startsWith("responder") || done.has("revoke"))) done.add("become");
  const next = STEPS.find(([key]) => !done.has(key))?.[0];
  part("guide", [[...done], next], () => next
    ? [make("strong", { text: "Your first minute" }), ...STEPS.map(([key, text, does], number) => make("button", {
      type: "button", class: key === next ? "primary" : done.has(key) ? "done" : "later", text: `${done.has(key) ? "✓" : `${number + 1}.`} ${text}`, onclick: does,
    }))]
    : [make("span", { class: "done", text: "✓ That was it: created, sent, leaked, revoked, refused." })]);
}

function go(id) {
  if (id !== here) history.pushState(null, "", `?${new URLSearchParams({ person: state.me, in: id })}`);
  here = id;
  if (id === "home") send({ do: "home" });
  draw();
}

addEventListener("popstate", () => {
  here = new URLSearchParams(location.search).get("in") ?? mailChannel();
  if (here === "home") send({ do: "home" });
  draw();
});

function drawMessages() {
  const home = here === "home";
  const channel = state.channels.find((one) => one.id === here);
  $("where").textContent = home ? `${state.bot.name} Home` : channel?.kind === "im" ? `Direct message with ${channel.name}` : `#${channel?.name ?? ""}`;
  $("composer").hidden = home || channel?.read_only;
  $("readonly").hidden = home || !channel?.read_only;
  const shown = home ? state.home : state.messages[here] ?? [];
  const box = $("messages");
  const below = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const changed = part("messages", [here, shown, state.shortcuts], () => {
    if (!home) return shown.map(message);
    if (!state.home) return [make("p", { class: "muted", text: "The app has not published its Home tab yet." })];
    const held = drafts[state.home.id] ??= {};
    const act = (block, element, value) => send({ do: "press", view: state.home.id, block: block.block_id, action: element.action_id, value, values: held });
    const search = (block, element, text) => send({ do: "search", view: state.home.id, block: block.block_id, action: element.action_id, text });
    return new Drawing(names(), act, held, {}, search).all(state.home.blocks);
  });
  if (!changed || home) return;
  const last = `${here} ${shown.at(-1)?.ts}`;
  if (below || last !== newest) box.scrollTop = box.scrollHeight;
  if (last !== newest) [...box.lastElementChild?.querySelectorAll("pre") ?? []].find((one) => PASSWORD.test(one.textContent))?.scrollIntoView({ block: "nearest" });
  if (newest && last !== newest && matchMedia("(max-width: 60rem)").matches) document.querySelector(".main").scrollIntoView();
  newest = last;
}
let newest = "";

function message(one) {
  const channel = here;
  const at = { channel, ts: one.ts };
  const act = (block, element, value) => send({ do: "press", ...at, block: block.block_id, action: element.action_id, value });
  const search = (block, element, text) => send({ do: "search", ...at, block: block.block_id, action: element.action_id, text });
  const drawing = new Drawing(names(), act, null, {}, search);
  const entries = state.shortcuts.map((name) => [name, () => send({ do: "shortcut", name, ...at })]);
  if (one.user === state.me) entries.push(["Delete message", () => send({ do: "delete", ...at })]);
  const more = one.ephemeral || !entries.length ? null : make("div", { class: "more" }, menu("Message actions", entries));
  return make("article", { class: one.ephemeral ? "message only" : "message" },
    make("span", { class: "who", text: one.name }), make("span", { class: "meta", text: `${when(Number(one.ts))}${one.edited && !one.bot ? " (edited)" : ""}` }),
    one.ephemeral ? make("div", { class: "context", text: "Only visible to you" }) : null,
    ...(one.blocks.length ? drawing.all(one.blocks) : [make("div", { class: "block" }, drawing.text({ type: "mrkdwn", text: one.text }))]),
    ...one.attachments.map((text) => make("blockquote", { text })), more);
}

function drawModal() {
  const view = state.modals.at(-1);
  document.querySelectorAll("body > :not(#modal, .back, #notice)").forEach((one) => { one.inert = Boolean(view); });
  part("modal", view ? [view.id, view.hash, view.errors, view.trouble, view.busy, state.modals.length] : null, () => {
    if (!view) return [];
    const held = drafts[view.id] ??= initial(view);
    const act = (block, element, value) => send({ do: "press", view: view.id, block: block.block_id, action: element.action_id, value, values: held });
    const search = (block, element, text) => send({ do: "search", view: view.id, block: block.block_id, action: element.action_id, text });
    const close = () => send({ do: "close", view: view.id });
    const form = make("form", { class: "dialog", role: "dialog", "aria-modal": "true", "aria-label": view.title.text, novalidate: true },
      make("h2", {}, view.title.text, make("button", { type: "button", text: "✕", "aria-label": "Close", onclick: close })),
      make("div", { class: "body" }, ...new Drawing(names(), act, held, view.errors, search).all(view.blocks),
        view.trouble ? make("p", { class: "trouble", role: "alert", text: view.trouble }) : null),
      make("div", { class: "foot" }, make("button", { type: "button", text: view.close?.text ?? "Cancel", onclick: close }),
        view.submit ? make("button", { class: "primary", text: view.submit.text, disabled: view.busy }) : null));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (view.submit && !view.busy) send({ do: "submit", view: view.id, values: held });
    });
    trap(form, close);
    return [make("div", { class: "back" }, form)];
  });
  const form = $("modal").querySelector("form");
  if (form && !form.contains(document.activeElement) && !document.querySelector("[role=alertdialog]")) {
    (form.querySelector(".error")?.parentElement.querySelector("input, select, textarea") ?? form.querySelector("[data-focus], .body input, .body select, .foot button")).focus();
  }
}

// What the view's inputs hold at first, as the server keeps it: options as their values.
function initial(view) {
  const held = {};
  for (const [block, actions] of Object.entries(view.values)) {
    for (const value of Object.values(actions)) {
      const [inside] = Object.entries(value).filter(([key]) => key !== "type").map(([, one]) => one);
      held[block] = Array.isArray(inside) ? inside.map((one) => one.value ?? one) : inside?.value ?? inside;
    }
  }
  return held;
}

// --- typing ---
const typed = $("typed"), hints = $("hints");
let chosen = 0;

function offers() {
  const text = typed.value;
  if (!text.startsWith("/") || !state) return [];
  return state.commands.flatMap(({ command, hint }) => {
    const words = hint.replace(/[[\]]/g, "").split("|").map((word) => word.trim().split(" ")[0]).filter(Boolean);
    return words.map((word) => `${command} ${word}`);
  }).filter((one) => one.startsWith(text) && one !== text.trim());
}

function hint() {
  const found = offers();
  chosen = Math.min(chosen, Math.max(found.length - 1, 0));
  hints.hidden = !found.length;
  typed.setAttribute("aria-expanded", String(!hints.hidden));
  hints.replaceChildren(...found.map((one, number) => make("li", { role: "option", text: one, "aria-selected": String(number === chosen), onmousedown: (event) => { event.preventDefault(); take(one); } })));
}

function take(text) {
  typed.value = `${text} `;
  hint();
  typed.focus();
}

typed.addEventListener("input", () => { chosen = 0; hint(); });
typed.addEventListener("blur", () => { hints.hidden = true; });
typed.addEventListener("keydown", (event) => {
  const found = offers();
  if (!found.length || hints.hidden) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length;
    hint();
  } else if (event.key === "Tab") {
    event.preventDefault();
    take(found[chosen]);
  } else if (event.key === "Escape") hints.hidden = true;
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!typed.value.trim()) return;
  if (!send({ do: "type", channel: here, text: typed.value.trim() })) return;
  typed.value = "";
  hints.hidden = true;
});
$("mail").addEventListener("submit", (event) => {
  event.preventDefault();
  const sent = send({ do: "mail", username: $("mailuser").value.trim(), password: $("mailpass").value.trim() });
  $("mailed").textContent = sent ? "Sending…" : "";
});
$("actor").addEventListener("change", () => act_as($("actor").value));
$("logpane").addEventListener("toggle", () => state && draw());
connect();
