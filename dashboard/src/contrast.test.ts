// Words in any of the colours can be read on any ground, by day and by night: WCAG 2.2 asks for 4.5 to 1.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const css = readFileSync(new URL("app.css", import.meta.url), "utf8");
const [day = "", night = ""] = css.split("@media (prefers-color-scheme: dark)");

const coloursOf = (part: string): Record<string, string> =>
  Object.fromEntries([...part.matchAll(/--([\w-]+): #([0-9a-f]{6});/g)].map(([, name, hex]) => [name, hex]));

function luminance(hex: string): number {
  const [red = 0, green = 0, blue = 0] = [0, 2, 4].map((at) => {
    const share = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(a: string, b: string): number {
  const [dark = 0, light = 0] = [luminance(a), luminance(b)].toSorted((one, other) => one - other);
  return (light + 0.05) / (dark + 0.05);
}

test.each([
  ["day", coloursOf(day)],
  ["night", { ...coloursOf(day), ...coloursOf(night) }],
])("words can be read by %s", (_, colours) => {
  for (const words of ["ink", "soft", "accent", "run", "ok", "wait", "start", "bad", "idle"]) {
    for (const ground of ["card", "page", "sunk"]) {
      const found = contrast(colours[words] ?? "", colours[ground] ?? "");
      expect(found, `--${words} on --${ground}`).toBeGreaterThanOrEqual(4.5);
    }
  }
});
