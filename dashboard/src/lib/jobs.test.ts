import { describe, expect, test } from "vitest";
import { readJob, readStage } from "../api/read";
import { isShown, matches, SHOWN } from "./jobs";
import { jobStanding } from "./progress";

const job = (more: object) =>
  readJob({ id: "01a21999-80ca", name: "Demo quick", kind: "bootstrap", state: "running", ...more });
const stage = (name: string, state: string, reason = "") => readStage({ id: name, name, state, reason });

describe("the list of jobs", () => {
  test("is chosen from by what became of them", () => {
    const states = ["queued", "running", "succeeded", "failed", "cancelled"];
    const chosen = SHOWN.map((shown) => states.filter((state) => isShown(job({ state }), shown)));
    expect(chosen).toEqual([states, ["queued", "running"], ["succeeded"], ["failed"], ["cancelled"]]);
  });

  test("is searched by all words, wherever they stand", () => {
    const one = job({ state: "failed", reason: "the loss is not finite" });
    for (const search of ["", "  ", "demo", "QUICK boot", "finite failed", "01a21999"]) expect(matches(one, search)).toBe(true);
    for (const search of ["other", "demo other", "80ca"]) expect(matches(one, search)).toBe(false);
  });
});

describe("a job that runs", () => {
  test("waits where nothing of it works and something waits", () => {
    const stages = [stage("index-0", "done"), stage("pretrain-0", "waiting", "no node has bf16"), stage("evaluate-0", "blocked")];
    expect(jobStanding(job({}), stages)).toEqual({ state: "waiting", reason: "pretrain-0: no node has bf16" });
    expect(jobStanding(job({}), [stage("pretrain-0", "waiting")])).toEqual({ state: "waiting", reason: "" });
  });

  test("runs while anything works, between two stages, and while its stages are not known", () => {
    for (const state of ["running", "starting"]) {
      const stages = [stage("captioner-0", state), stage("filter-0", "waiting", "no device is free")];
      expect(jobStanding(job({}), stages).state).toBe("running");
    }
    expect(jobStanding(job({}), [stage("index-0", "done"), stage("pretrain-0", "blocked")]).state).toBe("running");
    expect(jobStanding(job({}), []).state).toBe("running");
  });

  test("is nothing else once it is over, or before it began", () => {
    for (const state of ["queued", "failed", "cancelled"]) {
      expect(jobStanding(job({ state, reason: "so" }), [stage("index-0", "waiting", "x")])).toEqual({ state, reason: "so" });
    }
  });
});
