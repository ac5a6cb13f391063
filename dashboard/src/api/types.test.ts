// The types are written by hand: this holds them to the Rust source they mirror.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

const protocol = (file: string) => readFileSync(new URL(`../../../protocol/src/${file}`, import.meta.url), "utf8");
const types = readFileSync(new URL("types.ts", import.meta.url), "utf8");

function body(source: string, head: RegExp): string {
  const found = head.exec(source);
  if (found === null) throw new Error(`${head} is not in the source`);
  const rest = source.slice(found.index + found[0].length);
  return rest.slice(0, rest.search(/\n\}/));
}

const fieldsOfStruct = (file: string, name: string) =>
  [...body(protocol(file), new RegExp(`pub struct ${name}(<T>)? \\{`)).matchAll(/^ {4}pub (\w+):/gm)].map((m) => m[1]);

const fieldsOfInterface = (name: string) =>
  [...body(types, new RegExp(`export interface ${name}(<T>)?[^{]*\\{`)).matchAll(/^ {2}(\w+)\??:/gm)].map((m) => m[1]);

const kebab = (name: string) => name.replace(/\B[A-Z]/g, (letter) => `-${letter}`).toLowerCase();

const variants = (file: string, name: string) =>
  [...body(protocol(file), new RegExp(`pub enum ${name} \\{`)).matchAll(/^ {4}(\w+),/gm)].map((m) => kebab(m[1] ?? ""));

const union = (name: string) =>
  [...(new RegExp(`export type ${name} =([^;]*);`).exec(types)?.[1] ?? "").matchAll(/"([^"]+)"/g)].map((m) => m[1]);

describe("types mirror the protocol", () => {
  test.each([
    ["rest.rs", "Page"],
    ["rest/jobs.rs", "JobView"],
    ["rest/jobs.rs", "StageView"],
    ["rest/jobs.rs", "EpochView"],
    ["rest/jobs.rs", "Straggler"],
    ["rest/records.rs", "MetricsPage"],
    ["rest/records.rs", "CheckpointView"],
    ["rest/records.rs", "CheckpointRequestView"],
    ["rest/records.rs", "DatasetView"],
    ["rest/records.rs", "EventView"],
    ["rest/nodes.rs", "NodeView"],
    ["hardware.rs", "Hardware"],
    ["hardware.rs", "Gpu"],
    ["estimate.rs", "Estimate"],
    ["metrics.rs", "StepMetrics"],
    ["checkpoint.rs", "ObjectRef"],
    ["checkpoint.rs", "CheckpointPart"],
    ["tasks.rs", "Interval"],
    ["tasks.rs", "Recall"],
    ["tasks.rs", "Evaluation"],
    ["error.rs", "ProblemBody"],
  ])("%s: %s", (file, name) => {
    const fields = fieldsOfStruct(file, name);
    expect(fields.length).toBeGreaterThan(1);
    expect(fieldsOfInterface(name)).toEqual(fields);
  });

  test.each([
    ["stage.rs", "StageKind", "StageKind"],
    ["stage.rs", "JobState", "JobState"],
    ["stage.rs", "StageState", "StageState"],
    ["rest/nodes.rs", "Duty", "Duty"],
    ["spec/mod.rs", "Kind", "JobKind"],
  ])("%s: %s", (file, name, mirror) => {
    const words = variants(file, name);
    expect(words.length).toBeGreaterThan(1);
    expect(union(mirror)).toEqual(words);
  });

  test("a job's detail is the job with its spec, stages and memory", () => {
    expect(fieldsOfStruct("rest/jobs.rs", "JobDetail")).toEqual(["job", "spec", "stages", "memory"]);
    expect(types).toContain("export interface JobDetail extends JobView {");
    expect(fieldsOfInterface("JobDetail")).toEqual(["spec", "stages", "memory"]);
  });
});
