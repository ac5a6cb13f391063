// Exponential moving average with the start-up bias removed: the first value is itself, not a share of it.

/** `weight` in [0, 1): 0 changes nothing. Values that are not finite are passed over and stay gaps. */
export function smooth(values: Float64Array, weight: number): Float64Array {
  const out = new Float64Array(values.length);
  let mean = 0;
  let mass = 1;
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i] ?? Number.NaN;
    if (!Number.isFinite(value)) {
      out[i] = Number.NaN;
      continue;
    }
    mean = weight * mean + (1 - weight) * value;
    mass *= weight;
    out[i] = mean / (1 - mass);
  }
  return out;
}
