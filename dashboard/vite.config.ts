import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// The coordinator serves the page under `default-src 'self'`: no asset may become a data: URL and no script inline.
export default defineConfig({
  plugins: [svelte()],
  base: "./",
  build: { assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: "es2022" },
  server: { proxy: { "/api": process.env.MEDLEY_URL ?? "http://127.0.0.1:7799" } },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
