// How fast stages are now: measured over the last seconds, as the command line does it, so that an outage or other ranks
// do not spoil it.

import type { StageView } from "../api/types";

/** A pace is measured over this time, or over longer where units are slower. */
const WINDOW_MS = 20_000;

/** A stage was seen to have come so far. */
interface Look {
  at: number;
  done: number;
}

export class Paces {
  /** By stage; a look for each time that it had come further, oldest first. */
  #looks = new Map<string, Look[]>();
  #seenAt = 0;

  /** Takes a look at stages. Measured anew is what went back to a checkpoint or stopped, and all after an outage. */
  see(stages: StageView[], at: number): void {
    if (at - this.#seenAt > WINDOW_MS) this.#looks.clear();
    this.#seenAt = at;
    for (const { id, state, done } of stages) {
      const known = this.#looks.get(id) ?? [];
      const last = known.at(-1);
      const looks = state !== "running" || done < (last?.done ?? 0) ? [] : known;
      if (state === "running" && done !== looks.at(-1)?.done) looks.push({ at, done });
      while (looks.length > 2 && (looks[0]?.at ?? at) + WINDOW_MS < at) looks.shift();
      this.#looks.set(id, looks);
    }
  }

  /** Units per second; null while it cannot be told, and where nothing comes any more. */
  of(stage: StageView, now: number): number | null {
    const looks = this.#looks.get(stage.id) ?? [];
    const [first, last] = [looks[0], looks.at(-1)];
    if (first === undefined || last === undefined || last.at <= first.at) return null;
    const usual = (last.at - first.at) / (looks.length - 1);
    const stands = now - last.at > WINDOW_MS + 3 * usual;
    return stands ? null : (1000 * (last.done - first.done)) / (last.at - first.at);
  }

  /** Milliseconds until a running stage ends at its present pace. */
  left(stage: StageView, now: number): number | null {
    const pace = this.of(stage, now);
    if (pace === null || stage.total === null) return null;
    return (1000 * Math.max(0, stage.total - stage.done)) / pace;
  }
}
