import { DOMParser } from '@xmldom/xmldom';
import type { Element as DomElement, Node as DomNode } from '@xmldom/xmldom';
import { DrError } from '../model/errors.js';

/**
 * Domain XML as elements that know where in the text they stand, so that an edit can leave every other byte alone. No parser that
 * serializes keeps quotes, spacing, CDATA and entities; therefore the text itself is edited and this only locates. `@xmldom/xmldom` reads the
 * same text: a definition that the two understand differently is refused.
 */

/** Offsets into the text: from `start` up to, not including, `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

export interface XmlAttribute extends Span {
  readonly name: string;
  /** Decoded. */
  readonly value: string;
  readonly quote: string;
}

export interface XmlElement extends Span {
  /** As written, prefix included. */
  readonly name: string;
  readonly attributes: readonly XmlAttribute[];
  readonly children: readonly XmlElement[];
  /** Comments and processing instructions directly inside. */
  readonly asides: readonly Span[];
  /** Character data directly inside, CDATA sections included, as written. */
  readonly runs: readonly Span[];
  /** Character data directly inside, decoded. */
  readonly text: string;
  /** Just after the `>` of the start tag. */
  readonly openEnd: number;
  /** At the `</` of the end tag; `end` when there is none. */
  readonly closeStart: number;
  readonly selfClosing: boolean;
}

export interface XmlText {
  readonly text: string;
  readonly root: XmlElement;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer U)[] ? U[] : T[K] };

const NAME = /[A-Za-z_\u0080-\uffff][-A-Za-z0-9_.:\u00b7\u0080-\uffff]*/y;
const SPACE = /[ \t\r\n]+/y;
/** Exactly what XML forbids. */
const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/**
 * Reads a definition. `what` names it in messages (`the definition of Web01`). Throws `definition-unusable` when the text is not
 * well-formed, declares a document type or entities, or an encoding other than UTF-8.
 */
export function parseXml(text: string, what: string): XmlText {
  const root = new Scanner(text, what).document();
  askReferee(text, root, what);
  return { text, root };
}

export function unusable(what: string, why: string, hint = 'Correct the definition (virt-xml-validate shows what libvirt thinks of it).'): DrError {
  return new DrError('definition-unusable', `${what} can't be used: ${why}. Nothing was written.`, hint);
}

/** The first attribute of that name; its decoded value, or undefined. */
export function attributeOf(element: XmlElement | undefined, name: string): string | undefined {
  return element?.attributes.find((attribute) => attribute.name === name)?.value;
}

/** Elements reached by a path of names from an element, in document order. */
export function all(element: XmlElement, ...path: readonly string[]): readonly XmlElement[] {
  return path.reduce<readonly XmlElement[]>((reached, name) =>
    reached.flatMap((parent) => parent.children.filter((child) => child.name === name)), [element]);
}

export function first(element: XmlElement | undefined, ...path: readonly string[]): XmlElement | undefined {
  return element === undefined ? undefined : all(element, ...path)[0];
}

class Scanner {
  private at: number;

  constructor(private readonly text: string, private readonly what: string) {
    this.at = text.startsWith('\ufeff') ? 1 : 0;
  }

  document(): XmlElement {
    const bad = FORBIDDEN.exec(this.text);
    if (bad !== null) throw this.fail('a character that XML does not allow', bad.index);
    if (/^<\?xml[ \t\r\n]/.test(this.text.slice(this.at, this.at + 6))) this.declaration();
    let root: XmlElement | undefined;
    while (this.at < this.text.length) {
      if (this.skip(SPACE) !== '') continue;
      if (this.sees('<!--')) this.comment();
      else if (this.sees('<?')) this.instruction();
      else if (this.sees('<!')) throw this.fail('a document type declaration (entities are not accepted)');
      else if (this.sees('<') && root === undefined) root = this.tree();
      else throw this.fail(root === undefined ? 'text before the first element' : 'more after the end of the first element');
    }
    if (root === undefined) throw this.fail('no element at all');
    return root;
  }

