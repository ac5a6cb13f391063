import { describe, expect, test } from "vitest";
import { bucketWidth, envelope } from "./envelope";

/** Noise with a fixed seed. */
function noise(length: number, seed: number): Float64Array {
  let state = seed;
  return Float64Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  });
}

describe("an envelope", () => {
  test("leaves curves that fit as they are", () => {
    const reduced = envelope([Float64Array.of(3, 1, 2)], 0, 2, 100);
    expect(reduced).toEqual({ x: [0, 1, 2], ys: [[3, 1, 2]] });
  });

  test("keeps every spike of any curve, at any width", () => {
    const [above, below] = [noise(100_000, 1), noise(100_000, 2)];
    for (const columns of [50, 333, 1280]) {
      for (const at of [0, 1, 777, 4095, 4096, 99_999]) {
        const spike = above.with(at, 1000);
        const dip = below.with(at, -1000);
        const { ys } = envelope([spike, dip], 0, 99_999, columns);
        expect(ys[0]).toContain(1000);
        expect(ys[1]).toContain(-1000);
      }
    }
  });

  test("has few points, rising steps within the range, and lists of one length", () => {
    const { x, ys } = envelope([noise(54_321, 7), noise(100, 8)], 123, 54_320, 600);
    expect(x.length).toBeLessThanOrEqual(2 * 600 + 2);
    expect(x.every((step, i) => i === 0 || step > (x[i - 1] ?? step))).toBe(true);
    expect([x[0], (x.at(-1) ?? 0) <= 54_320]).toEqual([123, true]);
    expect(ys.map((list) => list.length)).toEqual([x.length, x.length]);
  });

  test("keeps the order in which extremes came", () => {
    const falling = Float64Array.from({ length: 1024 }, (_, i) => -i);
    const { ys } = envelope([falling], 0, 1023, 64);
    const drawn = ys[0]?.map(Number) ?? [];
    expect(drawn.every((value, i) => i === 0 || value < (drawn[i - 1] ?? 0))).toBe(true);
  });

  test("does not move what is drawn when a curve grows", () => {
    const values = noise(10_000, 3);
    const before = envelope([values.subarray(0, 9000)], 0, 8999, 500);
    const after = envelope([values], 0, 9999, 500);
    expect(after.x.slice(0, 100)).toEqual(before.x.slice(0, 100));
    expect(after.ys[0]?.slice(0, 100)).toEqual(before.ys[0]?.slice(0, 100));
  });

  test("shows gaps where there is no number", () => {
    const { ys } = envelope([Float64Array.of(1, Number.NaN, Number.POSITIVE_INFINITY, 2)], 0, 5, 100);
    expect(ys[0]).toEqual([1, null, null, 2, null, null]);
    const blank = envelope([new Float64Array(1000).fill(Number.NaN)], 0, 999, 10);
    expect(new Set(blank.ys[0])).toEqual(new Set([null]));
  });
});

test("buckets are powers of two, and just wide enough", () => {
  expect([10, 200, 201, 400, 401, 100_000].map((points) => bucketWidth(points, 100))).toEqual([1, 1, 4, 4, 8, 1024]);
});
