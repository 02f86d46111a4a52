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
import {TEXCLASS} from 'mathjax-full/ts/core/MmlTree/MmlNode.ts';
import {MmlFactory} from 'mathjax-full/ts/core/MmlTree/MmlFactory.ts';
import {MmlMrow} from 'mathjax-full/ts/core/MmlTree/MmlNodes/mrow.ts';
import {SVG} from 'mathjax-full/ts/output/svg.ts';
import {SVGWrapper} from 'mathjax-full/ts/output/svg/Wrapper.ts';
import {SVGmtable} from 'mathjax-full/ts/output/svg/Wrappers/mtable.ts';
import {liteAdaptor} from 'mathjax-full/ts/adaptors/liteAdaptor.ts';

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

const adaptor = liteAdaptor();
adaptor.document = adaptor.parse('');
adaptor.parser.protectAttribute = (text) =>
  adaptor.parser.protectHTML(String(text)).replace(/"/g, '&quot;');
const mathml = new MathML();
mathml.setAdaptor(adaptor);
mathml.setMmlFactory(jax.mmlFactory);
const painter = new SVG({fontCache: 'none'});
painter.setAdaptor(adaptor);
painter.document = {options: {}};

// Each operator asks whether it is alone: so do not count them all.
MmlMrow.prototype.nonSpaceLength = function () {
  const seen = (child) => child && !child.isSpacelike;
  const first = this.childNodes.findIndex(seen);
  return first < 0 ? 0 : this.childNodes.slice(first + 1).some(seen) ? 2 : 1;
};

// Letters and the most usual signs are text. Others are drawn, as they may
// have any size, and are text that is not seen, for those who search or copy.
const LETTER = /[\p{L}\p{N}]/u, DRAWN = /[\u2100-\u214f]/;
const USUAL = /^normal[()[\]+=<>,.:;!/|\u2212\u00b7\u00d7]/;
SVGWrapper.prototype.charNode = function (variant, hex, d) {
  const code = parseInt(hex, 16);
  const sign = String.fromCodePoint(code);
  const text = painter.unknownText(sign, variant);
  const letter = LETTER.test(sign) && !DRAWN.test(sign) && variant[0] !== '-';
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
  `New Computer Modern${/bold|italic/.test(variant) ? '' : ' Math'}`,
  variant.includes('italic'), variant.includes('bold'),
];

// A letter that MathJax's fonts lack is as wide as the one below its accent.
painter.measureTextNode = (text) => {
  const [letter] = adaptor.textContent(text).normalize('NFD');
  const [, , w] = painter.font.getChar('normal', letter.codePointAt(0)) ??
    [0, 0, adaptor.nodeSize(text, 1, true)[0]];
  return {w, h: 0.75, d: 0.2};
};

// The whole, and the numbers of a table's rows, which stand at the margin.
let whole, numbers;
painter.createRoot = function (wrapper) {
  whole = wrapper;
  return [this.container, adaptor.append(this.container, this.svg('g'))];
};
SVGmtable.prototype.topTable = function (svg, labels) {
  this.place(-this.getBBox().L, 0, svg);
  adaptor.removeAttribute(labels, 'transform');
  numbers = {nodes: [labels], from: 0, to: this.getTableData().L};
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
  found.parts = drawn.filter(([w, svg]) => w || /<(?!\/|g|style|svg)/.test(svg));
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

// A formula may be broken behind a relation or an operator, but not within
// brackets.
function pieces() {
  const {w} = whole.getOuterBBox();
  const inner = whole.childNodes[0].childNodes;
  if (inner.length < 2)
    return [{nodes: adaptor.childNodes(whole.element), from: 0, to: w}];
  const found = [];
  let from = 0, nodes = [], open = 0;
  for (const [n, {element, node}] of inner.entries()) {
    nodes.push(element);
    const next = inner[n + 1]?.element, kind = node.texClass;
    open += (kind === TEXCLASS.OPEN) - (kind === TEXCLASS.CLOSE);
    if (next && (open || ![TEXCLASS.REL, TEXCLASS.BIN].includes(kind)))
      continue;
    const place = next && adaptor.getAttribute(next, 'transform');
    const to = next ? /-?[\d.]+/.exec(place)[0] / 1000 : w;
    found.push({nodes, from, to});
    [from, nodes] = [to, []];
  }
  return found;
}

// The lines of tables.
const STYLE = '[data-line], [data-frame] { stroke-width: 70; fill: none }' +
  '.mjx-dashed { stroke-dasharray: 140 } .mjx-dotted ' +
  '{ stroke-linecap: round; stroke-dasharray: 0, 140 }';

// Its width, and its lines with room around them for what sticks out.
const ROOM = 9;
function drawing({nodes, from, to}, h, d) {
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
  return [to - from, text.replace(/(style="|; )color:/g, '$1fill:')];
}

// Commands that nobody knows, which are printed as they are.
function unknown(node) {
  if (!node.isKind('mtext')) return (node.childNodes ?? []).flatMap(unknown);
  const mono = node.attributes.get('mathvariant') === 'monospace';
  return mono ? [] : node.getText().match(/\\([A-Za-z]+|.)/gu) ?? [];
}
