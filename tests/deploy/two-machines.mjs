// Makes the corpus of tests/deploy/two-machines.sh, and looks over the API at what became of its job.
//
//   node two-machines.mjs corpus FOLDER
//   node two-machines.mjs verify URL TOKEN_FILE NODE=HOST...

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const SIDE = 32;
const PAIRS = 64;
const COLOURS = { red: [214, 40, 40], green: [40, 160, 60], blue: [40, 70, 210], yellow: [240, 210, 40] };
const PLACES = ["left", "right"];
const TAR_BLOCK = 512;
const REQUEST_MS = 10_000;

/** A marker segment of a JPEG file. */
function segment(marker, ...body) {
  const length = body.length + 2;
  return Buffer.from([0xff, marker, length >> 8, length & 255, ...body]);
}

/** Luma and both chromas of a colour, as JPEG has them. */
function luma([red, green, blue]) {
  return [
    0.299 * red + 0.587 * green + 0.114 * blue,
    128 - 0.168736 * red - 0.331264 * green + 0.5 * blue,
    128 + 0.5 * red - 0.418688 * green - 0.081312 * blue,
  ].map(Math.round);
}

/**
 * A JPEG image of flat blocks of 8 × 8 pixels, in rows from the top. Flat blocks need no transform: each is its difference from
 * the block before, in a code of 4 bits for the number of binary digits, and then one bit that ends the block.
 */
function jpeg(side, blocks) {
  let bits = "";
  let before = [128, 128, 128];
  for (const block of blocks.map(luma)) {
    for (const [component, value] of block.entries()) {
      const difference = value - before[component];
      const digits = Math.abs(difference).toString(2).length * Number(difference !== 0);
      bits += digits.toString(2).padStart(4, "0");
      if (digits > 0) bits += (difference > 0 ? difference : difference + 2 ** digits - 1).toString(2).padStart(digits, "0");
      bits += "0";
    }
    before = block;
  }
  bits = bits.padEnd(Math.ceil(bits.length / 8) * 8, "1");
  const scan = bits.match(/.{8}/g).flatMap((byte) => (byte === "11111111" ? [255, 0] : [Number.parseInt(byte, 2)]));
  const components = [1, 2, 3];
  return Buffer.concat([
    Buffer.from([0xff, 0xd8]),
    // A flat block's only coefficient is 8 times its value; divided by 8 it is the value itself.
    segment(0xdb, 0, ...Array(64).fill(8)),
    segment(0xc0, 8, 0, side, 0, side, 3, ...components.flatMap((id) => [id, 0x11, 0])),
    segment(0xc4, 0x00, ...[0, 0, 0, 10, ...Array(12).fill(0)], ...Array(10).keys()),
    segment(0xc4, 0x10, ...[1, ...Array(15).fill(0)], 0),
    segment(0xda, 3, ...components.flatMap((id) => [id, 0]), 0, 63, 0),
    Buffer.from([...scan, 0xff, 0xd9]),
  ]);
}

/** A square of one colour on white, at the left or the right. */
function picture(colour, place) {
  const blocks = Array(16).fill([255, 255, 255]);
  for (const at of place === "left" ? [4, 8] : [7, 11]) blocks[at] = colour;
  return jpeg(SIDE, blocks);
}

/** A member of a tar file: its header and its bytes, filled up to whole blocks. */
function member(name, body) {
  const header = Buffer.alloc(TAR_BLOCK);
  header.write(name, 0);
  header.write("0000644\0", 100);
  header.write("0000000\0", 108);
  header.write("0000000\0", 116);
  header.write(`${body.length.toString(8).padStart(11, "0")}\0`, 124);
  header.write("00000000000\0", 136);
  // The sum is taken with its own field blank.
  header.write("        0", 148);
  header.write("ustar\u000000", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return Buffer.concat([header, body, Buffer.alloc((TAR_BLOCK - (body.length % TAR_BLOCK)) % TAR_BLOCK)]);
}

/** One shard of right pairs. */
function corpus(folder) {
  const colours = Object.keys(COLOURS);
  const members = [];
  for (let i = 0; i < PAIRS; i += 1) {
    const colour = colours[i % colours.length];
    const place = PLACES[Math.floor(i / colours.length) % PLACES.length];
    const key = String(i).padStart(6, "0");
    members.push(member(`${key}.jpg`, picture(COLOURS[colour], place)));
    members.push(member(`${key}.txt`, Buffer.from(`a ${colour} square on the ${place}`)));
  }
  mkdirSync(join(folder, "human"), { recursive: true });
  writeFileSync(join(folder, "human", "00000.tar"), Buffer.concat([...members, Buffer.alloc(2 * TAR_BLOCK)]));
}

/** Asserts that the one job succeeded and that a rank of each node took part. */
async function verify(url, tokenFile, ...hosts) {
  const token = readFileSync(tokenFile, "utf8").trim();
  const get = async (path) => {
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(`${url}/api/v1${path}`, { headers, signal: AbortSignal.timeout(REQUEST_MS) });
    assert.equal(response.status, 200, `GET ${path}`);
    return response.json();
  };

  const nodes = await get("/nodes");
  const seen = nodes.filter((node) => node.alive).map((node) => `${node.name}=${node.host}`);
  assert.deepEqual(seen.toSorted(), hosts.toSorted(), "both nodes beat, under the addresses they were given");

  const jobs = (await get("/jobs")).items;
  assert.deepEqual(jobs.map((job) => job.state), ["succeeded"]);
  const job = await get(`/jobs/${jobs[0].id}`);
  assert.deepEqual(job.stages.map((stage) => [stage.name, stage.state]), [["index-0", "done"], ["pretrain-0", "done"]]);
  const steps = job.spec.pretrain.length.count;
  assert.equal(job.stages[1].done, steps, "every step is committed");

  const checkpoints = await get(`/jobs/${job.id}/checkpoints`);
  const last = checkpoints.find((checkpoint) => checkpoint.step === steps);
  // A checkpoint has one part from each rank, and each node runs one.
  assert.equal(last?.parts.length, hosts.length, "the last checkpoint has a part from each machine");

  const metrics = await get(`/jobs/${job.id}/metrics?stage=${job.stages[1].id}&from_step=0&limit=1000`);
  assert.deepEqual(metrics.rows.map((row) => row.step), Array.from({ length: steps }, (_, step) => step));
  console.log(`job ${job.id}: ${steps} steps on ${hosts.length} machines, last loss itm ${metrics.rows.at(-1).itm.toFixed(3)}`);
}

const [command, ...rest] = process.argv.slice(2);
if (command === "corpus") corpus(...rest);
else if (command === "verify") await verify(...rest);
else throw new Error(`unknown command ${command}: use corpus or verify`);
