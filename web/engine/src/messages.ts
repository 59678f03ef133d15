// The messages between a page and its worker.

export type Request =
  | { kind: "load"; id: number; url: string }
  | { kind: "transcribe"; id: number; samples: Float32Array };

export type Answer =
  | { kind: "progress"; id: number; loaded: number; total: number | null }
  | { kind: "loaded"; id: number; maxSamples: number }
  | { kind: "text"; id: number; text: string; seconds: number; memory: number }
  | { kind: "failed"; id: number; message: string };
