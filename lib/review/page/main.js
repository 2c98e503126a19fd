// The page: views, keys and decisions. Every decision is seen at once and sent behind; see api.js for what waits.

import {get, newId, Queue, Refused} from "./api.js";
import {Compare} from "./compare.js";
import {ask, askSubmit, isOpen, showKeys, tell} from "./dialogs.js";
import {byId, element} from "./dom.js";
import {filtersOf} from "./filters.js";
import {describe, Grid} from "./grid.js";
import {ACTIONS, KeyMap, keyOf, spoken} from "./keys.js";
import {BLANK, byName, Model, STATUS} from "./model.js";
import {drawAgreement, drawBalance, drawFacts} from "./panel.js";
import {remember, reviewerOf} from "./reviewer.js";
import {Single} from "./single.js";
import {Pictures} from "./stage.js";

const POLL = 4000;   // milliseconds between questions for what others decided
const keys = new KeyMap();
let model, grid, single, compare, queue, view = "grid", drawn = 0;

const say = text => { byId("said").textContent = text; byId("said").title = text; };

// --- drawing

function banner(text, action, label) {
  const place = byId("banner");
  place.hidden = !text;
  place.replaceChildren(text ?? "", ...(action ? [element("button", {type: "button", onclick: action}, label)] : []));
}

function later() {
  if (drawn) return;
  drawn = requestAnimationFrame(() => {
    drawn = 0;
    drawFacts(model, view === "compare" ? compare.current : model.current, single.chosen, id => { if (view === "grid") enter("single"); single.choose(id); });
    drawBalance(model, retarget, balanceAll);
    const {keep, reject, undecided, none} = model.tally;
    byId("progress").textContent = `${keep} kept, ${reject} rejected, ${none + undecided} without a decision; ${model.list.length} of ${model.items.length} shown`;
    const empty = !model.list.length;
    byId("empty").hidden = !empty;
    if (empty) byId("empty").textContent = "No picture fits the filters: choose others above.";
    if (model.stale) banner("The run has written other pictures. Decisions stay with the pictures they were made on.", reload, "Show the new ones");
    else if (model.damaged) banner(`${model.damaged} lines of the decisions' file are no decisions, and are passed over.`);
    else banner(model.partly());
  });
}

function draw(former) {
  if (view === "grid") grid.show(former);
  else if (view === "single") single.draw();
  else compare.draw();
  later();
}

function enter(name) {
  view = name;
  for (const one of ["grid", "single", "compare"]) byId(one).hidden = one !== name;
  if (name === "grid") { grid.layout(); grid.markAll(); }
  if (name === "single") single.enter();
  byId(name).focus({preventScroll: true});
  later();
}

function go(step) {
  const former = model.at;
  const moved = model.move(step);
  if (view === "single") single.enter(); else grid.show(former);
  later();
  return moved;
}

// --- decisions

function decide(item, changes, text) {
  const posts = new Map();
  for (const [one, change] of changes) {
    model.expect(one, change);
    if (!posts.has(one.run)) posts.set(one.run, []);
    posts.get(one.run).push({...change, picture: one.key, sha256: one.sha256});
    grid.mark(model.list.indexOf(one));
  }
  const id = newId();
  for (const [run, own] of posts) queue.add("api/decide", {run, id, by: model.me, changes: own});
  if (text) say(text);
}

function mark(status) {
  if (view === "compare") return best(status);
  const item = model.current;
  if (!item) return;
  decide(item, [[item, {do: "picture", status}]]);
  const moved = go(1);
  const next = moved ? `Next: ${describe(model, model.current)}` : "That was the last one: " + spoken(keys.key("submit")) + " submits.";
  if (!moved) draw();
  say(`${STATUS[status]}: ${item.name}. ${next}`);
}

function best(status) {
  const chosen = compare.current;
  if (status !== "keep") {
    decide(chosen, [[chosen, {do: "picture", status}]], `${STATUS[status]}: ${chosen.name}`);
    compare.move(1);
    return later();
  }
  decide(chosen, compare.group.map(one => [one, {do: "picture", status: one === chosen ? "keep" : "reject"}]));
  const text = `${chosen.name} is kept, the other ${compare.group.length - 1} are rejected.`;
  const seen = new Set(compare.group);
  const next = model.list.find((one, at) => at > model.at && !seen.has(one) && model.group(one).length > 1 && !model.statusOf(one));
  if (next) {
    model.at = model.list.indexOf(next);
    compare.enter(next);
    say(`${text} Next: ${next.source_name}`);
  } else {
    enter("grid");
    say(`${text} No other source is left to compare.`);
  }
  later();
}

