// The pictures, what was decided on them, which are shown in which order, and the class balance that follows.

// By names that persons chose: without what every object has, such as `constructor`.
export const byName = found => Object.assign(Object.create(null), found);

export const BLANK = Object.freeze({status: null, by: "", at: "", marks: byName(), boxes: {}, shapes: {}, note: ""});

export const STATUS = {keep: "kept", reject: "rejected", undecided: "undecided"};

export class Model {
  constructor(catalogue, me) {
    this.me = me;
    this.filters = {status: "", category: "", painter: "", run: "", size: "", score: "", whose: "all", order: "doubt"};
    this.take(catalogue);
  }

  take(catalogue) {
    this.runs = catalogue.runs;
    this.named = catalogue.named;
    this.categories = catalogue.categories;
    this.colours = byName(catalogue.colours);
    this.targets = byName(catalogue.targets);
    this.items = [];
    this.byKey = new Map();
    this.groups = new Map();
    catalogue.runs.forEach((run, place) => run.items.forEach(item => {
      item.run = place;
      item.place = this.items.length;
      item.state = BLANK;
      this.items.push(item);
      this.byKey.set(`${place} ${item.key}`, item);
      if (!this.groups.has(item.source)) this.groups.set(item.source, []);
      this.groups.get(item.source).push(item);
    }));
    this.real = byName(catalogue.runs[0].real);
    this.told(catalogue);
    this.recount();
    this.refilter();
  }

  // Of a run with more pictures than a page holds, what is missing; null where nothing is.
  partly() {
    const large = this.runs.filter(run => run.total > run.items.length);
    const said = large.map(run => `${run.name}: a random ${run.items.length} of ${run.total} pictures, as a page holds no more. `);
    return said.length ? `${said.join("")}The others are as pictures without a decision, and no count of this page has them.` : null;
  }

  // What the server told: the truth. Returns the items that changed.
  told(answer) {
    this.versions = answer.versions;
    this.reviewers = answer.reviewers;
    this.stamp = answer.stamp;
    this.stale = answer.stale;
    this.damaged = answer.damaged;
    const changed = [];
    answer.states.forEach((states, run) => {
      for (const [key, state] of Object.entries(states)) {
        const item = this.byKey.get(`${run} ${key}`);
        if (item) { item.state = {...state, marks: byName(state.marks)}; changed.push(item); }
      }
    });
    const rest = JSON.stringify(answer.rest);
    if (this.counted && rest !== JSON.stringify(this.rest)) { this.rest = answer.rest; this.recount(); }
    this.rest = answer.rest;
    if (this.counted) changed.forEach(item => this.count(item));
    return changed;
  }

  // Before the server answers: the same change, seen at once.
  expect(item, change) {
    const state = structuredClone(item.state);
    state.marks = byName(state.marks);
    if (change.do === "picture") {
      state.status = change.status;
      state.by = this.me;
      state.marks[this.me] = change.status;
    } else if (change.do === "box") {
      if (change.status) state.boxes[change.box] = change.status;
      else { delete state.boxes[change.box]; delete state.shapes[change.box]; }
    } else if (change.do === "shape") {
      state.shapes[change.box] = {category: change.category, xywh: change.xywh};
      delete state.boxes[change.box];
    } else if (change.do === "note") {
      state.note = change.text;
    }
    item.state = state;
    this.count(item);
  }

  statusOf(item) {
    const own = this.filters.whose === "mine" ? item.state.marks[this.me] : item.state.status;
    return own ?? null;
  }

  isDisputed(item) {
    const marks = new Set(Object.values(item.state.marks).filter(mark => mark !== "undecided"));
    return marks.size > 1;
  }

  // The boxes of a picture as they stand now: {id, category, xywh, fate, said, score, painted, learned, by}
  boxesOf(item) {
    const {boxes, shapes} = item.state;
    const known = item.boxes.map(box => {
      const mark = boxes[box.id], shape = shapes[box.id];
      const learned = mark === "reject" ? false : mark === "keep" || shape ? true : box.fate === "keep";
      let by = "";
      if (mark === "reject") by = "rejected by a person";
      else if (shape) by = "moved by a person";
      else if (mark === "keep") by = "accepted by a person";
      return {...box, category: shape?.category ?? box.category, xywh: shape?.xywh ?? box.xywh, learned, by, plain: box};
    });
    for (const [id, shape] of Object.entries(shapes)) {
      if (id.startsWith("new-")) {
        const learned = boxes[id] !== "reject";
        known.push({id, ...shape, painted: true, fate: "keep", said: "", score: null, learned, by: "added by a person"});
      }
    }
    return known;
  }

