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

/** Digits behind the point that fit beside an axis. */
const MOST_DECIMALS = 5;

/** Labels of evenly spaced values: with as many digits as tell neighbours apart. */
export function valueTicks(values: (number | null)[]): string[] {
  const known = values.filter((value) => value !== null);
  const gap = Math.abs((known[1] ?? 0) - (known[0] ?? 0));
  if (gap === 0) return values.map(valueTick);
  const last = lastPlace(gap);
  const largest = Math.max(...known.map(Math.abs));
  const plain = -last <= MOST_DECIMALS && largest < 1e6;
  return values.map((value) => {
    if (value === null) return "";
    if (Math.abs(value) < gap / 1000) return "0";
    if (!plain) return exponential(value, Math.max(0, firstPlace(Math.abs(value)) - last));
    return (last >= 0 ? count(value) : value.toFixed(-last)).replace("-", "−");
  });
}

/** Power of ten of a value's first digit. */
const firstPlace = (value: number): number => Math.floor(Math.log10(value) + 1e-9);

/** Power of ten of the last digit that a gap of 1, 2, 2.5 or 5 such powers needs. */
function lastPlace(gap: number): number {
  const first = firstPlace(gap);
  const head = gap / 10 ** first;
  return Math.abs(head - Math.round(head)) < 1e-3 ? first : first - 1;
}
