// What failed last, of all functions.

import { get, has, path } from './api.js';
import { el } from './dom.js';
import { count } from './format.js';
import { Table } from './table.js';
import { invocationColumns } from './view_function.js';

/** Functions that are asked, those with the most errors first, failures of each, and failures shown. */
const MOST_FUNCTIONS = 20;
const MOST_EACH = 25;
const MOST = 200;
/** What is kept over the agent's restart, for a day. */
const KEPT = '/v1/telemetry/functions';
/** How often that is asked for, ms: it is a day in minutes of all functions. */
const KEPT_MS = 30_000;

export class FailuresView {
  title = 'Failures';

  constructor() {
    const [when, ...others] = invocationColumns();
    this.kept = new Map();
    this.asked = 0;
    this.note = el('p', { class: 'note', role: 'status' });
    this.table = new Table({
      caption: 'Failures',
      columns: [
        when,
        { label: 'Function', text: (row) => row.function, href: (row) => `#/functions/${row.function}` },
        ...others,
      ],
      key: (row) => row.id,
      none: 'Nothing has failed, as far as this node remembers.',
    });
    this.tools = [this.note];
    this.element = el('section', { class: 'card', 'aria-label': 'Failures' }, this.table.element);
  }

  async refreshKept(signal) {
    if (Date.now() - this.asked < KEPT_MS || !await has(KEPT, signal)) return;
    const { functions } = await get(`${KEPT}?minutes=1440`, signal);
    this.kept = new Map(functions.map((row) => [row.function, row.total.errors]));
    this.asked = Date.now();
  }

  async refresh(signal) {
    const functions = await get('/v1/functions', signal);
    await this.refreshKept(signal);
    const errors = (one) => Math.max(one.errors, this.kept.get(one.name) ?? 0);
    const failed = functions.filter((one) => errors(one) > 0).sort((a, b) => errors(b) - errors(a));
    const asked = failed.slice(0, MOST_FUNCTIONS);
    const lists = await Promise.all(asked.map((one) =>
      get(path('/v1/functions/{name}/invocations?errors=true&limit=', one.name) + MOST_EACH, signal)));
    const records = lists.flat().filter((record) => record.outcome !== 'ok');
    records.sort((a, b) => Date.parse(b.started_at) - Date.parse(a.started_at));
    this.table.update(records.slice(0, MOST));
    const all = functions.reduce((sum, one) => sum + errors(one), 0);
    const left = failed.length > asked.length ? `, of the ${MOST_FUNCTIONS} functions with the most` : '';
    const text = all ? `${count(Math.min(MOST, records.length))} of ${count(all)} errors of the last day${left}` : '';
    if (this.note.textContent !== text) this.note.textContent = text;
  }
}