function markBox(status) {
  if (view !== "single") return say("Boxes are rejected in the single view: Enter opens it.");
  const item = model.current, box = single.box();
  if (!box) return say("Choose a box first: its digit, or the arrows up and down.");
  const now = item.state.boxes[box.id] ?? "", wanted = now === status ? "" : status;
  decide(item, [[item, {do: "box", box: box.id, status: wanted}]], `${box.category}: ${{keep: "accepted", reject: "rejected", "": "as screening left it"}[wanted]}`);
  draw();
}

function moved(box, xywh) {
  const item = model.current;
  decide(item, [[item, {do: "shape", box: box.id, category: box.category, xywh}]], `${box.category} is now ${xywh[2]} × ${xywh[3]} pixels`);
  draw();
}

function retarget(name, count) {
  if (count === null) delete model.targets[name]; else model.targets[name] = count;
  queue.add("api/decide", {run: 0, id: newId(), by: model.me, changes: [{do: "targets", boxes: model.targets}]});
  later();
}

function balanceAll() {
  const most = Math.max(...model.balance().map(one => one.total));
  model.targets = byName(Object.fromEntries(model.categories.map(name => [name, most])));
  queue.add("api/decide", {run: 0, id: newId(), by: model.me, changes: [{do: "targets", boxes: model.targets}]});
  byId("balance").replaceChildren();
  later();
}

async function note() {
  const item = view === "compare" ? compare.current : model.current;
  if (!item) return;
  const text = await ask(`Note on ${item.name}`, item.state.note);
  byId(view).focus({preventScroll: true});
  if (text === null || text === item.state.note) return;
  decide(item, [[item, {do: "note", text}]], text ? "noted" : "note removed");
  draw();
}

async function submit() {
  const chosen = await askSubmit(model.tally, model.rest[0]);
  byId(view).focus({preventScroll: true});
  if (chosen === null) return;
  const id = newId();
  model.runs.forEach((_, run) => queue.add("api/decide", {run, id, by: model.me, changes: [{do: "submit", undecided: chosen}]}));
}

// --- what the server answers

function answered(answer, value) {
  const changed = model.told(answer);
  changed.forEach(item => grid.mark(model.list.indexOf(item)));
  if (answer.undone) {
    const item = answer.undone.length ? model.items.find(one => answer.undone.includes(one.key)) : null;
    if (!item) say("There is nothing of yours to undo.");
    else {
      if (view === "compare") enter("grid");
      const at = model.list.indexOf(item), former = model.at;
      if (at >= 0) model.at = at;
      if (view === "single") single.enter(); else grid.show(former);
      say(`Undone: ${describe(model, item)}`);
    }
  }
  // Decisions that still wait are newer than what was told.
  for (const waiting of queue.waiting) {
    for (const change of waiting.value.changes ?? []) {
      const item = change.picture && model.byKey.get(`${waiting.value.run} ${change.picture}`);
      if (item) model.expect(item, change);
    }
  }
  if (changed.length && view !== "grid") (view === "single" ? single : compare).draw();
  if (answer.said !== undefined) tell("Submitted", answer.said || "The next run writes the final set by your decisions.");
  if (model.reviewers.length > 1 && value) agree();
  later();
}

let asking = 0;
function agree() {
  clearTimeout(asking);
  asking = setTimeout(async () => drawAgreement(await get("api/agreement").catch(() => []), () => filter({status: "disputed"})), 300);
}

async function poll() {
  if (!document.hidden && !queue.waiting.length) {
    try {
      const answer = await get(`api/changes?since=${model.versions}`);
      const others = answer.reviewers.length > model.reviewers.length || answer.states.some(states => Object.keys(states).length);
      if (!queue.waiting.length) answered(answer);
      if (others && model.reviewers.length > 1) agree();
    } catch (error) {
      if (error instanceof Refused) say(error.message);
    }
  }
  setTimeout(poll, POLL);
}

