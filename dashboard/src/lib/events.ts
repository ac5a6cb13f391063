// What is shown of the events: groups to choose from, checkpoints folded, days.

import type { EventView } from "../api/types";

/** A line of the list: an event, or the newest of several in a row that say the same. */
export interface Row {
  event: EventView;
  /** Events that it stands for. */
  count: number;
  /** The day that begins with this line, reading down; null within a day. */
  day: string | null;
}

/** Checkpoints that went well: they are many, and folded where everything is shown. */
const ROUTINE = "checkpoint-committed";

/** What an event is about: the first word of its kind, `checkpoint` of `checkpoint-committed`. */
export const groupOf = (kind: string): string => kind.split("-")[0]?.replace(/^nodes$/, "node") ?? kind;

/** The groups of events with how many there are of each, in the order in which they first came. */
export function groupsOf(events: EventView[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const { kind } of events) counts.set(groupOf(kind), (counts.get(groupOf(kind)) ?? 0) + 1);
  return [...counts];
}

/** The lines of one group, or of everything with its checkpoints folded, newest first. */
export function rowsOf(events: EventView[], group: string | null): Row[] {
  const rows: Row[] = [];
  let day = "";
  for (const event of events.toReversed()) {
    if (group !== null && groupOf(event.kind) !== group) continue;
    const here = dayOf(event.at);
    const above = rows.at(-1);
    const joins = group === null && event.kind === ROUTINE && above?.event.kind === ROUTINE && here === day;
    if (joins) above.count += 1;
    else rows.push({ event, count: 1, day: here === day ? null : here });
    day = here;
  }
  return rows;
}

/** A day in the reader's zone: `Thu, 26 Nov 2026`. */
export function dayOf(at: string): string {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return "";
  return date.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric" });
}
