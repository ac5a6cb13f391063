import { describe, expect, test } from "vitest";
import { readEvent } from "../api/read";
import { groupOf, groupsOf, rowsOf } from "./events";

/** Local times, so that days are those of the reader. */
const at = (day: number, hour: number) => new Date(2026, 10, day, hour).toISOString();
const events = (...kinds: [string, string][]) => kinds.map(([kind, when], id) => readEvent({ id, kind, at: when }));

const TOLD = events(
  ["job-submitted", at(25, 9)],
  ["stage-placed", at(25, 9)],
  ["checkpoint-committed", at(25, 10)],
  ["checkpoint-committed", at(25, 11)],
  ["straggler", at(25, 12)],
  ["checkpoint-committed", at(25, 13)],
  ["checkpoint-committed", at(26, 1)],
  ["checkpoint-committed", at(26, 2)],
  ["checkpoint-damaged", at(26, 3)],
);

describe("events", () => {
  test("are grouped by what they are about", () => {
    expect(["stage-placed", "straggler", "nodes-apart", "node-lost", ""].map(groupOf)).toEqual([
      "stage",
      "straggler",
      "node",
      "node",
      "",
    ]);
    expect(groupsOf(TOLD)).toEqual([["job", 1], ["stage", 1], ["checkpoint", 6], ["straggler", 1]]);
  });

  test("come newest first, checkpoints in a row as one, others never", () => {
    const rows = rowsOf(TOLD, null).map(({ event, count }) => [event.kind, event.id, count]);
    expect(rows).toEqual([
      ["checkpoint-damaged", 8, 1],
      ["checkpoint-committed", 7, 2],
      ["checkpoint-committed", 5, 1],
      ["straggler", 4, 1],
      ["checkpoint-committed", 3, 2],
      ["stage-placed", 1, 1],
      ["job-submitted", 0, 1],
    ]);
  });

  test("of one group are shown one by one", () => {
    const rows = rowsOf(TOLD, "checkpoint");
    expect([rows.length, rows.every((row) => row.count === 1)]).toEqual([6, true]);
  });

  test("are dated where a day begins", () => {
    const days = rowsOf(TOLD, null).map((row) => row.day);
    expect(days).toEqual(["Thu, 26 Nov 2026", null, "Wed, 25 Nov 2026", null, null, null, null]);
  });
});
