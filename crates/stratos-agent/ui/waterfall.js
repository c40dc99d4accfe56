// Pieces of time one below the other (a boot, a trace), and several starts with their phases side by side.

import { el, setAttribute, setVars } from './dom.js';
import { time } from './format.js';
import { Table } from './table.js';

/** The colour of each phase, the same everywhere. What is not listed here is drawn in grey. */
const PHASES = [
  ['gateway', 'p-all', 'the whole request, at the node\'s edge'],
  ['receive', 'p-edge', 'the request\'s bytes arrive'],
  ['queue', 'p-queue', 'waits for an instance'],
  ['sandbox', 'p-sandbox', 'namespaces, limits, mounts, filters'],
  ['runtime', 'p-runtime', 'the runtime starts'],
  ['restore', 'p-restore', 'the process is cloned from its checkpoint'],
  ['init', 'p-init', 'the function\'s own initialisation'],
  ['hooks', 'p-init', 'the function\'s hooks after a restore'],
  ['dispatch', 'p-dispatch', 'the request is handed over'],
  ['handler', 'p-handler', 'the function works'],
  ['respond', 'p-respond', 'the answer\'s bytes leave'],
  ['post', 'p-queue', 'the function\'s work after its answer'],
];

const STYLE = new Map(PHASES.map(([name, cls, meaning]) => [name, { cls, meaning }]));
const ORDER = new Map(PHASES.map(([name], at) => [name, at]));

export function phaseClass(name) {
  return STYLE.get(name)?.cls ?? 'p-other';
}

export function phaseMeaning(name) {
  return STYLE.get(name)?.meaning;
}

/** The phases of a record as [name, µs], in the order of time. An older or newer node may tell others. */
export function phasesOf(record) {
  const restored = record.cold && record.restored;
  const known = Object.entries(record.phases ?? {})
    .filter(([key, value]) => key.endsWith('_us') && key !== 'total_us' && typeof value === 'number')
    .map(([key, us]) => [key.slice(0, -3), us]);
  known.sort(([a], [b]) => (ORDER.get(a) ?? 99) - (ORDER.get(b) ?? 99));
  // What a start afresh spends on its sandbox and its initialisation, a restore does for the clone and its hooks.
  const other = restored ? { sandbox: 'restore', init: 'hooks' } : {};
  return known.map(([name, us]) => [other[name] ?? name, us]);
}

export class Waterfall {
  constructor({ caption, what = 'Phase', none, detail = true }) {
    const columns = [
      { label: what, text: (row) => row.name, cls: (row) => (row.level ? `level-${Math.min(3, row.level)}` : ''), title: (row) => phaseMeaning(row.name) },
      { label: 'Over time', wide: true, text: () => '', draw: (cell, row) => this.track(cell, row) },
      { label: 'Begins', number: true, text: (row) => `+${time(row.start)}` },
      { label: 'Takes', number: true, text: (row) => time(row.duration) },
    ];
    if (detail) columns.push({ label: 'Detail', text: (row) => row.detail ?? '', cls: () => 'detail' });
    this.table = new Table({ caption, columns, key: (row) => row.key, none });
    this.element = el('div', { class: 'waterfall' }, this.table.element);
  }

  /** `rows`: { key, name, start, duration, cls, detail?, level? } in µs; `total`: where the tracks end. */
  update(rows, total) {
    this.total = Math.max(1, total);
    this.element.classList.toggle('plain-rows', rows.every((row) => !row.detail));
    this.table.update(rows);
  }

  track(cell, row) {
    let piece = cell.querySelector('.piece');
    if (!piece) {
      piece = el('div', { class: 'piece' });
      cell.replaceChildren(el('div', { class: 'track', 'aria-hidden': 'true' }, piece));
    }
    setAttribute(piece, 'class', `piece ${row.cls}`);
    setVars(piece, { start: String(row.start / this.total), share: String(Math.min(1, row.duration / this.total)) });
  }
}

/** Starts of a function, one a row, their phases one after the other on a common scale. */
export class Starts {
  constructor({ caption, none, href }) {
    this.element = el('div', { class: 'starts' });
    this.legend = el('ul', { class: 'legend' });
    this.options = { caption, none, href };
    this.names = null;
  }

  build(names) {
    this.names = names.join();
    this.legend.replaceChildren(...names.map((name) =>
      el('li', { title: phaseMeaning(name) }, el('span', { class: `swatch ${phaseClass(name)}`, 'aria-hidden': 'true' }), name)));
    const { caption, none, href } = this.options;
    this.table = new Table({
      caption,
      none,
      key: (record) => record.id,
      columns: [
        { label: 'When', head: true, text: (record) => record.when, href },
        { label: 'Start', text: (record) => (record.restored ? 'restored' : 'cold') },
        { label: 'Phases', wide: true, text: () => '', draw: (cell, record) => this.stack(cell, record) },
        ...names.map((name) => ({ label: name, number: true, text: (record) => this.took(record, name) })),
        { label: 'Total', number: true, text: (record) => time(record.phases.total_us), cls: () => 'strong' },
      ],
    });
    this.element.replaceChildren(this.legend, this.table.element);
  }

  took(record, name) {
    const found = phasesOf(record).find(([other]) => other === name);
    return found && found[1] > 0 ? time(found[1]) : '';
  }

  /** `records`: invocation records with a start; `when` is their moment in words. */
  update(records) {
    const there = new Set(records.flatMap((record) => phasesOf(record).filter(([, us]) => us > 0).map(([name]) => name)));
    const names = PHASES.map(([name]) => name).filter((name) => there.has(name));
    names.push(...[...there].filter((name) => !ORDER.has(name)).sort());
    if (names.join() !== this.names) this.build(names);
    this.legend.hidden = records.length === 0;
    this.longest = Math.max(1, ...records.map((record) => record.phases.total_us));
    this.table.update(records);
  }

  stack(cell, record) {
    const pieces = phasesOf(record).filter(([, us]) => us > 0);
    let at = 0;
    const drawn = pieces.map(([name, us]) => {
      const piece = el('div', { class: `piece ${phaseClass(name)}`, title: `${name} ${time(us)}` });
      setVars(piece, { start: String(at / this.longest), share: String(us / this.longest) });
      at += us;
      return piece;
    });
    cell.replaceChildren(el('div', { class: 'track', 'aria-hidden': 'true' }, drawn));
  }
}
