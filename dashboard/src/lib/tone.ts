// Colours by meaning. A tone is a class and a custom property; words that are new to the dashboard are calm.

export type Tone = "run" | "ok" | "wait" | "start" | "bad" | "idle";

const STATES: Record<string, Tone> = {
  queued: "wait",
  waiting: "wait",
  blocked: "idle",
  starting: "start",
  running: "run",
  succeeded: "ok",
  done: "ok",
  failed: "bad",
  cancelled: "idle",
};

export const stateTone = (state: string): Tone => STATES[state] ?? "idle";

/** Tone of an event from its machine-readable kind. */
export function eventTone(kind: string): Tone {
  if (/fail|lost|broken|dead|refus|error|non-finite|gave-up|expired|apart/.test(kind)) return "bad";
  if (/succeed|done|finish|commit|ready|made|together/.test(kind)) return "ok";
  if (/generation|rejoin|join|placed|planned/.test(kind)) return "start";
  if (/start|run|regist|submit/.test(kind)) return "run";
  if (/wait|left-out|little|cancel|drain|cordon|pause|preempt/.test(kind)) return "wait";
  return "idle";
}
