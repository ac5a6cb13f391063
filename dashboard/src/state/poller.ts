// Asks again and again while the page is visible. One task at a time; after a failure it waits longer, up to a limit;
// a page that becomes visible again asks at once.

const LONGEST_WAIT_MS = 15_000;

/** Milliseconds to the next try after so many failures in a row. */
export function waitAfter(failures: number, everyMs: number): number {
  return Math.min(LONGEST_WAIT_MS, everyMs * 2 ** Math.min(failures, 10));
}

export interface Polling {
  /** One round of questions. */
  task: (signal: AbortSignal) => Promise<void>;
  /** Time between rounds; asked after each. */
  everyMs: () => number;
  /** Hears of each round's end: null if it went well. Answers whether to go on. */
  ended: (error: unknown) => boolean;
}

export class Poller {
  readonly #polling: Polling;
  readonly #abort = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #busy = false;
  #again = false;

  constructor(polling: Polling) {
    this.#polling = polling;
  }

  start(): void {
    document.addEventListener("visibilitychange", this.#seen);
    this.nudge();
  }

  stop(): void {
    document.removeEventListener("visibilitychange", this.#seen);
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  /** Asks now, or right after the round in progress. */
  nudge(): void {
    this.#again = this.#busy;
    if (!this.#busy) void this.#round();
  }

  readonly #seen = () => {
    if (document.visibilityState === "visible") this.nudge();
  };

  async #round(): Promise<void> {
    clearTimeout(this.#timer);
    this.#busy = true;
    let error: unknown = null;
    try {
      await this.#polling.task(this.#abort.signal);
    } catch (caught) {
      error = caught;
    }
    this.#busy = false;
    if (this.#abort.signal.aborted) return;
    this.#failures = error === null ? 0 : this.#failures + 1;
    if (!this.#polling.ended(error) || document.visibilityState === "hidden") return;
    const wait = this.#again ? 0 : waitAfter(this.#failures, this.#polling.everyMs());
    this.#again = false;
    this.#timer = setTimeout(() => void this.#round(), wait);
  }
}
