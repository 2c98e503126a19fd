// Questions to the reviewer. While one is open, the keys are its own.

import {element, byId} from "./dom.js";
import {ACTIONS, keyOf, spoken} from "./keys.js";

function open(title, ...content) {
  const dialog = byId("dialog");
  dialog.replaceChildren(element("h2", {id: "dialog-title"}, title), ...content);
  if (!dialog.open) dialog.showModal();
  return dialog;
}

export const isOpen = () => byId("dialog").open;

export function ask(title, former) {
  return new Promise(resolve => {
    const text = element("textarea", {maxlength: 2000, "aria-label": title});
    text.value = former;
    const done = value => { dialog.close(); resolve(value); };
    text.addEventListener("keydown", event => {
      if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); done(text.value.trim()); }
    });
    const dialog = open(title, text, element("div", {class: "row"},
      element("button", {type: "button", onclick: () => done(text.value.trim())}, "Save ", element("kbd", {}, "Enter")),
      element("button", {type: "button", onclick: () => done(null)}, "Leave it ", element("kbd", {}, "Esc"))));
    dialog.addEventListener("close", () => resolve(null), {once: true});
    text.focus();
  });
}

export function showKeys(keys, changed) {
  const note = element("p", {class: "facts-line", role: "status"}, "Choose a key to change it. Digits choose a box of the picture.");
  const draw = () => {
    const lines = Object.entries(ACTIONS).map(([action, [, text]]) => {
      const button = element("button", {type: "button", "aria-label": `${text}: ${spoken(keys.key(action))}`}, spoken(keys.key(action)));
      button.addEventListener("click", () => {
        button.classList.add("waiting");
        button.textContent = "press …";
        note.textContent = `Press the key for: ${text}`;
        button.addEventListener("keydown", function take(event) {
          event.preventDefault();
          event.stopPropagation();
          if (["Control", "Shift", "Alt", "Meta"].includes(event.key)) return;
          button.removeEventListener("keydown", take);
          const key = keyOf(event), other = keys.taken(key, action);
          if (key !== keys.key(action) && other) note.textContent = `${spoken(key)} is the key of: ${other}`;
          else {
            keys.set({...keys.chosen, [action]: key});
            changed(keys.chosen);
            note.textContent = `${spoken(key)}: ${text}`;
          }
          const all = draw();
          all.querySelectorAll("button")[Object.keys(ACTIONS).indexOf(action)].focus();
        });
      });
      return element("div", {class: "line"}, element("span", {}, text), button);
    });
    const table = element("div", {class: "keytable"}, ...lines);
    const reset = element("button", {type: "button", onclick: () => { keys.set({}); changed({}); draw(); }}, "All as they were");
    const close = element("button", {type: "button", onclick: () => dialog.close()}, "Close ", element("kbd", {}, "Esc"));
    const dialog = open("Keys", table, note, element("div", {class: "row"}, close, reset));
    return table;
  };
  draw().parentElement.querySelector(".row button").focus();
}

export function askSubmit(counts, rest) {
  return new Promise(resolve => {
    const open_ = counts.none + counts.undecided;
    const choice = value => element("label", {}, element("input", {type: "radio", name: "rest", value, checked: rest === value}), value === "keep" ? " stay" : " are left out");
    const which = element("fieldset", {}, element("legend", {}, `${open_} pictures without a decision`), choice("keep"), " ", choice("reject"));
    const done = value => { dialog.close(); resolve(value); };
    const send = element("button", {type: "button", onclick: () => done(which.querySelector("input:checked")?.value ?? "keep")}, "Submit");
    const dialog = open("Submit the review",
      element("p", {}, `${counts.keep} kept, ${counts.reject} rejected, ${open_} without a decision.`), which,
      element("p", {class: "facts-line"}, "The next run writes the final set by the decisions. You may go on deciding afterwards."),
      element("div", {class: "row"}, send, element("button", {type: "button", onclick: () => done(null)}, "Not yet ", element("kbd", {}, "Esc"))));
    dialog.addEventListener("close", () => resolve(null), {once: true});
    send.focus();
  });
}

export function tell(title, text) {
  const dialog = open(title, element("p", {}, text), element("div", {class: "row"}, element("button", {type: "button", onclick: () => dialog.close()}, "Close ", element("kbd", {}, "Esc"))));
  dialog.querySelector("button").focus();
}
