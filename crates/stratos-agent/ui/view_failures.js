// What failed last, of all functions.

import { get, path } from './api.js';
import { el } from './dom.js';
import { count } from './format.js';
import { Table } from './table.js';
import { invocationColumns } from './view_function.js';

/** Functions that are asked, those with the most errors first, and failures shown. */
const MOST_FUNCTIONS = 20;
const MOST = 200;

export class FailuresView {
  title = 'Failures';

  constructor() {
    const [when, ...others] = invocationColumns();
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

  async refresh(signal) {
    const functions = await get('/v1/functions', signal);
    const failed = functions.filter((one) => one.errors > 0).sort((a, b) => b.errors - a.errors);
    const asked = failed.slice(0, MOST_FUNCTIONS);
    const lists = await Promise.all(asked.map((one) =>
      get(path('/v1/functions/{name}/invocations?limit=100&errors=true', one.name), signal)));
    const records = lists.flat().filter((record) => record.outcome !== 'ok');
    records.sort((a, b) => Date.parse(b.started_at) - Date.parse(a.started_at));
    this.table.update(records.slice(0, MOST));
    const all = functions.reduce((sum, one) => sum + one.errors, 0);
    const left = failed.length > asked.length ? `, of the ${MOST_FUNCTIONS} functions with the most` : '';
    const text = all ? `${count(Math.min(MOST, records.length))} of ${count(all)} errors since the agent started${left}` : '';
    if (this.note.textContent !== text) this.note.textContent = text;
  }
}
