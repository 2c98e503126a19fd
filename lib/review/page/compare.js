// What the presets, or the variants, made of one source: pick the best, and the others are rejected.

import {byId} from "./dom.js";
import {Stage} from "./stage.js";

export class Compare {
  constructor(model, pictures, choose) {
    Object.assign(this, {model, pictures, choose, stages: [], at: 0, group: [], boxesOn: true, flipped: false});
    this.root = byId("compare");
  }

  // false where nothing else was made of this source
  enter(item) {
    this.group = this.model.group(item).slice(0, 12);
    this.at = Math.max(0, this.group.indexOf(item));
    this.flipped = false;
    if (this.group.length < 2) return false;
    this.stages = this.group.map((_, place) => {
      const stage = new Stage(this.model, this.pictures);
      stage.root.addEventListener("click", event => { this.at = place; this.draw(); this.choose(event.detail > 1); });
      return stage;
    });
    const wide = this.root.parentElement.clientWidth > 700;
    const columns = wide ? Math.ceil(Math.sqrt(this.group.length)) : 1;
    this.root.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    this.root.style.gridAutoRows = `minmax(${wide ? 0 : 180}px, 1fr)`;
    this.root.style.overflow = wide ? "hidden" : "auto";
    this.root.replaceChildren(...this.stages.map(stage => stage.root));
    this.draw();
    return true;
  }

  get current() { return this.group[this.at]; }

  move(step) {
    this.at = (this.at + step + this.group.length) % this.group.length;
    this.draw();
  }

  draw() {
    this.group.forEach((item, place) => {
      const run = this.model.runs[item.run];
      const made = this.model.runs.length > 1 ? `${run.preset || item.painter}, ${run.name}` : `variant ${item.variant + 1}`;
      const title = this.flipped ? `Source: ${item.source_name}` : `${place + 1}  ${made}`;
      this.stages[place].show(item, this.flipped ? "source" : "picture", {title, boxesOn: this.boxesOn, status: this.model.statusOf(item)});
      this.stages[place].root.classList.toggle("current", place === this.at);
    });
  }
}
