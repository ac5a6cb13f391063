// Ranges and ticks of a chart's axes.

import { count, exponential } from "./format";

/** A little more than the values; from 0 when they come near it. */
export function linearRange(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) return [0, 1];
  const room = 0.06 * (high - low || Math.abs(high) || 1);
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

/** The same on a log scale; `low` is positive there. */
export function logRange(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null || low <= 0) return [0.1, 10];
  return [low / 1.15, high * 1.15];
}

/** Round values of a log axis: 1, 2 and 5 of each decade, or only powers of ten when there are many decades. */
export function logTicks(low: number, high: number): number[] {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const heads = last - first > 4 ? [1] : [1, 2, 5];
  const ticks: number[] = [];
  for (let decade = first; decade <= last; decade += 1) {
    for (const head of heads) {
      const tick = Number(`${head}e${decade}`);
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  return ticks;
}

/** Label of a step; between steps there is none. */
export const stepTick = (step: number): string => (Number.isInteger(step) ? count(step) : "");

/** Label of a value: plain where it is short. */
export function valueTick(value: number | null): string {
  if (value === null) return "";
  const round = Number(value.toPrecision(6));
  const plain = String(round);
  if (plain.includes("e") || plain.length > 7) return exponential(round, 1);
  return Math.abs(round) >= 10_000 ? count(round) : plain.replace("-", "−");
}
