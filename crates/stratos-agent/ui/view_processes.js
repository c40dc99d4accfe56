// Every process of the machine, below its parent.

import { get } from './api.js';
import { el } from './dom.js';
import { age, count, NONE, percent, sizeKb } from './format.js';
import { bar, Table } from './table.js';

const DEEPEST = 8;

/** In the order of a tree, each with its depth. Parents that are not shown pass their children up. */
export function ordered(processes) {
  const there = new Set(processes.map((process) => process.pid));
  const children = new Map();
  for (const process of processes) {
    const parent = there.has(process.parent) && process.parent !== process.pid ? process.parent : 0;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(process);
  }
  const found = [];
  const seen = new Set();
  // Not by recursion: how deep a tree is, its programs decide.
  const open = (children.get(0) ?? []).toReversed().map((process) => [process, 0]);
  while (open.length > 0) {
    const [process, depth] = open.pop();
    if (seen.has(process.pid)) continue;
    seen.add(process.pid);
    found.push({ ...process, depth });
    for (const child of (children.get(process.pid) ?? []).toReversed()) open.push([child, depth + 1]);
  }
  return found;
}

/** The function in a role such as `instance 7f3a (hello)`. */
function functionOf(role) {
  return /^instance \S+ \(([a-z0-9-]+)\)$/.exec(role)?.[1] ?? null;
}

export class ProcessesView {
  title = 'Processes';

  constructor() {
    this.before = null;
    this.scope = el('select', { name: 'scope', onchange: () => this.show() },
      el('option', { value: 'node' }, 'StratOS and functions'),
      el('option', { value: 'programs' }, 'All programs'),
      el('option', { value: 'all' }, 'With the kernel\'s threads'));
    this.filter = el('input', { type: 'search', name: 'filter', placeholder: 'name, PID or function', autocomplete: 'off', oninput: () => this.show() });
    this.total = el('span', { class: 'note', role: 'status' });
    this.tools = [
      el('label', { class: 'pick' }, 'Show ', this.scope),
      el('label', { class: 'pick' }, 'Filter ', this.filter),
      this.total,
    ];
    this.table = new Table({
      caption: 'Processes',
      columns: [
        {
          label: 'Process',
          text: (row) => row.name,
          title: (row) => (row.depth ? `below ${row.parent}` : null),
          cls: (row) => `mono indent-${Math.min(DEEPEST, row.depth)}`,
        },
        { label: 'PID', number: true, text: (row) => row.pid },
        { label: 'Belongs to', text: (row) => row.role || NONE, href: (row) => (functionOf(row.role) ? `#/functions/${functionOf(row.role)}` : null) },
        { label: 'CPU', number: true, text: () => '', draw: (cell, row) => bar(cell, row.use, row.use === null ? NONE : percent(row.use)) },
        { label: 'Memory', number: true, text: (row) => sizeKb(row.rss_kb) },
        { label: 'Threads', number: true, text: (row) => count(row.threads) },
        { label: 'CPU time', number: true, text: (row) => (row.cpu_ms < 120_000 ? `${(row.cpu_ms / 1000).toFixed(2)} s` : age(row.cpu_ms / 1000)) },
        { label: 'Age', number: true, text: (row) => age(row.age_s) },
        { label: 'Restarts', number: true, text: (row) => (row.restarts ? count(row.restarts) : '') },
      ],
      key: (row) => row.pid,
      none: 'No process is like that.',
    });
    this.element = el('section', { class: 'card', 'aria-label': 'Processes' }, this.table.element);
  }

  async refresh(signal) {
    const processes = await get('/v1/node/tree', signal);
    const now = performance.now();
    const used = new Map(processes.map((process) => [process.pid, process.cpu_ms]));
    const before = this.before;
    this.processes = processes.map((process) => {
      const then = before?.used.get(process.pid);
      return { ...process, use: then === undefined ? null : Math.max(0, process.cpu_ms - then) / (now - before.at) };
    });
    this.before = { at: now, used };
    this.show();
  }

  show() {
    if (!this.processes) return;
    const scope = this.scope.value;
    const wanted = this.filter.value.trim().toLowerCase();
    const inScope = (process) => {
      if (scope === 'all') return true;
      return scope === 'programs' ? process.role !== 'kernel' : process.role !== '' && process.role !== 'kernel';
    };
    const shown = this.processes.filter((process) => inScope(process)
      && (wanted === '' || `${process.name} ${process.pid} ${process.role}`.toLowerCase().includes(wanted)));
    this.table.update(ordered(shown));
    const of = `${count(shown.length)} of ${count(this.processes.length)} processes`;
    if (this.total.textContent !== of) this.total.textContent = of;
  }
}
