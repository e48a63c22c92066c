"use strict";
// Each turn is an entry of the browser's history that holds the complete conversation up to it. Back, forward and
// reload therefore need no server, and several tabs are independent of each other.

const $ = (id) => document.getElementById(id);
const MAX_TRAIL = 12; // answers listed
const maxOffered = () => (matchMedia("(max-width: 480px)").matches ? 12 : 24); // attributes offered at once
const TIMEOUT = 30000; // ms until a request fails

let current = null; // the displayed history entry
let requestNumber = 0; // replies to earlier requests are ignored
let busy = false;
let retry = null;

// All texts are set by textContent, as titles and names are data.
function createElement(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function setText(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

const count = (n) => n.toLocaleString("en-US");

// -- server --------------------------------------------------------------------------------------------------

class RequestError extends Error {
  constructor(message, retryable) {
    super(message);
    this.retryable = retryable;
  }
}

async function request(path, body) {
  const options = { signal: AbortSignal.timeout(TIMEOUT), headers: {}, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  let content;
  try {
    response = await fetch(path, options);
    content = await response.json();
  } catch {
    throw new RequestError("The server does not answer. Is it still running?", true);
  }
  if (!response.ok) {
    throw new RequestError(`The server says: ${content.error || response.statusText}`, response.status >= 500);
  }
  return content;
}

// -- navigation ----------------------------------------------------------------------------------------------

async function send(path, body, how = "push") {
  const number = ++requestNumber;
  setBusy(true);
  try {
    const reply = await request(path, body);
    if (number === requestNumber) go({ view: "talk", reply }, how);
  } catch (error) {
    if (number !== requestNumber) return;
    setBusy(false);
    showError(error, () => send(path, body, how));
  }
}

function go(entry, how) {
  history[`${how}State`](entry, "");
  show(entry);
}

function updateEntry(changes) {
  current = { ...current, ...changes };
  history.replaceState(current, "");
}

function answer(value) {
  if (!busy) send("api/answer", { state: current.reply.state, value });
}

function undo() {
  if (busy) return;
  // Browsers drop the oldest entries of a long history; the server can still compute them.
  if (window.navigation && !navigation.canGoBack) {
    if (current.reply.state.events.length) send("api/undo", { state: current.reply.state }, "replace");
    else go(startEntry(), "replace");
  } else history.back();
}

const startEntry = () => ({ view: "start", user: "", likes: [] });

function setBusy(value) {
  busy = value;
  document.querySelector("main").setAttribute("aria-busy", String(value));
}

function showError(error, repeat) {
  retry = repeat;
  setText("trouble-text", error.message);
  $("again").hidden = !error.retryable;
  $("trouble-anew").hidden = current.view === "start" || !repeat;
  $("trouble").hidden = false;
  $("trouble").scrollIntoView({ block: "nearest" });
}

function show(entry) {
  requestNumber += 1; // replies to pending requests belong to another entry
  setBusy(false);
  current = entry?.view === "start" || entry?.reply?.state ? entry : startEntry();
  $("trouble").hidden = true;
  $("start").hidden = current.view !== "start";
  $("talk").hidden = current.view !== "talk";
  if (current.view === "start") showStart();
  else showTalk(current.reply);
  window.scrollTo(0, 0);
}

// -- start page ---------------------------------------------------------------------------------------------

let searchNumber = 0;
let offered = [];

function showStart() {
  document.title = "A conversation · graphrec";
  $("status").textContent = "";
  $("user").value = current.user;
  $("search").value = "";
  showChosen();
  search();
  $("start-title").focus({ preventScroll: true });
}

async function search() {
  const number = ++searchNumber;
  try {
    const matches = await request(`api/attributes?q=${encodeURIComponent($("search").value)}`);
    if (number !== searchNumber) return;
    offered = matches.names.slice(0, maxOffered());
    const rest = matches.total - offered.length;
    setText("more", matches.total ? (rest ? `and ${count(rest)} more; type to search them` : "") : "nothing of that name");
    showOffered();
  } catch (error) {
    if (number === searchNumber && current.view === "start") showError(error, search);
  }
}

function showOffered() {
  const focused = document.activeElement?.dataset?.name;
  $("offered").replaceChildren(...offered.map((name) => chip(name, current.likes.includes(name), () => toggleLike(name))));
  refocus($("offered"), focused);
}

function showChosen() {
  $("chosen-part").hidden = !current.likes.length;
  $("chosen").replaceChildren(
    ...current.likes.map((name) => {
      const element = createElement("button", { type: "button", "aria-label": `${name}, take it away`, text: `${name} ×` });
      element.addEventListener("click", () => toggleLike(name));
      return createElement("li", {}, element);
    }),
  );
}

function chip(name, pressed, onclick, key, text = name) {
  const element = createElement("button", { type: "button", "aria-pressed": String(pressed), "data-name": name, text });
  if (key) {
    element.setAttribute("aria-keyshortcuts", key);
    element.append(createElement("kbd", { text: key, "aria-hidden": "true" }));
  }
  element.addEventListener("click", onclick);
  return createElement("li", {}, element);
}

function refocus(list, name) {
  if (name === undefined) return;
  [...list.querySelectorAll("button")].find((element) => element.dataset.name === name)?.focus();
}

function toggleLike(name) {
  const likes = current.likes.includes(name) ? current.likes.filter((other) => other !== name) : [...current.likes, name];
  updateEntry({ likes });
  $("status").textContent = likes.length ? `You begin with ${likes.join(", ")}` : "You begin with nothing";
  showChosen();
  showOffered();
}

// -- turn -----------------------------------------------------------------------------------------------------

const selected = () => current.selected || [];

function showTalk(turn) {
  const several = turn.values.length > 0;
  const [ask, heading] = {
    question: [capitalize(turn.topic), turn.sentence],
    recommendation: ["", "How about one of these?"],
    end: ["", "Nothing is left to recommend"],
    found: ["", "You have found it"],
  }[turn.kind];
  const left = `${count(turn.remaining)} of ${count(turn.total)} items left`;
  const going = turn.kind === "question" || turn.kind === "recommendation";
  const unmet = turn.unmet ? ` · none meets all you said, these miss ${count(turn.unmet)} of your answers` : "";
  setText("count", going ? `Turn ${turn.number} · ${left}${unmet}` : "");
  setText("ask", ask);
  $("heading").textContent = heading;
  setText("why", why(turn));
  const path = turn.kind === "question" && turn.path.length > 1 ? turn.path : [];
  $("path").replaceChildren(...path.map((name) => createElement("li", {}, createElement("span", { dir: "auto", text: name }))));
  $("path").hidden = !path.length;
  $("yes-no").hidden = turn.kind !== "question" || several;
  $("several").hidden = turn.kind !== "question" || !several;
  $("shown").hidden = turn.kind !== "recommendation";
  $("found").hidden = turn.kind !== "found";
  if (several) showValues();
  $("cards").replaceChildren(...turn.items.map((item, index) => createElement("li", {}, card(item, index))));
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
  if (turn.why) return `Why? ${capitalize(turn.why)}.`;
  return turn.kind === "end" ? "Take answers back, or start anew." : "";
}

const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);

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
  const last = said.slice(-MAX_TRAIL);
  if (last.length < said.length) last.unshift(`${said.length - last.length} earlier`);
  $("trail").replaceChildren(...last.map((text) => createElement("li", { text })));
  $("trail").hidden = !last.length;
}

// The tenth has the key 0; the others have none.
const key = (index) => (index < 9 ? String(index + 1) : index === 9 ? "0" : "");

function showValues() {
  const { values, topic } = current.reply;
  const short = (name) => (topic && name.startsWith(`${topic}: `) ? name.slice(topic.length + 2) : name);
  const focused = document.activeElement?.dataset?.name;
  $("values").replaceChildren(
    ...values.map((name, index) => chip(name, selected().includes(name), () => toggle(name), key(index), short(name))),
  );
  refocus($("values"), focused);
}

function toggle(name) {
  if (busy) return;
  updateEntry({ selected: selected().includes(name) ? selected().filter((other) => other !== name) : [...selected(), name] });
  showValues();
}

function confirmValues() {
  if (selected().length) answer(selected());
  else showError(new RequestError("Choose what fits, or say “None of them”.", false), null);
}

function card(item, index) {
  const initial = () =>
    createElement("span", { class: "initial", "aria-hidden": "true", text: [...item.title.trim()][0]?.toUpperCase() || "·" });
  let picture = initial();
  if (item.picture) {
    picture = createElement("img", { src: item.picture, alt: "" });
    picture.addEventListener("error", () => picture.replaceWith(initial()), { once: true });
  }
  const text = [createElement("b", { dir: "auto", text: item.title })];
  // A reason that several cards share stands above them.
  if (item.why !== current.reply.shared) text.push(createElement("small", { text: `${capitalize(item.why)}.` }));
  if (index === undefined) return createElement("div", { class: "card" }, picture, ...text);
  const element = createElement("button", { type: "button", class: "card" }, picture, ...text);
  if (key(index)) {
    element.prepend(createElement("span", { class: "number", text: key(index), "aria-hidden": "true" }));
    element.setAttribute("aria-keyshortcuts", key(index));
  }
  element.addEventListener("click", () => answer(item.id));
  return element;
}

function save() {
  const text = `${JSON.stringify(current.reply.state, null, 1)}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  createElement("a", { href: address, download: "conversation.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// -- keys and clicks ------------------------------------------------------------------------------------------

function onKeyDown(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.repeat || current.view !== "talk" || !$("keys").checked) return;
  const target = event.target instanceof Element ? event.target : document.body;
  const action = actionForKey(event.key, current.reply, target);
  if (!action) return;
  event.preventDefault();
  if (!busy) action();
}

function actionForKey(pressed, turn, target) {
  const letter = pressed.toLowerCase();
  if (letter === "b" || pressed === "Backspace") return undo;
  const index = /^[0-9]$/.test(pressed) ? (Number(pressed) + 9) % 10 : -1;
  if (turn.kind === "recommendation") {
    if (letter === "n") return () => answer(null);
    return turn.items[index] && (() => answer(turn.items[index].id));
  }
  if (turn.kind !== "question") return null;
  if (pressed === "?") return () => answer("unknown");
  if (!turn.values.length) return letter === "y" ? () => answer("yes") : letter === "n" ? () => answer("no") : null;
  if (letter === "n") return () => answer([]);
  // On another button, Enter presses that button.
  if (pressed === "Enter" && (!target.closest("button") || target.closest("#values"))) return confirmValues;
  return turn.values[index] !== undefined ? () => toggle(turn.values[index]) : null;
}

const clickActions = {
  yes: () => answer("yes"),
  no: () => answer("no"),
  unknown: () => answer("unknown"),
  confirm: () => !busy && confirmValues(),
  "none-fit": () => answer([]),
  "unknown-values": () => answer("unknown"),
  "none-shown": () => answer(null),
  back: undo,
  save,
  anew: () => go(startEntry(), "push"),
  "trouble-anew": () => go(startEntry(), "push"),
  again: () => {
    $("trouble").hidden = true;
    retry?.();
  },
};
for (const [id, what] of Object.entries(clickActions)) $(id).addEventListener("click", what);

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!busy) send("api/start", { user: $("user").value.trim() || null, likes: current.likes });
});
$("user").addEventListener("input", () => updateEntry({ user: $("user").value }));
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
  if (current.view !== "start") return;
  if (offered.length && !current.likes.includes(offered[0])) toggleLike(offered[0]);
  $("search").value = "";
  search();
});
document.addEventListener("keydown", onKeyDown);
$("keys").checked = sessionStorage.getItem("keys") !== "off";
$("keys").addEventListener("change", () => sessionStorage.setItem("keys", $("keys").checked ? "on" : "off"));
window.addEventListener("popstate", (event) => show(event.state));

history.scrollRestoration = "manual";
if (!history.state) history.replaceState(startEntry(), "");
show(history.state);
