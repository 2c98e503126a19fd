// Actions and their keys. A key is "ctrl+z", "p", "?", "ArrowRight": what the keyboard sends, letters small.

export const ACTIONS = {
  keep: ["p", "Keep (pick), and on to the next; in a comparison: this one is the best"],
  reject: ["x", "Reject, and on to the next"],
  undecided: ["u", "Undecided, and on to the next"],
  undo: ["ctrl+z", "Undo my last decision"],
  next: ["ArrowRight", "Next picture"],
  previous: ["ArrowLeft", "Previous picture"],
  down: ["ArrowDown", "Row below; in the single view: next box"],
  up: ["ArrowUp", "Row above; in the single view: previous box"],
  first: ["Home", "First picture"],
  last: ["End", "Last picture"],
  open: ["j", "Next picture without a decision"],
  view: ["Enter", "Grid or single view"],
  back: ["Escape", "Back: to no box, to the grid"],
  flip: ["f", "Flip between result and source"],
  side: ["s", "Source and result side by side"],
  boxes: ["b", "Boxes and labels on or off"],
  zoom: ["z", "Zoom to the chosen box, to what was painted, or out"],
  rejectBox: ["r", "Reject the chosen box, or take that back"],
  acceptBox: ["a", "Accept the chosen box although screening did not"],
  moveBox: ["m", "Move the chosen box: arrows, with Alt its size, Shift ×10, Enter when done"],
  note: ["n", "Note on this picture"],
  compare: ["c", "Compare what was made of this source"],
  targets: ["t", "To the targets of the class balance"],
  filters: ["/", "To the filters"],
  submit: ["ctrl+Enter", "Submit the review"],
  help: ["?", "This list"],
};

export function keyOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && event.key.length > 1 ? "shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${event.altKey ? "alt+" : ""}${shift}${key}`;
}

export const spoken = key => key
  .replace("Arrow", "").replace("ctrl+", "Ctrl ").replace("alt+", "Alt ").replace("shift+", "Shift ")
  .replace("Escape", "Esc").replace(/^ $/, "Space").replace(/(^| )([a-z])$/, (all, gap, letter) => gap + letter.toUpperCase());

export class KeyMap {
  constructor(chosen = {}) { this.set(chosen); }

  set(chosen) {
    this.chosen = Object.fromEntries(Object.entries(chosen).filter(([action]) => action in ACTIONS));
    this.actions = new Map();
    for (const action in ACTIONS) this.actions.set(this.key(action), action);
  }

  key(action) { return this.chosen[action] ?? ACTIONS[action][0]; }

  action(event) { return this.actions.get(keyOf(event)) ?? null; }

  // The action that has a key already, other than `action`; digits choose boxes.
  taken(key, action) {
    if (/^[0-9]$/.test(key)) return "the boxes of a picture";
    const other = this.actions.get(key);
    return other && other !== action ? ACTIONS[other][1] : null;
  }
}
