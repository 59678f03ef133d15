// An exported model as one file: a tar archive (POSIX.1-2017, pax, "ustar Interchange Format").
import { EngineError } from "./errors.js";

/** Bytes that can be read at any position without waiting, as a worker reads a Blob. */
export interface Bytes {
  readonly size: number;
  /** Returns bytes [offset, offset + length); throws an Error where they cannot be read. */
  read(offset: number, length: number): Uint8Array;
}

/** The files that the engine reads. */
export interface Files {
  /** Returns the size of a file in bytes, or -1 where there is none. */
  size(name: string): number;
  /** Returns bytes of a file, or null where they cannot be read. */
  read(name: string, offset: number, length: number): Uint8Array | null;
}

const BLOCK = 512;
const MAX_ENTRIES = 64;

/** The files of an archive, which are read from it when they are needed. */
export class Archive implements Files {
  private readonly entries = new Map<string, { offset: number; size: number }>();

  /** Throws an EngineError where the bytes are no archive, or end before it does. */
  constructor(private readonly bytes: Bytes) {
    for (let at = 0; at + BLOCK <= bytes.size; ) {
      const header = bytes.read(at, BLOCK);
      if (header[0] === 0) break; // The archive ends with zeros.
      const size = octal(header.subarray(124, 136));
      if (text(header.subarray(257, 262)) !== "ustar" || checksum(header) !== octal(header.subarray(148, 156)))
        throw new EngineError("damaged", "the model is damaged, or no model of tynda");
      const offset = at + BLOCK;
      if (offset + size > bytes.size) throw new EngineError("damaged", "the model is damaged: it is cut off");
      this.entries.set(text(header.subarray(0, 100)), { offset, size });
      if (this.entries.size > MAX_ENTRIES) throw new EngineError("damaged", "the model has too many files");
      at = offset + Math.ceil(size / BLOCK) * BLOCK;
    }
    if (!this.entries.has("manifest.txt")) throw new EngineError("damaged", "the file is no model of tynda");
  }

  size(name: string): number {
    return this.entries.get(name)?.size ?? -1;
  }

  read(name: string, offset: number, length: number): Uint8Array | null {
    const entry = this.entries.get(name);
    if (!entry || offset < 0 || length < 0 || offset + length > entry.size) return null;
    try {
      return this.bytes.read(entry.offset + offset, length);
    } catch {
      return null; // A Blob's file may be gone.
    }
  }
}

function text(field: Uint8Array): string {
  const end = field.indexOf(0);
  return String.fromCharCode(...(end < 0 ? field : field.subarray(0, end)));
}

function octal(field: Uint8Array): number {
  const digits = text(field).trim();
  return /^[0-7]{1,11}$/.test(digits) ? parseInt(digits, 8) : Number.NaN;
}

/** The sum of a header's bytes, where those of the checksum itself count as spaces. */
function checksum(header: Uint8Array): number {
  return header.reduce((sum, byte, i) => sum + (i >= 148 && i < 156 ? 32 : byte), 0);
}
