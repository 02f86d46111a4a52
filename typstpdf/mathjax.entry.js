/* MathJax 3.2.2, (c) The MathJax Consortium; mhchemParser, (c) Martin Hensel.
   Both under the Apache License 2.0: see mathjax.LICENSE. */

// MathJax for QuickJS: formulas in TeX become drawings in SVG.
//
// `mathjax.js` is this file with all that it requires. To make it anew, here:
//
//   npm install --no-save mathjax-full@3.2.2 esbuild@0.28.2
//   npx esbuild mathjax.entry.js --bundle --minify --outfile=mathjax.js \
//     --tsconfig-raw='{"compilerOptions": {"useDefineForClassFields": false}}' \
//     --banner:js="$(head -2 mathjax.entry.js)"
//
// Not of MathJax's own JavaScript, which is for old browsers, and slower.

import {TeX} from 'mathjax-full/ts/input/tex.ts';
import {MathML} from 'mathjax-full/ts/input/mathml.ts';
import {AllPackages} from 'mathjax-full/ts/input/tex/AllPackages.ts';
import {AbstractMmlNode, TEXCLASS} from
  'mathjax-full/ts/core/MmlTree/MmlNode.ts';
import {MmlFactory} from 'mathjax-full/ts/core/MmlTree/MmlFactory.ts';
import {MmlMrow} from 'mathjax-full/ts/core/MmlTree/MmlNodes/mrow.ts';
import {SVG} from 'mathjax-full/ts/output/svg.ts';
import {SVGWrapper} from 'mathjax-full/ts/output/svg/Wrapper.ts';
import {SVGmtable} from 'mathjax-full/ts/output/svg/Wrappers/mtable.ts';
import {liteAdaptor} from 'mathjax-full/ts/adaptors/liteAdaptor.ts';
import {LiteParser} from 'mathjax-full/ts/adaptors/lite/Parser.ts';

const LOGO = 'T\\kern-.14em\\lower.5ex{E}\\kern-.115em X';
const jax = new TeX({
  // This one measures what a browser has drawn.
  packages: AllPackages.filter((name) => name !== 'bussproofs'),
  tags: 'ams',
  ignoreDuplicateLabels: true,
  // Known to TeX, and the logos so that words can hold them.
  macros: {
    gdef: '\\def',
    global: '',
    long: '',
    require: ['', 1],
    bm: ['\\boldsymbol{#1}', 1],
    P: '\\unicode{xB6}',
    TeX: `\\textrm{$\\rm ${LOGO}$}`,
    LaTeX: '\\textrm{$\\rm L\\kern-.325em\\raise.21em{\\scriptstyle A}' +
      `\\kern-.17em ${LOGO}$}`,
  },
  formatError: (_, error) => {
    throw error;
  },
});
// A row has a number if it has a label, or a tag of its own.
const tags = jax.parseOptions.tags;
const autoTag = tags.autoTag;
tags.autoTag = () => tags.label && autoTag.call(tags);

jax.setMmlFactory(new MmlFactory());
const options = jax.parseOptions.options;
const textMacros = options.internalMath;

