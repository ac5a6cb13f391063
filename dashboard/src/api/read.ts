// Reads answers into their types at the border, so that no page has to doubt a field: what is missing or of the wrong
// type becomes the empty value of its kind, and unknown words of an enum pass through to be shown as they are.
//
// A type is read by the readers of its fields, leaves first.

import type {
  CheckpointPart,
  CheckpointView,
  Counts,
  DatasetView,
  Duty,
  EpochView,
  Estimate,
  Evaluation,
  EventView,
  Gpu,
  Hardware,
  Interval,
  JobDetail,
  JobView,
  MetricsPage,
  NodeView,
  ObjectRef,
  Page,
  Recall,
  StageView,
  StepMetrics,
  Straggler,
} from "./types";

type Fields = Record<string, unknown>;
type Reader<T> = (raw: unknown) => T;
/** A reader of each field that a type must have. */
type Readers<T> = { [Name in keyof T]: Reader<T[Name]> };

const fields = (raw: unknown): Fields => (typeof raw === "object" && raw !== null ? (raw as Fields) : {});
const text = (raw: unknown): string => (typeof raw === "string" ? raw : "");
const textOrNull = (raw: unknown): string | null => (typeof raw === "string" ? raw : null);
const word = <Word extends string>(raw: unknown): Word => text(raw) as Word;
const number = (raw: unknown): number => (typeof raw === "number" ? raw : 0);
const numberOrNull = (raw: unknown): number | null => (typeof raw === "number" ? raw : null);
/** JSON has no NaN: a loss that is not finite arrives as null, and must not be drawn as 0. */
const figure = (raw: unknown): number => (typeof raw === "number" ? raw : Number.NaN);
const flag = (raw: unknown): boolean => raw === true;

function shape<T extends object>(readers: Readers<T>): Reader<T> {
  const all = Object.entries<Reader<unknown>>(readers as Record<string, Reader<unknown>>);
  return (raw) => {
    const from = fields(raw);
    return Object.fromEntries(all.map(([name, read]) => [name, read(from[name])])) as T;
  };
}

const list =
  <T>(item: Reader<T>): Reader<T[]> =>
  (raw) =>
    readList(raw, item);

const orNull =
  <T>(read: Reader<T>): Reader<T | null> =>
  (raw) =>
    typeof raw === "object" && raw !== null ? read(raw) : null;

/** Reads a list, item by item; anything else is empty. */
export function readList<T>(raw: unknown, item: Reader<T>): T[] {
  return Array.isArray(raw) ? raw.map((one) => item(one)) : [];
}

export function readPage<T>(raw: unknown, item: Reader<T>): Page<T> {
  return shape<Page<T>>({ items: list(item), next: textOrNull })(raw);
}

const object = shape<ObjectRef>({ key: text, blake3: text, size_bytes: number });

const straggler = shape<Straggler>({
  stage: text,
  generation: number,
  rank: number,
  node: text,
  node_name: text,
  lane_ms: number,
  usual_lane_ms: number,
});

const epoch = shape<EpochView>({
  epoch: number,
  first_step: number,
  steps: number,
  done: flag,
  mean_itc: numberOrNull,
  mean_itm: numberOrNull,
  mean_lm: numberOrNull,
});

const interval = shape<Interval>({ value: figure, low: figure, high: figure });
const recall = shape<Recall>({ at_1: interval, at_5: interval, at_10: interval });

const evaluation = shape<Evaluation>({
  pairs: number,
  text_to_image_itc: recall,
  image_to_text_itc: recall,
  text_to_image_itm: recall,
  image_to_text_itm: recall,
  bleu_4: figure,
});

export const readStage = shape<StageView>({
  id: text,
  name: text,
  kind: word,
  state: word,
  reason: text,
  needs: list(text),
  generation: number,
  world: number,
  peak_rank_bytes: numberOrNull,
  done: number,
  total: numberOrNull,
  epochs: list(epoch),
  evaluation: orNull(evaluation),
  details: orNull(object),
  stragglers: list(straggler),
  started_at: textOrNull,
  finished_at: textOrNull,
});

const estimate = shape<Estimate>({
  stage: word,
  lanes: number,
  gpu_bytes: number,
  gpu_host_bytes: number,
  host_bytes: numberOrNull,
});

const job: Readers<JobView> = {
  id: text,
  name: text,
  kind: word,
  state: word,
  reason: text,
  submitted_at: text,
  finished_at: textOrNull,
};

export const readJob = shape<JobView>(job);

export const readJobDetail = shape<JobDetail>({
  ...job,
  spec: (raw) => raw ?? null,
  stages: list(readStage),
  memory: list(estimate),
});

/** The lanes of a job's spec; 0 if it names none. */
export function readLanes(spec: unknown): number {
  return number(fields(fields(spec).lanes).count);
}

const step = shape<StepMetrics>({
  step: number,
  epoch: number,
  itc: figure,
  itm: figure,
  lm: figure,
  lr: figure,
  alpha: figure,
  temperature: figure,
  grad_norm: figure,
});

export const readMetrics = shape<MetricsPage>({ stage: text, rows: list(step), next_step: number });

const part = shape<CheckpointPart>({
  step: number,
  part: number,
  parts: number,
  offset_bytes: number,
  state_bytes: number,
  object,
});

export const readCheckpoint = shape<CheckpointView>({
  id: text,
  stage: text,
  stage_name: text,
  step: number,
  state_bytes: number,
  parts: list(part),
  committed_at: text,
  damage: text,
});

const counts = (raw: unknown): Counts =>
  Object.fromEntries(Object.entries(fields(raw)).map(([name, count]) => [name, number(count)]));

export const readDataset = shape<DatasetView>({
  id: text,
  parent: textOrNull,
  stage: text,
  version: number,
  object,
  vocab: object,
  counts,
  created_at: text,
});

export const readEvent = shape<EventView>({
  id: number,
  at: text,
  job: textOrNull,
  stage: textOrNull,
  node: textOrNull,
  kind: text,
  message: text,
});

const DUTIES: readonly Duty[] = ["serving", "cordoned", "draining"];

const gpu = shape<Gpu>({
  uuid: text,
  name: text,
  memory_bytes: number,
  used_bytes: numberOrNull,
  utilisation_percent: numberOrNull,
  celsius: numberOrNull,
  uncorrected_errors: numberOrNull,
  last_xid: numberOrNull,
});

const hardware = shape<Hardware>({ memory_bytes: numberOrNull, gpus: list(gpu) });

export const readNode = shape<NodeView>({
  id: text,
  name: text,
  host: text,
  alive: flag,
  devices: number,
  busy: number,
  threads: number,
  fingerprint: text,
  stragglers: list(straggler),
  registered_at: text,
  duty: (raw) => DUTIES.find((duty) => duty === raw) ?? "serving",
  hardware,
});
