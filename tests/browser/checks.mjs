// What must be seen on any coordinator that has a job with training steps.

import assert from "node:assert/strict";
import { colouredPixels } from "./browser.mjs";

/** Curves have at least so many coloured pixels: a few steps already do. */
const FEWEST_PIXELS = 60;

/** The rows of the jobs list. */
export async function jobsAreListed(page, timeout) {
  const rows = page.locator("[data-test=job]");
  await rows.first().waitFor({ timeout });
  return rows;
}

/** Number of stages drawn on a job's page. */
export async function stagesAreDrawn(page, timeout) {
  const stages = page.locator("[data-test=stage]");
  await stages.first().waitFor({ timeout });
  const box = await stages.first().boundingBox();
  assert.ok(box !== null && box.width > 50 && box.height > 30, "a stage has no size");
  return stages.count();
}

/** Points and steps of the loss curves, whose pixels were looked at. */
export async function curveIsDrawn(page, timeout) {
  const chart = "[data-test=loss-chart]";
  await page.locator(`${chart} canvas`).waitFor({ timeout });
  const until = Date.now() + timeout;
  for (;;) {
    const pixels = await colouredPixels(page, chart);
    if (pixels >= FEWEST_PIXELS) break;
    assert.ok(Date.now() < until, `the chart has ${pixels} coloured pixels: no curve is drawn`);
    await page.evaluate(() => new Promise(requestAnimationFrame));
  }
  const read = async (name) => Number(await page.locator(chart).getAttribute(name));
  const drawn = { points: await read("data-points"), steps: await read("data-steps") };
  assert.ok(drawn.points > 1 && drawn.steps > 1, `the chart has ${drawn.points} points of ${drawn.steps} steps`);
  return drawn;
}
