import { expect, test } from "vitest";
import { readNode } from "../api/read";
import { consequence, nodeTone, standing } from "./nodes";

const node = (more: object) => readNode({ name: "node-1", alive: true, devices: 2, busy: 1, ...more });

test("a node is called what the command line calls it", () => {
  const nodes = [
    node({}),
    node({ duty: "cordoned" }),
    node({ duty: "draining" }),
    node({ duty: "draining", busy: 0 }),
    node({ alive: false }),
    node({ alive: false, duty: "draining", busy: 0 }),
  ];
  expect(nodes.map(standing)).toEqual(["alive", "cordoned", "draining", "drained", "lost", "lost"]);
  expect(nodes.map(nodeTone)).toEqual(["ok", "wait", "wait", "wait", "bad", "idle"]);
});

test("a node that is drained gives nothing away any more", () => {
  expect(consequence(node({ duty: "draining" }))).toBe("What it has goes to other nodes");
  expect(consequence(node({ duty: "draining", busy: 0 }))).toContain("nothing left");
  expect(consequence(node({}))).toBe("");
});
