// The metrics of one stage as columns that only grow: steps are consecutive from 0, so a row's index is its step.

import type { StageKind, StepMetrics } from "../api/types";

export type MetricName = "loss" | "itc" | "itm" | "lm" | "lr" | "temperature" | "grad_norm" | "alpha";

export const METRIC_LABELS: Record<MetricName, string> = {
  loss: "sum",
  itc: "ITC",
  itm: "ITM",
  lm: "LM",
  lr: "learning rate",
  temperature: "temperature",
  grad_norm: "gradient norm",
  alpha: "alpha",
};

export const OTHER_METRICS: MetricName[] = ["lr", "temperature", "grad_norm", "alpha"];

/** The losses that a stage's objective has; the sum only where it adds something up. */
export function lossesOf(kind: StageKind): MetricName[] {
  if (kind === "captioner") return ["lm"];
  if (kind === "filter") return ["loss", "itc", "itm"];
  return ["loss", "itc", "itm", "lm"];
}

const NAMES: MetricName[] = ["loss", "itc", "itm", "lm", ...OTHER_METRICS];
const FIRST_CAPACITY = 1024;

export class MetricStore {
  #length = 0;
  #columns = new Map<MetricName, Float64Array>(NAMES.map((name) => [name, new Float64Array(FIRST_CAPACITY)]));

  /** Number of steps held; the next row wanted has this step. */
  get length(): number {
    return this.#length;
  }

  /** All values of a metric by step. A view: valid until the next `append`. */
  column(name: MetricName): Float64Array {
    return (this.#columns.get(name) ?? new Float64Array()).subarray(0, this.#length);
  }

  /** Takes the rows that continue what is held; repeats are ignored and nothing is taken behind a gap. */
  append(rows: StepMetrics[]): void {
    for (const row of rows) {
      if (row.step < this.#length) continue;
      if (row.step > this.#length) return;
      this.#push(row);
    }
  }

  #push(row: StepMetrics): void {
    for (const name of NAMES) {
      let column = this.#columns.get(name) ?? new Float64Array(FIRST_CAPACITY);
      if (this.#length === column.length) {
        const larger = new Float64Array(2 * column.length);
        larger.set(column);
        this.#columns.set(name, larger);
        column = larger;
      }
      column[this.#length] = name === "loss" ? row.itc + row.itm + row.lm : row[name];
    }
    this.#length += 1;
  }
}