async function reload() {
  const stay = model.current?.key;
  model.take(await get("api/catalogue"));
  model.refilter(model.items.find(item => item.key === stay));
  filterForm();
  grid.renew();
  enter("grid");
  say("The pictures are those of the run as it is now.");
}

function waiting(one) {
  const place = byId("unsaved");
  place.hidden = !one.failed;
  place.textContent = one.failed ? `${one.waiting.length} not saved yet, the server does not answer: they wait here, keep the page open` : "";
}

// --- filters

function filterForm() {
  byId("filters").replaceChildren(...Object.entries(filtersOf(model)).filter(([name]) => name !== "run" || model.runs.length > 1).map(([name, [title, options]]) => {
    const select = element("select", {name}, ...options.map(([value, text]) => element("option", {value, selected: value === model.filters[name]}, text)));
    select.addEventListener("change", () => filter({[name]: select.value}));
    return element("label", {}, title, select);
  }));
}

function filter(changed) {
  const stay = model.current;
  Object.assign(model.filters, changed);
  model.refilter(stay);
  for (const select of byId("filters").querySelectorAll("select")) select.value = model.filters[select.name];
  grid.renew();
  if (view === "compare" || !model.list.length) enter("grid");
  else if (view === "single") single.enter();
  say(`${model.list.length} of ${model.items.length} pictures`);
  later();
}

// --- keys

const DO = {
  keep: () => mark("keep"),
  reject: () => mark("reject"),
  undecided: () => mark("undecided"),
  undo: () => queue.add("api/undo", {by: model.me, id: newId()}),
  next: () => view === "compare" ? (compare.move(1), later()) : go(1),
  previous: () => view === "compare" ? (compare.move(-1), later()) : go(-1),
  down: () => view === "single" ? single.step(1) : view === "grid" ? go(grid.columns) : (compare.move(1), later()),
  up: () => view === "single" ? single.step(-1) : view === "grid" ? go(-grid.columns) : (compare.move(-1), later()),
  first: () => go(-model.list.length),
  last: () => go(model.list.length),
  open: () => {
    const later_ = model.list.findIndex((item, at) => at > model.at && !model.statusOf(item));
    const at = later_ >= 0 ? later_ : model.list.findIndex(item => !model.statusOf(item));
    if (at >= 0) go(at - model.at); else say("Every picture that is shown has a decision.");
  },
  view: () => {
    if (view === "compare") { model.at = Math.max(0, model.list.indexOf(compare.current)); enter("single"); }
    else if (model.current) enter(view === "grid" ? "single" : "grid");
  },
  back: () => {
    if (view === "single" && single.chosen) single.choose(null);
    else if (view === "single" && single.zoomed) { single.zoomed = false; draw(); }
    else enter("grid");
  },
  flip: () => {
    if (view === "grid") return model.current && enter("single");
    const one = view === "single" ? single : compare;
    one.flipped = !one.flipped;
    one.draw();
    say(one.flipped ? "source" : "result");
  },
  side: () => { if (view !== "single") { if (!model.current) return; enter("single"); } single.sided = !single.sided; single.draw(); },
  boxes: () => {
    single.boxesOn = compare.boxesOn = !single.boxesOn;
    draw();
    say(single.boxesOn ? "boxes on" : "boxes off");
  },
  zoom: () => {
    if (!model.current) return;
    if (view !== "single") enter("single");
    single.zoomed = !single.zoomed;
    single.draw();
    say(single.zoomed ? "zoomed" : "whole picture");
  },
  rejectBox: () => markBox("reject"),
  acceptBox: () => markBox("keep"),
  moveBox: () => view === "single" ? say(single.startMoving()) : say("Boxes are moved in the single view: Enter opens it."),
  note,
  compare: () => {
    if (view === "compare") return enter("single");
    if (!model.current) return;
    if (compare.enter(model.current)) { enter("compare"); compare.draw(); say(`${compare.group.length} pictures of ${model.current.source_name}${compare.group.length > compare.stages.length ? `, ${compare.stages.length} at once` : ""}: ${spoken(keys.key("keep"))} keeps the one in the frame and rejects the others.`); }
    else say("Nothing else was made of this source: more variants, or several runs, are compared.");
  },
  targets: () => { byId("balance").querySelector("input")?.focus(); },
  filters: () => { byId("filters").querySelector("select")?.focus(); },
  submit,
  help: () => showKeys(keys, chosen => queue.add("api/decide", {run: 0, id: newId(), by: model.me, changes: [{do: "keys", keys: chosen}]})),
};

