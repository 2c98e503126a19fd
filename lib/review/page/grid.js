// The grid: as many cells as the window shows, and a few rows beyond, of however many pictures there are.

import {element, byId} from "./dom.js";
import {byName, STATUS} from "./model.js";

const WIDE = 190, BEYOND = 2;   // least width of a cell in pixels; rows kept above and below the window

export class Grid {
  constructor(model, choose) {
    this.model = model;
    this.box = byId("grid");
    this.rows = byId("rows");
    this.cells = new Map();   // place in the list → element
    this.box.addEventListener("scroll", () => this.ask(), {passive: true});
    new ResizeObserver(() => this.layout()).observe(this.box);
    this.rows.addEventListener("click", event => {
      const cell = event.target.closest(".cell");
      if (cell) choose(Number(cell.dataset.at), event.detail > 1);
    });
  }

  ask() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => { this.asked = 0; this.draw(); });
  }

  layout() {
    if (!this.box.clientWidth) return;
    this.columns = Math.max(2, Math.floor(this.box.clientWidth / WIDE));
    this.width = this.box.clientWidth / this.columns;
    this.height = Math.round(this.width * 0.72 + 26);
    this.renew();
  }

  // Everything anew: another list, other sizes.
  renew() {
    this.cells.forEach(cell => cell.remove());
    this.cells.clear();
    if (!this.columns) return;
    this.rows.style.height = `${Math.ceil(this.model.list.length / this.columns) * this.height}px`;
    this.draw();
    this.show();
  }

  draw() {
    if (!this.columns) return;
    const top = this.box.scrollTop, bottom = top + this.box.clientHeight;
    const first = Math.max(0, Math.floor(top / this.height) - BEYOND) * this.columns;
    const end = Math.min(this.model.list.length, (Math.ceil(bottom / this.height) + BEYOND) * this.columns);
    for (const [at, cell] of this.cells) {
      if (at < first || at >= end) { cell.remove(); this.cells.delete(at); }
    }
    const added = document.createDocumentFragment();
    for (let at = first; at < end; at++) if (!this.cells.has(at)) added.append(this.cell(at));
    this.rows.append(added);
  }

  cell(at) {
    const item = this.model.list[at];
    const image = element("img", {src: `thumbnail/${item.run}/${item.key}`, alt: "", decoding: "async", draggable: "false"});
    const frame = element("div", {class: "frame"}, image, element("span", {class: "badge", hidden: true}));
    image.addEventListener("error", () => frame.classList.add("missing"));
    if (item.doubt >= 1) frame.append(element("span", {class: "doubt"}, "doubtful"));
    const name = element("div", {class: "name"}, item.name);
    const cell = element("div", {role: "option", class: "cell", id: `cell-${at}`, "data-at": at,
      "aria-setsize": this.model.list.length, "aria-posinset": at + 1}, element("div", {class: "card"}, frame, name));
    cell.style.width = `${this.width}px`;
    cell.style.height = `${this.height}px`;
    cell.style.transform = `translate(${(at % this.columns) * this.width}px, ${Math.floor(at / this.columns) * this.height}px)`;
    this.cells.set(at, cell);
    this.mark(at);
    return cell;
  }

  // The state of a cell, where it is drawn.
  mark(at) {
    const cell = this.cells.get(at), item = this.model.list[at];
    if (!cell || !item) return;
    const status = this.model.statusOf(item), disputed = this.model.isDisputed(item);
    cell.className = `cell ${status ?? ""}${at === this.model.at ? " current" : ""}`;
    cell.setAttribute("aria-selected", at === this.model.at);
    cell.setAttribute("aria-label", describe(this.model, item));
    const badge = cell.querySelector(".badge");
    badge.hidden = !status && !disputed;
    badge.className = `badge ${disputed ? "disputed" : status ?? ""}`;
    badge.textContent = disputed ? "≠ disputed" : status ? {keep: "✓ kept", reject: "✗ rejected", undecided: "? undecided"}[status] : "";
  }

  markAll() { this.cells.forEach((_, at) => this.mark(at)); }

  // Bring the current cell into the window.
  show(former) {
    if (!this.columns) return;
    const top = Math.floor(this.model.at / this.columns) * this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + this.height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + this.height - this.box.clientHeight;
    this.draw();
    if (former !== undefined) this.mark(former);
    this.mark(this.model.at);
    if (this.model.list.length) this.box.setAttribute("aria-activedescendant", `cell-${this.model.at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }
}

// A picture in words, for a screen reader.
export function describe(model, item) {
  const counts = byName();
  for (const box of model.boxesOf(item)) if (box.painted && box.learned) counts[box.category] = (counts[box.category] ?? 0) + 1;
  const boxes = Object.entries(counts).map(([name, count]) => count > 1 ? `${count} × ${name}` : name).join(", ");
  const status = model.statusOf(item);
  const doubt = item.doubt >= 1 ? ", doubtful" : "";
  return `${item.name}, ${status ? STATUS[status] : "not decided"}${doubt}${boxes ? `, painted: ${boxes}` : ""}`;
}
