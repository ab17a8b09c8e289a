// Block Kit as elements of the page. All text goes through textContent.

export function make(tag, options = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.filter((part) => part != null));
  return made;
}

export function when(seconds) {
  return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

// Slack's tokens, https://docs.slack.dev/messaging/formatting-message-text#date-formatting, in the reader's own time zone.
export function dated(seconds, format, now = new Date()) {
  const at = new Date(seconds * 1000);
  const day = (date) => Math.floor((date.getTime() - date.getTimezoneOffset() * 60000) / 86400000);
  const near = { [-1]: "yesterday", 0: "today", 1: "tomorrow" }[day(at) - day(now)];
  const as = (options) => at.toLocaleDateString("en-US", options);
  const number = at.getDate();
  const suffix = number % 100 > 10 && number % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][number % 10] ?? "th";
  const year = Math.abs(at - now) < 182 * 86400000 ? "" : `, ${at.getFullYear()}`;
  const long = `${as({ month: "long" })} ${number}${suffix}${year}`;
  const short = as({ month: "short", day: "numeric", year: "numeric" });
  const full = `${as({ weekday: "long" })}, ${long}`;
  const values = {
    date_num: `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, "0")}-${String(number).padStart(2, "0")}`,
    date: long, date_short: short, date_long: full,
    date_pretty: near ?? long, date_short_pretty: near ?? short, date_long_pretty: near ?? full,
    time: at.toLocaleTimeString("en-US", { hour: "numeric", minute: "2-digit" }),
    time_secs: at.toLocaleTimeString("en-US", { hour: "numeric", minute: "2-digit", second: "2-digit" }),
    ago: ago((at - now) / 1000),
  };
  return format.replace(/\{(\w+)\}/g, (token, name) => values[name] ?? token);
}

function ago(seconds) {
  const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60]].find(([, one]) => Math.abs(seconds) >= one) ?? ["second", 1];
  return new Intl.RelativeTimeFormat("en").format(Math.round(seconds / size), unit);
}

// names: what `<@U…>` and the like stand for. act(block, element, value): what was pressed or chosen. held: the inputs of a view. search(block, element, text): asks the app for options.
export class Drawing {
  constructor(names, act, held = null, errors = {}, search = () => {}) {
    this.names = names;
    this.act = act;
    this.held = held;
    this.errors = errors;
    this.search = search;
  }

  all(blocks) {
    return blocks.map((block) => this.block(block));
  }

  block(block) {
    switch (block.type) {
      case "rich_text": return make("div", { class: "block rich" }, ...block.elements.map((part) => this.rich(part)));
      case "section": return this.section(block);
      case "header": return make("div", { class: "block head", role: "heading", "aria-level": 2 }, this.text(block.text));
      case "context": return make("div", { class: "block context" }, ...block.elements.map((part) => (part.text ? this.text(part) : this.cannot(part.type))));
      case "actions": return make("div", { class: "block actions" }, ...block.elements.map((element) => this.element(block, element)));
      case "divider": return make("hr");
      case "input": return this.input(block);
      case "alert": return make("div", { class: "block trouble", role: "alert" }, this.text(block.text));
      case "markdown": return make("div", { class: "block", text: block.text });
      default: return this.cannot(block.type);
    }
  }

  cannot(type) {
    return make("div", { class: "block cannot", text: `This sandbox cannot draw "${type}".` });
  }

  section(block) {
    const text = make("div", { class: "text" });
    if (block.text) text.append(this.text(block.text));
    if (block.fields) text.append(make("div", { class: "fields" }, ...block.fields.map((field) => make("div", {}, this.text(field)))));
    return make("div", { class: "block section" }, text, block.accessory ? this.element(block, block.accessory) : null);
  }

