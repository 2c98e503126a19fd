// The single view: result and source, boxes, zoom; the pictures ahead are fetched and decoded before they are asked for.

import {byId} from "./dom.js";
import {Stage, urlOf, within} from "./stage.js";

const NEXT = 5;   // pictures that are fetched ahead

export class Single {
  constructor(model, pictures, handlers) {
    Object.assign(this, {model, pictures, handlers, flipped: false, sided: false, boxesOn: true, zoomed: false, chosen: null, moving: null});
    const own = {chosen: id => this.choose(id), moved: (box, xywh) => handlers.moved(box, xywh)};
    this.first = new Stage(model, pictures, own);
    this.second = new Stage(model, pictures);
    byId("stages").append(this.first.root, this.second.root);
  }

  // Another picture: no box is chosen, the result is seen.
  enter() {
    this.chosen = null;
    this.flipped = false;
    this.moving = null;
    this.first.draft = null;
    this.draw();
  }

  draw() {
    const {model} = this, item = model.current;
    if (!item) return;
    const zoom = this.zoomed ? this.zoomTo(item) : null;
    const common = {chosen: this.chosen, boxesOn: this.boxesOn, zoom};
    const source = this.flipped && !this.sided;
    const title = source ? `Source: ${item.source_name}` : `Result: ${item.name}`;
    this.first.show(item, source ? "source" : "picture", {...common, title, status: model.statusOf(item)});
    this.second.root.hidden = !this.sided;
    if (this.sided) this.second.show(item, "source", {...common, title: `Source: ${item.source_name}`});
    this.ahead();
  }

  ahead() {
    const {list, at} = this.model;
    for (let step = 0; step <= NEXT; step++) if (list[at + step]) this.pictures.get(urlOf(list[at + step], "picture"));
    for (const near of [at, at + 1]) if (list[near]) this.pictures.get(urlOf(list[near], "source"));
    if (list[at - 1]) this.pictures.get(urlOf(list[at - 1], "picture"));
  }

  // xywh: the chosen box with its surroundings, or all that was painted
  zoomTo(item) {
    const boxes = this.model.boxesOf(item);
    const some = boxes.filter(box => box.id === this.chosen);
    const wanted = some.length ? some : boxes.filter(box => box.painted);
    if (!wanted.length) return null;
    const x0 = Math.min(...wanted.map(box => box.xywh[0])), y0 = Math.min(...wanted.map(box => box.xywh[1]));
    const x1 = Math.max(...wanted.map(box => box.xywh[0] + box.xywh[2])), y1 = Math.max(...wanted.map(box => box.xywh[1] + box.xywh[3]));
    const edge = Math.max(x1 - x0, y1 - y0) * 0.25;
    return [x0 - edge, y0 - edge, x1 - x0 + 2 * edge, y1 - y0 + 2 * edge];
  }

  choose(id) {
    this.chosen = id;
    this.moving = null;
    this.draw();
    this.handlers.chosen();
  }

  box() { return this.model.boxesOf(this.model.current).find(box => box.id === this.chosen) ?? null; }

  step(by) {
    const boxes = this.model.boxesOf(this.model.current);
    if (!boxes.length) return;
    const at = boxes.findIndex(box => box.id === this.chosen);
    this.choose(boxes[at < 0 ? (by > 0 ? 0 : boxes.length - 1) : (at + by + boxes.length) % boxes.length].id);
  }

  number(digit) {
    const boxes = this.model.boxesOf(this.model.current);
    const box = boxes[digit === 0 ? 9 : digit - 1];
    if (box) this.choose(box.id === this.chosen ? null : box.id);
    return Boolean(box);
  }

  // Moving by keys: the box follows the arrows until Enter or Escape. Returns what is to be said, null for another key.
  startMoving() {
    const box = this.box();
    if (!box) return "Choose a box first: its digit, or the arrows up and down.";
    this.moving = {box, xywh: box.xywh};
    return `Moving ${box.category}: arrows, with Alt its size, Shift ×10; Enter when done, Esc to leave it.`;
  }

  moveKey(event) {
    const step = event.shiftKey ? 10 : 1, sign = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (sign) {
      const [x, y, w, h] = this.moving.xywh, [dx, dy] = sign.map(one => one * step);
      const wanted = event.altKey ? [x, y, w + dx, h + dy] : [x + dx, y + dy, w, h];
      this.moving.xywh = within(wanted, this.model.current);
      this.first.draft = {id: this.moving.box.id, xywh: this.moving.xywh};
      this.first.draw();
      return `${this.moving.box.category}: left ${this.moving.xywh[0]}, top ${this.moving.xywh[1]}, ${this.moving.xywh[2]} × ${this.moving.xywh[3]} pixels`;
    }
    if (event.key !== "Enter" && event.key !== "Escape") return "Enter ends the moving, Esc leaves the box where it was.";
    const {box, xywh} = this.moving;
    this.moving = null;
    this.first.draft = null;
    if (event.key === "Enter" && String(xywh) !== String(box.xywh)) this.handlers.moved(box, xywh);
    this.draw();
    return event.key === "Enter" ? `${box.category} moved` : "not moved";
  }
}
