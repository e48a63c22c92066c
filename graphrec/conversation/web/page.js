"use strict";
// Each turn is an entry of the browser's history and holds the whole conversation up to it. Back, forward and
// reload therefore need no server, and pages in several tabs know nothing of one another.

const $ = (id) => document.getElementById(id);
const TRAIL = 12; // answers that are listed
const OFFERED = 24; // attributes that are offered at once
const PATIENCE = 30000; // ms until an unanswered request is given up

let here = null; // the history entry on display
let moves = 0; // replies to earlier moves come too late
let busy = false;
let retry = null;

// All that is displayed goes through textContent: titles and names are data.
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

const count = (n) => n.toLocaleString("en-US");

// -- server --------------------------------------------------------------------------------------------------

class Trouble extends Error {
  constructor(message, again) {
    super(message);
    this.again = again; // whether the same may succeed later
  }
}

async function request(path, body) {
  const options = { signal: AbortSignal.timeout(PATIENCE), headers: {}, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response, found;
  try {
    response = await fetch(path, options);
    found = await response.json();
  } catch {
    throw new Trouble("The server does not answer. Is it still running?", true);
  }
  if (!response.ok) {
    throw new Trouble(`The server says: ${found.error || response.statusText}`, response.status >= 500);
  }
  return found;
}

// -- moving about --------------------------------------------------------------------------------------------

async function move(path, body, how = "push") {
  const mine = ++moves;
  setBusy(true);
  try {
    const reply = await request(path, body);
    if (mine === moves) go({ view: "talk", reply }, how);
  } catch (trouble) {
    if (mine !== moves) return;
    setBusy(false);
    complain(trouble, () => move(path, body, how));
  }
}

function go(entry, how) {
  history[`${how}State`](entry, "");
  show(entry);
}

function remember(changes) {
  here = { ...here, ...changes };
  history.replaceState(here, "");
}

function answer(value) {
  if (!busy) move("api/answer", { state: here.reply.state, value });
}

function takeBack() {
  if (busy) return;
  // Browsers drop the oldest entries of a long history; the server can still work out what stood there.
  if (window.navigation && !navigation.canGoBack) {
    if (here.reply.state.events.length) move("api/undo", { state: here.reply.state }, "replace");
    else go(beginning(), "replace");
  } else history.back();
}

const beginning = () => ({ view: "start", user: "", likes: [] });

function setBusy(value) {
  busy = value;
  document.querySelector("main").setAttribute("aria-busy", String(value));
}

function complain(trouble, again) {
  retry = again;
  say("trouble-text", trouble.message);
  $("again").hidden = !trouble.again;
  $("trouble-anew").hidden = here.view === "start" || !again;
  $("trouble").hidden = false;
  $("trouble").scrollIntoView({ block: "nearest" });
}

function show(entry) {
  moves += 1; // whatever is on its way belongs to another place
  setBusy(false);
  here = entry?.view === "start" || entry?.reply?.state ? entry : beginning();
  $("trouble").hidden = true;
  $("start").hidden = here.view !== "start";
  $("talk").hidden = here.view !== "talk";
  if (here.view === "start") showStart();
  else showTalk(here.reply);
  window.scrollTo(0, 0);
}

// -- the beginning -------------------------------------------------------------------------------------------

let searches = 0;
let offered = [];

function showStart() {
  document.title = "A conversation · graphrec";
  $("status").textContent = "";
  $("user").value = here.user;
  $("search").value = "";
  showChosen();
  search();
  $("start-title").focus({ preventScroll: true });
}

async function search() {
  const mine = ++searches;
  try {
    const found = await request(`api/attributes?q=${encodeURIComponent($("search").value)}`);
    if (mine !== searches) return;
    offered = found.names.slice(0, OFFERED);
    const rest = found.total - offered.length;
    say("more", found.total ? (rest ? `and ${count(rest)} more; type to search them` : "") : "nothing of that name");
    showOffered();
  } catch (trouble) {
    if (mine === searches && here.view === "start") complain(trouble, search);
  }
}

function showOffered() {
  const focused = document.activeElement?.dataset?.name;
  $("offered").replaceChildren(...offered.map((name) => chip(name, here.likes.includes(name), () => like(name))));
  refocus($("offered"), focused);
}

function showChosen() {
  $("chosen-part").hidden = !here.likes.length;
  $("chosen").replaceChildren(
    ...here.likes.map((name) => {
      const made = make("button", { type: "button", "aria-label": `${name}, take it away`, text: `${name} ×` });
      made.addEventListener("click", () => like(name));
      return make("li", {}, made);
    }),
  );
}

function chip(name, pressed, onclick, key) {
  const made = make("button", { type: "button", "aria-pressed": String(pressed), "data-name": name, text: name });
  if (key) {
    made.setAttribute("aria-keyshortcuts", key);
    made.append(make("kbd", { text: key, "aria-hidden": "true" }));
  }
  made.addEventListener("click", onclick);
  return make("li", {}, made);
}

function refocus(list, name) {
  if (name === undefined) return;
  [...list.querySelectorAll("button")].find((made) => made.dataset.name === name)?.focus();
}

function like(name) {
  const likes = here.likes.includes(name) ? here.likes.filter((other) => other !== name) : [...here.likes, name];
  remember({ likes });
  $("status").textContent = likes.length ? `You begin with ${likes.join(", ")}` : "You begin with nothing";
  showChosen();
  showOffered();
}

// -- a turn --------------------------------------------------------------------------------------------------

const picked = () => here.picked || [];

function showTalk(turn) {
  const several = turn.values.length > 0;
  const [ask, heading] = {
    question: [several ? "Which of these fit?" : "Does this fit?", `${turn.question}${several ? "" : "?"}`],
    recommendation: ["", "How about one of these?"],
    end: ["", "Nothing is left to recommend"],
    found: ["", "You have found it"],
  }[turn.kind];
  const left = `${count(turn.remaining)} of ${count(turn.total)} items left`;
  const going = turn.kind === "question" || turn.kind === "recommendation";
  const unmet = turn.unmet ? ` · none meets all you said, these miss ${count(turn.unmet)} of your answers` : "";
  say("count", going ? `Turn ${turn.number} · ${left}${unmet}` : "");
  say("ask", ask);
  $("heading").textContent = heading;
  say("why", why(turn));
  const path = turn.kind === "question" && turn.path.length > 1 ? turn.path : [];
  $("path").replaceChildren(...path.map((name) => make("li", {}, make("span", { dir: "auto", text: name }))));
  $("path").hidden = !path.length;
  $("yes-no").hidden = turn.kind !== "question" || several;
  $("several").hidden = turn.kind !== "question" || !several;
  $("shown").hidden = turn.kind !== "recommendation";
  $("found").hidden = turn.kind !== "found";
  if (several) showValues();
  $("cards").replaceChildren(...turn.items.map((item, place) => make("li", {}, card(item, place))));
  $("found").replaceChildren(...(turn.found ? [card(turn.found)] : []));
  showTrail(turn.state);
  $("back-text").textContent = turn.state.events.length ? "Take back" : "Back to the start";
  document.title = `${turn.kind === "found" ? turn.found.title : heading} · graphrec`;
  $("status").textContent = [going ? left + unmet : "", ask, heading, turn.found ? turn.found.title : ""]
    .filter(Boolean)
    .join(". ");
  $("talk").focus({ preventScroll: true });
}

function why(turn) {
  if (turn.kind === "question") return `Why? ${capital(turn.why)}.`;
  return turn.kind === "end" ? "Take answers back, or start anew." : "";
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function showTrail(state) {
  const said = [
    ...state.likes,
    ...state.events.map((event) => {
      if (!("asked" in event)) {
        return `${event.shown.length} shown: ${event.chosen === null ? "none of these" : "one chosen"}`;
      }
      if (Array.isArray(event.answer)) return `${event.asked}: ${event.answer.join(", ") || "none"}`;
      return `${event.asked}: ${event.answer === "unknown" ? "don’t know" : event.answer}`;
    }),
  ];
  const last = said.slice(-TRAIL);
  if (last.length < said.length) last.unshift(`${said.length - last.length} earlier`);
  $("trail").replaceChildren(...last.map((text) => make("li", { text })));
  $("trail").hidden = !last.length;
}

// The tenth has the key 0; further ones have none.
const key = (place) => (place < 9 ? String(place + 1) : place === 9 ? "0" : "");

function showValues() {
  const focused = document.activeElement?.dataset?.name;
  $("values").replaceChildren(
    ...here.reply.values.map((name, place) => chip(name, picked().includes(name), () => toggle(name), key(place))),
  );
  refocus($("values"), focused);
}

function toggle(name) {
  if (busy) return;
  remember({ picked: picked().includes(name) ? picked().filter((other) => other !== name) : [...picked(), name] });
  showValues();
}

function confirmValues() {
  if (picked().length) answer(picked());
  else complain(new Trouble("Choose what fits, or say “None of them”.", false), null);
}

function card(item, place) {
  const initial = () =>
    make("span", { class: "initial", "aria-hidden": "true", text: [...item.title.trim()][0]?.toUpperCase() || "·" });
  let picture = initial();
  if (item.picture) {
    picture = make("img", { src: item.picture, alt: "" });
    picture.addEventListener("error", () => picture.replaceWith(initial()), { once: true });
  }
  const text = [make("b", { dir: "auto", text: item.title }), make("small", { text: `${capital(item.why)}.` })];
  if (place === undefined) return make("div", { class: "card" }, picture, ...text);
  const made = make("button", { type: "button", class: "card" }, picture, ...text);
  if (key(place)) {
    made.prepend(make("span", { class: "number", text: key(place), "aria-hidden": "true" }));
    made.setAttribute("aria-keyshortcuts", key(place));
  }
  made.addEventListener("click", () => answer(item.id));
  return made;
}

function save() {
  const text = `${JSON.stringify(here.reply.state, null, 1)}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: address, download: "conversation.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// -- what is pressed -----------------------------------------------------------------------------------------

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.repeat || here.view !== "talk" || !$("keys").checked) return;
  const on = event.target instanceof Element ? event.target : document.body;
  const done = meaning(event.key, here.reply, on);
  if (!done) return;
  event.preventDefault();
  if (!busy) done();
}

function meaning(pressed, turn, on) {
  const letter = pressed.toLowerCase();
  if (letter === "b" || pressed === "Backspace") return takeBack;
  const place = /^[0-9]$/.test(pressed) ? (Number(pressed) + 9) % 10 : -1;
  if (turn.kind === "recommendation") {
    if (letter === "n") return () => answer(null);
    return turn.items[place] && (() => answer(turn.items[place].id));
  }
  if (turn.kind !== "question") return null;
  if (pressed === "?") return () => answer("unknown");
  if (!turn.values.length) return letter === "y" ? () => answer("yes") : letter === "n" ? () => answer("no") : null;
  if (letter === "n") return () => answer([]);
  // On any other button, Enter presses that button.
  if (pressed === "Enter" && (!on.closest("button") || on.closest("#values"))) return confirmValues;
  return turn.values[place] !== undefined ? () => toggle(turn.values[place]) : null;
}

const clicks = {
  yes: () => answer("yes"),
  no: () => answer("no"),
  unknown: () => answer("unknown"),
  confirm: () => !busy && confirmValues(),
  "none-fit": () => answer([]),
  "unknown-values": () => answer("unknown"),
  "none-shown": () => answer(null),
  back: takeBack,
  save,
  anew: () => go(beginning(), "push"),
  "trouble-anew": () => go(beginning(), "push"),
  again: () => {
    $("trouble").hidden = true;
    retry?.();
  },
};
for (const [id, what] of Object.entries(clicks)) $(id).addEventListener("click", what);

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!busy) move("api/start", { user: $("user").value.trim() || null, likes: here.likes });
});
$("user").addEventListener("input", () => remember({ user: $("user").value }));
let typing = 0;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, 120);
});
$("search").addEventListener("keydown", async (event) => {
  if (event.key !== "Enter" || event.isComposing || !$("search").value.trim()) return;
  event.preventDefault();
  clearTimeout(typing);
  await search();
  if (here.view !== "start") return;
  if (offered.length && !here.likes.includes(offered[0])) like(offered[0]);
  $("search").value = "";
  search();
});
document.addEventListener("keydown", press);
$("keys").checked = sessionStorage.getItem("keys") !== "off";
$("keys").addEventListener("change", () => sessionStorage.setItem("keys", $("keys").checked ? "on" : "off"));
window.addEventListener("popstate", (event) => show(event.state));

history.scrollRestoration = "manual";
if (!history.state) history.replaceState(beginning(), "");
show(history.state);
