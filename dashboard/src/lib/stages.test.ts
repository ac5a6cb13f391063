import { describe, expect, test } from "vitest";
import { readEvent, readStage } from "../api/read";
import type { StageView } from "../api/types";
import { layout, neededNames } from "./dag";
import { apart, defaultStage, evaluations, placement } from "./pick";
import { isFinal, jobProgress, rate, stageShare } from "./progress";
import { eventTone, stateTone } from "./tone";

const stage = (name: string, needs: string[] = [], more: object = {}): StageView =>
  readStage({ id: name, name, kind: name.split("-")[0], state: "blocked", needs, ...more });

const BOOTSTRAP = [
  stage("index-0"),
  stage("pretrain-0", ["index-0"]),
  stage("captioner-0", ["pretrain-0"]),
  stage("filter-0", ["pretrain-0"]),
  stage("evaluate-0", ["pretrain-0"]),
  stage("capfilt-0", ["captioner-0", "filter-0"]),
  stage("pretrain-1", ["capfilt-0"]),
  stage("evaluate-1", ["pretrain-1"]),
];

describe("the graph", () => {
  test("puts a stage right of all it needs", () => {
    const { places, edges, columns, rows } = layout(BOOTSTRAP);
    expect([columns, rows, edges.length]).toEqual([6, 3, 8]);
    expect(edges.every(({ from, to }) => from.column < to.column)).toBe(true);
    expect(places.find((place) => place.stage.name === "capfilt-0")?.column).toBe(3);
  });

  test("never puts two stages in one place", () => {
    const { places } = layout(BOOTSTRAP);
    expect(new Set(places.map(({ column, row }) => `${column}/${row}`)).size).toBe(places.length);
  });

  test("survives needs that name nothing, and no stages at all", () => {
    expect(layout([stage("pretrain-0", ["gone"])]).edges).toEqual([]);
    expect(layout([])).toEqual({ places: [], edges: [], columns: 0, rows: 0 });
  });

  test("names what a stage needs", () => {
    expect(neededNames(BOOTSTRAP[5] ?? stage("none"), BOOTSTRAP)).toEqual(["captioner-0", "filter-0"]);
  });
});

describe("progress", () => {
  test("is unknown without a total, and whole when done", () => {
    expect(stageShare(stage("capfilt-0", [], { done: 3, total: null }))).toBeNull();
    expect(stageShare(stage("capfilt-0", [], { done: 3, total: 12 }))).toBe(0.25);
    expect(stageShare(stage("capfilt-0", [], { done: 15, total: 12 }))).toBe(1);
    expect(stageShare(stage("capfilt-0", [], { state: "done", total: null }))).toBe(1);
  });

  test("of a job counts what is done and names what works", () => {
    const stages = [stage("index-0", [], { state: "done" }), stage("pretrain-0", [], { state: "running" }), stage("evaluate-0")];
    const { done, total, active } = jobProgress(stages);
    expect([done, total, active.map((one) => one.name)]).toEqual([1, 3, ["pretrain-0"]]);
  });

  test("tells the average pace only when it can", () => {
    const now = Date.parse("2026-01-01T00:01:40Z");
    const running = stage("pretrain-0", [], { state: "running", done: 50, total: 150, started_at: "2026-01-01T00:00:00Z" });
    expect(rate(running, now)).toBe(0.5);
    expect(rate(stage("pretrain-0"), now)).toBeNull();
  });
});

describe("the stage shown first", () => {
  test("is the training that works now", () => {
    const stages = BOOTSTRAP.map((one) => ({ ...one, state: one.name === "filter-0" ? ("running" as const) : one.state }));
    expect(defaultStage(stages)?.name).toBe("filter-0");
  });

  test("is the one that failed, before all others", () => {
    const failed = { "pretrain-0": "cancelled", "index-0": "failed", "filter-0": "running" } as Record<string, string>;
    const stages = BOOTSTRAP.map((one) => stage(one.name, one.needs, { state: failed[one.name] ?? "blocked" }));
    expect(defaultStage(stages)?.name).toBe("index-0");
  });

  test("is else the last with steps, else the first", () => {
    expect(defaultStage(BOOTSTRAP.map((one) => ({ ...one, done: one.name.endsWith("0") ? 5 : 0 })))?.name).toBe("filter-0");
    expect(defaultStage(BOOTSTRAP)?.name).toBe("pretrain-0");
    expect(defaultStage([])).toBeNull();
  });
});

test("where ranks are is what was said last of the present generation", () => {
  const event = (id: number, of: string, kind: string, message: string) => readEvent({ id, stage: of, kind, message });
  const events = [
    event(1, "pretrain-0", "stage-placed", "pretrain-0: generation 1 has 2 ranks on node-1 × 2"),
    event(2, "filter-0", "stage-placed", "filter-0: generation 2 has 1 rank on node-3 × 1"),
    event(3, "pretrain-0", "stage-grows", "pretrain-0 grows from 2 to 4 ranks: generation 2 gets ready on node-1 × 2, node-2 × 2"),
    event(4, "pretrain-0", "stage-running", "pretrain-0: every rank of generation 2 listens (4 in all)"),
    event(5, "pretrain-0", "stage-grows", "pretrain-0 grows from 4 to 6 ranks: generation 20 gets ready on node-3 × 6"),
  ];
  expect(placement(stage("pretrain-0", [], { generation: 2 }), events)).toBe(events[2]?.message);
  expect(placement(stage("pretrain-0", [], { generation: 3 }), events)).toBe("");
});

test("evaluations are titled by what the model was trained on", () => {
  const figures = { pairs: 10, bleu_4: 0.2 };
  const stages = [stage("evaluate-0", [], { evaluation: figures }), stage("evaluate-2", [], { evaluation: figures }), stage("evaluate-3")];
  expect(evaluations(stages).map((one) => one.title)).toEqual(["raw web data", "bootstrapped, round 2"]);
});

test("intervals are apart only without a common value", () => {
  const interval = (low: number, high: number) => ({ value: (low + high) / 2, low, high });
  expect(apart(interval(0.1, 0.2), interval(0.3, 0.4))).toBe(true);
  expect(apart(interval(0.3, 0.4), interval(0.1, 0.2))).toBe(true);
  expect(apart(interval(0.1, 0.3), interval(0.3, 0.4))).toBe(false);
});

test("unknown words are calm, known ones have their colour", () => {
  expect([stateTone("failed"), stateTone("running"), stateTone("never-heard-of")]).toEqual(["bad", "run", "idle"]);
  expect([eventTone("node-lost"), eventTone("checkpoint-committed"), eventTone("xyz")]).toEqual(["bad", "ok", "idle"]);
  expect(["straggler", "checkpoint-not-written", "stage-waits"].map(eventTone)).toEqual(Array(3).fill("wait"));
  expect(["samples-left-out", "capfilt-kept-little"].map(eventTone)).toEqual(["wait", "wait"]);
  expect(["checkpoint-damaged", "ledger-differs", "nodes-apart", "metrics-lost"].map(eventTone)).toEqual(Array(4).fill("bad"));
  expect([isFinal("succeeded"), isFinal("done"), isFinal("running"), isFinal("")]).toEqual([true, true, false, false]);
});
