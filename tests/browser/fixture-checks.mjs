// What only the fixture can show: growth, spikes, hostile names, wrong tokens, a coordinator that goes away.

import assert from "node:assert/strict";
import { serve } from "../../dashboard/dev/fixture.mjs";
import { openPage } from "./browser.mjs";
import { curveIsDrawn, jobsAreListed, stagesAreDrawn } from "./checks.mjs";

export async function fixtureChecks(context, server, shot, timeout) {
  const open = async (options, hash = "") => {
    const { page, faults } = await openPage(context, { origin: server.url, ...options });
    await page.goto(`${server.url}/#token=${server.token}`);
    if (hash !== "") await page.goto(`${server.url}/${hash}`);
    return { page, faults };
  };
  const openJob = async (name, options) => {
    const { page, faults } = await open(options);
    const jobs = await jobsAreListed(page, timeout);
    await jobs.filter({ hasText: name }).first().click();
    await stagesAreDrawn(page, timeout);
    return { page, faults };
  };

  const checks = {
    "a running stage's curve grows": async () => {
      const { page, faults } = await openJob("bootstrap-demo");
      const { steps } = await curveIsDrawn(page, timeout);
      await countRebuilds(page);
      await page.waitForFunction(
        (before) => Number(document.querySelector("[data-test=loss-chart]").dataset.steps) > before,
        steps,
        { timeout },
      );
      assert.equal(await rebuilds(page), 0, "the chart is built anew although only its data changed");
      await page.getByRole("button", { name: "captioner-0" }).click();
      await page.getByText("captioner-0 LM").waitFor({ timeout });
      await page.getByLabel("log scale").check();
      await curveIsDrawn(page, timeout);
      await shot(page, "compare");
      await page.getByRole("link", { name: /^filter-0/ }).click();
      await page.getByText("filter-0 ITM").waitFor({ timeout });
      assert.ok(await page.getByLabel("log scale").isChecked(), "another stage forgot how curves are shown");
      await curveIsDrawn(page, timeout);
      return { page, faults };
    },
    "names are text, never markup": async () => {
      const { page, faults } = await open();
      await jobsAreListed(page, timeout);
      await page.getByText("noise <b>ablation</b>").first().waitFor({ timeout });
      assert.equal(await page.locator("main b").count(), 0, "a name became markup");
      return { page, faults };
    },
    "jobs are searched and chosen by state, and one that cannot go on waits": async () => {
      const { page, faults } = await open();
      const jobs = await jobsAreListed(page, timeout);
      const waits = jobs.filter({ hasText: "needs-bf16" });
      await waits.getByText("waiting", { exact: true }).waitFor({ timeout });
      await waits.getByText("pretrain-0: waits for devices with bf16").waitFor({ timeout });
      await page.getByRole("button", { name: /^active/ }).click();
      await page.getByLabel("Search jobs").fill("pretrain");
      await page.waitForFunction(() => document.querySelectorAll("[data-test=job]").length === 2, undefined, { timeout });
      await waits.click();
      await stagesAreDrawn(page, timeout);
      await page.locator("h1").getByText("waiting").waitFor({ timeout });
      await page.getByRole("link", { name: "Jobs" }).first().click();
      assert.equal(await page.getByLabel("Search jobs").inputValue(), "pretrain", "the search is forgotten");
      return { page, faults };
    },
    "a failed job opens where it failed, and says why once": async () => {
      const { page, faults } = await openJob("ablation");
      await page.getByRole("region", { name: "Stage pretrain-0" }).waitFor({ timeout });
      const why = page.getByText("the ITM loss is not finite");
      assert.equal(await why.count() - (await page.locator("[data-test=events]").getByText("the ITM loss").count()), 1);
      await shot(page, "failed");
      return { page, faults };
    },
    "a stage's page has its own events, checkpoints folded": async () => {
      const { page, faults } = await openJob("bootstrap-first");
      const events = page.locator("[data-test=events]");
      const folded = events.getByRole("button", { name: /^and \d+ before$/ });
      await folded.first().waitFor({ timeout });
      await events.getByText("straggler", { exact: true }).waitFor({ timeout });
      await page.getByRole("link", { name: /^filter-0/ }).click();
      await events.getByText("straggler", { exact: true }).waitFor({ state: "detached", timeout });
      await folded.first().click();
      await folded.first().waitFor({ state: "detached", timeout });
      await page.getByRole("button", { name: "whole job" }).click();
      await page.getByRole("button", { name: /^straggler/ }).waitFor({ timeout });
      return { page, faults };
    },
    "a long run is reduced, an ended job has its figures": async () => {
      const { page, faults } = await openJob("pretrain-long");
      await page.waitForFunction(
        () => Number(document.querySelector("[data-test=loss-chart]")?.dataset.steps) === 60_000,
        undefined,
        { timeout },
      );
      const { points } = await curveIsDrawn(page, timeout);
      await assertQuiet(page);
      assert.ok(points < 5000, `${points} points are drawn`);
      await page.locator("[data-test=evaluation]").waitFor({ timeout });
      await shot(page, "long");
      return { page, faults };
    },
    "a bootstrapped job compares its evaluations, in the dark": async () => {
      const { page, faults } = await openJob("bootstrap-first", { colorScheme: "dark" });
      await page.getByRole("columnheader", { name: "bootstrapped, round 1" }).first().waitFor({ timeout });
      await curveIsDrawn(page, timeout);
      await shot(page, "dark");
      return { page, faults };
    },
    "400 pixels are enough": async () => {
      const { page, faults } = await openJob("bootstrap-first", { viewport: { width: 400, height: 800 } });
      await curveIsDrawn(page, timeout);
      await shot(page, "narrow");
      await assertFits(page);
      await page.getByRole("link", { name: "Jobs" }).first().click();
      await jobsAreListed(page, timeout);
      await shot(page, "narrow-jobs");
      await assertFits(page);
      return { page, faults };
    },
    "a node that is drained and a checkpoint that is damaged say so": async () => {
      const { page, faults } = await openJob("bootstrap-first");
      const damaged = page.locator("[data-test=checkpoints] tr").filter({ hasText: "captioner-0" });
      await damaged.getByText("Damaged, and not used any more: part 2 of 4").waitFor({ timeout });
      assert.equal(await page.getByText("Damaged, and not used any more").count(), 1);
      await page.getByRole("link", { name: "Cluster" }).click();
      const drained = page.locator("[data-test=nodes] section").filter({ hasText: "node-b" });
      await drained.getByText("draining").waitFor({ timeout });
      await drained.getByText("What it has goes to other nodes").waitFor({ timeout });
      assert.equal(await page.getByText("What it has goes to other nodes").count(), 1);
      const lost = page.locator("[data-test=nodes] section").filter({ hasText: "node-d" });
      await lost.getByText("lost", { exact: true }).waitFor({ timeout });
      await page.locator("[data-test=work]").getByRole("link", { name: "needs-bf16 · pretrain-0" }).waitFor({ timeout });
      await shot(page, "drained");
      return { page, faults };
    },
    "GPUs show how full, busy and hot they are, and what is wrong with them": async () => {
      const { page, faults } = await openJob("bootstrap-first");
      await page.getByText("790 MiB of a GPU").first().waitFor({ timeout });
      await page.getByRole("link", { name: "Cluster" }).click();
      const node = page.locator("[data-test=nodes] section").filter({ hasText: "node-g" });
      await node.getByText("96.0 GiB of 141 GiB").waitFor({ timeout });
      const shares = await node.getByRole("progressbar").evaluateAll((bars) => bars.map((bar) => bar.ariaValueNow));
      assert.deepEqual(shares, ["68", "97", "1", "0"]);
      await node.getByText("2 uncorrected memory errors · last critical error: Xid 79").waitFor({ timeout });
      assert.equal(await page.locator("[data-test=gpus]").count(), 1);
      await shot(page, "gpus");
      return { page, faults };
    },
    "a job is asked for a checkpoint, and cancelled after a second look": async () => {
      const own = await serve();
      const { page, faults } = await openPage(context, { origin: own.url });
      await page.goto(`${own.url}/#token=${own.token}`);
      const jobs = await jobsAreListed(page, timeout);
      await jobs.filter({ hasText: "bootstrap-demo" }).first().click();
      await page.getByRole("button", { name: "Take a checkpoint" }).click();
      await page.getByText("a checkpoint is due after step").waitFor({ timeout });
      const cancel = page.getByRole("button", { name: "Cancel" });
      await cancel.click();
      await focusIsOn(page, "No, go on");
      await page.keyboard.press("Escape");
      await focusIsOn(page, "Cancel");
      await cancel.click();
      await page.getByRole("button", { name: "Yes, cancel it" }).click();
      await page.locator("h1").getByText("cancelled").waitFor({ timeout });
      await focusIsOn(page, "the job is cancelled");
      await page.close();
      await own.close();
      return { page, faults };
    },
    "a coordinator without jobs says what to do": async () => {
      const empty = await serve({ empty: true });
      const { page, faults } = await openPage(context, { origin: empty.url });
      await page.goto(`${empty.url}/#token=${empty.token}`);
      await page.getByText("medley submit spec.toml").waitFor({ timeout });
      await shot(page, "empty");
      await page.goto(`${empty.url}/#/cluster`);
      await page.getByText("No nodes yet").waitFor({ timeout });
      await page.close();
      await empty.close();
      return { page, faults };
    },
  };
  for (const [name, check] of Object.entries(checks)) {
    const { page, faults } = await check();
    assert.deepEqual(faults, [], name);
    await page.close();
    console.log(`ok: ${name}`);
  }
  await wrongTokenIsAskedAgain(context, server, shot, timeout);
  await lostConnectionIsShownAndHeals(context, shot, timeout);
}

