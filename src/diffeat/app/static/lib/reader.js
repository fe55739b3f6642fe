// Answers that take time: asked for one after the other, kept, told in the status line; a new wish ends the old one.
import { post, wasCancelled } from "./api.js";

const KEPT = 256 << 20; // bytes of arrays

export class Reader {
  constructor(status) {
    this.status = status;
    this.kept = new Map();
    this.running = null;
  }

  job(endpoint, body, words) {
    // A request whose answer is kept.
    return { key: `${endpoint} ${JSON.stringify(body)}`, words, ask: (signal) => post(endpoint, body, signal) };
  }

  features(asked, info) {
    return this.job("features", { asked, picture: info.id }, `Reading ${info.name.split("/").pop()}`);
  }

  known(job) {
    return this.kept.get(job.key);
  }

  async run(jobs, each = () => {}) {
    // Answers of jobs in their order, null for one that fails; `each(index, answer | null, error)` as they come.
    // Resolves to null if something else was wished for meanwhile, or the user cancelled.
    this.cancel();
    const controller = new AbortController();
    this.running = controller;
    const answers = [];
    try {
      for (const [i, job] of jobs.entries()) {
        let answer = this.known(job) ?? null;
        let error = null;
        if (!answer) {
          this.status.working(job.words, i, jobs.length, () => this.cancel(true));
          try {
            answer = this.#keep(job.key, await job.ask(controller.signal));
          } catch (failed) {
            if (wasCancelled(failed)) return null;
            error = failed;
          }
        }
        if (controller.signal.aborted) return null;
        answers.push(answer);
        each(i, answer, error);
      }
      return answers;
    } finally {
      if (this.running === controller) {
        this.running = null;
        this.status.done();
      }
    }
  }

  cancel(byUser = false) {
    this.running?.abort();
    this.running = null;
    this.status.done(byUser ? "Cancelled. What was read is kept." : "");
  }

  #keep(key, answer) {
    this.kept.delete(key);
    this.kept.set(key, answer);
    let bytes = 0;
    for (const [other, { arrays }] of [...this.kept].reverse()) {
      bytes += (arrays ?? []).reduce((sum, { values }) => sum + values.byteLength, 4096);
      if (bytes > KEPT && other !== key) this.kept.delete(other);
    }
    return answer;
  }
}
