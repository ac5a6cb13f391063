// What the counts of a dataset version say.

import type { Counts } from "../api/types";

/** Share of a source's pairs that the filter kept; null if it was not filtered. */
export function keptShare(counts: Counts, source: string): number | null {
  const dropped = counts[`dropped.${source}`];
  const kept = counts[`pairs.${source}`] ?? 0;
  return dropped === undefined || kept + dropped === 0 ? null : kept / (kept + dropped);
}
