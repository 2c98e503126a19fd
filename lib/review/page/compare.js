// What the presets, or the variants, made of one source: pick the best, and the others are rejected.

import {byId} from "./dom.js";
import {Stage} from "./stage.js";

const MOST = 12;   // pictures that are shown at once

export class Compare {
  constructor(model, pictures, choose) {
    Object.assign(this, {model, pictures, choose, stages: [], at: 0, first: 0, group: [], boxesOn: true, flipped: false});
    this.root = byId("compare");
  }

  // false where nothing else was made of this source
  enter(item) {
    this.group = this.model.group(item);   // all of them: what is decided is decided on all
    this.at = Math.max(0, this.group.indexOf(item));
    this.first = 0;
    this.flipped = false;
    if (this.group.length < 2) return false;
    this.stages = Array.from({length: Math.min(this.group.length, MOST)}, (_, place) => {
      const stage = new Stage(this.model, this.pictures);
      stage.root.addEventListener("click", event => { this.at = this.first + place; this.draw(); this.choose(event.detail > 1); });
      return stage;
    });
    const wide = this.root.parentElement.clientWidth > 700;
    const columns = wide ? Math.ceil(Math.sqrt(this.stages.length)) : 1;
    this.root.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    this.root.style.gridAutoRows = `minmax(${wide ? 0 : 180}px, 1fr)`;
    this.root.style.overflow = wide ? "hidden" : "auto";
    this.root.replaceChildren(...this.stages.map(stage => stage.root));
    this.draw();
    return true;
  }

  get current() { return this.group[this.at]; }

  // The picture that has this digit, if there is one.
  number(digit) {
    if (digit >= 1 && digit <= this.stages.length) { this.at = this.first + digit - 1; this.draw(); }
  }

  move(step) {
    this.at = (this.at + step + this.group.length) % this.group.length;
    this.draw();
  }

  // The chosen one is always among those shown.
  draw() {
    this.first = Math.min(Math.max(this.first, this.at - this.stages.length + 1), this.at);
    this.stages.forEach((stage, place) => {
      const item = this.group[this.first + place];
      const run = this.model.runs[item.run];
      const made = this.model.runs.length > 1 ? `${run.preset || item.painter}, ${run.name}` : `variant ${item.variant + 1}`;
      const title = this.flipped ? `Source: ${item.source_name}` : `${place + 1}  ${made}`;
      stage.show(item, this.flipped ? "source" : "picture", {title, boxesOn: this.boxesOn, status: this.model.statusOf(item)});
      stage.root.classList.toggle("current", this.first + place === this.at);
    });
  }
}
