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
  if (/fail|lost|damage|differ|apart/.test(kind)) return "bad";
  if (/straggler|not-written|left|little|wait|cancel|drain|cordon|pause/.test(kind)) return "wait";
  if (/succeed|done|commit|made|back|serves|together/.test(kind)) return "ok";
  if (/placed|grows|shrinks|moves/.test(kind)) return "start";
  if (/start|run|regist|submit/.test(kind)) return "run";
  return "idle";
}
