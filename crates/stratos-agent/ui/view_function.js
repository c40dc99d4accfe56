// One function: its speed over time, where its starts spend theirs, its instances and last invocations.

import { get, path } from './api.js';
import { LineChart } from './chart.js';
import { el, Facts, section } from './dom.js';
import { age, count, moment, percent, size, sizeKb, time } from './format.js';
import { Table } from './table.js';
import { MINUTES, telemetry } from './view_functions.js';
import { Starts } from './waterfall.js';

const MOST_RECORDS = 100;
const MOST_STARTS = 20;
const PERCENTILES = [{ label: 'p50', cls: 's1' }, { label: 'p95', cls: 's2' }, { label: 'p99', cls: 's3' }];

/** The columns of a list of invocations. */
export function invocationColumns() {
  return [
    { label: 'Time', text: (row) => moment(row.started_at), href: (row) => `#/invocations/${row.function}/${row.id}` },
    { label: 'Outcome', text: (row) => row.outcome, cls: (row) => (row.outcome === 'ok' ? 'good' : 'bad') },
    { label: 'Blame', text: (row) => row.blame ?? '' },
    { label: 'Start', text: (row) => (row.cold ? (row.restored ? 'restored' : 'cold') : 'warm'), cls: (row) => (row.cold ? 'accent' : '') },
    { label: 'Version', number: true, text: (row) => row.version },
    { label: 'Handler', number: true, text: (row) => time(row.phases.handler_us) },
    { label: 'Total', number: true, text: (row) => time(row.phases.total_us), cls: () => 'strong' },
    { label: 'CPU', number: true, text: (row) => time(row.cpu_us) },
    { label: 'Memory', number: true, text: (row) => sizeKb(row.memory_peak_kb) },
    { label: 'In', number: true, text: (row) => size(row.request_bytes) },
    { label: 'Out', number: true, text: (row) => size(row.response_bytes) },
    { label: 'Trace', text: (row) => row.trace_id, cls: () => 'mono detail' },
  ];
}

function chart(title, none) {
  return new LineChart({ title, series: PERCENTILES, unit: time, gap: 61_000, height: 170, seconds: false, none });
}

export class FunctionView {
  parent = '#/functions';

  constructor(name) {
    this.name = name;
    this.title = name;
    this.facts = new Facts('The function');
    this.latency = chart('Duration', 'Nothing was invoked in the last hour.');
    this.start = chart('Start of an instance', 'No instance was started in the last hour.');
    this.noFigures = el('p', { class: 'note' }, 'This node keeps no figures over time.');
    this.starts = new Starts({
      caption: 'Where the last starts spent their time',
      none: `None of the last ${MOST_RECORDS} invocations started an instance.`,
      href: (row) => `#/invocations/${row.function}/${row.id}`,
    });
    this.instances = new Table({
      caption: 'Instances',
      columns: [
        { label: 'Instance', text: (row) => row.id, cls: () => 'mono' },
        { label: 'State', text: (row) => row.state, cls: (row) => (row.state === 'busy' ? 'accent' : '') },
        { label: 'Version', number: true, text: (row) => row.version },
        { label: 'In flight', number: true, text: (row) => count(row.in_flight) },
        { label: 'Answered', number: true, text: (row) => count(row.served) },
        { label: 'Memory', number: true, text: (row) => sizeKb(row.memory_kb) },
        { label: 'Age', number: true, text: (row) => age(row.age_s) },
      ],
      key: (row) => row.id,
      none: 'No instance runs: the next request starts one.',
    });
    this.only = el('input', { type: 'checkbox', name: 'failures', onchange: () => this.showRecords() });
    this.records = new Table({
      caption: 'Last invocations',
      columns: invocationColumns(),
      key: (row) => row.id,
      none: 'None.',
    });
    this.tools = [el('a', { class: 'button', href: `#/syscalls/${name}` }, 'System calls')];
    this.element = el('div', {},
      el('section', { class: 'card', 'aria-label': 'Facts' }, this.facts.element),
      el('div', { class: 'columns' },
        el('section', { class: 'card', 'aria-label': 'Duration over time' }, this.latency.element),
        el('section', { class: 'card', 'aria-label': 'Starts over time' }, this.start.element)),
      this.noFigures,
      section('Where starts spend their time', `the last ${MOST_STARTS} of ${MOST_RECORDS} invocations that started an instance, on one scale`, this.starts.element),
      section('Instances', null, this.instances.element),
      section('Last invocations', null, el('label', { class: 'pick' }, this.only, ' failures only'), this.records.element));
  }

  async refresh(signal) {
    const [detail, records, told] = await Promise.all([
      get(path('/v1/functions/{name}', this.name), signal),
      get(path(`/v1/functions/{name}/invocations?limit=${MOST_RECORDS}`, this.name), signal),
      telemetry(signal),
    ]);
    this.showFacts(detail, told?.functions.find((one) => one.function === this.name)?.total);
    this.showTimes(told);
    const started = records.filter((record) => record.cold).slice(0, MOST_STARTS);
    this.starts.update(started.map((record) => ({ ...record, when: moment(record.started_at) })));
    this.instances.update(detail.instances);
    this.known = records;
    this.showRecords();
  }

  showFacts(detail, total) {
    const { checkpoint, current } = detail;
    const states = { ready: 'ready: instances are restored from it', making: 'is being made', none: 'none: instances start afresh' };
    this.facts.update([
      ['Version', current.version],
      ['Runtime', `${current.layer.name} ${current.layer.version}`],
      ['Kind', current.kind === 'http' ? 'server on $PORT' : 'handler'],
      ['Deployed', moment(current.deployed_at)],
      ['Image', size(current.size)],
      ['Invocations', count(detail.invocations)],
      ['Errors', detail.invocations ? `${count(detail.errors)} (${percent(detail.errors / detail.invocations)})` : count(detail.errors)],
      ['Starts for a request', count(detail.cold_starts)],
      ['Requests waiting', count(detail.queued)],
      ['p50, p95, p99 of the last hour', total?.duration ? [total.duration.p50_us, total.duration.p95_us, total.duration.p99_us].map(time).join(', ') : null],
      ['Checkpoint', `${states[checkpoint.state] ?? checkpoint.state}${checkpoint.bytes ? `, ${size(checkpoint.bytes)}` : ''}`],
      ['Why none', checkpoint.reason],
      ['URL', detail.url_path],
      ['Notes', (current.notes ?? []).join('; ') || null],
    ]);
  }

  showTimes(told) {
    this.noFigures.hidden = told !== null;
    const minutes = told?.functions.find((one) => one.function === this.name)?.minutes ?? [];
    const now = Date.now();
    const axis = { from: now - MINUTES * 60_000, to: now };
    const points = (of) => minutes.filter(of).map((minute) => {
      const { p50_us, p95_us, p99_us } = of(minute);
      // A minute's figures stand in its middle, or now in that which runs.
      return { x: Math.min(now, Date.parse(minute.at) + 30_000), y: [p50_us, p95_us, p99_us] };
    });
    this.latency.update({ ...axis, points: points((minute) => minute.duration) });
    this.start.update({ ...axis, points: points((minute) => minute.start) });
  }

  showRecords() {
    const records = this.known ?? [];
    this.records.update(this.only.checked ? records.filter((record) => record.outcome !== 'ok') : records);
  }
}
