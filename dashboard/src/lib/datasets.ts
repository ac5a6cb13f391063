// What the counts of a dataset version say.

import type { Counts } from "../api/types";

/** What is kept of a source is nearly nothing below this share, as in coordinator/src/domain/made.rs. */
const NEARLY_NONE = 0.01;

/** Broken samples are counted by reason, and again by the set that they are of. */
const SETS = new Set(["human", "web", "test"]);

/** What the filter did to a source's texts; null if they were not filtered. */
export interface Kept {
  /** Texts before. */
  all: number;
  /** Share that was kept. */
  share: number;
  /** Whether that is so little that it should be looked at. */
  little: boolean;
}

export function keptOf(counts: Counts, source: string): Kept | null {
  const dropped = counts[`dropped.${source}`];
  const kept = counts[`pairs.${source}`] ?? 0;
  if (dropped === undefined || kept + dropped === 0) return null;
  const share = kept / (kept + dropped);
  return { all: kept + dropped, share, little: share < NEARLY_NONE };
}

/** Samples that were left out, by reason. */
export function leftOut(counts: Counts): [string, number][] {
  return Object.entries(counts).flatMap(([name, n]): [string, number][] => {
    const reason = /^broken\.(.+)$/.exec(name)?.[1];
    return reason === undefined || SETS.has(reason) || n === 0 ? [] : [[reason, n]];
  });
}
