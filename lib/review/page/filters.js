// What can be filtered: name → [title, [[value, text], …]].

export const filtersOf = model => ({
  status: ["Status", [["", "all"], ["open", "without a decision"], ["keep", "kept"], ["reject", "rejected"], ["undecided", "undecided"], ["disputed", "disputed"], ["noted", "with a note"],
    ...(model.items.some(item => item.sampled) ? [["sample", "random sample"]] : [])]],
  category: ["Category", [["", "all"], ...model.categories.map(name => [name, name])]],
  painter: ["Painter", [["", "all"], ...[...new Set(model.items.map(item => item.painter))].sort().map(name => [name, name])]],
  run: ["Run", [["", "all"], ...model.runs.map((run, place) => [String(place), run.name])]],
  score: ["Score", [["", "any"], ["out", "ignored or left out"], ["judged", "with a score"], ["0.25", "below 0.25"], ["0.5", "below 0.5"], ["0.75", "below 0.75"]]],
  size: ["Box", [["", "any size"], ["0-0.1", "small: side below 10 %"], ["0.1-0.25", "medium: 10 to 25 %"], ["0.25-9", "large: 25 % and more"]]],
  order: ["First", [["doubt", "the doubtful"], ["need", "what targets need"], ["run", "as in the run"], ["source", "source by source"]]],
  whose: ["Decisions", [["all", "of everybody"], ["mine", "mine alone"]]],
});
