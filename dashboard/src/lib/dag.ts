// Places the stages of a job in columns: a stage stands one column right of the last stage it needs.

import type { StageView } from "../api/types";

export interface Place {
  stage: StageView;
  column: number;
  row: number;
}

export interface Edge {
  from: Place;
  to: Place;
}

export interface Layout {
  places: Place[];
  edges: Edge[];
  columns: number;
  rows: number;
}

/** Lays stages out. Needs that name no stage of the job, or come later in the order, are left out. */
export function layout(stages: StageView[]): Layout {
  const places = new Map<string, Place>();
  const edges: Edge[] = [];
  const height: number[] = [];
  for (const stage of stages) {
    const needed = stage.needs.map((id) => places.get(id)).filter((place) => place !== undefined);
    const column = needed.reduce((most, place) => Math.max(most, place.column + 1), 0);
    const row = height[column] ?? 0;
    height[column] = row + 1;
    const place: Place = { stage, column, row };
    places.set(stage.id, place);
    for (const from of needed) edges.push({ from, to: place });
  }
  return {
    places: [...places.values()],
    edges,
    columns: height.length,
    rows: height.reduce((most, rows) => Math.max(most, rows), 0),
  };
}

/** Names of the stages that one needs. */
export function neededNames(stage: StageView, stages: StageView[]): string[] {
  return stages.filter((other) => stage.needs.includes(other.id)).map((other) => other.name);
}
