import preact from "@preact/preset-vite";
import { defineConfig } from "vite";
import { VitePWA } from "vite-plugin-pwa";

// The files have fixed names: the service worker's list has the hash of each.
export default defineConfig({
  plugins: [
    preact(),
    VitePWA({
      registerType: "autoUpdate",
      injectRegister: null,
      manifest: {
        name: "tynda",
        short_name: "tynda",
        description: "Speech to text on this device",
        start_url: "/",
        display: "standalone",
        background_color: "#ffffff",
        theme_color: "#0b5d4e",
        icons: [
          { src: "icon-192.png", sizes: "192x192", type: "image/png" },
          { src: "icon-512.png", sizes: "512x512", type: "image/png" },
          { src: "icon-512.png", sizes: "512x512", type: "image/png", purpose: "maskable" },
        ],
      },
      workbox: {
        // Names have no digest, so that the service worker must know the contents.
        dontCacheBustURLsMatching: /^$/,
        globPatterns: ["**/*.{html,js,css,wasm,svg,png}"],
        inlineWorkboxRuntime: true,
        navigateFallback: "/index.html",
        navigateFallbackAllowlist: [/^\/$/],
        cleanupOutdatedCaches: true,
      },
    }),
  ],
  worker: {
    format: "es",
    rolldownOptions: {
      output: { entryFileNames: "assets/[name].js", assetFileNames: "assets/[name][extname]" },
    },
  },
  build: {
    outDir: "../../src/tynda/serve/web",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { app: "index.html", engine: "../engine/src/index.ts" },
      preserveEntrySignatures: "exports-only",
      output: {
        entryFileNames: "assets/[name].js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
});
