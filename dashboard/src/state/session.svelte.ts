// The token and the connection: what all pages share.
//
// A token comes in the address's fragment, is kept for this tab alone, and leaves the address bar at once.

import { untrack } from "svelte";
import { Client, Refused, Unauthorized, Unreachable } from "../api/client";
import { takeToken } from "../lib/route";
import { Poller } from "./poller";

const KEY = "medley.token";

export const session = $state({
  token: "",
  /** Why the token form is shown; empty at the first time. */
  refusal: "",
  /** Why the coordinator cannot be reached; null while it can. */
  lost: null as string | null,
});

export const client = new Client({
  fetch: (...request) => fetch(...request),
  token: () => session.token,
});

/** Reads the token from the fragment, or else from this tab's storage. */
export function openSession(): void {
  const { token, rest } = takeToken(location.hash);
  if (token === null) {
    session.token ||= sessionStorage.getItem(KEY) ?? "";
    return;
  }
  useToken(token);
  history.replaceState(null, "", `${location.pathname}${location.search}${rest}`);
}

export function useToken(token: string): void {
  session.token = token.trim();
  session.refusal = "";
  sessionStorage.setItem(KEY, session.token);
}

/** Forgets the token and says why. */
export function closeSession(why: string): void {
  session.token = "";
  session.refusal = why;
  sessionStorage.removeItem(KEY);
}

/** Polls for a page: keeps the shared connection state, and hands what was refused to the page. */
export function poll(
  task: (signal: AbortSignal) => Promise<void>,
  everyMs: () => number,
  refused: (message: string | null) => void,
): Poller {
  const poller = new Poller({
    // A round may begin inside an effect, which must not depend on what the round reads.
    task: (signal) => untrack(() => task(signal)),
    everyMs,
    ended(error) {
      session.lost = error instanceof Unreachable ? error.message : null;
      if (error instanceof Unauthorized) {
        closeSession(error.message);
        return false;
      }
      if (error === null) refused(null);
      else if (error instanceof Refused) refused(error.message);
      else if (!(error instanceof Unreachable)) refused(`the page met an error: ${String(error)}`);
      return true;
    },
  });
  poller.start();
  return poller;
}
