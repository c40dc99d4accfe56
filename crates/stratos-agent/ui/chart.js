// Lines over time, drawn as SVG. By hand, for what is needed is little: the text in it is text, colours come from the
// style sheet, and the arrow keys read it. The figures stand in a table behind it.

import { el, setAttribute, setText, svg } from './dom.js';
import { clock, NONE } from './format.js';
import { Table } from './table.js';

const LEFT = 62;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;
const STEPS_S = [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400];

/** Round values from 0 up to at least `max`, about four of them. */
export function ticks(max) {
  if (!(max > 0)) return [0, 1];
  const rough = max / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = 0; at < max + step * 0.999; at += step) found.push(at);
  return found;
}

export class LineChart {
  /**
   * `series`: { label, cls }. `unit(value)` writes a value. `max`: the scale's end, where it is known. `gap`: points
   * farther apart in ms are not joined. `seconds`: whether moments are told to the second.
   */
  constructor({ title, series, unit, max = null, gap = Infinity, height = 150, seconds = true, none }) {
    Object.assign(this, { title, series, unit, max, gap, height, none });
    this.clock = (x) => clock(x, seconds);
    this.data = { from: 0, to: 1, points: [] };
    this.at = null;
    this.values = series.map(() => el('span', { class: 'value' }));
    const legend = series.map((one, i) =>
      el('li', {}, el('span', { class: `swatch ${one.cls}`, 'aria-hidden': 'true' }), one.label, ' ', this.values[i]));
    this.when = el('span', { class: 'when' });
    this.picture = svg('svg', { 'aria-hidden': 'true', height });
    this.plot = el('div', { class: 'plot', tabindex: '0', role: 'img' }, this.picture);
    this.said = el('p', { class: 'hidden', 'aria-live': 'polite' });
    this.blank = el('p', { class: 'plot-none' }, none ?? 'No figures yet.');
    this.table = new Table({
      caption: `${title}, as a table`,
      columns: [
        { label: 'Time', text: (row) => this.clock(row.x) },
        ...series.map((one, i) => ({ label: one.label, number: true, text: (row) => this.write(row.y[i]) })),
      ],
      key: (row) => row.x,
      none: 'No figures yet.',
    });
    this.details = el('details', { ontoggle: () => this.tabulate() }, el('summary', {}, 'Figures'), this.table.element);
    this.element = el('figure', { class: 'chart' },
      el('figcaption', {}, el('span', { class: 'chart-title' }, title), el('ul', { class: 'legend' }, legend), this.when),
      el('div', { class: 'plot-box' }, this.plot, this.blank), this.said, this.details);
    this.listen();
  }

  listen() {
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.plot.addEventListener('pointermove', (event) => this.point(event));
    this.plot.addEventListener('pointerleave', () => this.move(null));
    this.plot.addEventListener('blur', () => this.move(null));
    this.plot.addEventListener('keydown', (event) => {
      const last = this.data.points.length - 1;
      const to = {
        ArrowLeft: () => Math.max(0, (this.at ?? last + 1) - 1),
        ArrowRight: () => Math.min(last, (this.at ?? last - 1) + 1),
        Home: () => 0,
        End: () => last,
        Escape: () => null,
      }[event.key];
      if (!to || last < 0) return;
      event.preventDefault();
      this.move(to());
      if (this.at !== null) setText(this.said, this.sentence(this.at));
    });
  }

  write(value) {
    return value === null || value === undefined ? NONE : this.unit(value);
  }

  sentence(at) {
    const { x, y } = this.data.points[at];
    return `${this.clock(x)}: ${this.series.map((one, i) => `${one.label} ${this.write(y[i])}`).join(', ')}`;
  }

  /** `points`: { x: ms, y: [a value or null for each series] } in order; `from`, `to`: the axis, in ms. */
  update({ from, to, points }) {
    const held = this.at === null ? null : this.data.points[this.at]?.x;
    this.data = { from, to, points };
    this.at = held === null ? null : points.findIndex((point) => point.x === held);
    if (this.at === -1) this.at = null;
    const last = points.length - 1;
    const told = last < 0 ? 'no figures yet' : `latest ${this.sentence(last)}. The arrow keys read the others.`;
    setAttribute(this.plot, 'aria-label', `${this.title}: ${told}`);
    this.blank.hidden = points.length > 0;
    this.draw();
    this.tabulate();
  }

  tabulate() {
    if (this.details.open) this.table.update([...this.data.points].reverse());
  }

