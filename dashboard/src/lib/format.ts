// Numbers and times for people. Every function takes what may be missing and answers with a dash then.

export const NONE = "–";

const THIN_SPACE = "\u202f";

/** `12345` → `12 345`, with narrow no-break spaces. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, THIN_SPACE);
}

/** `1` → `1 step`, `2` → `2 steps`. */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A loss, a rate or a norm with four significant digits at most. */
export function figure(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return exponential(value, 3);
  if (size >= 1000) return value.toFixed(0);
  if (size >= 100) return value.toFixed(1);
  if (size >= 10) return value.toFixed(2);
  return size >= 0.1 ? value.toFixed(3) : value.toPrecision(4);
}

/** `1.20e−9`: with a true minus sign. */
export function exponential(value: number, digits: number): string {
  return value.toExponential(digits).replace("e+", "e").replaceAll("-", "−");
}

/** A share between 0 and 1 → `62.5 %`. */
export function percent(share: number | null | undefined, digits = 1): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  return `${(100 * share).toFixed(digits)}${THIN_SPACE}%`;
}

/** From one share to another in percentage points: `+6.1`, `−0.6`. */
export function change(before: number, after: number): string {
  const points = 100 * (after - before);
  return Number.isFinite(points) ? `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)}` : NONE;
}

export function bytes(size: number | null | undefined): string {
  if (size === null || size === undefined || !Number.isFinite(size)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let scaled = size;
  let unit = 0;
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${unit === 0 || scaled >= 100 ? scaled.toFixed(0) : scaled.toFixed(1)} ${units[unit] ?? ""}`;
}

/** A length of time: `850 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NONE;
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return pair(minutes, "min", seconds % 60, "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return pair(hours, "h", minutes % 60, "min");
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

function pair(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

/** Milliseconds since the epoch of an RFC 3339 time; null if there is none. */
export function instant(at: string | null | undefined): number | null {
  if (!at) return null;
  const ms = Date.parse(at);
  return Number.isNaN(ms) ? null : ms;
}

/** `just now`, `12 s ago`, `3 min ago`, `5 h ago`, `6 d ago`. */
export function ago(at: string | null | undefined, now: number): string {
  const then = instant(at);
  if (then === null) return NONE;
  const seconds = Math.floor((now - then) / 1000);
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** Time of day in the reader's zone. */
export function clock(at: string | null | undefined): string {
  const then = instant(at);
  if (then === null) return NONE;
  const date = new Date(then);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}

/** Full local date and time, for tooltips. */
export function dateTime(at: string | null | undefined): string {
  const then = instant(at);
  return then === null ? "" : new Date(then).toLocaleString();
}
