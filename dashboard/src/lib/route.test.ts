import { describe, expect, test } from "vitest";
import { linkTo, parseRoute, takeToken, type Route } from "./route";

describe("routes", () => {
  test.each<[string, Route]>([
    ["", { page: "jobs" }],
    ["#/", { page: "jobs" }],
    ["#/jobs", { page: "jobs" }],
    ["#/jobs/0197-ab", { page: "job", job: "0197-ab", stage: null }],
    ["#/jobs/0197-ab/pretrain-0", { page: "job", job: "0197-ab", stage: "pretrain-0" }],
    ["#/cluster", { page: "cluster" }],
    ["#/nowhere", { page: "unknown", path: "/nowhere" }],
  ])("%s is read", (hash, route) => {
    expect(parseRoute(hash)).toEqual(route);
  });

  test("a link leads back to its route, whatever the names hold", () => {
    const route: Route = { page: "job", job: "a b/c", stage: "50%/é" };
    expect(parseRoute(linkTo(route))).toEqual(route);
  });

  test("a malformed escape is no crash", () => {
    expect(parseRoute("#/jobs/%E0%A4%A")).toEqual({ page: "job", job: "%E0%A4%A", stage: null });
  });
});

describe("a token in the fragment", () => {
  test.each([
    ["#token=abc", "abc", ""],
    ["#token=a%2Fb%3D", "a/b=", ""],
    ["#/jobs/1?token=abc", "abc", "#/jobs/1"],
    ["#/cluster&token=abc", "abc", "#/cluster"],
  ])("is taken out of %s", (hash, token, rest) => {
    expect(takeToken(hash)).toEqual({ token, rest });
  });

  test("is not seen where there is none", () => {
    expect(takeToken("#/jobs")).toEqual({ token: null, rest: "#/jobs" });
    expect(takeToken("#/jobs/mytoken=3")).toEqual({ token: null, rest: "#/jobs/mytoken=3" });
    expect(takeToken("#token=").token).toBeNull();
  });
});
