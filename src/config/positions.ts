import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument, visit, type Document, type Node, type Pair } from 'yaml';

/** A place in a file; both count from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** A mistake in the file: where, at which key, and what is wrong. */
export interface Mistake {
  readonly at: Position;
  /** Keys from the top: `['jobs', 'web', 'copies']`; empty for the file as a whole. */
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** A parsed YAML file that still knows where everything was. */
export interface Source {
  /** Plain values; undefined if the syntax is broken. */
  readonly value: unknown;
  /** What is wrong with the syntax. */
  readonly mistakes: readonly Mistake[];
  /** Where the value at this path is, or its key, or the nearest thing around it that exists. */
  position(path: readonly PropertyKey[], what: 'key' | 'value'): Position;
}

export function parseSource(text: string): Source {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true, stringKeys: false });
  const place = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  const broken = [...document.errors, ...document.warnings].map((error) => ({
    at: place(error.pos[0]), path: [], message: explain(error.code, error.message, text.slice(error.pos[0])),
  }));
  // What follows on a line after its first mistake is mostly a consequence of it.
  const mistakes: Mistake[] = broken.filter((mistake, index) => broken.findIndex((other) => other.at.line === mistake.at.line) === index);
  visit(document, {
    Alias: (_key, alias) => {
      if (alias.resolve(document) !== undefined) return;
      mistakes.push({ at: place(startOf(alias) ?? 0), path: [], message: `there is no anchor &${alias.source} before this` });
    },
  });
  let value: unknown;
  if (mistakes.length === 0) {
    try {
      value = document.toJS({ maxAliasCount: 100 });
    } catch (error) {
      mistakes.push({ at: { line: 1, column: 1 }, path: [], message: error instanceof Error ? error.message : String(error) });
    }
  }
  return { value, mistakes, position: (path, what) => place(find(document, path, what)) };
}

/** YAML's mistakes that people make, in their words. */
function explain(code: string, message: string, rest: string): string {
  switch (code) {
    case 'DUPLICATE_KEY': return `the key ${JSON.stringify(/^[^:\n]*/.exec(rest)?.[0].trim() ?? '')} is here for the second time`;
    case 'TAB_AS_INDENT': return 'a tab is used for indentation; YAML wants spaces';
    case 'MULTIPLE_DOCS': return 'a second document begins here; the configuration is one document';
    case 'BAD_INDENT': return `the indentation is wrong: ${message}`;
    default: return `YAML syntax: ${message}`;
  }
}

function find(document: Document.Parsed, path: readonly PropertyKey[], what: 'key' | 'value'): number {
  let node: Node | null | undefined = document.contents;
  let found = startOf(node) ?? 0;
  for (const [depth, key] of path.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair: Pair | undefined = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(key));
      if (pair === undefined) return found; // the key is missing: the mapping's own place
      const keyAt = startOf(pair.key) ?? found;
      const valueAt = startOf(pair.value) ?? keyAt;
      const last = depth === path.length - 1;
      // A mapping's or a list's place is its key: that is where people look for it.
      found = (last && what === 'key') || isMap(pair.value) || isSeq(pair.value) ? keyAt : valueAt;
      node = isNode(pair.value) ? pair.value : undefined;
    } else if (isSeq(node)) {
      const item: unknown = node.items[Number(key)];
      found = startOf(item) ?? found;
      node = isNode(item) ? item : undefined;
    } else {
      return found;
    }
  }
  return found;
}

function startOf(node: unknown): number | undefined {
  return isNode(node) ? node.range?.[0] : undefined;
}
