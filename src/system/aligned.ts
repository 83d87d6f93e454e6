/** What is used of WebAssembly here; the compiler's libraries for node lack it. */
declare const WebAssembly: { readonly Memory: new (size: { readonly initial: number }) => { readonly buffer: ArrayBuffer } };

const PAGE = 65536;

/** A buffer that begins at a page boundary, as O_DIRECT demands: a WebAssembly memory is one. `bytes` is rounded up to 64 KiB. */
export function alignedBuffer(bytes: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new WebAssembly.Memory({ initial: Math.max(1, Math.ceil(bytes / PAGE)) }).buffer);
}
