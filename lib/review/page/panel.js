// Beside the picture: what it is, its boxes with their verdicts in words, the class balance, and how reviewers agree.

import {element, shape, byId} from "./dom.js";
import {STATUS} from "./model.js";

export function drawFacts(model, item, chosen, choose) {
  const place = byId("facts");
  if (!item) { place.replaceChildren(element("h2", {}, "No picture")); return; }
  const status = model.statusOf(item), disputed = model.isDisputed(item);
  const marks = Object.entries(item.state.marks).map(([who, mark]) => `${who}: ${STATUS[mark]}`).join("; ");
  const run = model.runs[item.run];
  const boxes = model.boxesOf(item).map((box, number) => {
    const swatch = shape("svg", {class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true"});
    swatch.append(shape("rect", {width: 12, height: 12, fill: box.painted ? model.colours[box.category] ?? "#ffffff" : "#d0d3da"}));
    const [, , w, h] = box.xywh;
    const said = [box.by || box.said || (box.painted ? "" : "as in the source"), `${Math.round(w)} × ${Math.round(h)} px`];
    return element("li", {}, element("button", {type: "button", class: box.learned ? "" : "out", "aria-pressed": String(box.id === chosen), onclick: () => choose(box.id)},
      element("kbd", {}, number < 10 ? String((number + 1) % 10) : "·"), swatch,
      element("span", {}, element("span", {class: "what"}, box.category), box.learned ? "" : " ✗",
        element("span", {class: "said"}, said.filter(Boolean).join(" · ")))));
  });
  const parts = [
    element("h2", {}, `Picture ${model.at + 1} of ${model.list.length}`),
    element("p", {class: "facts-name"}, item.name),
    element("p", {}, element("span", {class: `badge ${disputed ? "disputed" : status ?? ""}`}, disputed ? "disputed" : status ? STATUS[status] : "not decided"),
      element("span", {class: "facts-line"}, marks ? `  ${marks}` : "")),
    element("p", {class: "facts-line"}, `${item.edit} × ${item.painter}${run.preset ? `, preset ${run.preset}` : ""}, ${item.width} × ${item.height}`),
    element("p", {class: "facts-line"}, `from ${item.source_name}`),
    item.state.note ? element("p", {}, `Note: ${item.state.note}`) : null,
    element("ol", {class: "boxes", "aria-label": "Boxes"}, ...boxes),
  ];
  place.replaceChildren(...parts.filter(Boolean));
}

export function drawBalance(model, retarget, balanceAll) {
  const place = byId("balance");
  if (place.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return refresh(model, place);
  const rows = model.balance().map(one => {
    const input = element("input", {type: "number", min: 0, max: 1000000, step: 1, value: one.target ?? "", "aria-label": `target for ${one.name}`, "data-name": one.name});
    input.addEventListener("change", () => retarget(one.name, input.value === "" ? null : Math.max(0, Math.round(Number(input.value) || 0))));
    return element("tr", {"data-category": one.name}, element("td", {}, one.name, bar()),
      element("td", {class: "number total"}), element("td", {class: "number"}, input), element("td", {class: "number more"}));
  });
  place.replaceChildren(
    element("h2", {}, "Boxes in the final set"),
    element("table", {}, element("thead", {}, element("tr", {}, element("th", {scope: "col"}, "category"), element("th", {scope: "col", class: "number"}, "boxes"),
      element("th", {scope: "col", class: "number"}, "target"), element("th", {scope: "col", class: "number"}, "more"))), element("tbody", {}, ...rows)),
    element("p", {class: "facts-line summary"}),
    element("button", {type: "button", onclick: balanceAll}, "Targets: as many as the most frequent"));
  refresh(model, place);
}

function bar() {
  const drawn = shape("svg", {viewBox: "0 0 100 9", preserveAspectRatio: "none", "aria-hidden": "true"});
  drawn.append(shape("rect", {width: 100, height: 9, fill: "#111216"}), shape("rect", {class: "real", height: 9, fill: "#7d8694"}),
    shape("rect", {class: "painted", height: 9, fill: "#3fb950"}), shape("rect", {class: "target", width: 1.2, height: 9, fill: "#ffd479"}));
  return drawn;
}

function refresh(model, place) {
  const all = model.balance();
  const most = Math.max(1, ...all.map(one => Math.max(one.total, one.target ?? 0)));
  for (const one of all) {
    const row = place.querySelector(`tr[data-category="${CSS.escape(one.name)}"]`);
    if (!row) continue;
    row.querySelector(".total").textContent = one.total;
    row.querySelector(".total").title = `${one.real} real, ${one.painted} of painted pictures`;
    const more = row.querySelector(".more");
    more.textContent = one.target === null ? "" : one.need ? String(one.need) : "✓";
    more.className = `number more ${one.need ? "need" : "met"}`;
    row.querySelector(".real").setAttribute("width", 100 * one.real / most);
    row.querySelector(".painted").setAttribute("x", 100 * one.real / most);
    row.querySelector(".painted").setAttribute("width", 100 * one.painted / most);
    row.querySelector(".target").setAttribute("x", one.target === null ? -5 : Math.min(98.8, 100 * one.target / most));
  }
  const lacking = all.filter(one => one.need).map(one => `${one.need} more ${one.name}`);
  const chosen = all.some(one => one.target !== null);
  place.querySelector(".summary").textContent = lacking.length ? `Needs ${lacking.join(", ")}.` : chosen ? "All targets are met." : "grey: real, green: of painted pictures";
}

export function drawAgreement(found, open) {
  const place = byId("agreement");
  place.hidden = !found.length;
  place.replaceChildren(element("h2", {}, "Agreement"), ...found.map(one => element("div", {},
    element("p", {class: "facts-line"}, one.both
      ? `${one.reviewers.join(" and ")}: ${one.same} of ${one.both} pictures alike${one.kappa === null ? "" : `, Cohen's kappa ${one.kappa.toFixed(2)}`}`
      : `${one.reviewers.join(" and ")}: no picture that both decided on`),
    one.disagreed.length ? element("button", {type: "button", onclick: open}, `Show ${one.disagreed.length} disputed`) : null)));
}
