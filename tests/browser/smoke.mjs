#!/usr/bin/env node
// Opens the built dashboard in a browser and checks that it really shows something.
//
//   node smoke.mjs                                     against the fixture server and dashboard/dist
//   node smoke.mjs --url URL --token-file FILE         against a coordinator (MEDLEY_URL, MEDLEY_TOKEN_FILE)
//        [--job NAME] [--wait SECONDS] [--out FOLDER]
//
// Exit code 0: jobs, stages and a loss curve are drawn, with no console error and no failed request.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openBrowser, openPage } from "./browser.mjs";
import { curveIsDrawn, jobsAreListed, stagesAreDrawn } from "./checks.mjs";
import { fixtureChecks } from "./fixture-checks.mjs";

const { values } = parseArgs({
  options: {
    url: { type: "string", default: process.env.MEDLEY_URL },
    token: { type: "string", default: process.env.MEDLEY_TOKEN },
    "token-file": { type: "string", default: process.env.MEDLEY_TOKEN_FILE },
    job: { type: "string" },
    wait: { type: "string", default: "60" },
    out: { type: "string", default: "out" },
  },
});

async function target() {
  if (values.url === undefined) {
    const { serve } = await import("../../dashboard/dev/fixture.mjs");
    return { ...(await serve()), job: "bootstrap-demo", fixture: true };
  }
  const file = values["token-file"];
  const token = values.token ?? (file === undefined ? undefined : (await readFile(file, "utf8")).trim());
  assert.ok(token, "give --token, --token-file, MEDLEY_TOKEN or MEDLEY_TOKEN_FILE");
  return { url: values.url.replace(/\/$/, ""), token, job: values.job, fixture: false, close: async () => {} };
}

async function main() {
  await mkdir(values.out, { recursive: true });
  const shot = (page, name) => page.screenshot({ path: join(values.out, `${name}.png`), fullPage: true });
  const waitMs = 1000 * Number(values.wait);
  const server = await target();
  const browser = await openBrowser();
  try {
    const { page, faults } = await openPage(browser.context, { origin: server.url });
    await page.goto(`${server.url}/#token=${encodeURIComponent(server.token)}`);
    const jobs = await jobsAreListed(page, waitMs);
    assert.ok(!page.url().includes("token"), `the token stayed in the address bar: ${page.url()}`);
    await shot(page, "jobs");

    const row = server.job === undefined ? jobs.first() : jobs.filter({ hasText: server.job }).first();
    await row.click();
    const stages = await stagesAreDrawn(page, waitMs);
    const curve = await curveIsDrawn(page, waitMs);
    await shot(page, "job");

    await page.getByRole("link", { name: "Cluster" }).click();
    await page.locator("[data-test=nodes] section").first().waitFor({ timeout: waitMs });
    await shot(page, "cluster");
    assert.deepEqual(faults, [], "the browser met errors");
    console.log(`ok: ${stages} stages, a curve of ${curve.steps} steps in ${curve.points} points`);

    await page.close();
    if (server.fixture) await fixtureChecks(browser.context, server, shot, waitMs);
  } finally {
    await browser.close();
    await server.close();
  }
}

main().then(
  () => console.log("the dashboard works"),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
