import { expect, test } from "vitest";
import { keptOf, leftOut } from "./datasets";

test("a source that was filtered tells what was kept, and whether that is nearly nothing", () => {
  const counts = { "pairs.human": 160, "pairs.web": 60, "dropped.web": 180, "dropped.synthetic": 240 };
  expect(["human", "web", "synthetic"].map((source) => keptOf(counts, source))).toEqual([
    null,
    { all: 240, share: 0.25, little: false },
    { all: 240, share: 0, little: true },
  ]);
  expect(keptOf({ "pairs.web": 0, "dropped.web": 0 }, "web")).toBeNull();
  expect(keptOf({ "pairs.web": 1, "dropped.web": 99 }, "web")?.little).toBe(false);
  expect(keptOf({ "pairs.web": 1, "dropped.web": 100 }, "web")?.little).toBe(true);
});

test("samples that were left out are told once, by reason", () => {
  const counts = { pairs: 3, human: 2, "broken.human": 2, "broken.web": 1, "broken.broken-image": 3, "broken.empty-caption": 0 };
  expect(leftOut(counts)).toEqual([["broken-image", 3]]);
});