// Quotes are escaped in every attribute, in a style as well.
LiteParser.CDATA_ATTR = {};
const adaptor = liteAdaptor();
adaptor.document = adaptor.parse('');
adaptor.parser.protectAttribute = (text) =>
  adaptor.parser.protectHTML(String(text)).replace(/"/g, '&quot;');
const mathml = new MathML();
mathml.setAdaptor(adaptor);
mathml.setMmlFactory(jax.mmlFactory);
// Damaged MathML is not drawn.
AbstractMmlNode.prototype.mError = (said) => {
  throw Error(said);
};
const painter = new SVG({fontCache: 'none'});
painter.setAdaptor(adaptor);
painter.document = {options: {}};

// Each operator asks whether it is alone: so do not count them all.
MmlMrow.prototype.nonSpaceLength = function () {
  const seen = (child) => child && !child.isSpacelike;
  const first = this.childNodes.findIndex(seen);
  return first < 0 ? 0 : this.childNodes.slice(first + 1).some(seen) ? 2 : 1;
};

// Links, classes and the like mean nothing here: no attribute of a notebook
// becomes one of the drawing.
SVGWrapper.prototype.createSVGnode = function (parent) {
  return this.element = adaptor.append(parent, painter.svg('g'));
};
SVGWrapper.prototype.handleAttributes = () => {};

// Letters and the most usual signs are text. Others are drawn, as they may
// have any size, and are text that is not seen, for those who search or copy.
const LETTER = /[\p{L}\p{N}]/u, DRAWN = /^-|script/;
const USUAL = /^normal[()[\]+=<>,.:;!/|\u2212\u00b7\u00d7]/;
SVGWrapper.prototype.charNode = function (variant, hex, d) {
  const code = parseInt(hex, 16);
  const sign = String.fromCodePoint(code);
  const text = painter.unknownText(sign, variant);
  if (!/bold|italic/.test(variant))
    adaptor.removeAttribute(text, 'font-family');
  const letter = LETTER.test(sign) && !DRAWN.test(variant);
  if (letter || USUAL.test(variant + sign)) return text;
  const [[high, deep], [up, down]] = [variant, 'normal'].map(
    (name) => painter.font.getChar(name, code) ?? [1, 0]);
  const size = (high + deep) / (up + down) || 1;
  const y = 1000 * (size * down - deep);
  // As high as what is drawn; wider, it would be taken for a heading's.
  const transform = `translate(0,${y}) scale(${1 / size},${-size})`;
  adaptor.setAttribute(text, 'transform', transform);
  adaptor.setAttribute(text, 'fill-opacity', 0);
  return painter.svg('g', {}, [painter.svg('path', {d}), text]);
};
painter.font.getCssFont = (variant) => [
  'New Computer Modern', variant.includes('italic'), variant.includes('bold'),
];

// A letter that MathJax's fonts lack is as wide as the one below its accent,
// a Greek or Russian one as in New Computer Modern: in twentieths of an em.
const WIDTHS = {
  α: 'dbc9bbba6bbbabaca9cbbdddd',
  А: 'eccadbibeecdhfedbdccddddljegbcic9aa8b9e9ccabecaca99adacbghbe99fa',
};
const WIDE_SIGN = /[\p{So}\u1100-\u11ff\u2e80-\u9fff\uff00-\uffef]/u;
function width(letter, variant) {
  const code = letter.normalize('NFD').codePointAt(0);
  for (const [first, widths] of Object.entries(WIDTHS)) {
    const digit = widths[code - first.codePointAt(0)];
    if (digit) return parseInt(digit, 36) / (variant === 'bold' ? 17 : 20);
  }
  const {chars} = painter.font.getVariant(variant) ??
    painter.font.getVariant('normal');
  return chars[code]?.[2] ?? (WIDE_SIGN.test(letter) ? 1.1 : 0.6);
}
painter.measureTextNode = (text) => {
  const variant = adaptor.getAttribute(text, 'data-variant');
  const widths = [...adaptor.textContent(text)].map((l) => width(l, variant));
  return {w: widths.reduce((sum, w) => sum + w), h: 0.75, d: 0.2};
};

// Letters that join, as those from Hebrew to Burmese, stay in one text.
const JOINED = /^[\u0590-\u109f]/;
const placeChar = SVGWrapper.prototype.placeChar;
SVGWrapper.prototype.placeChar = function (code, x, y, parent, variant) {
  const sign = String.fromCodePoint(code), last = adaptor.lastChild(parent);
  if (!last || ![sign, adaptor.textContent(last)].every((t) => JOINED.test(t)))
    return placeChar.call(this, code, x, y, parent, variant);
  adaptor.append(last, painter.text(sign));
  return width(sign, variant);
};

// The whole, and the numbers of a table's rows, which stand at the margin.
let whole, numbers;
painter.createRoot = function (wrapper) {
  whole = wrapper;
  return [this.container, adaptor.append(this.container, this.svg('g'))];
};
SVGmtable.prototype.topTable = function (svg, labels) {
  const {L, R} = this.getBBox();
  this.place(-L, 0, svg);
  adaptor.removeAttribute(labels, 'transform');
  const to = this.getTableData().L;
  numbers = {nodes: [labels], from: 0, to, room: L + R};
};

const formulas = [];
const EM = {em: 40 / 3, ex: 40 / 3 * painter.font.params.x_height};

// A formula by its place in the notebook; asked for again, it knows labels
// that come later. Macros hold for what is converted afterwards.
globalThis.convert = (place, tex, display) => {
  const formula = formulas[place] ??= {
    math: tex, display, inputData: {}, outputData: {}, metrics: EM,
    state: () => 0, start: {}, end: {},
  };
  formula.root = compiled(formula);
  numbers = null;
  painter.toDOM(formula, adaptor.node('div'));
  const {h, d} = whole.getOuterBBox();
  const found = {again: tags.redo, height: h + d, depth: d};
  const drawn = pieces().map((piece) => drawing(piece, h, d));
  // A definition shows nothing.
  const INK = /<(?!\/|g|style|svg)/;
  found.parts = drawn.filter(([w, svg]) => w || INK.test(svg));
  found.number = numbers && drawing(numbers, h, d);
  found.unknown = unknown(formula.root);
  return JSON.stringify(found);
};

function compiled(formula) {
  if (formula.math.startsWith('<')) return mathml.compile(formula);
  options.internalMath = textMacros;
  try {
    return jax.compile(formula);
  } catch (error) {
    // MathJax 2 takes _ and the like in \text as they are.
    options.internalMath = null;
    return jax.compile(formula);
  }
}

// The signs of a formula, each with its place. A row that is too wide for a
// table's cell is taken apart, too.
const WIDE = 20;
function signs(wrapper, from = 0, around = (svg) => svg) {
  const {element, node, tableRows} = wrapper;
  const {transform = ''} = element.attributes;
  let x = from;
  for (const [, by] of transform.matchAll(/translate\((-?[\d.]+)/g))
    x += by / 1000;
  const row = tableRows ? numbers && tableRows.length === 1 :
    ['math', 'mstyle', 'mlabeledtr', 'mtd'].includes(node.kind) ||
    (['mrow', 'TeXAtom'].includes(node.kind) &&
      wrapper.getOuterBBox().w > WIDE && !transform.includes('scale'));
  if (!row) return [{node, from: x, svg: around(element)}];
  const inside = wrapper.tableCells ?? wrapper.childNodes;
  return inside.flatMap((child) => child.node.isInferred ?
    child.childNodes : child).flatMap((child) => signs(child, x, (svg) =>
    around(painter.svg('g', element.attributes, [svg]))));
}

// A formula may be broken where TeX says so, and behind relations and
// operators; one that is too wide, within brackets and behind commas, too.
const {OPEN, CLOSE, REL, BIN, PUNCT} = TEXCLASS;
function pieces() {
  const found = signs(whole);
  const end = whole.getOuterBBox().w - (numbers?.room ?? 0);
  let depth = 0;
  for (const [n, sign] of found.entries()) {
    const {texClass: kind, attributes} = sign.node;
    depth += (kind === OPEN) - (kind === CLOSE);
    sign.to = found[n + 1]?.from ?? end;
    sign.ends = attributes.get('linebreak') === 'newline';
    sign.depth = sign.ends ? 0 : [REL, BIN].includes(kind) ? depth :
      kind === PUNCT ? depth + 1 : Infinity;
  }
  return split(found, 0);
}

function split(row, depth) {
  const found = [];
  for (const [n, sign] of row.entries()) {
    if (!n || row[n - 1].depth <= depth) found.push([]);
    found.at(-1).push(sign);
  }
  return found.flatMap((part) => {
    const [{from}, {to, ends}] = [part[0], part.at(-1)];
    if (to - from > WIDE && depth < 4) return split(part, depth + 1);
    return {nodes: part.map(({svg}) => svg), from, to, ends};
  });
}

// The lines of tables.
const STYLE = '[data-line], [data-frame] { stroke-width: 70; fill: none }' +
  '.mjx-dashed { stroke-dasharray: 140 } .mjx-dotted ' +
  '{ stroke-linecap: round; stroke-dasharray: 0, 140 }';

// Its width, its lines with room around them for what sticks out, and whether
// the line ends.
const ROOM = 9;
function drawing({nodes, from, to, ends}, h, d) {
  const sides = [to - from + 2 * ROOM, h + d + 2 * ROOM];
  const box = [from - ROOM, -h - ROOM, ...sides].map((x) => 1000 * x);
  const ink = {fill: 'currentColor', stroke: 'currentColor'};
  const svg = painter.svg('svg', {
    xmlns: 'http://www.w3.org/2000/svg', viewBox: box.join(' '),
    'font-family': 'New Computer Modern Math', ...ink, 'stroke-width': 0,
  }, [
    painter.svg('style', {}, [painter.text(STYLE)]),
    painter.svg('g', {transform: 'scale(1,-1)'}, nodes),
  ]);
  const text = adaptor.serializeXML(svg);
  return [to - from, text.replace(/(style="|; )color:/g, '$1fill:'), ends];
}

// Commands that nobody knows, which are printed as they are.
function unknown(node) {
  if (!node.isKind('mtext')) return (node.childNodes ?? []).flatMap(unknown);
  const mono = node.attributes.get('mathvariant') === 'monospace';
  return mono ? [] : node.getText().match(/\\([A-Za-z]+|.)/gu) ?? [];
}
