// What a node is there for, in the words of `medley nodes`.

import type { NodeView } from "../api/types";
import type { Tone } from "./tone";

export type Standing = "alive" | "cordoned" | "draining" | "drained" | "lost";

export function standing(node: NodeView): Standing {
  if (!node.alive) return "lost";
  if (node.duty === "draining") return node.busy > 0 ? "draining" : "drained";
  return node.duty === "cordoned" ? "cordoned" : "alive";
}

/** A node that takes no work is not missed when it is lost. */
export function nodeTone(node: NodeView): Tone {
  if (!node.alive) return node.duty === "serving" ? "bad" : "idle";
  return node.duty === "serving" ? "ok" : "wait";
}

/** What follows from where it stands; empty for a node that works. */
export function consequence(node: NodeView): string {
  switch (standing(node)) {
    case "alive":
      return "";
    case "cordoned":
      return "It keeps what it has and takes nothing new";
    case "draining":
      return "What it has goes to other nodes";
    case "drained":
      return "It has nothing left and takes nothing new: it can be switched off";
    case "lost":
      return "Its agent is not heard";
  }
}
