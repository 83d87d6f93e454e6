import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Wanted } from '../../src/definitions/rewrite.js';

/** The golden definitions: what goes in (`.in.xml`), what is wanted of it (`.wanted.json`), what comes out (`.out.xml`). */
export interface DefinitionCase {
  readonly name: string;
  readonly input: string;
  readonly wanted: Wanted;
  readonly inputPath: string;
  readonly outputPath: string;
}

const directory = fileURLToPath(new URL('../../../test/golden/definitions/', import.meta.url));

export function definitionCase(name: string): DefinitionCase {
  const path = (suffix: string): string => `${directory}${name}.${suffix}`;
  return {
    name,
    input: readFileSync(path('in.xml'), 'utf8'),
    wanted: JSON.parse(readFileSync(path('wanted.json'), 'utf8')) as Wanted,
    inputPath: path('in.xml'),
    outputPath: path('out.xml'),
  };
}

export function definitionCases(): readonly DefinitionCase[] {
  return readdirSync(directory).filter((file) => file.endsWith('.in.xml')).sort()
    .map((file) => definitionCase(file.slice(0, -'.in.xml'.length)));
}