function pressed(event) {
  if (!model || isOpen() || event.isComposing) return;
  const field = event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape" || (event.key === "Enter" && field.tagName === "INPUT")) { field.blur(); byId(view).focus({preventScroll: true}); event.preventDefault(); }
    return;
  }
  if (event.target.closest("button") && (event.key === "Enter" || event.key === " ")) return;
  if (view === "single" && single.moving) {
    event.preventDefault();
    return say(single.moveKey(event));
  }
  if (/^[0-9]$/.test(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) {
    event.preventDefault();
    return digit(Number(event.key));
  }
  const action = keys.action(event);
  if (action) { event.preventDefault(); DO[action](); }
  else if (view === "grid" && (keyOf(event) === "PageDown" || keyOf(event) === "PageUp")) {
    event.preventDefault();
    const rows = Math.max(1, Math.floor(byId("grid").clientHeight / grid.height));
    go((event.key === "PageDown" ? 1 : -1) * rows * grid.columns);
  }
}

function digit(number) {
  if (view === "compare") { compare.number(number); return later(); }
  if (!model.current) return;
  if (view === "grid") enter("single");
  if (!single.number(number)) say(`This picture has no box ${number}.`);
}

// --- start

async function chooseReviewer(name) {
  model.me = name;
  keys.set(await get(`api/keys?by=${encodeURIComponent(name)}`).catch(() => ({})));
  if (model.filters.whose === "mine") filter({});
}

async function start() {
  let catalogue;
  try {
    catalogue = await get("api/catalogue");
  } catch (error) {
    banner(`${error.message} (is \`augment review\` still running?)`, () => location.reload(), "Try again");
    return;
  }
  const me = reviewerOf(catalogue);
  model = new Model(catalogue, me);
  await chooseReviewer(me);   // before anything is drawn: from then on no key is lost, and buttons show the right ones
  const pictures = new Pictures();
  single = new Single(model, pictures, {chosen: later, moved});
  compare = new Compare(model, pictures, opened => { if (opened) DO.view(); else later(); });
  grid = new Grid(model, (at, opened) => { const former = model.at; model.at = at; grid.show(former); if (opened) enter("single"); later(); });
  queue = new Queue(answered, text => { say(`Not taken: ${text}`); banner(`Not taken: ${text}`); refetch(); }, waiting, () => model.versions);
  document.title = `Review: ${model.runs.map(run => run.name).join(", ")}`;
  byId("title").textContent = document.title;
  byId("reviewer").value = me;
  byId("reviewer").addEventListener("change", event => { const name = event.target.value.trim(); if (name) { remember(name, model.named); chooseReviewer(name); } else event.target.value = model.me; });
  byId("submit-button").addEventListener("click", submit);
  byId("keys-button").addEventListener("click", DO.help);
  for (const [action, text] of [["previous", "◀"], ["keep", "Keep"], ["reject", "Reject"], ["undecided", "Undecided"], ["next", "▶"]]) {
    byId("buttons").append(element("button", {type: "button", class: action, "aria-label": ACTIONS[action][1], onclick: () => { DO[action](); byId(view).focus({preventScroll: true}); }}, text, " ", action in STATUS ? element("kbd", {}, spoken(keys.key(action))) : ""));
  }
  filterForm();
  document.addEventListener("keydown", pressed);
  model.at = Math.max(0, model.list.findIndex(item => !model.statusOf(item)));   // goes on where it was
  enter("grid");
  if (model.reviewers.length > 1) agree();
  const notes = {auto: "This run's review policy is auto: decisions take no part in its final set.", folder: "This run takes what was picked into a folder: decisions take no part in its final set.", list: "This run takes what a list names: decisions take no part in its final set.",
    sample: "A random sample is to be checked: Status, random sample shows it."};
  say(notes[model.runs[0].policy] ?? `${model.items.length} pictures. ${spoken(keys.key("help"))} shows the keys.`);
  setTimeout(poll, POLL);
}

async function refetch() {
  const answer = await get("api/changes?since=").catch(() => null);
  if (answer) { model.items.forEach(item => { item.state = BLANK; }); model.told(answer); model.recount(); grid.markAll(); draw(); }
}

start();
