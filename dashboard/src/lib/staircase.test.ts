import { describe, expect, test } from "vitest";
import { idleReason, nextUseful, stairOf, stairs, useful } from "./staircase";

describe("the staircase", () => {
  test("has the paper's stairs", () => {
    expect(stairs(32).map((stair) => stair.ranks)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 32]);
    expect(stairOf(32, 11)).toEqual({ ranks: 11, lanes: 3, speed: 32 / 3, efficiency: 32 / 33 });
    expect(stairs(0)).toEqual([]);
  });

  test("has nothing faster between two stairs", () => {
    for (let lanes = 1; lanes <= 64; lanes += 1) {
      const found = stairs(lanes);
      expect(found.at(-1)?.ranks).toBe(lanes);
      for (const [i, stair] of found.entries()) {
        const end = found[i + 1]?.ranks ?? stair.ranks + 1;
        for (let ranks = stair.ranks; ranks < end; ranks += 1) {
          expect([useful(lanes, ranks), stairOf(lanes, ranks).speed]).toEqual([stair.ranks, stair.speed]);
        }
      }
    }
  });

  test("says why devices stay idle, and only where they would not help", () => {
    expect(idleReason(32, 16, 15)).toBe("31 devices are no faster than 16 at 32 lanes");
    expect(idleReason(32, 16, 16)).toBeNull();
    expect(idleReason(32, 16, 0)).toBeNull();
    expect(idleReason(4, 4, 2)).toBe("6 devices are no faster than 4 at 4 lanes");
    expect(idleReason(4, 0, 2)).toBeNull();
    expect(nextUseful(4, 4)).toBeNull();
  });
});
