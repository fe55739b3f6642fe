// The line at the bottom: what happens, how far it is, and how to end it.

export class Status {
  constructor() {
    this.text = document.getElementById("status");
    this.bar = document.getElementById("progress");
    this.button = document.getElementById("cancel");
    this.button.addEventListener("click", () => this.stop?.());
    this.stop = null;
  }

  say(words) {
    this.text.textContent = words;
    this.text.classList.remove("wrong");
  }

  wrong(error) {
    this.say(error.message ?? String(error));
    this.text.classList.add("wrong");
  }

  working(words, done, total, stop) {
    this.say(`${words} … ${total > 1 ? `${done + 1} of ${total}` : ""}`);
    this.bar.hidden = this.button.hidden = false;
    this.bar.max = total;
    this.bar.value = done + 0.15;
    this.stop = stop;
  }

  done(words = "") {
    this.bar.hidden = this.button.hidden = true;
    this.stop = null;
    if (words || !this.text.classList.contains("wrong")) this.say(words);
  }
}