  private declaration(): void {
    const start = this.at;
    const end = this.text.indexOf('?>', start);
    if (end < 0) throw this.fail('an unfinished XML declaration');
    const encoding = /[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*(["'])(.*?)\1/.exec(this.text.slice(start, end))?.[2];
    if (encoding !== undefined && !/^(utf-?8|us-ascii)$/i.test(encoding)) throw this.fail(`the encoding ${encoding}; only UTF-8 is read`);
    this.at = end + 2;
  }

  private tree(): XmlElement {
    const open: Mutable<XmlElement>[] = [];
    for (;;) {
      const parent = open.at(-1);
      const start = this.at;
      if (start >= this.text.length) throw this.fail(`<${parent?.name ?? ''}> is not closed`);
      if (this.sees('</')) {
        this.at += 2;
        const name = this.name();
        this.skip(SPACE);
        if (name !== parent?.name) throw this.fail(`</${name}> where </${parent?.name ?? ''}> was expected`, start);
        this.expect('>');
        parent.closeStart = start;
        parent.end = this.at;
        open.pop();
        if (open.length === 0) return parent;
      } else if (parent !== undefined && this.sees('<!--')) {
        this.comment();
        parent.asides.push({ start, end: this.at });
      } else if (parent !== undefined && this.sees('<?')) {
        this.instruction();
        parent.asides.push({ start, end: this.at });
      } else if (parent !== undefined && this.sees('<![CDATA[')) {
        this.at = this.find(']]>', 'an unfinished CDATA section');
        parent.runs.push({ start, end: this.at });
        parent.text += this.text.slice(start + 9, this.at - 3).replace(/\r\n?/g, '\n');
      } else if (this.sees('<!')) {
        throw this.fail('a declaration inside the document');
      } else if (this.sees('<')) {
        const element = this.startTag();
        parent?.children.push(element);
        if (!element.selfClosing) open.push(element);
        else if (parent === undefined) return element;
      } else if (parent !== undefined) {
        const next = this.text.indexOf('<', start);
        this.at = next < 0 ? this.text.length : next;
        const raw = this.text.slice(start, this.at);
        if (raw.includes(']]>')) throw this.fail('"]]>" outside a CDATA section', start + raw.indexOf(']]>'));
        parent.runs.push({ start, end: this.at });
        parent.text += this.decode(raw.replace(/\r\n?/g, '\n'), start);
      }
    }
  }

  private startTag(): Mutable<XmlElement> {
    const start = this.at;
    this.at += 1;
    const name = this.name();
    const attributes: XmlAttribute[] = [];
    for (;;) {
      const space = this.skip(SPACE);
      const selfClosing = this.sees('/>');
      if (selfClosing || this.sees('>')) {
        this.at += selfClosing ? 2 : 1;
        return { name, attributes, children: [], asides: [], runs: [], text: '', start, openEnd: this.at, closeStart: this.at, end: this.at, selfClosing };
      }
      if (space === '') throw this.fail(`something unexpected in the tag <${name}>`);
      const attribute = this.attribute();
      if (attributes.some((other) => other.name === attribute.name)) throw this.fail(`the attribute ${attribute.name} twice in <${name}>`, attribute.start);
      attributes.push(attribute);
    }
  }

  private attribute(): XmlAttribute {
    const start = this.at;
    const name = this.name();
    this.skip(SPACE);
    this.expect('=');
    this.skip(SPACE);
    const quote = this.text.charAt(this.at);
    if (quote !== '"' && quote !== "'") throw this.fail(`the attribute ${name} without quotes`);
    const from = this.at + 1;
    const to = this.text.indexOf(quote, from);
    if (to < 0) throw this.fail(`the attribute ${name} without a closing quote`);
    const raw = this.text.slice(from, to);
    if (raw.includes('<')) throw this.fail(`"<" in the attribute ${name}`);
    this.at = to + 1;
    return { name, value: this.decode(raw.replace(/\r\n|[\t\r\n]/g, ' '), from), quote, start, end: this.at };
  }

  private comment(): void {
    const start = this.at;
    this.at += 4;
    const dashes = this.text.indexOf('--', this.at);
    if (dashes < 0) throw this.fail('an unfinished comment', start);
    if (this.text.charAt(dashes + 2) !== '>') throw this.fail('"--" inside a comment', dashes);
    this.at = dashes + 3;
  }

  private instruction(): void {
    const start = this.at;
    this.at += 2;
    const name = this.name();
    if (name.toLowerCase() === 'xml') throw this.fail('an XML declaration that is not at the very beginning', start);
    if (!this.sees('?>') && this.skip(SPACE) === '') throw this.fail('a malformed processing instruction', start);
    this.at = this.find('?>', 'an unfinished processing instruction');
  }

  private decode(raw: string, start: number): string {
    return raw.replace(/&([^;&]*)(;?)/g, (whole, name: string, semicolon: string) => {
      const known: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };
      const number = /^#(?:x([0-9A-Fa-f]+)|([0-9]+))$/.exec(name);
      const code = number === null ? undefined : number[1] === undefined ? Number(number[2]) : Number.parseInt(number[1], 16);
      const decoded = code === undefined ? (Object.hasOwn(known, name) ? known[name] : undefined) : code <= 0x10ffff ? String.fromCodePoint(code) : undefined;
      if (semicolon === '' || decoded === undefined || FORBIDDEN.test(decoded)) throw this.fail(`the unknown entity ${whole}`, start);
      return decoded;
    });
  }

  private sees(what: string): boolean {
    return this.text.startsWith(what, this.at);
  }

  private expect(what: string): void {
    if (!this.sees(what)) throw this.fail(`"${what}" is missing`);
    this.at += what.length;
  }

  private find(what: string, otherwise: string): number {
    const found = this.text.indexOf(what, this.at);
    if (found < 0) throw this.fail(otherwise);
    return found + what.length;
  }

  private name(): string {
    const name = this.skip(NAME);
    if (name === '') throw this.fail('a name was expected');
    return name;
  }

  private skip(pattern: RegExp): string {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text)?.[0] ?? '';
    this.at += found.length;
    return found;
  }

  private fail(why: string, at = this.at): DrError {
    const before = this.text.slice(0, at).split(/\r\n?|\n/);
    const place = `line ${String(before.length)}, column ${String((before.at(-1)?.length ?? 0) + 1)}`;
    return unusable(this.what, `it is not well-formed XML: ${why} (${place})`);
  }
}

/** xmldom breaks lines at these two as XML 1.1 would; libvirt's parser does not. The comparison leaves them out. */
const plain = (value: string | null | undefined): string => (value ?? '').replace(/[\u0085\u2028]/g, ' ');

/** What both parsers must agree on: every element with its attributes and the text directly inside, in document order. */
function* summary(element: XmlElement): Generator<string> {
  yield JSON.stringify([element.name, plain(element.text), ...element.attributes.map(({ name, value }) => [name, plain(value)])]);
  for (const child of element.children) yield* summary(child);
}

function* refereeSummary(element: DomElement): Generator<string> {
  const nodes = Array.from({ length: element.childNodes.length }, (_, index) => element.childNodes.item(index))
    .filter((node): node is DomNode => node !== null);
  const attributes = Array.from({ length: element.attributes.length }, (_, index) => element.attributes.item(index));
  const text = nodes.filter((node) => node.nodeType === 3 || node.nodeType === 4).map((node) => node.nodeValue ?? '').join('');
  yield JSON.stringify([element.nodeName, plain(text), ...attributes.map((attribute) => [attribute?.name, plain(attribute?.value)])]);
  for (const node of nodes) if (node.nodeType === 1) yield* refereeSummary(node as DomElement);
}

function askReferee(text: string, root: XmlElement, what: string): void {
  let referee: DomElement | null;
  try {
    const parser = new DOMParser({ onError: (level, message) => { throw new Error(`${level}: ${message}`); } });
    referee = parser.parseFromString(plain(text.replace(/^\ufeff/, '')), 'text/xml').documentElement;
  } catch (error) {
    const message = error instanceof Error ? error.message.split('\n')[0] ?? '' : String(error);
    throw unusable(what, `it is not well-formed XML (${message})`);
  }
  const ours = [...summary(root)];
  const theirs = referee === null ? [] : [...refereeSummary(referee)];
  const apart = ours.findIndex((line, index) => line !== theirs[index]);
  if (apart >= 0 || ours.length !== theirs.length) {
    throw unusable(what, `two XML parsers understand it differently at ${ours[apart] ?? 'its end'}`, 'Simplify the definition at that place, or report this.');
  }
}
