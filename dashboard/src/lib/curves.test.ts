import { expect, test } from "vitest";
import type { StepMetrics } from "../api/types";
import { linesOf, stepsShown, strokesOf } from "./curves";
import { MetricStore } from "./metrics";
import { smooth } from "./smooth";

const row = (step: number, more: Partial<StepMetrics> = {}): StepMetrics => ({
  step,
  epoch: 0,
  itc: 3,
  itm: 0.5,
  lm: 2,
  lr: 1e-3,
  alpha: 0.4,
  temperature: 0.07,
  grad_norm: 1,
  ...more,
});

function store(steps: number): MetricStore {
  const made = new MetricStore();
  made.append(Array.from({ length: steps }, (_, step) => row(step)));
  return made;
}

test("a store takes consecutive rows once, and nothing behind a gap", () => {
  const made = store(3);
  made.append([row(1), row(2), row(3, { lm: 9 }), row(5)]);
  expect(made.length).toBe(4);
  expect([...made.column("lm")]).toEqual([2, 2, 2, 9]);
  expect([...made.column("loss")]).toEqual([5.5, 5.5, 5.5, 12.5]);
});

test("a store grows beyond its first capacity without losing a row", () => {
  const made = new MetricStore();
  for (let step = 0; step < 5000; step += 1) made.append([row(step, { itc: step })]);
  expect(made.length).toBe(5000);
  expect([0, 1023, 1024, 2048, 4999].map((step) => made.column("itc")[step])).toEqual([0, 1023, 1024, 2048, 4999]);
});

test("smoothing keeps constants, starts at the first value and passes over gaps", () => {
  expect([...smooth(Float64Array.of(2, 2, 2), 0.9)].every((value) => Math.abs(value - 2) < 1e-12)).toBe(true);
  const [first, second] = smooth(Float64Array.of(4, 8), 0.5);
  expect([first, second]).toEqual([4, (0.5 * 0.5 * 4 + 0.5 * 8) / 0.75]);
  const gap = smooth(Float64Array.of(4, Number.NaN, 4), 0.5);
  expect([gap[0], gap[1], gap[2]]).toEqual([4, Number.NaN, 4]);
  expect([...smooth(Float64Array.of(1, 5, 2), 0)]).toEqual([1, 5, 2]);
});

test("a metric keeps its colour while one stage is shown; overlaid stages differ", () => {
  const one = linesOf([{ stage: "pretrain-0", store: store(1), metrics: ["lm"] }]);
  expect(one.map((line) => [line.label, line.colour])).toEqual([["LM", "--series-3"]]);
  const two = linesOf([
    { stage: "pretrain-0", store: store(1), metrics: ["loss", "lm"] },
    { stage: "captioner-0", store: store(1), metrics: ["lm"] },
  ]);
  expect(two.map((line) => line.label)).toEqual(["pretrain-0 sum", "pretrain-0 LM", "captioner-0 LM"]);
  expect(new Set(two.map((line) => line.colour)).size).toBe(3);
});

test("a smoothed line is drawn over every step, and a log scale has gaps where nothing is positive", () => {
  const values = store(4);
  values.append([row(4, { itc: 0 }), row(5)]);
  const lines = linesOf([{ stage: "pretrain-0", store: values, metrics: ["itc"] }]);
  const { strokes, data } = strokesOf(lines, 0.5, { from: 0, to: 5 }, 100, true);
  expect(strokes.map((stroke) => stroke.key)).toEqual(["pretrain-0/itc/raw", "pretrain-0/itc/smooth"]);
  expect(data.ys[0]).toEqual([3, 3, 3, 3, null, 3]);
  expect(strokesOf(lines, 0, { from: 0, to: 5 }, 100, false).strokes).toHaveLength(1);
});

test("the steps shown follow the newest, or stay where the user put them", () => {
  expect(stepsShown({ show: "all" }, 500)).toEqual({ from: 0, to: 499 });
  expect(stepsShown({ show: "all" }, 0)).toEqual({ from: 0, to: 1 });
  expect(stepsShown({ show: "last", steps: 200 }, 500)).toEqual({ from: 300, to: 499 });
  expect(stepsShown({ show: "last", steps: 200 }, 50)).toEqual({ from: 0, to: 49 });
  expect(stepsShown({ show: "fixed", from: 10, to: 20 }, 500)).toEqual({ from: 10, to: 20 });
  expect(stepsShown({ show: "fixed", from: -3, to: -3 }, 500)).toEqual({ from: 0, to: 1 });
});
