"""What draws the chart of the page: plain JavaScript, of no library."""

SCRIPT = r"""
(function () {
'use strict';
var data = JSON.parse(document.getElementById('sweep').textContent);
var SVG = 'http://www.w3.org/2000/svg';
var W = 820, H = 430, L = 62, R = 92, T = 16, B = 52;
var MARKS = {
  o: 'M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0-4.5 0Z',
  s: 'M-4-4H4V4H-4Z', '^': 'M0-5L5 4H-5Z', D: 'M0-5.5L5.5 0L0 5.5L-5.5 0Z',
  v: 'M0 5L5-4H-5Z'
};
function id(name) { return document.getElementById(name); }
function add(parent, name, attributes, text) {
  var svg = name === 'svg' || parent.namespaceURI === SVG;
  var made = svg ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (var key in attributes || {}) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}
function clear(element) { element.textContent = ''; return element; }
function fill(select, options, kept) {
  clear(select);
  options.forEach(function (one) {
    var made = add(select, 'option', {value: one[0]}, one[1]);
    made.selected = String(one[0]) === String(kept);
  });
}
function problem() { return data.problems[id('pick-problem').value]; }
function digits() {
  return data.metrics[id('pick-metric').value].kind === 'points' ? 2 : 3;
}
function chosen() {
  return data.methods.filter(function (method, i) {
    return id('method-' + i).checked;
  });
}
function swatch(parent, method) {
  var svg = add(parent, 'svg', {width: 34, height: 12, 'aria-hidden': 'true'});
  add(svg, 'path', {d: 'M2 6H32', stroke: method.colour, 'stroke-width': 2.4,
    'stroke-dasharray': method.dash.join(' ')});
  add(svg, 'path', {d: MARKS[method.marker], transform: 'translate(17 6)',
    fill: method.colour});
}
function flags(cell) {
  return (cell[3] ? '†' : '') + (cell[4] ? '‡' : '') + (cell[2] ? '*' : '');
}
function written(cell) {
  if (!cell) return '–*';
  if (cell[0] === null) return (cell[3] ? 'diverged' : '–') + flags(cell);
  var text = cell[0].toFixed(digits());
  if (cell[1] !== null) text += ' ± ' + cell[1].toFixed(digits());
  return text.replace('-', '−') + flags(cell);
}
function told(cell) {
  var parts = [];
  if (!cell) return 'not run yet';
  if (cell[3]) parts.push(cell[3] + ' diverged');
  if (cell[4]) parts.push(cell[4] + ' collapsed');
  if (cell[2]) parts.push(cell[2] + ' missing');
  return parts.join(', ');
}
function range(lines, levels) {
  var seen = [];
  lines.forEach(function (line) {
    line.cells.forEach(function (cell) {
      if (!cell || cell[0] === null) return;
      seen.push(cell[0] - (cell[1] || 0), cell[0] + (cell[1] || 0));
    });
  });
  levels.forEach(function (level) { seen.push(level[1]); });
  if (!seen.length) return [0, 1];
  var low = Math.min.apply(null, seen), high = Math.max.apply(null, seen);
  var least = digits() === 2 ? 2 : 0.1;
  var room = Math.max((high - low) * 0.05, (least - (high - low)) / 2);
  low -= room;
  high += room;
  if (data.metrics[id('pick-metric').value].kind === 'rate') {
    low = Math.max(low, -0.02);
    high = Math.min(high, 1.02);
  }
  return [low, high];
}
function ticks(low, high) {
  var step = Math.pow(10, Math.floor(Math.log10((high - low) / 4)));
  [2, 2.5, 2].forEach(function (by) {
    if ((high - low) / step > 8) step *= by;
  });
  var found = [];
  for (var i = Math.ceil(low / step); i * step <= high; i++) {
    found.push(+(i * step).toPrecision(10));
  }
  return found;
}
function axes(svg, x, y, limits, name) {
  ticks(limits[0], limits[1]).forEach(function (at) {
    add(svg, 'path', {d: 'M' + L + ' ' + y(at) + 'H' + (W - R),
      stroke: '#e3e6ea'});
    add(svg, 'text', {x: L - 8, y: y(at) + 4, 'text-anchor': 'end'},
      String(at).replace('-', '−'));
  });
  data.fractions.forEach(function (at) {
    add(svg, 'path', {d: 'M' + x(at) + ' ' + (H - B) + 'v5',
      stroke: '#6b7280'});
    add(svg, 'text', {x: x(at), y: H - B + 20, 'text-anchor': 'middle'}, at);
  });
  add(svg, 'path', {d: 'M' + L + ' ' + T + 'V' + (H - B) + 'H' + (W - R),
    stroke: '#6b7280', fill: 'none'});
  add(svg, 'text', {x: (L + W - R) / 2, y: H - 10, 'text-anchor': 'middle'},
    'identified fraction |S_f| / |S_m|');
  add(svg, 'text', {transform: 'translate(16 ' + (T + H - B) / 2 +
    ') rotate(-90)', 'text-anchor': 'middle'}, name);
}
function reference(svg, y, level, taken) {
  var colour = level[0] === 'none' ? '#6b7280' : '#00735a';
  var dash = {none: '7 4', 'U*': '', '0.9 U*': '2 3'}[level[0]];
  var at = y(level[1]), label = at + 4;
  while (taken.some(function (t) { return Math.abs(t - label) < 14; })) {
    label += 3;
  }
  taken.push(label);
  add(svg, 'path', {d: 'M' + L + ' ' + at + 'H' + (W - R), stroke: colour,
    'stroke-width': 1.6, 'stroke-dasharray': dash});
  add(svg, 'text', {x: W - R + 8, y: label, fill: colour}, level[0]);
}
function dot(svg, x, y, line, cell, fraction) {
  var text = line.method.name + ', ' + fraction + ' identified: ' +
    written(cell) + (told(cell) ? ' (' + told(cell) + ')' : '') +
    '. Saw: ' + line.method.information + '.';
  var made = add(svg, 'path', {d: MARKS[line.method.marker],
    role: 'img', 'aria-label': text, fill: line.method.colour,
    transform: 'translate(' + x + ' ' + y + ')'});
  add(made, 'title', {}, text);
  function say() { id('readout').textContent = text; }
  made.addEventListener('focus', say);
  made.addEventListener('mouseenter', say);
  return made;
}
function rove(marks) {
  marks.forEach(function (mark, i) {
    mark.setAttribute('tabindex', i ? -1 : 0);
    mark.addEventListener('keydown', function (event) {
      var to = marks[i + ({ArrowRight: 1, ArrowLeft: -1}[event.key] || 0)];
      if (!to || to === mark) return;
      event.preventDefault();
      to.focus();
    });
  });
}
function curve(svg, x, y, line) {
  var path = '', colour = line.method.colour, pen = 'M';
  line.cells.forEach(function (cell, i) {
    if (!cell || cell[0] === null) { pen = 'M'; return; }
    path += pen + x(data.fractions[i]) + ' ' + y(cell[0]);
    pen = 'L';
    if (cell[1] === null) return;
    add(svg, 'path', {stroke: colour, d: 'M' + x(data.fractions[i]) + ' ' +
      y(cell[0] - cell[1]) + 'V' + y(cell[0] + cell[1])});
  });
  add(svg, 'path', {d: path || 'M0 0', stroke: colour, fill: 'none',
    'stroke-width': 2.4, 'stroke-dasharray': line.method.dash.map(
      function (length) { return 2 * length; }).join(' ')});
  var marks = [];
  line.cells.forEach(function (cell, i) {
    var at = data.fractions[i];
    if (!cell || cell[0] === null) return;
    marks.push(dot(svg, x(at), y(cell[0]), line, cell, at));
  });
  rove(marks);
}
function table(lines) {
  var made = add(clear(id('values')), 'table');
  var head = add(add(made, 'thead'), 'tr');
  add(head, 'th', {scope: 'col'}, 'method');
  data.fractions.forEach(function (at) {
    add(head, 'th', {scope: 'col', 'class': 'number'}, at);
  });
  add(head, 'th', {scope: 'col'}, 'what it could see');
  var body = add(made, 'tbody');
  lines.forEach(function (line) {
    var row = add(body, 'tr');
    add(row, 'th', {scope: 'row'}, line.method.name);
    line.cells.forEach(function (cell) {
      add(row, 'td', {'class': 'number'}, written(cell));
    });
    add(row, 'td', {'class': 'seen'}, line.method.information);
  });
}
function draw() {
  var metric = id('pick-metric').value, rule = id('pick-rule').value;
  var shown = data.metrics[metric], group = problem().lines[rule];
  var lines = chosen().map(function (method) {
    return {method: method, cells: group[method.name][metric]};
  });
  var levels = Object.entries(problem().levels[metric]).filter(
    function (level) { return level[1] !== null; });
  var limits = range(lines, levels), last = data.fractions.length - 1;
  var from = Math.max(data.fractions[0] - 0.05, 0);
  var till = data.fractions[last] + 0.03;
  function x(at) { return L + (at - from) / (till - from) * (W - L - R); }
  function y(at) {
    var part = (at - limits[0]) / (limits[1] - limits[0]);
    return H - B - Math.min(Math.max(part, 0), 1) * (H - B - T);
  }
  var svg = add(clear(id('chart')), 'svg', {viewBox: '0 0 ' + W + ' ' + H,
    role: 'group', 'aria-label': shown.name + ' by identified fraction',
    'font-size': 13, fill: '#22262b'});
  axes(svg, x, y, limits, shown.name);
  var taken = [];
  levels.sort(function (a, b) { return b[1] - a[1]; });
  levels.forEach(function (level) { reference(svg, y, level, taken); });
  lines.forEach(function (line) { curve(svg, x, y, line); });
  id('says').textContent = shown.says + ' Means over ' + data.seeds +
    (data.seeds === 1 ? ' seed. ' : ' seeds with 95 % t-intervals. ') +
    'Hyperparameters ' + data.rules[rule] + '.';
  id('readout').textContent = 'Point at a mark to read it, or go there with ' +
    'the Tab key and along its curve with the arrow keys. † diverged, ' +
    '‡ collapsed, * missing in some seeds.';
  table(lines);
}
function metrics() {
  var known = Object.keys(problem().levels), kept = id('pick-metric').value;
  fill(id('pick-metric'), known.map(function (key) {
    return [key, data.metrics[key].name];
  }), known.indexOf(kept) < 0 ? known[0] : kept);
  draw();
}
function start() {
  fill(id('pick-problem'), data.problems.map(function (one, i) {
    return [i, one.name];
  }), 0);
  fill(id('pick-rule'), Object.keys(data.rules).map(function (rule) {
    return [rule, rule];
  }), 'paper');
  var paper = data.methods.some(function (one) { return one.paper; });
  data.methods.forEach(function (method, i) {
    var label = add(id('pick-methods'), 'label');
    var box = add(label, 'input', {type: 'checkbox', id: 'method-' + i});
    box.checked = method.paper || !paper;
    box.addEventListener('change', draw);
    swatch(label, method);
    label.appendChild(document.createTextNode(method.name));
  });
  document.querySelectorAll('[data-set]').forEach(function (button) {
    button.addEventListener('click', function () {
      data.methods.forEach(function (method, i) {
        id('method-' + i).checked = button.dataset.set === 'all' ||
          button.dataset.set === 'paper' && method.paper;
      });
      draw();
    });
  });
  id('pick-problem').addEventListener('change', metrics);
  id('pick-metric').addEventListener('change', draw);
  id('pick-rule').addEventListener('change', draw);
  metrics();
}
start();
}());
"""
