// Whose decisions these are: as the start says (--reviewer), else as it was typed here last, else the account's name.

const NAME = "reviewer", START = "reviewer's start";

// catalogue.named: the start that said who reviews; "" where it did not.
export function reviewerOf(catalogue) {
  const typed = localStorage.getItem(NAME);
  const holds = !catalogue.named || catalogue.named === localStorage.getItem(START);
  return typed && holds ? typed : catalogue.reviewer;
}

// A name that a person typed: it holds until a later start says another.
export function remember(name, named) {
  localStorage.setItem(NAME, name);
  localStorage.setItem(START, named);
}