  point(event) {
    const { from, to, points } = this.data;
    const box = this.plot.getBoundingClientRect();
    const x = from + ((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * (to - from);
    let best = null;
    points.forEach((point, i) => {
      if (best === null || Math.abs(point.x - x) < Math.abs(points[best].x - x)) best = i;
    });
    this.move(best);
  }

  move(at) {
    this.at = at;
    this.draw();
  }

  draw() {
    const width = Math.max(160, Math.floor(this.plot.clientWidth));
    const { from, to, points } = this.data;
    const right = width - RIGHT;
    const bottom = this.height - BOTTOM;
    const highest = this.max ?? Math.max(0, ...points.flatMap((point) => point.y.filter((y) => y !== null)));
    const scale = ticks(highest);
    const top = scale.at(-1);
    const px = (x) => LEFT + ((x - from) / (to - from)) * (right - LEFT);
    const py = (y) => bottom - (Math.min(y, top) / top) * (bottom - TOP);
    const parts = [];
    for (const value of points.length ? scale : []) {
      parts.push(svg('line', { class: 'grid', x1: LEFT, x2: right, y1: py(value), y2: py(value) }),
        svg('text', { class: 'tick', x: LEFT - 6, y: py(value) + 4, 'text-anchor': 'end' }, this.unit(value)));
    }
    parts.push(svg('line', { class: 'axis', x1: LEFT, x2: right, y1: bottom, y2: bottom }), ...this.times(px, right));
    this.series.forEach((one, i) => parts.push(...this.line(points, i, px, py, one.cls)));
    const shown = this.at ?? points.length - 1;
    if (this.at !== null && points[this.at]) {
      const x = px(points[this.at].x);
      parts.push(svg('line', { class: 'cursor', x1: x, x2: x, y1: TOP, y2: bottom }));
      this.series.forEach((one, i) => {
        const y = points[this.at].y[i];
        if (y !== null) parts.push(svg('circle', { class: `dot ${one.cls}`, cx: x, cy: py(y), r: 3.5 }));
      });
    }
    setText(this.when, points[shown] ? this.clock(points[shown].x) : '');
    this.values.forEach((value, i) => setText(value, points[shown] ? this.write(points[shown].y[i]) : ''));
    setAttribute(this.picture, 'width', width);
    this.picture.replaceChildren(...parts);
  }

  times(px, right) {
    const { from, to } = this.data;
    const most = Math.max(2, Math.floor((right - LEFT) / 76));
    const step = (STEPS_S.find((s) => (to - from) / 1000 / s <= most) ?? 86_400) * 1000;
    const found = [];
    const seconds = step < 60_000;
    for (let at = Math.ceil(from / step) * step; at <= to && found.length < 50; at += step) {
      if (px(at) > right - 16 || px(at) < LEFT + 8) continue;
      found.push(svg('text', { class: 'tick', x: px(at), y: this.height - 5, 'text-anchor': 'middle' }, clock(at, seconds)));
    }
    return found;
  }

  line(points, i, px, py, cls) {
    const runs = [];
    let last = null;
    for (const point of points) {
      if (point.y[i] === null) continue;
      if (last === null || point.x - last > this.gap) runs.push([]);
      runs.at(-1).push([px(point.x), py(point.y[i])]);
      last = point.x;
    }
    return runs.map((run) => {
      if (run.length === 1) return svg('circle', { class: `dot ${cls}`, cx: run[0][0], cy: run[0][1], r: 2.5 });
      const path = run.map(([x, y], at) => `${at ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
      return svg('path', { class: `line ${cls}`, d: path });
    });
  }
}

/** A line without axes beside a figure. Nothing for readers: the figure says it. */
export function sparkline(parent, values, max = null, cls = 's1') {
  let picture = parent.querySelector('svg.spark');
  if (!picture) {
    picture = svg('svg', { class: 'spark', viewBox: '0 0 120 28', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      svg('path', { class: `area ${cls}` }), svg('path', { class: `line ${cls}` }));
    parent.append(picture);
  }
  const known = values.filter((value) => value !== null);
  const top = max ?? Math.max(1e-9, ...known);
  const step = 120 / Math.max(1, values.length - 1);
  const at = values.map((value, i) => (value === null ? null : [i * step, 27 - (Math.min(value, top) / top) * 25]));
  const there = at.filter((point) => point !== null);
  const path = there.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
  const area = there.length > 1 ? `${path}L${there.at(-1)[0].toFixed(1)} 28L${there[0][0].toFixed(1)} 28Z` : '';
  setAttribute(picture.firstChild, 'd', area);
  setAttribute(picture.lastChild, 'd', there.length > 1 ? path : '');
}
