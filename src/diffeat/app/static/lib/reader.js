// Features of pictures, asked for one after the other, and kept; a new wish ends the old one.
import { post, wasCancelled } from "./api.js";

const KEPT = 48;

export class Reader {
  constructor(status) {
    this.status = status;
    this.kept = new Map();
    this.running = null;
  }

  known(asked, id) {
    return this.kept.get(keyOf(asked, id));
  }

  async all(asked, infos, each = () => {}) {
    // Features of pictures in their order, null for one that fails; `each(info, features | null, error)` as they come.
    // Resolves to null if something else was wished for meanwhile, or the user cancelled.
    this.cancel();
    const controller = new AbortController();
    this.running = controller;
    const results = [];
    try {
      for (const [i, info] of infos.entries()) {
        const key = keyOf(asked, info.id);
        let features = this.kept.get(key) ?? null;
        let error = null;
        if (!features) {
          this.status.working(`Reading ${info.name.split("/").pop()}`, i, infos.length, () => this.cancel(true));
          try {
            features = await post("features", { asked, picture: info.id }, controller.signal);
            this.#keep(key, features);
          } catch (failed) {
            if (wasCancelled(failed)) return null;
            error = failed;
          }
        }
        if (controller.signal.aborted) return null;
        results.push(features);
        each(info, features, error);
      }
      return results;
    } finally {
      if (this.running === controller) {
        this.running = null;
        this.status.done(controller.signal.aborted ? "Cancelled." : "");
      }
    }
  }

  cancel(byUser = false) {
    this.running?.abort();
    if (byUser) {
      this.running = null;
      this.status.done("Cancelled. What was read is kept.");
    }
  }

  #keep(key, features) {
    this.kept.set(key, features);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
  }
}

function keyOf(asked, id) {
  return `${id} ${JSON.stringify(asked)}`;
}
