import assert from 'node:assert/strict';
import { access, readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { drActivate } from '../../src/commands/activate.js';
import { dr } from '../../src/commands/dr.js';
import { parseConfig } from '../../src/config/load.js';
import { validKeys } from '../../src/config/schema.js';
import { DrError, ERRORS } from '../../src/model/errors.js';
import { capturedTerminal } from '../fixtures/captured-terminal.js';
import { stagedActivation, stagedHead } from '../fixtures/staged-head.js';
import { CHECKOUT } from '../lab/layout.js';

interface Page {
  /** Path below the checkout. */
  readonly path: string;
  readonly text: string;
}

const read = async (path: string): Promise<Page> => ({ path, text: await readFile(join(CHECKOUT, path), 'utf8') });

/** Names of anchors that a Markdown renderer gives to headings. */
function anchors({ text }: Page): readonly string[] {
  return [...withoutBlocks(text).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading.toLowerCase().replace(/\[(.*?)\]\(.*?\)/g, '$1').replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-'));
}

function withoutBlocks(text: string): string {
  return text.replace(/^ *```[^]*?^ *```$/gm, '');
}

function blocks({ text }: Page, language: string): readonly string[] {
  return [...text.matchAll(/^```(\S*)\n([^]*?)^```$/gm)].filter(([, kind]) => kind === language).map(([, , block = '']) => block);
}

describe('the documentation', () => {
  let pages: readonly Page[];

  before(async () => {
    const docs = (await readdir(join(CHECKOUT, 'docs'))).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`);
    pages = await Promise.all([...docs, 'README.md', 'CHANGELOG.md', 'definitions/README.md', 'test/lab/README.md'].map(read));
  });

  const page = (path: string): Page => {
    const found = pages.find((one) => one.path === path);
    assert(found !== undefined, path);
    return found;
  };

  it('has every error code with its exit status, and no other', () => {
    const rows = [...page('docs/troubleshooting.md').text.matchAll(/^\| `([a-z-]+)` \| (\d+) \| (.*) \| (.*) \|$/gm)];
    const described = Object.fromEntries(rows.map(([, code = '', status]) => [code, Number(status)]));
    assert.deepEqual(described, { ...ERRORS });
    assert.equal(rows.length, Object.keys(ERRORS).length, 'a code has two rows');
    for (const [, code, , meaning = '', remedy = ''] of rows) assert(meaning.length > 5 && remedy.length > 2, code);
  });

  it('links only to pages and headings that are there', async () => {
    for (const { path, text } of pages) {
      for (const [, target = ''] of withoutBlocks(text).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^https?:/.test(target)) continue;
        const [file = '', anchor] = target.split('#');
        const at = file === '' ? path : relative(CHECKOUT, join(CHECKOUT, dirname(path), file));
        await assert.doesNotReject(access(join(CHECKOUT, at)), `${path} links to ${target}`);
        if (anchor !== undefined) assert(anchors(await read(at)).includes(anchor), `${path} links to ${target}; the headings there are ${anchors(await read(at)).join(', ')}`);
      }
    }
  });

  it('leads from the README to every page', () => {
    const { text } = page('README.md');
    for (const { path } of pages.filter((one) => one.path.startsWith('docs/'))) assert(text.includes(`(${path})`), path);
  });

  it('shows configurations that load', () => {
    let whole = 0;
    for (const one of pages) {
      for (const block of blocks(one, 'yaml').filter((text) => text.startsWith('version:'))) {
        whole++;
        const config = parseConfig(one.path, block);
        assert(config.jobs.size > 0, one.path);
      }
    }
    assert(whole >= 3, `${String(whole)} whole configurations were found`);
    assert.throws(() => parseConfig('x', 'version: 1\nanvils: {}\ntargets: {}\njobs: {web: {}}\n'), DrError);
  });

  it('describes every key of the configuration, and no other', () => {
    const { text } = page('docs/configuration.md');
    const section = (heading: string): string => {
      const begin = text.indexOf(`## ${heading}`);
      assert(begin >= 0, heading);
      const end = text.indexOf('\n## ', begin + 1);
      return text.slice(begin, end === -1 ? undefined : end);
    };
    const rows = (of: string): readonly string[] => [...section(of).matchAll(/^\| `([a-z_.]+)` \| .* \| .* \|$/gm)].map(([, key = '']) => key);
    const commands = validKeys(['anvils', 'x', 'commands']).map((key) => `commands.${key}`);
    assert.deepEqual([...rows('`anvils.<name>`')].sort(), [...validKeys(['anvils', 'x']).filter((key) => key !== 'commands'), ...commands].sort());
    assert.deepEqual([...rows('`targets.<name>`')].sort(), [...validKeys(['targets', 'x'])].sort());
    assert.deepEqual([...rows('`jobs.<name>`')].sort(), [...validKeys(['jobs', 'x'])].sort());
    assert.deepEqual([...rows('The file')].sort(), [...validKeys([]).filter((key) => key !== 'cache'), ...validKeys(['cache']).map((key) => `cache.${key}`)].sort());
  });

  const call = async (program: typeof dr, argv: readonly string[]) => {
    const terminal = capturedTerminal();
    const status = await program(argv, { terminal, env: {}, signal: new AbortController().signal,
      wiring: () => Promise.resolve({ head: stagedHead(1), activation: stagedActivation }) });
    return { status, stdout: terminal.stdout() };
  };

  it('has a heading for every command, and every option of dr-activate', async () => {
    const { text } = page('docs/commands.md');
    const commands = [...(await call(dr, ['--help'])).stdout.matchAll(/^ {2}([a-z]+) .*\[options\]/gm)].map(([, name = '']) => name);
    assert(commands.length >= 9, commands.join(' '));
    for (const command of [...commands.map((name) => `dr ${name}`), 'dr-activate']) assert(text.includes(`\n## ${command}\n`), command);
    const options = [...(await call(drActivate, ['--help'])).stdout.matchAll(/^ {2}(--[a-z-]+)/gm)].map(([, name = '']) => name);
    for (const option of options.filter((name) => name !== '--json')) assert(text.includes(`\`${option}`), option);
  });

  it('names commands and options that there are', async () => {
    const known = new Map<string, string>();
    for (const one of pages) {
      const calls = [...one.text.matchAll(/(?:^(?:\$ |# |[a-z0-9-]+[$#] +)?|`)(dr(?:-activate)?)((?: [A-Za-z0-9…_.="'/:-]+)*)/gm)];
      for (const [, program = '', rest = ''] of calls) {
        const words = rest.trim().split(' ').filter((word) => word !== '');
        const named = words.find((word) => !word.startsWith('-'));
        if (program === 'dr' && (named === undefined || ['agent', 'drill', 'restore'].includes(named))) continue;
        if (program === 'dr' && !/^[a-z]+$/.test(named ?? '')) continue;
        const argv = program === 'dr' ? [...named === undefined ? [] : [named], ...words[1] === 'preview' ? ['preview'] : []] : [];
        const key = [program, ...argv].join(' ');
        let help = known.get(key);
        if (help === undefined) {
          const { status, stdout } = await call(program === 'dr' ? dr : drActivate, [...argv, '--help']);
          help = status === 0 ? stdout : '';
          known.set(key, help);
        }
        assert(help !== '', `${one.path}: ${key}`);
        for (const option of words.filter((word) => /^--[a-z]/.test(word))) assert(help.includes(option.split('=')[0] ?? option), `${one.path}: ${key} ${option}`);
      }
    }
    assert(known.size >= 9, [...known.keys()].join(', '));
  });
});
