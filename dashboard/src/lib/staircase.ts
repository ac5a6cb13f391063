// How fast a step is on so many ranks, as in protocol/src/staircase.rs: a step takes as long as its busiest rank, which runs
// ⌈lanes / ranks⌉ lanes, so that more ranks are faster only where that number falls.

/** A number of ranks that is faster than any smaller one. */
export interface Stair {
  ranks: number;
  /** Lanes of the busiest rank. */
  lanes: number;
  /** Steps in the time that one rank takes for one. */
  speed: number;
  /** Speed per rank. */
  efficiency: number;
}

/** What so many ranks give, be they useful or not. */
export function stairOf(lanes: number, ranks: number): Stair {
  const busiest = Math.ceil(lanes / ranks);
  return { ranks, lanes: busiest, speed: lanes / busiest, efficiency: lanes / (ranks * busiest) };
}

/** The fewest ranks that are as fast as these. */
export const useful = (lanes: number, ranks: number): number => Math.ceil(lanes / Math.ceil(lanes / ranks));

/** The fewest ranks that are faster than these; null if every lane has its own. */
export function nextUseful(lanes: number, ranks: number): number | null {
  const busiest = Math.ceil(lanes / ranks);
  return busiest > 1 ? Math.ceil(lanes / (busiest - 1)) : null;
}

/** All useful numbers of ranks, up to one rank for each lane. */
export function stairs(lanes: number): Stair[] {
  const found: Stair[] = [];
  for (let ranks: number | null = lanes > 0 ? 1 : null; ranks !== null; ranks = nextUseful(lanes, ranks)) {
    found.push(stairOf(lanes, ranks));
  }
  return found;
}

/** Why devices stay idle beside a stage that has these ranks; null where none does, or where they would help. */
export function idleReason(lanes: number, ranks: number, free: number): string | null {
  if (ranks < 1 || free < 1) return null;
  const devices = ranks + free;
  const next = nextUseful(lanes, ranks);
  if (next !== null && next <= devices) return null;
  return `${devices} devices are no faster than ${useful(lanes, ranks)} at ${lanes} lanes`;
}