/** Counts how often the loss chart's canvas is replaced from now on. */
const countRebuilds = (page) =>
  page.evaluate(() => {
    window.rebuilds = 0;
    const chart = document.querySelector("[data-test=loss-chart] .chart");
    new MutationObserver((changes) => {
      for (const change of changes) window.rebuilds += change.addedNodes.length;
    }).observe(chart, { childList: true });
  });
const rebuilds = (page) => page.evaluate(() => window.rebuilds);

/** A job that is over is asked about rarely: two rounds of five questions at most in the time of a live round or two. */
async function assertQuiet(page) {
  let asked = 0;
  page.on("request", () => (asked += 1));
  await page.waitForTimeout(2500);
  assert.ok(asked <= 10, `${asked} requests in 2.5 seconds`);
}

/** What has the focus says this. */
const focusIsOn = (page, text) =>
  page.waitForFunction((wanted) => document.activeElement.textContent.trim() === wanted, text);

async function assertFits(page) {
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(content <= window, `the page is ${content} pixels wide in a window of ${window}`);
}

async function wrongTokenIsAskedAgain(context, server, shot, timeout) {
  const { page } = await openPage(context, { origin: server.url });
  await page.goto(`${server.url}/#token=wrong`);
  await page.getByText("The token was not accepted").waitFor({ timeout });
  await shot(page, "token");
  await page.getByLabel("Token").fill(server.token);
  await page.keyboard.press("Enter");
  await jobsAreListed(page, timeout);
  await page.reload();
  await jobsAreListed(page, timeout);
  await page.close();
  console.log("ok: a wrong token is asked for again, a right one is kept for the tab");
}

async function lostConnectionIsShownAndHeals(context, shot, timeout) {
  const first = await serve();
  const { page } = await openPage(context, { origin: first.url });
  await page.goto(`${first.url}/#token=${first.token}`);
  await jobsAreListed(page, timeout);
  await first.close();
  await page.locator("[data-test=lost]").waitFor({ timeout });
  await jobsAreListed(page, timeout);
  await shot(page, "lost");
  const second = await serve({ port: Number(new URL(first.url).port) });
  await page.locator("[data-test=lost]").waitFor({ state: "detached", timeout });
  await page.close();
  await second.close();
  console.log("ok: a lost connection is shown, what was read stays, and it heals");
}
