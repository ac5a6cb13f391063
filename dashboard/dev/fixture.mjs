#!/usr/bin/env node
// Serves the API's read side with made-up jobs that move, and the built dashboard under the coordinator's security
// policy: for development (`npm run fixture`, then `npm run dev`) and for the browser test.
//
//   node dev/fixture.mjs [--port 7799] [--token fixture] [--empty]

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { emptyWorld, world } from "./fixture/world.mjs";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));
const POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'";
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

/** Starts a server; answers its URL and how to stop it. Port 0 takes any. */
export async function serve({ port = 0, token = "fixture", empty = false } = {}) {
  const state = empty ? emptyWorld() : world(Date.now());
  const server = createServer((request, response) => {
    answer(request, response, state, token).catch((error) => {
      problem(response, 500, "internal", String(error));
    });
  });
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const close = () =>
    new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, token, close };
}

async function answer(request, response, state, token) {
  const url = new URL(request.url, "http://fixture");
  if (!url.pathname.startsWith("/api/v1/")) return file(response, url.pathname);
  if (request.headers.authorization !== `Bearer ${token}`) {
    return problem(response, 401, "unauthorized", "the token is not known to this coordinator");
  }
  const path = url.pathname.slice("/api/v1/".length).split("/").map(decodeURIComponent);
  return api(response, request.method, path, url.searchParams, state);
}

function api(response, method, [head, id, what], query, state) {
  const now = Date.now();
  if (head === "nodes") return json(response, state.nodes);
  if (head !== "jobs") return problem(response, 404, "not-found", `there is no /${head}`);
  if (id === undefined) return json(response, page(state.jobs, query, now));
  const job = state.jobs.find((one) => one.id === id);
  if (job === undefined) return problem(response, 404, "not-found", `there is no job ${id}`);
  if (method === "POST") return act(response, job, what, now);
  switch (what) {
    case undefined:
      return json(response, job.detail(now));
    case "metrics": {
      const rows = job.metrics(query.get("stage"), Number(query.get("from_step") ?? 0), limit(query, 5000), now);
      return rows === null ? problem(response, 404, "not-found", "the job has no such training stage") : json(response, rows);
    }
    case "checkpoints":
      return json(response, job.checkpoints(now));
    case "datasets":
      return json(response, job.datasets(now));
    case "events": {
      const after = Number(query.get("after") ?? 0);
      return json(response, job.events(now).filter((event) => event.id > after).slice(0, limit(query, 500)));
    }
    default:
      return problem(response, 404, "not-found", `a job has no ${what}`);
  }
}

function act(response, job, what, now) {
  if (job.view(now).finished_at !== null) return problem(response, 409, "conflict", "the job is over");
  if (what === "cancel") {
    job.startedAt ??= now;
    job.cancelledAt = Math.max(0, (now - job.startedAt) / 1000);
    return json(response, job.view(now));
  }
  const stage = job.detail(now).stages.find((one) => one.state === "running" && one.epochs.length > 0);
  if (stage === undefined) return problem(response, 409, "conflict", "no training stage of the job runs");
  return json(response, { id: stage.id, stage: stage.id, step: stage.done + 1 });
}

function page(jobs, query, now) {
  const from = Number(query.get("cursor") ?? 0);
  const to = from + limit(query, 50);
  const next = to < jobs.length ? String(to) : null;
  return { items: jobs.slice(from, to).map((job) => job.view(now)), next };
}

const limit = (query, most) => Math.min(most, Number(query.get("limit") ?? most));

async function file(response, path) {
  const name = path === "/" ? "index.html" : normalize(path).replace(/^[/.]+/, "");
  try {
    const body = await readFile(join(DIST, name));
    const type = TYPES[extname(name)] ?? "application/octet-stream";
    response.writeHead(200, { "content-type": type, "content-security-policy": POLICY }).end(body);
  } catch {
    response.writeHead(404, { "content-type": "text/plain" }).end("not found; was the dashboard built?\n");
  }
}

function json(response, body) {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
}

function problem(response, status, code, detail) {
  const body = { code, title: code, status, detail };
  response.writeHead(status, { "content-type": "application/problem+json" }).end(JSON.stringify(body));
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "7799" },
      token: { type: "string", default: "fixture" },
      empty: { type: "boolean", default: false },
    },
  });
  const { url, token } = await serve({ ...values, port: Number(values.port) });
  console.log(`listening on ${url}\nopen ${url}/#token=${token}`);
}
