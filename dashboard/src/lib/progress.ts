// How far stages and jobs are, from what the API tells.

import type { JobView, StageKind, StageView } from "../api/types";
import { instant } from "./format";

export const isFinal = (state: string): boolean =>
  state === "succeeded" || state === "done" || state === "failed" || state === "cancelled";

/** Whether it has ranks that work, or that get ready to. */
export const isActive = (stage: StageView): boolean => stage.state === "running" || stage.state === "starting";

export const isTraining = (kind: StageKind): boolean =>
  kind === "pretrain" || kind === "captioner" || kind === "filter";

/** Share of a stage between 0 and 1; null while its total is not known. */
export function stageShare(stage: StageView): number | null {
  if (stage.state === "done") return 1;
  if (stage.total === null || stage.total <= 0) return null;
  return Math.min(1, Math.max(0, stage.done / stage.total));
}

/** Stages done, of how many, and the ones that work now. */
export function jobProgress(stages: StageView[]): { done: number; total: number; active: StageView[] } {
  return {
    done: stages.filter((stage) => stage.state === "done").length,
    total: stages.length,
    active: stages.filter(isActive),
  };
}

/** What a job is doing, for people: one that runs but has nothing at work only waits, and says for what. */
export function jobStanding(job: JobView, stages: StageView[]): { state: string; reason: string } {
  const waits = stages.find((stage) => stage.state === "waiting");
  if (job.state !== "running" || stages.some(isActive) || waits === undefined) return { state: job.state, reason: job.reason };
  const reason = waits.reason === "" ? "" : `${waits.name}: ${waits.reason}`;
  return { state: "waiting", reason: job.reason || reason };
}

/** How long something took, or has taken so far; null before it started. */
export function elapsed(from: string | null, to: string | null, now: number): number | null {
  const start = instant(from);
  if (start === null) return null;
  return Math.max(0, (instant(to) ?? now) - start);
}

/** When a job began to count: its submission. */
export const jobElapsed = (job: JobView, now: number): number | null =>
  elapsed(job.submitted_at, job.finished_at, now);

/** Average units per second of a stage over all its time; null when it cannot be told. */
export function rate(stage: StageView, now: number): number | null {
  const ms = elapsed(stage.started_at, stage.finished_at, now);
  return ms === null || ms < 1000 || stage.done === 0 ? null : stage.done / (ms / 1000);
}
