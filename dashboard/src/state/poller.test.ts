import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Poller, waitAfter } from "./poller";

const page = Object.assign(new EventTarget(), { visibilityState: "visible" });

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("document", page);
  page.visibilityState = "visible";
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function polling(outcome: () => unknown) {
  const rounds = { begun: 0, errors: [] as unknown[] };
  const poller = new Poller({
    task: async () => {
      rounds.begun += 1;
      const error = outcome();
      if (error !== undefined) throw error;
    },
    everyMs: () => 1000,
    ended: (error) => {
      rounds.errors.push(error);
      return error !== "stop";
    },
  });
  return { poller, rounds };
}

test("waits grow with failures and end at a quarter of a minute", () => {
  expect([0, 1, 2, 3, 4, 50].map((failures) => waitAfter(failures, 1000))).toEqual([1000, 2000, 4000, 8000, 15_000, 15_000]);
});

test("asks every second while all is well, and later and later when it is not", async () => {
  let broken = false;
  const { poller, rounds } = polling(() => (broken ? "down" : undefined));
  poller.start();
  await vi.advanceTimersByTimeAsync(3500);
  expect(rounds.begun).toBe(4);
  broken = true;
  await vi.advanceTimersByTimeAsync(600);
  expect(rounds.begun).toBe(5);
  await vi.advanceTimersByTimeAsync(1800);
  expect(rounds.begun).toBe(5);
  await vi.advanceTimersByTimeAsync(200);
  expect(rounds.begun).toBe(6);
  poller.stop();
});

test("rests while the page is hidden and asks at once when it is seen again", async () => {
  const { poller, rounds } = polling(() => undefined);
  poller.start();
  await vi.advanceTimersByTimeAsync(10);
  page.visibilityState = "hidden";
  await vi.advanceTimersByTimeAsync(60_000);
  expect(rounds.begun).toBe(2);
  page.visibilityState = "visible";
  page.dispatchEvent(new Event("visibilitychange"));
  await vi.advanceTimersByTimeAsync(1);
  expect(rounds.begun).toBe(3);
  poller.stop();
});

test("a nudge during a round is followed by one more round, not by two at a time", async () => {
  const { poller, rounds } = polling(() => undefined);
  poller.start();
  poller.nudge();
  poller.nudge();
  expect(rounds.begun).toBe(1);
  await vi.advanceTimersByTimeAsync(5);
  expect(rounds.begun).toBe(2);
  poller.stop();
});

test("goes no further when told to end, or when it is stopped", async () => {
  const ended = polling(() => "stop");
  ended.poller.start();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(ended.rounds.begun).toBe(1);
  const stopped = polling(() => undefined);
  stopped.poller.start();
  stopped.poller.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  expect([stopped.rounds.begun, stopped.rounds.errors]).toEqual([1, []]);
});
