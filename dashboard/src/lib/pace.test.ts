import { describe, expect, test } from "vitest";
import { readStage } from "../api/read";
import { Paces } from "./pace";

const SECOND = 1000;
const running = (done: number, more: object = {}) =>
  readStage({ id: "p", name: "pretrain-0", kind: "pretrain", state: "running", done, total: 1000, ...more });

/** Looks once a second, at a stage that does so many units a second. */
function seen(paces: Paces, from: number, seconds: number, perSecond: number, done: number): number {
  for (let s = 0; s <= seconds; s += 1) paces.see([running(done + perSecond * s)], from + s * SECOND);
  return done + perSecond * seconds;
}

describe("the pace of a stage", () => {
  test("is not told before it has come further", () => {
    const paces = new Paces();
    paces.see([running(100)], 0);
    expect([paces.of(running(100), 0), paces.left(running(100), 0)]).toEqual([null, null]);
    paces.see([running(100)], 5 * SECOND);
    expect(paces.of(running(100), 5 * SECOND)).toBeNull();
  });

  test("tells how long is left, if it is known how much there is", () => {
    const paces = new Paces();
    const done = seen(paces, 0, 10, 5, 100);
    expect(paces.of(running(done), 10 * SECOND)).toBe(5);
    expect(paces.left(running(done), 10 * SECOND)).toBe(170 * SECOND);
    expect(paces.left(running(done, { total: null }), 10 * SECOND)).toBeNull();
  });

  test("forgets an outage with the second look after it", () => {
    const paces = new Paces();
    const before = seen(paces, 0, 30, 5, 0);
    seen(paces, 150 * SECOND, 1, 5, before);
    expect(paces.of(running(before + 5), 151 * SECOND)).toBe(5);
  });

  test("forgets ranks that it no longer has", () => {
    const paces = new Paces();
    const before = seen(paces, 0, 60, 8, 0);
    const done = seen(paces, 61 * SECOND, 30, 2, before);
    expect(paces.of(running(done), 91 * SECOND)).toBe(2);
  });

  test("is measured over longer where steps are slow", () => {
    const paces = new Paces();
    for (let second = 0; second <= 180; second += 1) paces.see([running(Math.floor(second / 45))], second * SECOND);
    expect(paces.of(running(4), 180 * SECOND)).toBeCloseTo(1 / 45);
  });

  test("begins anew where a stage goes back, and ends where it stands or stops", () => {
    const paces = new Paces();
    const done = seen(paces, 0, 10, 5, 100);
    paces.see([running(120)], 11 * SECOND);
    expect(paces.of(running(120), 11 * SECOND)).toBeNull();
    seen(paces, 12 * SECOND, 10, 5, done);
    expect(paces.of(running(done), 22 * SECOND)).not.toBeNull();
    expect(paces.of(running(done), 300 * SECOND)).toBeNull();
    paces.see([running(done, { state: "waiting" })], 301 * SECOND);
    expect(paces.of(running(done), 301 * SECOND)).toBeNull();
  });
});
