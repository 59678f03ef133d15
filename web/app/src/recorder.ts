// The microphone: mono samples at 16 kHz.
import { RATE } from "../../engine/src/index.js";
import { joined } from "../../engine/src/stream.js";
import { Problem } from "./problem.js";

export interface RecorderOptions {
  maxSeconds: number;
  /** Called ten times in a second with the level, from 0 (60 dB below the maximum) to 1, and the time. */
  onLevel: (level: number, seconds: number) => void;
  /** Called with the samples of each block, but only where the browser records at 16 kHz. */
  onSamples: (samples: Float32Array) => void;
  /** Whether the recording is kept until its end. */
  isKept: boolean;
  /** Called once the recording is as long as it may be. */
  onFull: () => void;
}

const QUIETEST_DB = -60;
const METER_SECONDS = 0.1;

/** A recording that runs. */
export class Recorder {
  private readonly blocks: Float32Array[] = [];
  private count = 0;
  private isEnded = false;
  // The energy of the samples that the meter has not shown yet, and their number.
  private energy = 0;
  private measured = 0;

  private constructor(
    private readonly stream: MediaStream,
    private readonly context: AudioContext,
  ) {}

  /** Starts to record; rejects with a Problem where there is no microphone. */
  static async start(options: RecorderOptions): Promise<Recorder> {
    const stream = await microphone();
    try {
      const { context, source } = connected(stream);
      await context.audioWorklet.addModule("/capture.js");
      const recorder = new Recorder(stream, context);
      const node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
      node.port.onmessage = ({ data }: MessageEvent<Float32Array>) => recorder.add(data, options);
      source.connect(node).connect(context.destination); // The node's output is silence.
      await context.resume();
      return recorder;
    } catch {
      stream.getTracks().forEach((track) => track.stop());
      throw new Problem("errorMicrophone");
    }
  }

  /** Whether the browser records at 16 kHz. */
  get isLive(): boolean {
    return this.context.sampleRate === RATE;
  }

  /** Ends the recording, and returns its samples. */
  async stop(): Promise<Float32Array> {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    this.isEnded = true; // Blocks may still come.
    const samples = joined(this.blocks);
    return rate === RATE ? samples : resampled(samples, rate);
  }

  private add(block: Float32Array, { maxSeconds, isKept, onLevel, onSamples, onFull }: RecorderOptions): void {
    const { sampleRate } = this.context;
    const max = Math.floor(maxSeconds * sampleRate);
    if (this.isEnded || this.count >= max) return;
    const fitting = block.subarray(0, max - this.count);
    if (isKept) this.blocks.push(fitting);
    this.count += fitting.length;
    if (sampleRate === RATE) onSamples(fitting);
    this.energy += block.reduce((sum, x) => sum + x * x, 0);
    this.measured += block.length;
    if (this.measured >= METER_SECONDS * sampleRate) {
      const level = 1 - (10 * Math.log10(this.energy / this.measured + 1e-12)) / QUIETEST_DB;
      onLevel(Math.max(0, Math.min(1, level)), this.count / sampleRate);
      this.energy = this.measured = 0;
    }
    if (this.count === max) onFull();
  }
}

async function microphone(): Promise<MediaStream> {
  if (!navigator.mediaDevices) throw new Problem("errorInsecure");
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    if (name === "NotAllowedError") throw new Problem("errorRefused");
    if (name === "NotFoundError") throw new Problem("errorNoMicrophone");
    throw new Problem("errorMicrophone");
  }
}

/** A context with the microphone; some browsers connect one at its own rate only. */
function connected(stream: MediaStream): { context: AudioContext; source: AudioNode } {
  const context = new AudioContext({ sampleRate: RATE });
  try {
    return { context, source: context.createMediaStreamSource(stream) };
  } catch {
    void context.close();
    const own = new AudioContext();
    return { context: own, source: own.createMediaStreamSource(stream) };
  }
}

async function resampled(samples: Float32Array, rate: number): Promise<Float32Array> {
  const count = Math.floor((samples.length * RATE) / rate);
  if (count === 0) return new Float32Array(0);
  const context = new OfflineAudioContext(1, count, RATE);
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples as Float32Array<ArrayBuffer>, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}