  text(given) {
    if (given.type === "plain_text") return make("span", { text: given.text });
    const span = make("span");
    // Ours is ids, dates and code in mrkdwn: that is what is drawn of it.
    for (const part of given.text.split(/(<[^<>]+>|`[^`]+`|\*[^*\n]+\*|\n)/)) {
      if (part === "\n") span.append(make("br"));
      else if (part.startsWith("<") && part.endsWith(">")) span.append(this.reference(part.slice(1, -1)));
      else if (/^`[^`]+`$/.test(part)) span.append(make("code", { text: unescape(part.slice(1, -1)) }));
      else if (/^\*[^*]+\*$/.test(part)) span.append(make("b", { text: unescape(part.slice(1, -1)) }));
      else span.append(unescape(part));
    }
    return span;
  }

  reference(inside) {
    const [target, label] = inside.split("|");
    if (target.startsWith("@")) return this.mention(this.names.users[target.slice(1)] ?? target.slice(1));
    if (target.startsWith("!subteam^")) return this.mention(this.names.groups[target.slice(9)] ?? target.slice(9));
    if (target.startsWith("#")) return this.channel(target.slice(1));
    if (target.startsWith("!date^")) return this.date(Number(target.split("^")[1]), unescape(target.split("^")[2] ?? ""), label);
    if (target.startsWith("!")) return this.mention(target.slice(1));
    return make("span", { text: unescape(label ?? target) });
  }

  mention(name) {
    return make("span", { class: "mention", text: `@${name}` });
  }

  channel(id) {
    return make("span", { class: "mention", text: `#${this.names.channels[id] ?? id}` });
  }

  date(seconds, format, fallback) {
    return make("time", { datetime: new Date(seconds * 1000).toISOString(), title: fallback, text: format ? dated(seconds, format) : when(seconds) });
  }

  rich(part) {
    switch (part.type) {
      case "rich_text_section": return make("div", {}, ...part.elements.map((one) => this.leaf(one)));
      case "rich_text_quote": return make("blockquote", {}, ...part.elements.map((one) => this.leaf(one)));
      case "rich_text_list": return make(part.style === "ordered" ? "ol" : "ul", {}, ...part.elements.map((one) => make("li", {}, this.rich(one))));
      case "rich_text_preformatted": {
        const text = part.elements.map((one) => one.text ?? "").join("");
        const copy = make("button", { type: "button", text: "Copy", "aria-label": `Copy ${text.length > 30 ? "this" : text}` });
        copy.addEventListener("click", async () => {
          await navigator.clipboard.writeText(text);
          copy.textContent = "Copied";
        });
        return make("div", { class: "pre" }, make("pre", { text }), copy);
      }
      default: return this.cannot(part.type);
    }
  }

  leaf(one) {
    switch (one.type) {
      case "text": {
        const style = one.style ?? {};
        const tag = style.code ? "code" : style.bold ? "b" : style.italic ? "i" : style.strike ? "s" : "span";
        const made = make(tag);
        one.text.split("\n").forEach((line, number) => made.append(...(number ? [make("br")] : []), line));
        return made;
      }
      case "user": return this.mention(this.names.users[one.user_id] ?? one.user_id);
      case "usergroup": return this.mention(this.names.groups[one.usergroup_id] ?? one.usergroup_id);
      case "channel": return this.channel(one.channel_id);
      case "date": return this.date(one.timestamp, one.format, one.fallback);
      case "link": return make("a", { href: one.url, text: one.text || one.url, rel: "noopener noreferrer", target: "_blank" });
      case "emoji": return make("span", { text: `:${one.name}:` });
      case "broadcast": return this.mention(one.range);
      default: return this.cannot(one.type);
    }
  }

  element(block, element) {
    switch (element.type) {
      case "button": {
        const pressed = () => confirmed(element.confirm, () => this.act(block, element));
        return make("button", { type: "button", class: element.style ?? "", text: element.text.text, "aria-label": element.accessibility_label, onclick: pressed });
      }
      case "overflow": return menu("More for this row", element.options.map((option) => [option.text.text, () => confirmed(element.confirm, () => this.act(block, element, option.value))]));
      default: {
        const input = this.control(block, element, element.type === "plain_text_input" ? "keydown" : "change");
        return input ?? this.cannot(element.type);
      }
    }
  }

  input(block) {
    const error = this.errors[block.block_id];
    const control = this.control(block, block.element, block.dispatch_action ? "change" : null);
    const label = make("span", { class: "label", text: block.label.text + (block.optional ? " (optional)" : "") });
    const many = ["checkboxes", "radio_buttons", "external_select"].includes(block.element.type);
    return make(
      many ? "fieldset" : "label", { class: "block field", "data-block": block.block_id },
      many ? make("legend", {}, label) : label, control ?? this.cannot(block.element.type),
      error ? make("span", { class: "error", role: "alert", text: error }) : null,
      block.hint ? make("span", { class: "hint", text: block.hint.text }) : null,
    );
  }

  // What can be filled in. With an event, it acts at once; what is entered is kept in `held` either way.
  control(block, element, event) {
    const id = block.block_id;
    const keep = (value) => {
      if (this.held) this.held[id] = value;
    };
    const current = this.held ? this.held[id] : null;
    const acts = (value) => {
      keep(value);
      if (event) confirmed(element.confirm, () => this.act(block, element, value));
    };
    switch (element.type) {
      case "plain_text_input":
      case "email_text_input":
      case "url_text_input":
      case "number_input": {
        const made = make(element.multiline ? "textarea" : "input", { placeholder: element.placeholder?.text, maxlength: element.max_length, "data-focus": element.focus_on_load });
        made.value = current ?? element.initial_value ?? "";
        made.addEventListener("input", () => keep(made.value));
        if (event) made.addEventListener("keydown", (pressed) => {
          if (pressed.key === "Enter") {
            pressed.preventDefault();
            acts(made.value);
          }
        });
        return made;
      }
      case "datepicker":
      case "timepicker": {
        const made = make("input", { type: element.type === "datepicker" ? "date" : "time" });
        made.value = current ?? element.initial_date ?? element.initial_time ?? "";
        made.addEventListener("change", () => acts(made.value));
        return made;
      }
      case "datetimepicker": {
        const made = make("input", { type: "datetime-local" });
        const first = current ?? element.initial_date_time;
        if (first) made.value = new Date(first * 1000 - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 16);
        made.addEventListener("change", () => acts(Math.floor(new Date(made.value).getTime() / 1000)));
        return made;
      }
      case "external_select": {
        const options = make("select", { "aria-label": element.placeholder?.text ?? "Found", "data-offers": id });
        const first = element.initial_option;
        options.append(make("option", { value: first?.value ?? "", text: first?.text.text ?? "Search first" }));
        options.addEventListener("change", () => acts(options.value || null));
        const asked = make("input", { type: "search", "aria-label": `Search: ${block.label?.text ?? element.placeholder?.text ?? ""}`, placeholder: element.placeholder?.text ?? "Search" });
        asked.addEventListener("input", () => this.search(block, element, asked.value));
        if (element.min_query_length === 0) this.search(block, element, "");
        return make("div", { class: "external" }, asked, options);
      }
      case "static_select": return this.select(element, element.options ?? element.option_groups.flatMap((group) => group.options), current ?? element.initial_option?.value, acts);
      case "users_select": return this.select(element, this.names.people.map((one) => option(`@${one.name}`, one.id)), current ?? element.initial_user, acts);
      case "channels_select":
      case "conversations_select": {
        const channels = this.names.list.filter((one) => one.kind !== "im" || !(element.filter?.include) || element.filter.include.includes("im"));
        return this.select(element, channels.map((one) => option(`#${one.name}`, one.id)), current ?? element.initial_conversation ?? element.initial_channel, acts);
      }
      case "checkboxes":
      case "radio_buttons": {
        const single = element.type === "radio_buttons";
        const first = single ? [element.initial_option?.value] : (element.initial_options ?? []).map((one) => one.value);
        const chosen = new Set(current == null ? first : [].concat(current));
        const box = make("div");
        for (const one of element.options) {
          const tick = make("input", { type: single ? "radio" : "checkbox", name: id });
          tick.checked = chosen.has(one.value);
          tick.addEventListener("change", () => {
            if (single) chosen.clear();
            if (tick.checked) chosen.add(one.value); else chosen.delete(one.value);
            acts(single ? [...chosen][0] : [...chosen]);
          });
          const about = one.description ? make("span", { class: "hint", text: ` ${one.description.text}` }) : null;
          box.append(make("label", { class: "choice" }, tick, ` ${one.text.text}`, about));
        }
        return box;
      }
      default: return null;
    }
  }

  select(element, options, current, acts) {
    const made = make("select", { "aria-label": element.placeholder?.text });
    made.append(make("option", { value: "", text: element.placeholder?.text ?? "Choose…" }));
    for (const one of options) made.append(make("option", { value: one.value, text: one.text.text }));
    made.value = current ?? "";
    made.addEventListener("change", () => acts(made.value || null));
    return made;
  }
}

function option(text, value) {
  return { text: { text }, value };
}

function unescape(text) {
  return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}

export function menu(label, entries, sign = "⋯") {
  const list = make("ul", { hidden: true });
  const open = make("button", { type: "button", text: sign, "aria-label": label, "aria-expanded": "false" });
  const close = () => { list.hidden = true; open.setAttribute("aria-expanded", "false"); };
  for (const [text, chosen] of entries) {
    list.append(make("li", {}, make("button", { type: "button", text, onclick: () => { close(); chosen(); } })));
  }
  open.addEventListener("click", () => { list.hidden = !list.hidden; open.setAttribute("aria-expanded", String(!list.hidden)); });
  const box = make("div", { class: "menu" }, open, list);
  box.addEventListener("focusout", (event) => { if (!box.contains(event.relatedTarget)) close(); });
  box.addEventListener("keydown", (event) => { if (event.key === "Escape" && !list.hidden) { event.stopPropagation(); close(); open.focus(); } });
  return box;
}

// Slack's confirm dialog, over whatever is open.
function confirmed(confirm, yes) {
  if (!confirm) return yes();
  const before = document.activeElement;
  const end = () => { back.remove(); before?.focus(); };
  const deny = make("button", { type: "button", text: confirm.deny.text, onclick: end });
  const accept = make("button", { type: "button", class: confirm.style ?? "primary", text: confirm.confirm.text, onclick: () => { end(); yes(); } });
  const dialog = make("div", { class: "dialog", role: "alertdialog", "aria-modal": "true", "aria-label": confirm.title.text },
    make("h2", { text: confirm.title.text }), make("div", { class: "body", text: confirm.text.text }), make("div", { class: "foot" }, deny, accept));
  const back = make("div", { class: "back" }, dialog);
  trap(dialog, end);
  document.body.append(back);
  accept.focus();
}

// Keeps the focus inside; Esc ends it.
export function trap(dialog, end) {
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); end(); }
    if (event.key !== "Tab") return;
    const inside = [...dialog.querySelectorAll("button, input, select, textarea, a[href]")].filter((one) => !one.disabled && one.offsetParent);
    const edge = event.shiftKey ? inside[0] : inside.at(-1);
    if (document.activeElement === edge) {
      event.preventDefault();
      (event.shiftKey ? inside.at(-1) : inside[0]).focus();
    }
  });
}
