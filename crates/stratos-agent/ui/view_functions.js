// All functions: what they did since the agent started, and how fast in the last hour.

import { get, has } from './api.js';
import { sparkline } from './chart.js';
import { el, Facts, section, setText } from './dom.js';
import { count, moment, NONE, percent, size, time } from './format.js';
import { Table } from './table.js';

/** How far back figures over time go, in minutes. */
export const MINUTES = 60;

/** The figures of the last hour by function, or null where the node keeps none. */
export async function telemetry(signal) {
  const path = '/v1/telemetry/functions';
  return await has(path, signal) ? get(`${path}?minutes=${MINUTES}`, signal) : null;
}

/** One value a minute, null where nothing ended in it. */
export function byMinute(minutes, value, now = Date.now()) {
  const found = new Array(MINUTES).fill(null);
  for (const minute of minutes) {
    const at = MINUTES - 1 - Math.floor((now - Date.parse(minute.at)) / 60_000);
    if (at >= 0 && at < MINUTES) found[at] = value(minute) ?? null;
  }
  return found;
}

function errorShare(row) {
  return row.invocations > 0 ? row.errors / row.invocations : 0;
}

const OWN_NOTE = 'Percentiles are of the last hour, from the whole request being there to its answer.';

export class FunctionsView {
  title = 'Functions';

  constructor() {
    const of = (row) => row.total;
    this.table = new Table({
      caption: 'Functions',
      columns: [
        { label: 'Function', text: (row) => row.name, href: (row) => (row.deployed_at ? `#/functions/${row.name}` : null) },
        { label: 'Runtime', text: (row) => row.runtime },
        { label: 'Version', number: true, text: (row) => row.version ?? NONE, title: (row) => (row.deployed_at ? `deployed ${moment(row.deployed_at)}` : null) },
        { label: 'Instances', number: true, text: (row) => count(row.instances) },
        { label: 'Invocations', number: true, text: (row) => count(row.invocations) },
        {
          label: 'Errors',
          number: true,
          text: (row) => (row.errors ? `${count(row.errors)} (${percent(errorShare(row))})` : '0'),
          cls: (row) => (row.errors ? 'bad' : ''),
        },
        { label: 'p50', number: true, text: (row) => time(of(row)?.duration?.p50_us) },
        { label: 'p95', number: true, text: (row) => time(of(row)?.duration?.p95_us) },
        { label: 'p99', number: true, text: (row) => time(of(row)?.duration?.p99_us) },
        { label: 'Starts', number: true, text: (row) => (of(row) ? count(of(row).cold + of(row).restored) : NONE), title: (row) => (of(row) ? `${of(row).cold} cold, ${of(row).restored} restored` : null) },
        { label: 'Start p50', number: true, text: (row) => time(of(row)?.start?.p50_us) },
        { label: 'Start p95', number: true, text: (row) => time(of(row)?.start?.p95_us) },
        { label: 'Invocations a minute', draw: (cell, row) => this.trend(cell, row), text: () => '', cls: () => 'trend' },
      ],
      key: (row) => row.name,
      none: 'No function is deployed. `stratos new hello` makes one, `stratos deploy hello` brings it here.',
    });
    this.note = el('p', { class: 'note' }, OWN_NOTE);
    this.own = new Facts('What telemetry takes');
    this.ownCard = section('Telemetry itself', null, this.own.element);
    this.ownCard.hidden = true;
    this.element = el('div', {}, el('section', { class: 'card', 'aria-label': 'Functions' }, this.table.element, this.note), this.ownCard);
  }

  async refresh(signal) {
    const [functions, told] = await Promise.all([get('/v1/functions', signal), telemetry(signal)]);
    const by = new Map((told?.functions ?? []).map((one) => [one.function, one]));
    const rows = functions.map((one) => ({ ...one, ...by.get(one.name) }));
    const other = by.get('_other');
    if (other) {
      const { invocations, errors } = other.total;
      rows.push({ name: 'all others', runtime: NONE, invocations, errors, ...other });
    }
    this.table.update(rows);
    setText(this.note, told ? OWN_NOTE : 'This node keeps no figures over time: percentiles are missing.');
    this.ownCard.hidden = !told?.own;
    if (told?.own) {
      const { own } = told;
      this.own.update([
        ['Memory', size(own.memory_bytes)],
        ['Disk', size(own.disk_bytes)],
        ['Traces kept', count(own.traces)],
        ['Traces dropped', count(own.traces_dropped)],
        ['Counted as “all others”', count(own.folded)],
        ['Invalid trace contexts', count(own.contexts_invalid)],
        ['Not exported', count(own.export_dropped)],
      ]);
    }
  }

  trend(cell, row) {
    if (!row.minutes) {
      setText(cell, NONE);
      return;
    }
    sparkline(cell, byMinute(row.minutes, (minute) => minute.invocations).map((value) => value ?? 0));
  }
}
