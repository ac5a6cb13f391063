// Mirrors what crosses the REST border, field by field: `rest`, `stage`, `metrics`, `tasks`, `checkpoint`,
// `hardware`, `estimate` and `error` of the `protocol` crate. Times are RFC 3339 strings, ids are UUIDs.

export type JobKind = "pretrain" | "bootstrap";
export type JobState = "queued" | "waiting" | "running" | "succeeded" | "failed" | "cancelled";
export type StageKind = "index" | "pretrain" | "captioner" | "filter" | "capfilt" | "evaluate";
export type StageState = "blocked" | "waiting" | "starting" | "running" | "done" | "failed" | "cancelled";

export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface JobView {
  id: string;
  name: string;
  kind: JobKind;
  state: JobState;
  reason: string;
  submitted_at: string;
  finished_at: string | null;
}

export interface JobDetail extends JobView {
  /** Shown as it is; the dashboard reads its lanes alone. */
  spec: unknown;
  /** In topological order. */
  stages: StageView[];
  /** For each kind of stage that trains. */
  memory: Estimate[];
}

export interface StageView {
  id: string;
  name: string;
  kind: StageKind;
  state: StageState;
  reason: string;
  needs: string[];
  generation: number;
  world: number;
  peak_rank_bytes: number | null;
  /** Committed steps, or finished tasks. */
  done: number;
  total: number | null;
  epochs: EpochView[];
  evaluation: Evaluation | null;
  details: ObjectRef | null;
  /** Ranks that it waits for in every step. */
  stragglers: Straggler[];
  started_at: string | null;
  finished_at: string | null;
}

/** A rank that has needed much longer for a lane than the others of its generation, for many steps. */
export interface Straggler {
  stage: string;
  generation: number;
  rank: number;
  node: string;
  node_name: string;
  lane_ms: number;
  usual_lane_ms: number;
}

export interface EpochView {
  epoch: number;
  first_step: number;
  steps: number;
  done: boolean;
  mean_itc: number | null;
  mean_itm: number | null;
  mean_lm: number | null;
}

export interface StepMetrics {
  step: number;
  epoch: number;
  itc: number;
  itm: number;
  lm: number;
  lr: number;
  alpha: number;
  temperature: number;
  grad_norm: number;
}

export interface MetricsPage {
  stage: string;
  rows: StepMetrics[];
  next_step: number;
}

export interface ObjectRef {
  key: string;
  blake3: string;
  size_bytes: number;
}

export interface CheckpointPart {
  step: number;
  part: number;
  parts: number;
  offset_bytes: number;
  state_bytes: number;
  object: ObjectRef;
  /** Absent where nobody hashed its tensors. */
  tensors?: ObjectRef;
}

export interface CheckpointView {
  id: string;
  stage: string;
  stage_name: string;
  step: number;
  state_bytes: number;
  parts: CheckpointPart[];
  committed_at: string;
  /** What is wrong with it, if it was found damaged; empty if not. */
  damage: string;
}

export interface CheckpointRequestView {
  id: string;
  stage: string;
  step: number;
}

/** `pairs`, `pairs.human`, `pairs.web`, `pairs.synthetic`, `dropped.web`, `dropped.synthetic`, `broken.REASON`. */
export type Counts = Record<string, number>;

export interface DatasetView {
  id: string;
  parent: string | null;
  stage: string;
  version: number;
  object: ObjectRef;
  vocab: ObjectRef;
  counts: Counts;
  created_at: string;
}

export interface EventView {
  id: number;
  at: string;
  job: string | null;
  stage: string | null;
  node: string | null;
  kind: string;
  message: string;
}

export type Duty = "serving" | "cordoned" | "draining";

export interface NodeView {
  id: string;
  name: string;
  host: string;
  alive: boolean;
  devices: number;
  busy: number;
  threads: number;
  fingerprint: string;
  /** Ranks on it that others wait for in every step. */
  stragglers: Straggler[];
  registered_at: string;
  /** Whether it takes work. */
  duty: Duty;
  /** What its ranks compute on; empty while its agent is silent. */
  hardware: Hardware;
}

export interface Hardware {
  memory_bytes: number | null;
  gpus: Gpu[];
}

/** A GPU; what its driver does not tell is null. */
export interface Gpu {
  uuid: string;
  name: string;
  memory_bytes: number;
  used_bytes: number | null;
  utilisation_percent: number | null;
  celsius: number | null;
  uncorrected_errors: number | null;
  last_xid: number | null;
}

/** Memory that a rank of a stage is foreseen to take. */
export interface Estimate {
  stage: StageKind;
  lanes: number;
  gpu_bytes: number;
  gpu_host_bytes: number;
  /** Null if the job's precision takes a GPU. */
  host_bytes: number | null;
}

/** A figure with its 95 % bootstrap interval. */
export interface Interval {
  value: number;
  low: number;
  high: number;
}

export interface Recall {
  at_1: Interval;
  at_5: Interval;
  at_10: Interval;
}

export interface Evaluation {
  pairs: number;
  text_to_image_itc: Recall;
  image_to_text_itc: Recall;
  text_to_image_itm: Recall;
  image_to_text_itm: Recall;
  bleu_4: number;
}

export interface ProblemBody {
  code: string;
  title: string;
  status: number;
  detail: string;
  problems?: { path: string; message: string }[];
}
