// Draws the chart of the page from the JSON in #sweep; needs no library.
(() => {
'use strict';
const data = JSON.parse(document.getElementById('sweep').textContent);
const SVG = 'http://www.w3.org/2000/svg';
const GREY = '#6b7280', GREEN = '#00735a', INK = '#22262b';
// Width and height of the chart, then its margins: left, right, top, bottom.
const W = 820, H = 430, L = 62, R = 92, T = 16, B = 52;
const MARKS = {
  o: 'M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0-4.5 0Z',
  s: 'M-4-4H4V4H-4Z', '^': 'M0-5L5 4H-5Z', D: 'M0-5.5L5.5 0L0 5.5L-5.5 0Z',
  v: 'M0 5L5-4H-5Z'
};
const id = name => document.getElementById(name);
const pick = name => id('pick-' + name).value;
function add(parent, name, attributes, text) {
  const svg = name === 'svg' || parent.namespaceURI === SVG;
  const child = svg ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (const key in attributes || {}) child.setAttribute(key, attributes[key]);
  if (text !== undefined) child.textContent = text;
  parent.appendChild(child);
  return child;
}
function clear(element) { element.textContent = ''; return element; }
function fill(select, options, value) {
  clear(select);
  for (const [key, name] of options) {
    const option = add(select, 'option', {value: key}, name);
    option.selected = String(key) === String(value);
  }
}
const problem = () => data.problems[pick('problem')];
const digits = () => data.metrics[pick('metric')].kind === 'points' ? 2 : 3;
const minus = number => String(number).replace('-', '−');
// A cell is [mean, half interval, missing, diverged, collapsed, seeds].
const isNumber = cell => cell && cell[0] !== null;
function swatch(parent, method) {
  const size = {width: 34, height: 12};
  const svg = add(parent, 'svg', {...size, 'aria-hidden': 'true'});
  add(svg, 'path', {d: 'M2 6H32', stroke: method.colour, 'stroke-width': 2.4,
    'stroke-dasharray': method.dash.join(' ')});
  add(svg, 'path', {d: MARKS[method.marker], transform: 'translate(17 6)',
    fill: method.colour});
}
function format(cell) {
  if (!cell) return '–*';
  const [mean, half, missing, diverged, collapsed] = cell;
  const sign = (diverged ? '†' : '') + (collapsed ? '‡' : '') +
    (missing ? '*' : '');
  if (mean === null) return (diverged ? 'diverged' : '–') + sign;
  const interval = half === null ? '' : ` ± ${half.toFixed(digits())}`;
  return minus(mean.toFixed(digits())) + interval + sign;
}
function defects([, , missing, diverged, collapsed]) {
  return Object.entries({diverged, collapsed, missing})
    .filter(([, count]) => count)
    .map(([name, count]) => `${count} ${name}`).join(', ');
}
function range(lines, levels) {
  const ends = levels.map(([, level]) => level);
  for (const cell of lines.flatMap(line => line.cells).filter(isNumber)) {
    ends.push(cell[0] - (cell[1] || 0), cell[0] + (cell[1] || 0));
  }
  if (!ends.length) return [0, 1];
  const low = Math.min(...ends), high = Math.max(...ends);
  const least = digits() === 2 ? 2 : 0.1;
  const room = Math.max((high - low) * 0.05, (least - (high - low)) / 2);
  return data.metrics[pick('metric')].kind === 'rate'
    ? [Math.max(low - room, -0.02), Math.min(high + room, 1.02)]
    : [low - room, high + room];
}
function ticks([low, high]) {
  let step = Math.pow(10, Math.floor(Math.log10((high - low) / 4)));
  for (const factor of [2, 2.5, 2]) {
    if ((high - low) / step > 8) step *= factor;
  }
  const values = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    values.push(+(i * step).toPrecision(10));
  }
  return values;
}
function axes(svg, x, y, limits, name) {
  for (const level of ticks(limits)) {
    add(svg, 'path', {d: `M${L} ${y(level)}H${W - R}`, stroke: '#e3e6ea'});
    add(svg, 'text', {x: L - 8, y: y(level) + 4, 'text-anchor': 'end'},
      minus(level));
  }
  const middle = {'text-anchor': 'middle'};
  for (const share of data.fractions) {
    add(svg, 'path', {d: `M${x(share)} ${H - B}v5`, stroke: GREY});
    add(svg, 'text', {x: x(share), y: H - B + 20, ...middle}, share);
  }
  add(svg, 'path', {d: `M${L} ${T}V${H - B}H${W - R}`, stroke: GREY,
    fill: 'none'});
  add(svg, 'text', {x: (L + W - R) / 2, y: H - 10, ...middle},
    'identified fraction |S_f| / |S_m|');
  const turn = `translate(16 ${(T + H - B) / 2}) rotate(-90)`;
  add(svg, 'text', {transform: turn, ...middle}, name);
}
function references(svg, y, levels) {
  const heights = [];
  for (const [name, level] of levels.sort((a, b) => b[1] - a[1])) {
    const stroke = name === 'none' ? GREY : GREEN;
    const dash = {none: '7 4', 'U*': '', '0.9 U*': '2 3'}[name];
    let height = y(level) + 4;
    // Names of close levels would overlap.
    while (heights.some(taken => Math.abs(taken - height) < 14)) height += 3;
    heights.push(height);
    add(svg, 'path', {d: `M${L} ${y(level)}H${W - R}`, stroke,
      'stroke-width': 1.6, 'stroke-dasharray': dash});
    add(svg, 'text', {x: W - R + 8, y: height, fill: stroke}, name);
  }
}
function mark(svg, x, y, {method}, cell, share) {
  const notes = defects(cell);
  const text = `${method.name}, ${share} identified: ${format(cell)}` +
    `${notes && ` (${notes})`}. Saw: ${method.information}.`;
  const path = add(svg, 'path', {d: MARKS[method.marker], role: 'img',
    'aria-label': text, fill: method.colour,
    transform: `translate(${x(share)} ${y(cell[0])})`});
  add(path, 'title', {}, text);
  const say = () => { id('readout').textContent = text; };
  path.addEventListener('focus', say);
  path.addEventListener('mouseenter', say);
  return path;
}
// The Tab key enters a curve once, the arrow keys move along it.
function rove(marks) {
  marks.forEach((path, i) => {
    path.setAttribute('tabindex', i ? -1 : 0);
    path.addEventListener('keydown', event => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key] || 0;
      const target = marks[i + step];
      if (!target || target === path) return;
      event.preventDefault();
      target.focus();
    });
  });
}
function curve(svg, x, y, line) {
  const stroke = line.method.colour, points = [];
  let d = '', pen = 'M';
  line.cells.forEach((cell, i) => {
    const share = data.fractions[i];
    // A missing cell breaks the curve.
    if (!isNumber(cell)) { pen = 'M'; return; }
    d += `${pen}${x(share)} ${y(cell[0])}`;
    pen = 'L';
    points.push([cell, share]);
    if (cell[1] !== null) {
      add(svg, 'path', {stroke, d: `M${x(share)} ${y(cell[0] - cell[1])}` +
        `V${y(cell[0] + cell[1])}`});
    }
  });
  const dash = line.method.dash.map(length => 2 * length).join(' ');
  add(svg, 'path', {d: d || 'M0 0', stroke, fill: 'none', 'stroke-width': 2.4,
    'stroke-dasharray': dash});
  rove(points.map(([cell, share]) => mark(svg, x, y, line, cell, share)));
}
function table(lines) {
  const grid = add(clear(id('values')), 'table');
  const head = add(add(grid, 'thead'), 'tr'), number = {'class': 'number'};
  add(head, 'th', {scope: 'col'}, 'method');
  for (const share of data.fractions) {
    add(head, 'th', {scope: 'col', ...number}, share);
  }
  add(head, 'th', {scope: 'col'}, 'what it could see');
  const body = add(grid, 'tbody');
  for (const {method, cells} of lines) {
    const row = add(body, 'tr');
    add(row, 'th', {scope: 'row'}, method.name);
    for (const cell of cells) add(row, 'td', number, format(cell));
    add(row, 'td', {'class': 'seen'}, method.information);
  }
}
function draw() {
  const {name, says} = data.metrics[pick('metric')];
  const group = problem().lines[pick('rule')];
  const lines = data.methods
    .filter((method, i) => id('method-' + i).checked)
    .map(method => ({method, cells: group[method.name][pick('metric')]}));
  const levels = Object.entries(problem().levels[pick('metric')])
    .filter(([, level]) => level !== null);
  const limits = range(lines, levels), [low, high] = limits;
  const from = Math.max(data.fractions[0] - 0.05, 0);
  const till = data.fractions[data.fractions.length - 1] + 0.03;
  const x = share => L + (share - from) / (till - from) * (W - L - R);
  const y = value => {
    const part = (value - low) / (high - low);
    return H - B - Math.min(Math.max(part, 0), 1) * (H - B - T);
  };
  const svg = add(clear(id('chart')), 'svg', {viewBox: `0 0 ${W} ${H}`,
    role: 'group', 'aria-label': `${name} by identified fraction`,
    'font-size': 13, fill: INK});
  axes(svg, x, y, limits, name);
  references(svg, y, levels);
  lines.forEach(line => curve(svg, x, y, line));
  const seeds = data.seeds === 1 ? '1 seed'
    : `${data.seeds} seeds with 95 % t-intervals`;
  id('says').textContent = `${says} Means over ${seeds}. ` +
    `Hyperparameters ${data.rules[pick('rule')]}.`;
  id('readout').textContent = 'Point at a mark to read it, or go there with ' +
    'the Tab key and along its curve with the arrow keys. † diverged, ' +
    '‡ collapsed, * missing in some seeds.';
  table(lines);
}
function drawProblem() {
  const keys = Object.keys(problem().levels), metric = pick('metric');
  const names = keys.map(key => [key, data.metrics[key].name]);
  fill(id('pick-metric'), names, keys.includes(metric) ? metric : keys[0]);
  draw();
}
function start() {
  fill(id('pick-problem'), data.problems.map(({name}, i) => [i, name]), 0);
  fill(id('pick-rule'), Object.keys(data.rules).map(rule => [rule, rule]),
    'paper');
  const paper = data.methods.some(method => method.paper);
  data.methods.forEach((method, i) => {
    const label = add(id('pick-methods'), 'label');
    const box = add(label, 'input', {type: 'checkbox', id: 'method-' + i});
    box.checked = method.paper || !paper;
    box.addEventListener('change', draw);
    swatch(label, method);
    label.appendChild(document.createTextNode(method.name));
  });
  for (const button of document.querySelectorAll('[data-set]')) {
    button.addEventListener('click', () => {
      const set = button.dataset.set;
      data.methods.forEach(({paper}, i) => {
        id('method-' + i).checked = set === 'all' || set === 'paper' && paper;
      });
      draw();
    });
  }
  id('pick-problem').addEventListener('change', drawProblem);
  id('pick-metric').addEventListener('change', draw);
  id('pick-rule').addEventListener('change', draw);
  drawProblem();
}
start();
})();
