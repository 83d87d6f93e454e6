/** What is used of WebAssembly here; the compiler's libraries for node lack it. */
declare const WebAssembly: {
  readonly Memory: new (size: { readonly initial: number; readonly maximum: number; readonly shared: true }) => { readonly buffer: SharedArrayBuffer };
};

const PAGE = 65536;

/** Zeroed memory that worker threads share and that begins at a page boundary, as O_DIRECT demands. Rounded up to 64 KiB. */
export function sharedPages(bytes: number): SharedArrayBuffer {
  const pages = Math.max(1, Math.ceil(bytes / PAGE));
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer;
}
