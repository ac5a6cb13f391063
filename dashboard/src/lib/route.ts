// Routes live in the fragment, so that the coordinator serves one page and needs no rewriting.
// `#/jobs` · `#/jobs/JOB` · `#/jobs/JOB/STAGE` · `#/cluster`. The token may arrive as `#token=…`, on any route.

export type Route =
  | { page: "jobs" }
  | { page: "job"; job: string; stage: string | null }
  | { page: "cluster" }
  | { page: "unknown"; path: string };

export function parseRoute(hash: string): Route {
  const path = hash.replace(/^#/, "").replace(/[?&].*$/, "");
  const [head, job, stage] = path.split("/").filter((part) => part !== "").map(decode);
  if (head === undefined || (head === "jobs" && job === undefined)) return { page: "jobs" };
  if (head === "jobs" && job !== undefined) return { page: "job", job, stage: stage ?? null };
  if (head === "cluster") return { page: "cluster" };
  return { page: "unknown", path };
}

export function linkTo(route: Route): string {
  switch (route.page) {
    case "jobs":
      return "#/jobs";
    case "cluster":
      return "#/cluster";
    case "unknown":
      return `#${route.path}`;
    case "job": {
      const stage = route.stage === null ? "" : `/${encodeURIComponent(route.stage)}`;
      return `#/jobs/${encodeURIComponent(route.job)}${stage}`;
    }
  }
}

/** Takes a token out of a fragment: the token, and the fragment without it. */
export function takeToken(hash: string): { token: string | null; rest: string } {
  const found = /(^#?|[#/?&])token=([^&]*)&?/.exec(hash);
  if (found === null) return { token: null, rest: hash };
  const before = hash.slice(0, found.index) + (found[1] ?? "");
  const rest = (before + hash.slice(found.index + found[0].length)).replace(/[#?&]+$/, "");
  return { token: decode(found[2] ?? "") || null, rest };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
