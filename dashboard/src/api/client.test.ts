import { describe, expect, test, vi } from "vitest";
import { Client, failure, Refused, Unauthorized, Unreachable } from "./client";
import { readJobDetail, readList, readMetrics, readNode, readStage } from "./read";

/** A client whose requests are answered by `answer`, and the requests it made. */
function wired(answer: (url: string) => Response | Promise<Response>) {
  const asked: { url: string; init: RequestInit | undefined }[] = [];
  const fetch = vi.fn((input: RequestInfo | URL, init?: RequestInit) => {
    asked.push({ url: String(input), init });
    return Promise.resolve(answer(String(input)));
  });
  return { client: new Client({ fetch: fetch as unknown as typeof globalThis.fetch, token: () => "secret" }), asked };
}

const json = (body: unknown, status = 200) => new Response(JSON.stringify(body), { status });

describe("the client", () => {
  test("carries the token and asks for metrics from a step", async () => {
    const { client, asked } = wired(() => json({ stage: "s", rows: [], next_step: 7 }));
    const page = await client.metrics("j/1", "s 1", 7);
    expect(page.next_step).toBe(7);
    expect(asked[0]?.url).toBe("/api/v1/jobs/j%2F1/metrics?stage=s+1&from_step=7&limit=5000");
    expect(new Headers(asked[0]?.init?.headers).get("authorization")).toBe("Bearer secret");
  });

  test("sends no cursor on the first page", async () => {
    const { client, asked } = wired(() => json({ items: [], next: "abc" }));
    expect((await client.jobs(null)).next).toBe("abc");
    await client.jobs("abc");
    expect(asked.map((one) => one.url)).toEqual(["/api/v1/jobs?limit=50", "/api/v1/jobs?limit=50&cursor=abc"]);
  });

  test("tells an absent coordinator, a bad token and a refusal apart", async () => {
    const gone = wired(() => Promise.reject(new TypeError("failed to fetch")));
    await expect(gone.client.nodes()).rejects.toBeInstanceOf(Unreachable);
    const page = wired(() => new Response("<html>"));
    await expect(page.client.nodes()).rejects.toBeInstanceOf(Unreachable);
    expect(failure(401, "")).toBeInstanceOf(Unauthorized);
    expect(failure(503, "")).toBeInstanceOf(Unreachable);
    const refused = failure(404, JSON.stringify({ code: "not-found", detail: "there is no job 7" }));
    expect([refused instanceof Refused, refused.message]).toEqual([true, "there is no job 7"]);
    expect(failure(403, "null").message).toBe("the coordinator answered with status 403");
  });
});

describe("reading answers", () => {
  test.each([null, undefined, 3, "text", [], {}])("%j becomes an empty job, list, stage and node", (raw) => {
    expect(readJobDetail(raw)).toMatchObject({ name: "", state: "", stages: [], finished_at: null });
    expect(readStage(raw)).toMatchObject({ needs: [], done: 0, total: null, epochs: [], evaluation: null });
    expect(readNode(raw)).toMatchObject({ alive: false, devices: 0 });
    expect(readMetrics(raw)).toEqual({ stage: "", rows: [], next_step: 0 });
    if (!Array.isArray(raw)) expect(readList(raw, readNode)).toEqual([]);
  });

  test("a loss that is not finite stays a gap", () => {
    const { rows } = readMetrics({ stage: "s", next_step: 1, rows: [{ step: 0, epoch: 0, itc: null, itm: 0.5 }] });
    expect(rows[0]).toMatchObject({ step: 0, itc: Number.NaN, itm: 0.5 });
  });
});
