// Which jobs of a list are shown.

import type { JobView } from "../api/types";
import { isFinal } from "./progress";

/** Choices of the jobs list; `active` is what is not over. */
export const SHOWN = ["all", "active", "succeeded", "failed", "cancelled"] as const;
export type Shown = (typeof SHOWN)[number];

export const isShown = (job: JobView, shown: Shown): boolean =>
  shown === "all" || (shown === "active" ? !isFinal(job.state) : job.state === shown);

/** Whether every word is in the job's name, kind, state or reason, or begins its id. */
export function matches(job: JobView, search: string): boolean {
  const words = search.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const text = [job.name, job.kind, job.state, job.reason].join(" ").toLowerCase();
  return words.every((word) => text.includes(word) || job.id.startsWith(word));
}
