// Recordings as WAV files, 16-bit PCM, mono, 16 kHz.
import { RATE } from "../../engine/src/index.js";

const HEADER = 44;

/** Returns the file of samples from -1 to 1. */
export function encodeWav(samples: Float32Array): Blob {
  const view = new DataView(new ArrayBuffer(HEADER + 2 * samples.length));
  const text = (at: number, value: string) =>
    [...value].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => view.setInt16(HEADER + 2 * i, quantized(x), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Returns the samples that a recording's file has, so that its text can be found again. */
export function asStored(samples: Float32Array): Float32Array {
  return samples.map((x) => quantized(x) / 32768);
}

function quantized(x: number): number {
  return Math.max(-32768, Math.min(32767, Math.round(x * 32768)));
}

/** Returns the samples of a file that `encodeWav` has made. */
export async function decodeWav(wav: Blob): Promise<Float32Array> {
  const view = new DataView(await wav.arrayBuffer());
  const count = (view.byteLength - HEADER) / 2;
  return Float32Array.from({ length: count }, (_, i) => view.getInt16(HEADER + 2 * i, true) / 32768);
}
