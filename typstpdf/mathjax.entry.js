/* MathJax 3.2.2, (c) The MathJax Consortium; mhchemParser, (c) Martin Hensel.
   Both under the Apache License 2.0: see mathjax.LICENSE. */

// MathJax's reading of TeX for QuickJS: formulas become trees of MathML.
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
import {MmlFactory} from 'mathjax-full/ts/core/MmlTree/MmlFactory.ts';
import {MmlMrow} from 'mathjax-full/ts/core/MmlTree/MmlNodes/mrow.ts';
import {length2em} from 'mathjax-full/ts/util/lengths.ts';
import {AllPackages} from 'mathjax-full/ts/input/tex/AllPackages.ts';

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
const formulas = [];

// Each operator asks whether it is alone: so do not count them all.
MmlMrow.prototype.nonSpaceLength = function () {
  const seen = (child) => child && !child.isSpacelike;
  const first = this.childNodes.findIndex(seen);
  return first < 0 ? 0 : this.childNodes.slice(first + 1).some(seen) ? 2 : 1;
};

// A formula by its place in the notebook; asked for again, it knows labels
// that come later. Macros hold for what is converted afterwards.
globalThis.convert = (place, tex, display) => {
  formulas[place] ??= {math: tex, display, inputData: {}, state: () => 0};
  let root;
  options.internalMath = textMacros;
  try {
    root = jax.compile(formulas[place]);
  } catch (error) {
    // MathJax 2 takes _ and the like in \text as they are.
    options.internalMath = null;
    root = jax.compile(formulas[place]);
  }
  root.setTeXclass(null);
  return JSON.stringify([tags.redo, tree(root)]);
};

// What nodes inherit, or have if nothing is said.
const INHERITED = ['displaystyle', 'mathvariant', 'stretchy', 'largeop',
  'accent', 'columnalign', 'columnlines', 'rowlines'];
const LENGTHS = ['width', 'height', 'depth', 'lspace', 'voffset', 'minsize',
  'linethickness', 'columnspacing', 'rowspacing'];

// Such as the sign that says that a function is applied.
const UNSEEN = /[\u2061-\u2064\u200b-\u200d\ufe00-\ufe0f]/g;

// All that is said of a node, and what MathJax works out.
function tree(given) {
  const node = plain(given);
  const {attributes} = node;
  const nodes = inside(node);
  const found = {};
  for (const name of attributes.getExplicitNames())
    found[name] = String(attributes.get(name));
  for (const name of INHERITED) found[name] = attributes.get(name) ?? '';
  found.kind = node.kind;
  found.class = node.texClass ?? 0;
  found.level = ['', 'script'][attributes.get('scriptlevel')] ?? 'sscript';
  found.level ||= found.displaystyle ? 'display' : 'inline';
  found.size = size(node) / size(node.parent);
  found.space = em(node.texSpacing() || 0);
  found.em = {};
  for (const name of LENGTHS)
    if (name in found || /spacing/.test(name) && node.isKind('mtable'))
      found.em[name] = String(attributes.get(name)).split(' ').map(em);
  found.grows = grows(node) && !attributes.isSet('minsize');
  // Limits stand beside their operator within a text.
  found.beside = /^msu/.test(node.kind) || !found.displaystyle &&
    nodes[0]?.isEmbellished &&
    nodes[0].coreMO().attributes.get('movablelimits') || false;
  found.number = node.isKind('mlabeledtr') ? said(nodes.shift()) : null;
  found.text = node.isToken ? said(node).replace(UNSEEN, '') : '';
  found.nodes = node.isToken ? [] : nodes.map(tree);
  return found;
}

// A length in em of 10 points.
function em(length) {
  return Math.max(-99, Math.min(99, length2em(length, 0, 1, 40 / 3)));
}

function size(node) {
  return length2em(node?.attributes.get('mathsize') ?? 1, 1) || 1;
}

function said(node) {
  return node.isKind('text') ? node.getText().normalize('NFC') :
    node.childNodes.map(said).join('');
}

function grows(node) {
  return node.isKind('mo') && node.attributes.get('stretchy') === true;
}

function inside(node) {
  const nodes = node.childNodes;
  return [...(nodes[0]?.isInferred ? nodes[0].childNodes : nodes)];
}

// Without groups that change nothing.
function plain(node) {
  const [alone, another] = inside(node);
  if (!alone || another) return node;
  const group = node.isKind('mrow') || node.isKind('TeXAtom');
  const same = (node.texClass ?? 0) === (alone.texClass ?? 0) &&
    !node.attributes.getExplicitNames().length;
  return group && same || node.isKind('mstyle') && grows(alone) ?
    plain(alone) : node;
}
