import { expect, test } from "vitest";
import { linearRange, logRange, logTicks, valueTick, valueTicks } from "./axis";

test("ranges hold all values, also when they are all the same or none", () => {
  for (const [low, high] of [[0, 5], [2, 2], [-3, -3], [0, 0]] as const) {
    const [from, to] = linearRange(low, high);
    expect(from <= low && to >= high && to > from).toBe(true);
  }
  expect(linearRange(0.1, 9)[0]).toBe(0);
  expect(linearRange(null, null)).toEqual([0, 1]);
  expect(logRange(null, null)).toEqual([0.1, 10]);
  expect(logRange(0.2, 0.2)[0]).toBeGreaterThan(0);
});

test("a log axis is marked at 1, 2 and 5, or at powers of ten over many decades", () => {
  expect(logTicks(0.15, 12)).toEqual([0.2, 0.5, 1, 2, 5, 10]);
  expect(logTicks(1e-6, 1)).toEqual([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]);
});

test("labels are short", () => {
  expect([0, 0.1 + 0.2, 0.002, 1e-8, -2, 20_000, null].map(valueTick)).toEqual([
    "0",
    "0.3",
    "0.002",
    "1.0e−8",
    "−2",
    "20\u202f000",
    "",
  ]);
});

test("labels of one axis differ, however far it is zoomed in, and have the same digits", () => {
  expect(valueTicks([0, 0.0005, 0.001, 0.0015, 0.002])).toEqual(["0", "0.0005", "0.0010", "0.0015", "0.0020"]);
  expect(valueTicks([0.00199, 0.001992, 0.001994])).toEqual(["1.990e−3", "1.992e−3", "1.994e−3"]);
  expect(valueTicks([0, 2.5, 5])).toEqual(["0", "2.5", "5.0"]);
  expect(valueTicks([0.1 + 0.2, 0.4, 0.5])).toEqual(["0.3", "0.4", "0.5"]);
  expect(valueTicks([-20_000, 0, 20_000, null])).toEqual(["−20\u202f000", "0", "20\u202f000", ""]);
  expect(valueTicks([7])).toEqual(["7"]);
});
