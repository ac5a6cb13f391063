import { expect, test } from "vitest";
import { keptShare } from "./datasets";

test("a source that was filtered tells what was kept, also where it was nothing", () => {
  const counts = { pairs: 160, "pairs.human": 160, "pairs.web": 60, "dropped.web": 180, "dropped.synthetic": 240 };
  expect(["human", "web", "synthetic"].map((source) => keptShare(counts, source))).toEqual([null, 0.25, 0]);
  expect(keptShare({ "pairs.web": 0, "dropped.web": 0 }, "web")).toBeNull();
});
