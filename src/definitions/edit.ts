import type { Span, XmlAttribute, XmlElement } from './xml.js';

/** Edits of a text by spans, collected first and applied at once. What no edit names stays byte for byte. */
export class TextEdits {
  private readonly edits: (Span & { readonly with: string })[] = [];

  constructor(private readonly text: string) {}

  get none(): boolean {
    return this.edits.length === 0;
  }

  replace(start: number, end: number, by: string): void {
    if (this.text.slice(start, end) !== by) this.edits.push({ start, end, with: by });
  }

  /** The edited text. Edits never overlap; that is the callers' duty and is checked. */
  apply(): string {
    let result = '';
    let at = 0;
    for (const edit of [...this.edits].sort((a, b) => a.start - b.start || a.end - b.end)) {
      if (edit.start < at) throw new Error(`two edits overlap at offset ${String(edit.start)}`);
      result += this.text.slice(at, edit.start) + edit.with;
      at = edit.end;
    }
    return result + this.text.slice(at);
  }

  setAttribute(element: XmlElement, name: string, value: string): void {
    const attribute = element.attributes.find((candidate) => candidate.name === name);
    if (attribute !== undefined) {
      if (attribute.value !== value) this.replaceAttribute(attribute, name, value);
      return;
    }
    const after = element.attributes.at(-1)?.end ?? element.start + 1 + element.name.length;
    const quote = element.attributes[0]?.quote ?? "'";
    this.replace(after, after, ` ${name}=${quote}${escapeXml(value, quote)}${quote}`);
  }

  /** Another name or value for an attribute, in its place and with its quotes. */
  replaceAttribute(attribute: XmlAttribute, name: string, value: string): void {
    if (attribute.name === name && attribute.value === value) return;
    const equals = this.text.slice(attribute.start + attribute.name.length, this.text.indexOf(attribute.quote, attribute.start));
    this.replace(attribute.start, attribute.end, `${name}${equals}${attribute.quote}${escapeXml(value, attribute.quote)}${attribute.quote}`);
  }

  /** Takes an attribute away with the white space before it. */
  removeAttribute(attribute: XmlAttribute): void {
    let start = attribute.start;
    while (/\s/.test(this.text.charAt(start - 1))) start -= 1;
    this.replace(start, attribute.end, '');
  }

  /** Takes an element away, with its line if it has lines to itself. Comments inside it take its place: they are somebody's words. */
  removeElement(element: XmlElement): void {
    const comments = asidesWithin(element).map(({ start, end }) => this.text.slice(start, end));
    const indent = this.indentOf(element);
    if (comments.length > 0) this.replace(element.start, element.end, comments.join(indent ?? ''));
    else if (indent !== undefined && /^[ \t]*(\r|\n|$)/.test(this.text.slice(element.end, element.end + 200))) this.replace(element.start - indent.length, element.end, '');
    else this.replace(element.start, element.end, '');
  }

  /** Puts a value in the place of an element's text, keeping white space and comments around it. */
  setText(element: XmlElement, value: string): void {
    if (element.text.trim() === value) return;
    const escaped = escapeXml(value, undefined);
    if (element.selfClosing) {
      const slash = this.text.lastIndexOf('/', element.end);
      let end = slash;
      while (/\s/.test(this.text.charAt(end - 1))) end -= 1;
      this.replace(end, element.end, `>${escaped}</${element.name}>`);
      return;
    }
    const written = element.runs.filter(({ start, end }) => this.text.slice(start, end).trim() !== '');
    const [place, ...rest] = written;
    if (place === undefined) this.replace(element.openEnd, element.openEnd, escaped);
    else this.replaceTrimmed(place, escaped);
    for (const run of rest) this.replaceTrimmed(run, '');
  }

  private replaceTrimmed({ start, end }: Span, by: string): void {
    const raw = this.text.slice(start, end);
    this.replace(start + raw.length - raw.trimStart().length, start + raw.trimEnd().length, by);
  }

  /** Adds markup right before a child, on a line of its own if that child has one. */
  insertBefore(child: XmlElement, markup: string): void {
    this.replace(child.start, child.start, markup + (this.indentOf(child) ?? ''));
  }

  insertAfter(child: XmlElement, markup: string): void {
    this.replace(child.end, child.end, (this.indentOf(child) ?? '') + markup);
  }

  /** Adds nested elements as the last children, indented as the document is where that can be seen. */
  append(parent: XmlElement, lines: readonly { readonly depth: number; readonly markup: string }[]): void {
    const indent = this.indentOf(parent);
    const unit = indent?.includes('\t') === true ? '\t' : '  ';
    const laid = (depth: number): string => indent === undefined ? '' : indent + unit.repeat(depth);
    const body = lines.map(({ depth, markup }) => laid(depth) + markup).join('');
    if (parent.selfClosing) {
      const slash = this.text.lastIndexOf('/', parent.end);
      this.replace(slash, parent.end, `>${body}${laid(0)}</${parent.name}>`);
      return;
    }
    const inside = this.text.slice(parent.openEnd, parent.closeStart);
    const blankTail = inside.length - inside.trimEnd().length;
    const at = parent.closeStart - blankTail;
    this.replace(at, at, body + (blankTail === 0 ? laid(0) : ''));
  }

  /** Line break and indentation in front of something that begins its line; undefined if it does not. */
  indentOf({ start }: Span): string | undefined {
    return /\r?\n[ \t]*$/.exec(this.text.slice(0, start))?.[0];
  }
}

/** Comments and processing instructions anywhere inside, in document order. */
export function asidesWithin(element: XmlElement): readonly Span[] {
  return [...element.asides, ...element.children.flatMap(asidesWithin)].sort((a, b) => a.start - b.start);
}

/** Escapes text for an attribute in the given quotes, or for element content. */
export function escapeXml(value: string, quote: string | undefined): string {
  return value.replace(/[&<>"'\t\r\n]/g, (character) => {
    switch (character) {
      case '&': return '&amp;';
      case '<': return '&lt;';
      case '>': return quote === undefined ? '&gt;' : character;
      case '"': return quote === '"' ? '&quot;' : character;
      case "'": return quote === "'" ? '&apos;' : character;
      default: return quote === undefined && character !== '\r' ? character : `&#${String(character.charCodeAt(0))};`;
    }
  });
}
