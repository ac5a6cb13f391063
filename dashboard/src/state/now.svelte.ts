// The present, for ages and durations: moves once a second.

const time = $state({ now: Date.now() });

setInterval(() => {
  if (document.visibilityState === "visible") time.now = Date.now();
}, 1000);

export const now = (): number => time.now;
