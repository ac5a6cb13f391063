// Reads answers into their types at the border, so that no page has to doubt a field: what is missing or of the wrong
// type becomes the empty value of its kind, and unknown words of an enum pass through to be shown as they are.

import type {
  CheckpointPart,
  CheckpointView,
  Counts,
  DatasetView,
  Duty,
  Estimate,
  EpochView,
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

const fields = (raw: unknown): Fields => (typeof raw === "object" && raw !== null ? (raw as Fields) : {});
const text = (raw: unknown): string => (typeof raw === "string" ? raw : "");
const textOrNull = (raw: unknown): string | null => (typeof raw === "string" ? raw : null);
const number = (raw: unknown): number => (typeof raw === "number" ? raw : 0);
const numberOrNull = (raw: unknown): number | null => (typeof raw === "number" ? raw : null);
/** JSON has no NaN: a loss that is not finite arrives as null, and must not be drawn as 0. */
const figure = (raw: unknown): number => (typeof raw === "number" ? raw : Number.NaN);

/** Reads a list, item by item; anything else is empty. */
export function readList<T>(raw: unknown, item: (raw: unknown) => T): T[] {
  return Array.isArray(raw) ? raw.map(item) : [];
}

export function readPage<T>(raw: unknown, item: (raw: unknown) => T): Page<T> {
  const page = fields(raw);
  return { items: readList(page.items, item), next: textOrNull(page.next) };
}

export function readJob(raw: unknown): JobView {
  const job = fields(raw);
  return {
    id: text(job.id),
    name: text(job.name),
    kind: text(job.kind) as JobView["kind"],
    state: text(job.state) as JobView["state"],
    reason: text(job.reason),
    submitted_at: text(job.submitted_at),
    finished_at: textOrNull(job.finished_at),
  };
}

export function readJobDetail(raw: unknown): JobDetail {
  const job = fields(raw);
  return {
    ...readJob(raw),
    spec: job.spec ?? null,
    stages: readList(job.stages, readStage),
    memory: readList(job.memory, readEstimate),
  };
}

function readEstimate(raw: unknown): Estimate {
  const estimate = fields(raw);
  return {
    stage: text(estimate.stage) as Estimate["stage"],
    lanes: number(estimate.lanes),
    gpu_bytes: number(estimate.gpu_bytes),
    gpu_host_bytes: number(estimate.gpu_host_bytes),
    host_bytes: numberOrNull(estimate.host_bytes),
  };
}

export function readStage(raw: unknown): StageView {
  const stage = fields(raw);
  return {
    id: text(stage.id),
    name: text(stage.name),
    kind: text(stage.kind) as StageView["kind"],
    state: text(stage.state) as StageView["state"],
    reason: text(stage.reason),
    needs: readList(stage.needs, text),
    generation: number(stage.generation),
    world: number(stage.world),
    peak_rank_bytes: numberOrNull(stage.peak_rank_bytes),
    done: number(stage.done),
    total: numberOrNull(stage.total),
    epochs: readList(stage.epochs, readEpoch),
    evaluation: readEvaluation(stage.evaluation),
    details: stage.details ? readObject(stage.details) : null,
    stragglers: readList(stage.stragglers, readStraggler),
    started_at: textOrNull(stage.started_at),
    finished_at: textOrNull(stage.finished_at),
  };
}

function readStraggler(raw: unknown): Straggler {
  const straggler = fields(raw);
  return {
    stage: text(straggler.stage),
    generation: number(straggler.generation),
    rank: number(straggler.rank),
    node: text(straggler.node),
    node_name: text(straggler.node_name),
    lane_ms: number(straggler.lane_ms),
    usual_lane_ms: number(straggler.usual_lane_ms),
  };
}

/** The lanes of a job's spec; 0 if it names none. */
export function readLanes(spec: unknown): number {
  return number(fields(fields(spec).lanes).count);
}

function readEpoch(raw: unknown): EpochView {
  const epoch = fields(raw);
  return {
    epoch: number(epoch.epoch),
    first_step: number(epoch.first_step),
    steps: number(epoch.steps),
    done: epoch.done === true,
    mean_itc: numberOrNull(epoch.mean_itc),
    mean_itm: numberOrNull(epoch.mean_itm),
    mean_lm: numberOrNull(epoch.mean_lm),
  };
}

export function readMetrics(raw: unknown): MetricsPage {
  const page = fields(raw);
  const rows = readList(page.rows, readStep);
  return { stage: text(page.stage), rows, next_step: number(page.next_step) };
}

function readStep(raw: unknown): StepMetrics {
  const row = fields(raw);
  return {
    step: number(row.step),
    epoch: number(row.epoch),
    itc: figure(row.itc),
    itm: figure(row.itm),
    lm: figure(row.lm),
    lr: figure(row.lr),
    alpha: figure(row.alpha),
    temperature: figure(row.temperature),
    grad_norm: figure(row.grad_norm),
  };
}

function readObject(raw: unknown): ObjectRef {
  const object = fields(raw);
  return { key: text(object.key), blake3: text(object.blake3), size_bytes: number(object.size_bytes) };
}

function readPart(raw: unknown): CheckpointPart {
  const part = fields(raw);
  return {
    step: number(part.step),
    part: number(part.part),
    parts: number(part.parts),
    offset_bytes: number(part.offset_bytes),
    state_bytes: number(part.state_bytes),
    object: readObject(part.object),
  };
}

export function readCheckpoint(raw: unknown): CheckpointView {
  const checkpoint = fields(raw);
  return {
    id: text(checkpoint.id),
    stage: text(checkpoint.stage),
    stage_name: text(checkpoint.stage_name),
    step: number(checkpoint.step),
    state_bytes: number(checkpoint.state_bytes),
    parts: readList(checkpoint.parts, readPart),
    committed_at: text(checkpoint.committed_at),
    damage: text(checkpoint.damage),
  };
}

export function readDataset(raw: unknown): DatasetView {
  const dataset = fields(raw);
  const counts: Counts = {};
  for (const [name, count] of Object.entries(fields(dataset.counts))) counts[name] = number(count);
  return {
    id: text(dataset.id),
    parent: textOrNull(dataset.parent),
    stage: text(dataset.stage),
    version: number(dataset.version),
    object: readObject(dataset.object),
    vocab: readObject(dataset.vocab),
    counts,
    created_at: text(dataset.created_at),
  };
}

export function readEvent(raw: unknown): EventView {
  const event = fields(raw);
  return {
    id: number(event.id),
    at: text(event.at),
    job: textOrNull(event.job),
    stage: textOrNull(event.stage),
    node: textOrNull(event.node),
    kind: text(event.kind),
    message: text(event.message),
  };
}

const DUTIES: readonly Duty[] = ["serving", "cordoned", "draining"];

export function readNode(raw: unknown): NodeView {
  const node = fields(raw);
  return {
    id: text(node.id),
    name: text(node.name),
    host: text(node.host),
    alive: node.alive === true,
    devices: number(node.devices),
    busy: number(node.busy),
    threads: number(node.threads),
    fingerprint: text(node.fingerprint),
    stragglers: readList(node.stragglers, readStraggler),
    registered_at: text(node.registered_at),
    duty: DUTIES.find((duty) => duty === node.duty) ?? "serving",
    hardware: readHardware(node.hardware),
  };
}

function readHardware(raw: unknown): Hardware {
  const hardware = fields(raw);
  return { memory_bytes: numberOrNull(hardware.memory_bytes), gpus: readList(hardware.gpus, readGpu) };
}

function readGpu(raw: unknown): Gpu {
  const gpu = fields(raw);
  return {
    uuid: text(gpu.uuid),
    name: text(gpu.name),
    memory_bytes: number(gpu.memory_bytes),
    used_bytes: numberOrNull(gpu.used_bytes),
    utilisation_percent: numberOrNull(gpu.utilisation_percent),
    celsius: numberOrNull(gpu.celsius),
    uncorrected_errors: numberOrNull(gpu.uncorrected_errors),
    last_xid: numberOrNull(gpu.last_xid),
  };
}

function readEvaluation(raw: unknown): Evaluation | null {
  if (typeof raw !== "object" || raw === null) return null;
  const evaluation = fields(raw);
  return {
    pairs: number(evaluation.pairs),
    text_to_image_itc: readRecall(evaluation.text_to_image_itc),
    image_to_text_itc: readRecall(evaluation.image_to_text_itc),
    text_to_image_itm: readRecall(evaluation.text_to_image_itm),
    image_to_text_itm: readRecall(evaluation.image_to_text_itm),
    bleu_4: figure(evaluation.bleu_4),
  };
}

function readRecall(raw: unknown): Recall {
  const recall = fields(raw);
  return { at_1: readInterval(recall.at_1), at_5: readInterval(recall.at_5), at_10: readInterval(recall.at_10) };
}

function readInterval(raw: unknown): Interval {
  const interval = fields(raw);
  return { value: figure(interval.value), low: figure(interval.low), high: figure(interval.high) };
}
