// One function per endpoint. Every request carries the token and has a deadline, and every failure is one of four that
// the pages tell apart: no answer, no valid token, refused with a problem, or given up by the caller.

import {
  readCheckpoint,
  readDataset,
  readEvent,
  readJob,
  readJobDetail,
  readList,
  readMetrics,
  readNode,
  readPage,
} from "./read";
import type { CheckpointRequestView, ProblemBody } from "./types";

const REQUEST_TIMEOUT_MS = 10_000;

/** The coordinator did not answer, or says that it cannot now: the same request may succeed later. */
export class Unreachable extends Error {}
/** No valid token. */
export class Unauthorized extends Error {}
/** Refused; the message is the problem's detail, for the user. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** What the client needs of the world; tests give their own. */
export interface Wire {
  fetch: typeof fetch;
  token: () => string;
}

export class Client {
  readonly #wire: Wire;

  constructor(wire: Wire) {
    this.#wire = wire;
  }

  jobs(cursor: string | null, signal?: AbortSignal) {
    return this.#get(`/jobs${query({ limit: 50, cursor })}`, (raw) => readPage(raw, readJob), signal);
  }

  job(id: string, signal?: AbortSignal) {
    return this.#get(`/jobs/${encodeURIComponent(id)}`, readJobDetail, signal);
  }

  cancel(id: string) {
    return this.#send("POST", `/jobs/${encodeURIComponent(id)}/cancel`).then(readJob);
  }

  metrics(job: string, stage: string, fromStep: number, signal?: AbortSignal) {
    const asked = query({ stage, from_step: fromStep, limit: 5000 });
    return this.#get(`/jobs/${encodeURIComponent(job)}/metrics${asked}`, readMetrics, signal);
  }

  checkpoints(job: string, signal?: AbortSignal) {
    const path = `/jobs/${encodeURIComponent(job)}/checkpoints${query({ damaged: "true" })}`;
    return this.#get(path, (raw) => readList(raw, readCheckpoint), signal);
  }

  takeCheckpoint(job: string): Promise<CheckpointRequestView> {
    const answer = this.#send("POST", `/jobs/${encodeURIComponent(job)}/checkpoints`);
    return answer as Promise<CheckpointRequestView>;
  }

  datasets(job: string, signal?: AbortSignal) {
    return this.#get(`/jobs/${encodeURIComponent(job)}/datasets`, (raw) => readList(raw, readDataset), signal);
  }

  events(job: string, after: number, signal?: AbortSignal) {
    const path = `/jobs/${encodeURIComponent(job)}/events${query({ after, limit: 500 })}`;
    return this.#get(path, (raw) => readList(raw, readEvent), signal);
  }

  nodes(signal?: AbortSignal) {
    return this.#get("/nodes", (raw) => readList(raw, readNode), signal);
  }

  async #get<T>(path: string, read: (raw: unknown) => T, signal?: AbortSignal): Promise<T> {
    return read(await this.#send("GET", path, signal));
  }

  async #send(method: "GET" | "POST", path: string, signal?: AbortSignal): Promise<unknown> {
    const deadline = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    const request: RequestInit = {
      method,
      headers: { authorization: `Bearer ${this.#wire.token()}`, accept: "application/json" },
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      cache: "no-store",
    };
    if (method === "POST") {
      request.headers = { ...request.headers, "content-type": "application/json" };
      request.body = "{}";
    }
    let response: Response;
    let body: string;
    try {
      response = await this.#wire.fetch(`/api/v1${path}`, request);
      body = await response.text();
    } catch (cause) {
      if (signal?.aborted) throw cause;
      throw new Unreachable("no answer from the coordinator", { cause });
    }
    if (!response.ok) throw failure(response.status, body);
    return parse(body);
  }
}

function parse(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch (cause) {
    throw new Unreachable("the answer is not JSON; is this the coordinator's address?", { cause });
  }
}

/** What a status other than 2xx means. */
export function failure(status: number, body: string): Error {
  let problem: Partial<ProblemBody> = {};
  try {
    problem = (JSON.parse(body) ?? {}) as Partial<ProblemBody>;
  } catch {
    // A proxy may answer with something else; the status says enough.
  }
  const detail = problem.detail || problem.title || `the coordinator answered with status ${status}`;
  if (status === 401) return new Unauthorized(detail);
  if (status >= 500) return new Unreachable(detail);
  return new Refused(status, detail);
}

function query(parameters: Record<string, string | number | null>): string {
  const given = Object.entries(parameters).filter(([, value]) => value !== null);
  return given.length === 0 ? "" : `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`;
}
