// One invocation: its spans over time, what is known of it, what it printed.

import { getIfThere, has, lines, path, Problem } from './api.js';
import { el, empty, Facts, section, setText } from './dom.js';
import { count, figure, moment, size, sizeKb, time } from './format.js';
import { Table } from './table.js';
import { phaseClass, phasesOf, Waterfall } from './waterfall.js';

const LOG_TAIL = 1000;
const MOST_LINES = 300;

/** What figures of the kernel are called. */
const NAMES = {
  run_queue_us: 'Waited for a CPU',
  off_cpu_us: 'Waited otherwise',
  faults: 'Page faults',
  major_faults: 'Page faults from disk',
  rx_bytes: 'Received',
  tx_bytes: 'Sent',
  connects: 'Connections made',
  connect_failures: 'Connections failed',
  connect_us: 'Connecting took',
  processes: 'Processes begun',
  syscalls: 'System calls',
};

/** Spans as rows, each below the span it lies in. */
function spanRows(spans) {
  const depth = new Map();
  return spans.map((span) => {
    const level = depth.has(span.parent_span_id) ? depth.get(span.parent_span_id) + 1 : 0;
    depth.set(span.span_id, level);
    // Those of the record stand among what is known, the error above it.
    const attributes = Object.entries(span.attributes ?? {}).filter(([name]) => !/^(faas|stratos|error|exception)\./.test(name));
    return {
      key: span.span_id,
      name: span.name,
      start: span.start_us,
      duration: span.duration_us,
      cls: phaseClass(span.name),
      level,
      detail: attributes.map(([name, value]) => `${name} ${value}`).join(', '),
    };
  });
}

/** The phases of a record one after the other: what they follow each other for. */
function phaseRows(record) {
  let at = 0;
  const rows = [{ key: 'gateway', name: 'gateway', start: 0, duration: record.phases.total_us, cls: phaseClass('gateway') }];
  for (const [name, us] of phasesOf(record)) {
    if (us > 0) rows.push({ key: name, name, start: at, duration: us, cls: phaseClass(name), level: 1 });
    at += us;
  }
  return rows;
}

export class InvocationView {
  parent = '#/functions';

  constructor(name, id) {
    Object.assign(this, { name, id, title: `Invocation of ${name}` });
    this.outcome = el('span', { class: 'outcome', role: 'status' });
    this.tools = [this.outcome, el('a', { class: 'button', href: `#/functions/${name}` }, 'The function')];
    this.waterfall = new Waterfall({ caption: 'The invocation over time', what: 'Span', none: '' });
    this.gone = empty('The node does not know this invocation any more. It remembers the last ones of each function, and those that failed or were slow for longer.');
    this.gone.hidden = true;
    this.note = el('p', { class: 'note' });
    this.said = el('p', { class: 'said', hidden: true });
    this.facts = new Facts('The invocation');
    this.log = new Table({
      caption: 'What was printed meanwhile',
      columns: [
        { label: 'Time', text: (row) => moment(row.at) },
        { label: 'Stream', text: (row) => row.stream, cls: (row) => (row.stream === 'stderr' ? 'warn' : '') },
        { label: 'Message', text: (row) => row.message, cls: () => 'mono message', head: true },
      ],
      key: (row) => row.key,
      none: 'Nothing, as far as the log reaches back.',
    });
    this.trace = section('Where the time went', null, this.waterfall.element, this.note);
    this.element = el('div', {}, this.gone, this.said, this.trace, section('What is known', null, this.facts.element), section('Log', null, this.log.element));
  }

  async refresh(signal) {
    // What is over changes no more.
    if (this.done) return;
    const of = '/v1/invocations/{id}/trace';
    const trace = await has(of, signal) ? await getIfThere(path(of, this.id), signal) : null;
    const record = trace?.record ?? await this.find(signal);
    this.gone.hidden = record !== null;
    this.trace.hidden = record === null;
    if (record === null) return;
    const rows = trace ? spanRows(trace.spans) : phaseRows(record);
    this.waterfall.update(rows, Math.max(record.phases.total_us, ...rows.map((row) => row.start + row.duration)));
    const kept = { error: 'it failed', timeout: 'it took too long', slo: 'it was slower than it should be', recent: 'it is one of the last' };
    setText(this.note, trace ? `This trace was kept because ${kept[trace.kept] ?? trace.kept}.` : 'The phases of its record; no trace of it was kept.');
    const said = trace?.spans[0]?.attributes?.['exception.message'];
    setText(this.said, said ?? '');
    this.said.hidden = !said;
    setText(this.outcome, record.outcome);
    this.outcome.className = `outcome ${record.outcome === 'ok' ? 'good' : 'bad'}`;
    this.facts.update(this.told(record));
    await this.showLog(signal);
    this.done = true;
  }

  async find(signal) {
    const records = await getIfThere(path('/v1/functions/{name}/invocations?limit=100', this.name), signal);
    return records?.find((record) => record.id === this.id) ?? null;
  }

  told(record) {
    const known = new Set(['id', 'function', 'version', 'instance', 'started_at', 'cold', 'restored', 'phases', 'request_bytes',
      'response_bytes', 'memory_peak_kb', 'cpu_us', 'outcome', 'blame', 'trace_id']);
    const blames = { client: 'the caller', function: 'the function', platform: 'the node' };
    // What else is told, such as what the kernel counted, is shown by its name.
    const more = Object.entries(record).filter(([name, value]) => !known.has(name) && value !== null)
      .flatMap(([name, value]) => (typeof value === 'object' && !Array.isArray(value) ? Object.entries(value) : [[name, value]]))
      .map(([name, value]) => {
        const [words, text] = figure(name, typeof value === 'object' ? JSON.stringify(value) : value);
        return [NAMES[name] ?? words, text];
      });
    return [
      ['Outcome', record.outcome],
      ['To blame', record.blame ? blames[record.blame] ?? record.blame : null],
      ['Arrived', moment(record.started_at)],
      ['Total', time(record.phases.total_us)],
      ['Start', record.cold ? (record.restored ? 'restored from a checkpoint' : 'cold') : 'warm'],
      ['Function', record.function, `#/functions/${record.function}`],
      ['Version', count(record.version)],
      ['Instance', record.instance],
      ['CPU time', record.cpu_us === null ? null : time(record.cpu_us)],
      ['Memory, highest', record.memory_peak_kb === null ? null : sizeKb(record.memory_peak_kb)],
      ['Request', size(record.request_bytes)],
      ['Answer', size(record.response_bytes)],
      ['Invocation', record.id],
      ['Trace', record.trace_id],
      ...more,
    ];
  }

  async showLog(signal) {
    try {
      const log = await lines(path(`/v1/functions/{name}/logs?tail=${LOG_TAIL}`, this.name), signal);
      const mine = log.filter((line) => line.invocation === this.id).slice(-MOST_LINES);
      this.log.update(mine.map((line, key) => ({ ...line, key })));
    } catch (problem) {
      // The function may be removed while its trace is still there.
      if (!(problem instanceof Problem) || problem.status !== 404) throw problem;
      this.log.update([]);
    }
  }
}
