// A picture with its boxes, fitted or zoomed; and the store of decoded pictures that lie just ahead.

import {element, shape} from "./dom.js";

const AHEAD = 24;   // decoded pictures that are kept at most

export class Pictures {
  constructor() { this.kept = new Map(); }

  // An <img> of its own for each place that shows it.
  get(url) {
    let image = this.kept.get(url);
    if (image) { this.kept.delete(url); this.kept.set(url, image); return image; }
    image = element("img", {src: url, alt: "", decoding: "sync", draggable: "false"});
    image.ready = image.decode().then(() => true, () => { image.broken = true; return false; });
    this.kept.set(url, image);
    for (const [old, one] of this.kept) {
      if (this.kept.size <= AHEAD) break;
      if (!one.isConnected) { this.kept.delete(old); one.src = ""; }
    }
    return image;
  }
}

export const urlOf = (item, kind) => `${kind}/${item.run}/${item.key}`;

export class Stage {
  constructor(model, pictures, handlers = {}) {
    Object.assign(this, {model, pictures, handlers, item: null, chosen: null, boxesOn: true, zoom: null, numbered: Boolean(handlers.chosen)});
    this.canvas = element("div", {class: "canvas"});
    this.overlay = shape("svg", {"aria-hidden": "true"});
    this.title = element("div", {class: "title"});
    this.badge = element("span", {class: "badge", hidden: true});
    this.view = element("div", {class: "view"}, this.canvas);
    this.root = element("div", {class: "stage"}, element("div", {class: "head"}, this.title, this.badge), this.view);
    new ResizeObserver(() => this.fit()).observe(this.view);
    this.overlay.addEventListener("pointerdown", event => this.grab(event));
  }

  show(item, kind, {title, chosen = null, boxesOn = true, zoom = null, status = null} = {}) {
    Object.assign(this, {item, kind, chosen, boxesOn, zoom});
    const image = this.pictures.get(urlOf(item, kind));
    if (this.canvas.firstChild !== image) this.canvas.replaceChildren(image, this.overlay);
    image.alt = `${kind === "source" ? "source of " : ""}${item.name}`;
    this.view.classList.toggle("missing", Boolean(image.broken));
    image.ready.then(fine => { if (this.item === item && this.kind === kind) this.view.classList.toggle("missing", !fine); });
    this.title.textContent = title;
    this.root.classList.toggle("keep", status === "keep");
    this.root.classList.toggle("reject", status === "reject");
    this.badge.hidden = !status;
    this.badge.className = `badge ${status ?? ""}`;
    this.badge.textContent = {keep: "✓ kept", reject: "✗ rejected", undecided: "? undecided"}[status] ?? "";
    this.fit();
  }

  fit() {
    const {item} = this;
    if (!item || !this.view.clientWidth) return;
    const {clientWidth: wide, clientHeight: high} = this.view;
    const [x, y, w, h] = this.zoom ?? [0, 0, item.width, item.height];
    this.scale = Math.min(wide / w, high / h, this.zoom ? 12 : 8);
    this.canvas.style.width = `${item.width}px`;
    this.canvas.style.height = `${item.height}px`;
    const left = wide / 2 - (x + w / 2) * this.scale, top = high / 2 - (y + h / 2) * this.scale;
    this.canvas.style.transform = `translate(${left}px, ${top}px) scale(${this.scale})`;
    this.draw();
  }

  draw() {
    const {item, overlay} = this;
    overlay.setAttribute("viewBox", `0 0 ${item.width} ${item.height}`);
    overlay.replaceChildren();
    if (!this.boxesOn) return;
    const boxes = this.model.boxesOf(item).map((box, number) => ({...box, number}));
    const size = 13 / this.scale;
    for (const box of boxes.sort((a, b) => (a.id === this.chosen) - (b.id === this.chosen) || a.painted - b.painted)) {
      const [x, y, width, height] = this.draft?.id === box.id ? this.draft.xywh : box.xywh;
      const place = {x, y, width, height};
      const colour = this.model.colours[box.category] ?? "#ffffff";
      const thick = (box.id === this.chosen ? 4 : box.painted ? 2.5 : 1.25) / this.scale;
      const drawn = shape("rect", {...place, "stroke-width": thick, class: `box${box.painted ? "" : " thin"}${box.learned ? "" : " out"}${box.id === this.chosen ? " chosen" : ""}`, "data-id": box.id});
      if (box.painted) drawn.setAttribute("stroke", colour);
      if (!box.learned) drawn.setAttribute("stroke-dasharray", `${6 / this.scale} ${5 / this.scale}`);
      overlay.append(shape("rect", {...place, class: "halo", "stroke-width": thick + 2.5 / this.scale}), drawn);
      const tag = `${this.numbered && box.number < 10 ? `${(box.number + 1) % 10} ` : ""}${box.category}${box.learned ? "" : " ✗"}`;
      const above = y > size * 1.4 ? y - size * 0.35 : y + size * 1.1;
      if (box.painted || box.id === this.chosen) {
        overlay.append(shape("text", {x: Math.max(0, x) + size * 0.15, y: above, class: "tag", "font-size": size, "stroke-width": size / 4}, tag));
      }
      if (box.id === this.chosen && this.handlers.moved) this.handles(place);
    }
  }

  handles({x, y, width, height}) {
    const side = 10 / this.scale;
    for (const [name, cx, cy] of [["nw", x, y], ["ne", x + width, y], ["sw", x, y + height], ["se", x + width, y + height]]) {
      this.overlay.append(shape("rect", {x: cx - side / 2, y: cy - side / 2, width: side, height: side, class: "handle", "stroke-width": 1.5 / this.scale, "data-corner": name}));
    }
  }

  // A click chooses a box; what is chosen is dragged, at a corner resized.
  grab(event) {
    const id = event.target.dataset?.id, corner = event.target.dataset?.corner;
    if (!id && !corner) return;
    event.preventDefault();
    if (id && id !== this.chosen) return this.handlers.chosen?.(id);
    if (!this.handlers.moved) return;
    const box = this.model.boxesOf(this.item).find(one => one.id === this.chosen);
    const start = [event.clientX, event.clientY], scale = this.scale, [x, y, w, h] = box.xywh;
    const moved = one => {
      const dx = (one.clientX - start[0]) / scale, dy = (one.clientY - start[1]) / scale;
      this.draft = {id: box.id, xywh: within(dragged([x, y, w, h], corner, dx, dy), this.item)};
      this.draw();
    };
    const done = one => {
      window.removeEventListener("pointermove", moved);
      window.removeEventListener("pointerup", done);
      const draft = this.draft;
      this.draft = null;
      if (draft && Math.hypot(one.clientX - start[0], one.clientY - start[1]) > 2) this.handlers.moved(box, draft.xywh);
      else this.draw();
    };
    window.addEventListener("pointermove", moved);
    window.addEventListener("pointerup", done);
  }
}

function dragged([x, y, w, h], corner, dx, dy) {
  if (!corner) return [x + dx, y + dy, w, h];
  const left = corner.includes("w"), top = corner.includes("n");
  return [left ? x + dx : x, top ? y + dy : y, left ? w - dx : w + dx, top ? h - dy : h + dy];
}

// A box inside of its picture, at least two pixels wide and high, whole pixels.
export function within([x, y, w, h], item) {
  const width = Math.min(Math.max(Math.round(w), 2), item.width), height = Math.min(Math.max(Math.round(h), 2), item.height);
  return [Math.min(Math.max(Math.round(x), 0), item.width - width), Math.min(Math.max(Math.round(y), 0), item.height - height), width, height];
}
