import { describe, expect, test } from "vitest";
import { ago, bytes, change, clock, count, duration, figure, instant, percent, plural } from "./format";

test("what is missing is a dash, never a crash or NaN", () => {
  for (const format of [count, figure, percent, bytes, duration]) {
    expect([format(null), format(undefined), format(Number.NaN)]).toEqual(["–", "–", "–"]);
  }
  expect([ago(null, 0), ago("not a time", 0), clock(undefined), change(Number.NaN, 1)]).toEqual(["–", "–", "–", "–"]);
});

test("counts have narrow spaces between thousands", () => {
  expect([0, 999, 1000, 1234567].map(count)).toEqual(["0", "999", "1\u202f000", "1\u202f234\u202f567"]);
  expect([plural(1, "rank"), plural(1500, "step")]).toEqual(["1 rank", "1\u202f500 steps"]);
});

test("figures keep about four digits at any size", () => {
  expect([0, 2.34567, 12.3456, 123.456, 4567.8, 0.0456, 0.0000123, -0.5].map(figure)).toEqual([
    "0",
    "2.346",
    "12.35",
    "123.5",
    "4568",
    "0.04560",
    "1.230e−5",
    "-0.500",
  ]);
});

test("sizes use binary units", () => {
  expect([0, 1023, 1024, 11_482_624, 3 * 1024 ** 3].map(bytes)).toEqual(["0 B", "1023 B", "1.0 KiB", "11.0 MiB", "3.0 GiB"]);
});

describe("times", () => {
  test("durations name two units at most", () => {
    expect([-5, 999, 59_000, 60_000, 200_000, 7_500_000, 356_400_000].map(duration)).toEqual([
      "0 s",
      "0 s",
      "59 s",
      "1 min",
      "3 min 20 s",
      "2 h 5 min",
      "4 d 3 h",
    ]);
  });

  test("ages never lie in the future, even when clocks differ", () => {
    const now = Date.parse("2026-01-02T00:00:00Z");
    expect(ago("2026-01-02T00:00:09Z", now)).toBe("just now");
    expect(ago("2026-01-01T23:59:20Z", now)).toBe("40 s ago");
    expect(ago("2026-01-01T23:00:00Z", now)).toBe("1 h ago");
  });

  test("fractions of a second with nanoseconds are read", () => {
    expect(instant("2026-01-02T03:04:05.123456789Z")).toBe(Date.parse("2026-01-02T03:04:05.123Z"));
  });
});

test("a change is in percentage points with its sign", () => {
  expect([change(0.5, 0.561), change(0.5, 0.494), change(0.5, 0.5)]).toEqual(["+6.1", "−0.6", "+0.0"]);
});
