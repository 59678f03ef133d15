// The part of a download that has come, which outlives a cut connection and a closed page.

const CACHE = "tynda-parts";
const PARAMETER = "tynda-part";

/** The first bytes of a file, in pieces. They are kept only where the file has an entity tag. */
export class Part {
  readonly blobs: Blob[] = [];
  size = 0;
  /** What tells this version of the file from others (RFC 9110, 8.8.3); empty where it is unknown. */
  tag = "";

  private constructor(
    private readonly url: string,
    private readonly cache: Cache | undefined,
  ) {}

  /** Returns what there is of a file. */
  static async of(url: string): Promise<Part> {
    const part = new Part(url, await openCache(CACHE));
    for (let found; (found = await part.cache?.match(part.key).catch(() => undefined)); ) {
      const tag = found.headers.get("ETag") ?? "";
      // Another page may have begun a newer version.
      if (part.tag && tag !== part.tag) break;
      part.tag = tag;
      part.push(await found.blob());
    }
    return part;
  }

  /** Adds bytes that follow the others. Where there is no space, they are kept only as long as this. */
  async add(blob: Blob): Promise<void> {
    const { key } = this;
    this.push(blob);
    if (!this.tag) return;
    await this.cache?.put(key, new Response(blob, { headers: { ETag: this.tag } })).catch(() => undefined);
  }

  /** Removes the bytes, and those of other versions of the file, whose URLs differ in their query. */
  async clear(): Promise<void> {
    this.blobs.length = this.size = 0;
    this.tag = "";
    const path = this.url.split("?")[0];
    for (const { url } of (await this.cache?.keys().catch(() => undefined)) ?? [])
      if (url.split("?")[0] === path) await this.cache?.delete(url).catch(() => undefined);
  }

  private push(blob: Blob): void {
    this.blobs.push(blob);
    this.size += blob.size;
  }

  /** The address of the next piece in the cache. */
  private get key(): string {
    const key = new URL(this.url);
    key.searchParams.set(PARAMETER, String(this.blobs.length));
    return key.href;
  }
}

/** A cache, which pages have only where their connection is secure and storage is allowed. */
export async function openCache(name: string): Promise<Cache | undefined> {
  return "caches" in globalThis ? caches.open(name).catch(() => undefined) : undefined;
}