  isFinal(item) {
    const policy = this.runs[item.run].policy;
    if (policy === "auto") return true;
    const status = item.state.status;
    if (status === "keep" || status === "reject") return status === "keep";
    return this.rest[item.run] === "keep";
  }

  // --- class balance

  recount() {
    this.counted = new Map();   // item → {category: boxes} that it adds to the final set
    this.sums = byName();
    this.sources = new Map();   // source → pictures of it in the final set, where only used originals join
    this.tally = {keep: 0, reject: 0, undecided: 0, none: 0};
    this.items.forEach(item => this.count(item));
  }

  count(item) {
    const former = this.counted.get(item);
    if (former) this.add(former, -1);
    const boxes = byName();
    const final = this.isFinal(item);
    if (final) for (const box of this.boxesOf(item)) if (box.learned) boxes[box.category] = (boxes[box.category] ?? 0) + 1;
    const entry = {boxes, status: item.state.status ?? "none", final, item};
    this.counted.set(item, entry);
    this.add(entry, 1);
  }

  add(entry, sign) {
    this.tally[entry.status] += sign;
    for (const [name, count] of Object.entries(entry.boxes)) this.sums[name] = (this.sums[name] ?? 0) + sign * count;
    const real = this.runs[entry.item.run].real_of[entry.item.source];
    if (!real || !entry.final) return;
    const before = this.sources.get(entry.item.source) ?? 0;
    this.sources.set(entry.item.source, before + sign);
    const joins = before === 0 && sign > 0 ? 1 : before === 1 && sign < 0 ? -1 : 0;
    if (joins) for (const [name, count] of Object.entries(real)) this.real[name] = (this.real[name] ?? 0) + joins * count;
  }

  // [{name, real, painted, total, target, need}] of every category
  balance() {
    return this.categories.map(name => {
      const real = this.real[name] ?? 0, painted = this.sums[name] ?? 0, target = this.targets[name] ?? null;
      const total = real + painted;
      return {name, real, painted, total, target, need: target === null ? 0 : Math.max(0, target - total)};
    });
  }

  // --- what is shown

  refilter(stay) {
    const f = this.filters;
    const [low, high] = (f.size || "0-1").split("-").map(Number);
    const fits = item => {
      if (f.status) {
        const status = this.statusOf(item);
        if (f.status === "open" ? status === "keep" || status === "reject"
          : f.status === "disputed" ? !this.isDisputed(item)
          : f.status === "sample" ? !item.sampled
          : f.status === "noted" ? !item.state.note
          : status !== f.status) return false;
      }
      if (f.run !== "" && item.run !== Number(f.run)) return false;
      if (f.painter && item.painter !== f.painter) return false;
      const some = f.category || f.size || f.score;
      return !some || this.boxesOf(item).some(box => {
        if (f.category && box.category !== f.category) return false;
        if (f.size) {
          const share = Math.sqrt(box.xywh[2] * box.xywh[3] / (item.width * item.height));
          if (!box.painted || share < low || share >= high) return false;
        }
        if (!f.score) return true;
        if (f.score === "judged") return box.score !== null;
        if (f.score === "out") return box.fate !== "keep";
        return box.score !== null && box.score < Number(f.score);
      });
    };
    const found = this.items.filter(fits);
    const needs = byName(Object.fromEntries(this.balance().map(one => [one.name, one.need])));
    const useful = item => this.boxesOf(item).reduce((sum, box) => sum + (box.learned && needs[box.category] > 0 ? 1 : 0), 0);
    if (f.order === "doubt") found.sort((a, b) => b.doubt - a.doubt || a.place - b.place);
    if (f.order === "need") {
      const worth = new Map(found.map(item => [item, useful(item)]));
      found.sort((a, b) => worth.get(b) - worth.get(a) || a.place - b.place);
    }
    if (f.order === "source") {
      const order = new Map([...this.groups.keys()].map((source, i) => [source, i]));
      found.sort((a, b) => order.get(a.source) - order.get(b.source) || a.place - b.place);
    }
    this.list = found;
    const at = stay ? found.indexOf(stay) : 0;
    this.at = Math.max(0, at);
    return at >= 0;
  }

  get current() { return this.list[this.at] ?? null; }

  move(step) {
    const next = Math.min(Math.max(this.at + step, 0), this.list.length - 1);
    const moved = next !== this.at;
    this.at = Math.max(0, next);
    return moved;
  }

  group(item) { return this.groups.get(item.source); }
}
