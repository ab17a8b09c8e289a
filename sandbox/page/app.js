// One window of the sandbox: acts as one person, and draws what the server says that this person sees.
import { Drawing, make, menu, trap, when } from "/page/blocks.js";

const $ = (id) => document.getElementById(id);
const STEPS = [
  ["create", "Create: type /smtp create Website relay"],
  ["send", "Send: copy username and password into the mail form"],
  ["revoke", "Revoke: delete it, and send again: refused"],
];
const me = new URLSearchParams(location.search).get("person") ?? "";
let socket, state, here = null, waiting = 1;
const drafts = {}; // what was entered in each view, by view id

function connect() {
  socket = new WebSocket(`ws://${location.host}/live?person=${encodeURIComponent(me)}`);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("open", () => { waiting = 1; });
  socket.addEventListener("close", () => {
    say("The sandbox is gone. Waiting for it…");
    setTimeout(connect, Math.min(waiting *= 2, 10) * 500);
  });
}

function send(what) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(what));
}

let quiet;
function say(text) {
  $("notice").textContent = text;
  clearTimeout(quiet);
  if (text) quiet = setTimeout(() => say(""), 6000);
}

function receive(news) {
  if (news.error) return say(news.error);
  if (news.mailed) {
    $("mailed").textContent = news.mailed;
    return;
  }
  if (!state) say("");
  state = news;
  here ??= state.channels.find((one) => one.kind === "public")?.id ?? state.channels[0]?.id;
  draw();
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
  if (drawn[id] === key) return;
  drawn[id] = key;
  $(id).replaceChildren(...fill());
}

function draw() {
  part("actor", [state.me, state.people], () => state.people.map((one) => {
    const option = make("option", { value: one.id, text: `${one.name}, ${one.role}` });
    option.selected = one.id === state.me;
    return option;
  }));
  const other = state.people.find((one) => one.id !== state.me);
  $("second").href = `/?person=${other?.id ?? ""}`;
  document.title = `${state.people.find((one) => one.id === state.me)?.name} · Sandbox`;
  part("guide", state.steps, () => state.steps.length === STEPS.length ? [make("span", { class: "done", text: "✓ That was it: created, sent, revoked." })]
    : STEPS.map(([key, text], number) => make("span", { class: state.steps.includes(key) ? "done" : "", text: `${state.steps.includes(key) ? "✓" : `${number + 1}.`} ${text}` })));
  part("channels", [state.channels, here, state.bot], () => [
    ...state.channels.map((one) => entry(one.kind === "im" ? state.bot.name : `# ${one.name}${one.kind === "private" ? " (private)" : ""}`, one.id)),
    ...(state.bot.home ? [entry(`${state.bot.name}: Home`, "home")] : []),
  ]);
  drawMessages();
  drawModal();
  $("mailport").textContent = `127.0.0.1 port ${state.mail.port}`;
  part("logins", state.mail.logins, () => state.mail.logins.toReversed().map((one) => make("li", {},
    make("span", { class: one.ok ? "yes" : "no", text: one.ok ? "accepted " : "refused " }), make("code", { text: one.username }),
    make("div", { class: "muted", text: one.ok ? when(one.at) : `${when(one.at)} · ${one.why}` }))));
  part("log", $("logpane").open ? state.log : [], () => ($("logpane").open ? state.log : []).toReversed().map((one) => make("li", {},
    `${one.way} · ${one.what} · ${one.status}`, make("code", { text: one.text }))));
}

function entry(text, id) {
  return make("li", {}, make("button", { type: "button", text, "aria-current": String(id === here), onclick: () => go(id) }));
}

function go(id) {
  here = id;
  if (id === "home") send({ do: "home" });
  draw();
}

function drawMessages() {
  const home = here === "home";
  const channel = state.channels.find((one) => one.id === here);
  $("where").textContent = home ? `${state.bot.name} Home` : channel?.kind === "im" ? `Direct message with ${state.bot.name}` : `#${channel?.name ?? ""}`;
  $("composer").hidden = home;
  const shown = home ? state.home : state.messages[here] ?? [];
  part("messages", [here, shown, state.shortcuts], () => {
    if (!home) return shown.map(message);
    if (!state.home) return [make("p", { class: "muted", text: "The app has not published its Home tab yet." })];
    const held = drafts[state.home.id] ??= {};
    const act = (block, element, value) => send({ do: "press", view: state.home.id, block: block.block_id, action: element.action_id, value, values: held });
    return new Drawing(names(), act, held).all(state.home.blocks);
  });
  if (!home) $("messages").scrollTop = $("messages").scrollHeight;
}

function message(one) {
  const act = (block, element, value) => send({ do: "press", channel: here, ts: one.ts, block: block.block_id, action: element.action_id, value });
  const drawing = new Drawing(names(), act);
  const channel = here;
  const shortcuts = one.ephemeral || !state.shortcuts.length ? null
    : make("div", { class: "more" }, menu("Message actions", state.shortcuts.map((name) => [name, () => send({ do: "shortcut", name, channel, ts: one.ts })])));
  return make("article", { class: one.ephemeral ? "message only" : "message" },
    make("span", { class: "who", text: one.name }), make("span", { class: "meta", text: when(Number(one.ts)) }),
    one.ephemeral ? make("div", { class: "context", text: "Only visible to you" }) : null,
    ...(one.blocks.length ? drawing.all(one.blocks) : [make("div", { class: "block", text: one.text })]), shortcuts);
}

function drawModal() {
  const view = state.modals.at(-1);
  part("modal", view ? [view.id, view.hash, view.errors, view.trouble, view.busy, state.modals.length] : null, () => {
    if (!view) return [];
    const held = drafts[view.id] ??= initial(view);
    const act = (block, element, value) => send({ do: "press", view: view.id, block: block.block_id, action: element.action_id, value, values: held });
    const close = () => send({ do: "close", view: view.id });
    const form = make("form", { class: "dialog", role: "dialog", "aria-modal": "true", "aria-label": view.title.text, novalidate: true },
      make("h2", {}, view.title.text, make("button", { type: "button", text: "✕", "aria-label": "Close", onclick: close })),
      make("div", { class: "body" }, ...new Drawing(names(), act, held, view.errors).all(view.blocks),
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
  send({ do: "type", channel: here, text: typed.value.trim() });
  typed.value = "";
  hints.hidden = true;
});
$("mail").addEventListener("submit", (event) => {
  event.preventDefault();
  $("mailed").textContent = "Sending…";
  send({ do: "mail", username: $("mailuser").value.trim(), password: $("mailpass").value.trim() });
});
$("actor").addEventListener("change", () => { location.search = `?person=${$("actor").value}`; });
$("logpane").addEventListener("toggle", () => state && draw());
connect();
