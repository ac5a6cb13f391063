// What a chart draws, as data: which lines, in which colour, over which steps.

import { envelope, type Reduced } from "./envelope";
import type { MetricName, MetricStore } from "./metrics";
import { METRIC_LABELS } from "./metrics";
import { smooth } from "./smooth";

export interface Source {
  /** The stage's name. */
  stage: string;
  store: MetricStore;
  metrics: MetricName[];
}

export interface Line {
  key: string;
  label: string;
  stage: string;
  metric: MetricName;
  store: MetricStore;
  /** Name of a CSS custom property. */
  colour: string;
}

/** One drawn stroke: a line is drawn once, or twice when it is smoothed. */
export interface Stroke {
  key: string;
  colour: string;
  width: number;
  alpha: number;
}

/** Which steps are shown. */
export type Span = { show: "all" } | { show: "last"; steps: number } | { show: "fixed"; from: number; to: number };

const OWN: Record<MetricName, string> = {
  loss: "--series-0",
  itc: "--series-1",
  itm: "--series-2",
  lm: "--series-3",
  lr: "--series-4",
  temperature: "--series-5",
  grad_norm: "--series-6",
  alpha: "--series-7",
};
const NUM_COLOURS = 8;

/** A metric keeps its colour while one stage is shown; overlaid stages take colours in turn. */
export function linesOf(sources: Source[]): Line[] {
  const single = sources.length === 1;
  const lines: Line[] = [];
  for (const { stage, store, metrics } of sources) {
    for (const metric of metrics) {
      const colour = single ? OWN[metric] : `--series-${lines.length % NUM_COLOURS}`;
      const label = single ? METRIC_LABELS[metric] : `${stage} ${METRIC_LABELS[metric]}`;
      lines.push({ key: `${stage}/${metric}`, label, stage, metric, store, colour });
    }
  }
  return lines;
}

/** First and last step shown of curves that hold `length` steps. */
export function stepsShown(span: Span, length: number): { from: number; to: number } {
  const last = Math.max(1, length - 1);
  if (span.show === "last") return { from: Math.max(0, last - span.steps + 1), to: last };
  if (span.show === "all") return { from: 0, to: last };
  const from = Math.max(0, span.from);
  return { from, to: Math.max(from + 1, span.to) };
}

/** Reduces lines to strokes. On a log scale what is not positive is a gap. */
export function strokesOf(
  lines: Line[],
  weight: number,
  shown: { from: number; to: number },
  columns: number,
  log: boolean,
): { strokes: Stroke[]; data: Reduced } {
  const strokes: Stroke[] = [];
  const curves: Float64Array[] = [];
  const add = (line: Line, part: string, width: number, alpha: number, values: Float64Array) => {
    strokes.push({ key: `${line.key}/${part}`, colour: line.colour, width, alpha });
    curves.push(log ? values.map((value) => (value > 0 ? value : Number.NaN)) : values);
  };
  for (const line of lines) {
    const values = line.store.column(line.metric);
    add(line, "raw", weight > 0 ? 1 : 1.5, weight > 0 ? 0.36 : 1, values);
    if (weight > 0) add(line, "smooth", 2, 1, smooth(values, weight));
  }
  return { strokes, data: envelope(curves, shown.from, shown.to, columns) };
}
