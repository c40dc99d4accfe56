// The last window in which a function's system calls were counted and timed.

import { get, getIfThere, has, path, post, Problem } from './api.js';
import { el, empty, Facts, marked, section, setAttribute, setText, setVars } from './dom.js';
import { count, moment, percent, time } from './format.js';
import { bar, Table } from './table.js';

const OF = '/v1/functions/{name}/trace';
const WINDOW_S = 10;
/** How many looks at the node pass between two questions for a window of which there was none. */
const LOOKS = 5;

/** A time in ns; those of system calls are short, so microseconds have decimals. */
const ns = (value) => {
  if (value < 1000) return `${Math.round(value)} ns`;
  return value < 100_000 ? `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} µs` : time(value / 1000);
};

/** How long the calls took, as columns: one for each power of two of nanoseconds from the first to the last with any. */
function histogram(cell, buckets) {
  const first = buckets.findIndex((calls) => calls > 0);
  const last = buckets.findLastIndex((calls) => calls > 0);
  const shown = first < 0 ? [] : buckets.slice(first, last + 1);
  const most = Math.max(1, ...shown);
  const text = shown.map((calls, i) => `${ns(2 ** (first + i))} ${count(calls)}`).join(', ');
  if (cell.dataset.shown === text) return;
  cell.dataset.shown = text;
  const columns = shown.map((calls, i) => {
    const column = el('div', { class: calls ? null : 'zero', title: `${count(calls)} from ${ns(2 ** (first + i))} on` });
    // What is there can be seen, however little it is.
    if (calls) setVars(column, { share: String(Math.max(0.08, calls / most)) });
    return column;
  });
  cell.replaceChildren(el('div', { class: 'histogram', 'aria-hidden': 'true' }, columns), el('span', { class: 'hidden' }, text || 'none'));
}

export class SyscallsView {
  title = 'System calls';

  constructor(name = null) {
    this.name = name;
    this.skip = 0;
    this.choice = el('select', { name: 'function', onchange: () => { location.hash = `#/syscalls/${this.choice.value}`; } });
    this.open = el('button', { type: 'button', onclick: () => this.count() }, `Count for ${WINDOW_S} s`);
    this.said = el('span', { class: 'note', role: 'status' });
    this.tools = [el('label', { class: 'pick' }, 'Function ', this.choice), this.open, this.said];
    this.facts = new Facts('The window');
    this.table = new Table({
      caption: 'System calls of the window',
      columns: [
        { label: 'System call', text: (row) => row.name, cls: () => 'mono', title: (row) => `number ${row.number}` },
        { label: 'Time altogether', wide: true, text: () => '', draw: (cell, row) => bar(cell, row.share, percent(row.share)) },
        { label: 'Time', number: true, text: (row) => ns(row.total_ns), cls: () => 'strong' },
        { label: 'Calls', number: true, text: (row) => count(row.count) },
        { label: 'Errors', number: true, text: (row) => (row.errors ? count(row.errors) : ''), cls: (row) => (row.errors ? 'warn' : '') },
        { label: 'Denied', number: true, text: (row) => (row.denied ? count(row.denied) : ''), cls: (row) => (row.denied ? 'warn' : '') },
        { label: 'p50', number: true, text: (row) => ns(row.p50_ns) },
        { label: 'p95', number: true, text: (row) => ns(row.p95_ns) },
        { label: 'Longest', number: true, text: (row) => ns(row.max_ns) },
        { label: 'How long they took', text: () => '', draw: (cell, row) => histogram(cell, row.buckets) },
      ],
      key: (row) => row.number,
      none: 'No system call ended in this window.',
    });
    this.none = empty('');
    this.window = section('The last window', null, this.facts.element, el('p', { class: 'note' },
      'A window costs each system call of the whole machine a third of a microsecond while it is open, so it is opened on demand, and by the node itself when errors repeat.'),
    this.table.element);
    this.window.hidden = true;
    this.element = el('div', {}, el('section', { class: 'card', 'aria-label': 'System calls' }, this.none), this.window);
  }

  async refresh(signal) {
    const functions = await get('/v1/functions', signal);
    this.choose(functions.map((one) => one.name));
    if (!await has(OF, signal)) {
      this.say('This node does not count system calls.');
      this.open.disabled = true;
      return;
    }
    this.open.disabled = this.name === null || this.counting === true;
    if (this.name === null) {
      this.say('No function is deployed, so there is none whose system calls could be counted.');
      return;
    }
    if (this.counting) return;
    if (this.skip > 0) {
      this.skip -= 1;
      return;
    }
    const trace = await getIfThere(path(OF, this.name), signal);
    this.skip = trace === null ? LOOKS : 0;
    if (trace === null) {
      this.say(`There was no window on ${this.name} yet. Open one and invoke the function meanwhile.`);
      this.window.hidden = true;
    } else {
      this.show(trace);
    }
  }

  choose(names) {
    if (names.join() !== this.names) {
      this.names = names.join();
      this.choice.replaceChildren(...names.map((name) => el('option', { value: name }, name)));
    }
    this.name ??= names[0] ?? null;
    if (this.name !== null) this.choice.value = this.name;
    setAttribute(this.choice, 'disabled', names.length === 0 ? '' : null);
  }

  say(text) {
    setText(this.none, text);
    this.none.parentElement.hidden = text === '';
  }

  show(trace) {
    this.say('');
    this.window.hidden = false;
    const all = trace.calls.reduce((sum, call) => sum + call.total_ns, 0);
    const calls = trace.calls.reduce((sum, call) => sum + call.count, 0);
    this.facts.update([
      ['Opened', moment(trace.began_at)],
      ['Open for', time(trace.duration_ms * 1000)],
      ['Why', trace.trigger === 'errors' ? 'errors repeated' : trace.trigger === 'request' ? 'somebody asked' : trace.trigger],
      ['Instances', count(trace.instances)],
      ['Invocations', count(trace.invocations)],
      ['System calls', count(calls)],
      ['A call took on average', calls ? ns(all / calls) : null],
      ['Not counted', trace.dropped ? count(trace.dropped) : null],
    ]);
    this.table.update(trace.calls.map((call) => ({ ...call, share: all ? call.total_ns / all : 0 })));
  }

  async count() {
    this.counting = true;
    this.open.disabled = true;
    setText(this.said, `Counting for ${WINDOW_S} s…`);
    try {
      const window = await post(`${path(OF, this.name)}?for=${WINDOW_S}s`, (WINDOW_S + 20) * 1000);
      setText(this.said, '');
      if (window?.calls) this.show(window);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.said.replaceChildren(...marked(`${problem.message} ${problem.hint ?? ''}`));
    } finally {
      this.counting = false;
      this.open.disabled = false;
      this.skip = 0;
    }
  }
}
