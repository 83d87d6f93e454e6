/** What a promise resolves to, or `late` if it takes longer; leaves no timer behind that would keep the process alive. */
export async function within<T, L>(milliseconds: number, promise: Promise<T>, late: L): Promise<T | L> {
  let timer: NodeJS.Timeout | undefined;
  const out = new Promise<L>((resolve) => { timer = setTimeout(() => { resolve(late); }, milliseconds); });
  try {
    return await Promise.race([promise, out]);
  } finally {
    clearTimeout(timer);
  }
}
