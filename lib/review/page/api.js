// What the page asks of its server, and the queue of decisions: one leaves it only when the server has it on the disk.

export class Refused extends Error {}

export async function get(path) {
  const answer = await fetch(path, {cache: "no-store"});
  const body = await answer.json().catch(() => ({error: `the server answered ${answer.status}`}));
  if (!answer.ok) throw new Refused(body.error ?? `the server answered ${answer.status}`);
  return body;
}

async function post(path, value) {
  const answer = await fetch(path, {
    method: "POST",
    headers: {"content-type": "application/json"},
    body: JSON.stringify(value),
  });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  // What the server understood and will not take would be refused again; anything else may pass.
  if ([404, 409, 422].includes(answer.status)) throw new Refused(body.error ?? `the server answered ${answer.status}`);
  throw new Error(body.error ?? `the server answered ${answer.status}`);
}

export const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
};

// Posts in their order, one after the other, again and again until the server has them. They outlive a reload.
export class Queue {
  // versions: gives those that the page knows; the server answers with what was decided after them, by others too.
  constructor(onAnswer, onRefusal, onChange, versions) {
    this.name = `review ${location.pathname}`;
    this.waiting = JSON.parse(localStorage.getItem(this.name) ?? "[]");
    Object.assign(this, {onAnswer, onRefusal, onChange, versions, busy: false, failed: ""});
    if (this.waiting.length) this.send();
  }

  add(path, value) {
    this.waiting.push({path, value});
    this.keep();
    this.send();
  }

  keep() {
    localStorage.setItem(this.name, JSON.stringify(this.waiting));
    this.onChange(this);
  }

  async send() {
    if (this.busy) return;
    this.busy = true;
    let pause = 200;
    while (this.waiting.length) {
      const {path, value} = this.waiting[0];
      try {
        const answer = await post(path, {...value, versions: this.versions()});
        this.waiting.shift();
        this.failed = "";
        pause = 200;
        this.onAnswer(answer, value);
      } catch (error) {
        if (error instanceof Refused) {
          this.waiting.shift();
          this.onRefusal(error.message, value);
        } else {
          this.failed = error.message;
          this.keep();
          await new Promise(resolve => setTimeout(resolve, pause));
          pause = Math.min(pause * 2, 3000);
          continue;
        }
      }
      this.keep();
    }
    this.busy = false;
  }
}
