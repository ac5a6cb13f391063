// Reduces curves to what a screen can show without losing a spike: where several steps fall on one pixel column, the
// smallest and the largest value are drawn, in the order in which they came.
//
// Buckets are powers of two wide and aligned to step 0, so that a growing curve does not shimmer.

export interface Reduced {
  /** Steps, rising. */
  x: number[];
  /** One list for each curve, as long as `x`; null is a gap. */
  ys: (number | null)[][];
}

/** Reduces curves (values by step) over the steps `from … to`, both included, to at most 2 × `columns` points and a bucket. */
export function envelope(curves: Float64Array[], from: number, to: number, columns: number): Reduced {
  const width = bucketWidth(to - from + 1, columns);
  return width === 1 ? asTheyAre(curves, from, to) : bucketed(curves, from, to, width);
}

/** The smallest power of two that leaves at most `columns` buckets; 1 if two points a column are enough. */
export function bucketWidth(points: number, columns: number): number {
  const most = Math.max(1, columns);
  if (points <= 2 * most) return 1;
  let width = 2;
  while (points > width * most) width *= 2;
  return width;
}

function asTheyAre(curves: Float64Array[], from: number, to: number): Reduced {
  const x: number[] = [];
  for (let step = from; step <= to; step += 1) x.push(step);
  return { x, ys: curves.map((curve) => x.map((step) => drawable(curve[step]))) };
}

function bucketed(curves: Float64Array[], from: number, to: number, width: number): Reduced {
  const x: number[] = [];
  const ys: (number | null)[][] = curves.map(() => []);
  for (let start = Math.floor(from / width) * width; start <= to; start += width) {
    const first = Math.max(start, from);
    const last = Math.min(start + width - 1, to);
    const pair = first === last ? [first] : [first, Math.max(first + 1, Math.floor((first + last) / 2))];
    x.push(...pair);
    curves.forEach((curve, c) => {
      const [early, late] = extremes(curve, first, last);
      ys[c]?.push(early);
      if (pair.length === 2) ys[c]?.push(late);
    });
  }
  return { x, ys };
}

/** The extremes over `first … last`, in the order in which they came. */
function extremes(curve: Float64Array, first: number, last: number): [number | null, number | null] {
  let low = -1;
  let high = -1;
  for (let i = first; i <= Math.min(last, curve.length - 1); i += 1) {
    const value = curve[i] ?? Number.NaN;
    if (!Number.isFinite(value)) continue;
    if (low < 0 || value < (curve[low] ?? 0)) low = i;
    if (high < 0 || value > (curve[high] ?? 0)) high = i;
  }
  const [early, late] = low < high ? [low, high] : [high, low];
  return [drawable(curve[early]), drawable(curve[late])];
}

const drawable = (value: number | undefined): number | null =>
  value !== undefined && Number.isFinite(value) ? value : null;
