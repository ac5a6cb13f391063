// Which stage a job's page shows first, where its ranks are, and which evaluations are set side by side.

import type { Evaluation, EventView, Interval, Recall, StageView } from "../api/types";
import { isActive, isTraining } from "./progress";

/** The stage that failed; else the training stage that works now; else the last that has steps; else the first. */
export function defaultStage(stages: StageView[]): StageView | null {
  const failed = stages.find((stage) => stage.state === "failed");
  const training = stages.filter((stage) => isTraining(stage.kind));
  const active = failed ?? training.findLast(isActive);
  return active ?? training.findLast((stage) => stage.done > 0) ?? training[0] ?? stages[0] ?? null;
}

const PLACED = new Set(["stage-placed", "stage-grows", "stage-shrinks", "stage-moves"]);

/** What was said last of where the ranks of a stage's present generation are; empty if nothing was. */
export function placement(stage: StageView, events: EventView[]): string {
  const present = `generation ${stage.generation} `;
  const says = (event: EventView) =>
    event.stage === stage.id && PLACED.has(event.kind) && event.message.includes(present);
  return events.findLast(says)?.message ?? "";
}

export interface Evaluated {
  stage: string;
  /** What the model was trained on, for people. */
  title: string;
  figures: Evaluation;
}

/** All evaluations in order: the first is of the data as they were, the others of bootstrapped versions. */
export function evaluations(stages: StageView[]): Evaluated[] {
  const found: Evaluated[] = [];
  for (const stage of stages) {
    if (stage.evaluation === null) continue;
    const round = /-(\d+)$/.exec(stage.name)?.[1] ?? "";
    const title = round === "0" ? "raw web data" : `bootstrapped, round ${round}`;
    found.push({ stage: stage.name, title: round === "" ? stage.name : title, figures: stage.evaluation });
  }
  return found;
}

type Direction = Exclude<keyof Evaluation, "pairs" | "bleu_4">;

/** Directions of retrieval, the re-ranked figures first. */
export const DIRECTIONS: [Direction, string][] = [
  ["text_to_image_itm", "Text → image, re-ranked with ITM"],
  ["image_to_text_itm", "Image → text, re-ranked with ITM"],
  ["text_to_image_itc", "Text → image, ITC alone"],
  ["image_to_text_itc", "Image → text, ITC alone"],
];

export const CUTS: [keyof Recall, string][] = [
  ["at_1", "R@1"],
  ["at_5", "R@5"],
  ["at_10", "R@10"],
];

/** Whether two intervals have no value in common. */
export const apart = (a: Interval, b: Interval): boolean => a.high < b.low || b.high < a.low;
