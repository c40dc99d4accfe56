// A table that is updated in place: rows are kept by key and cells changed only where their text does, so that focus,
// selection and a screen reader's place stay.

import { el, empty, setAttribute, setText } from './dom.js';

export class Table {
  /**
   * `columns`: { label, text(row), number?, href?(row), cls?(row), draw?(cell, row), title?(row), wide?, head? }.
   * The first column with `head` (else the first) names its row.
   */
  constructor({ caption, columns, key, none = 'Nothing to show.' }) {
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    this.body = el('tbody');
    const heads = columns.map((column) =>
      el('th', { scope: 'col', class: column.number ? 'number' : column.wide ? 'wide' : null }, column.label));
    this.table = el('table', {}, el('caption', { class: 'hidden' }, caption), el('thead', {}, el('tr', {}, heads)), this.body);
    this.none = empty(none);
    this.none.hidden = true;
    // What scrolls has to be reached by the keyboard.
    this.scroll = el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, this.table);
    this.element = el('div', {}, this.scroll, this.none);
  }

  update(rows) {
    const seen = new Set();
    let before = null;
    for (const row of rows) {
      const key = this.key(row);
      if (seen.has(key)) continue;
      seen.add(key);
      let shown = this.rows.get(key);
      if (!shown) {
        shown = this.make(row);
        this.rows.set(key, shown);
      }
      const after = before ? before.nextSibling : this.body.firstChild;
      if (after !== shown.element) this.body.insertBefore(shown.element, after);
      this.fill(shown, row);
      before = shown.element;
    }
    for (const [key, shown] of this.rows) {
      if (seen.has(key)) continue;
      shown.element.remove();
      this.rows.delete(key);
    }
    this.none.hidden = seen.size > 0;
    this.scroll.hidden = seen.size === 0;
  }

  make(row) {
    const head = Math.max(0, this.columns.findIndex((column) => column.head));
    const cells = this.columns.map((column, at) => {
      const cell = el(at === head ? 'th' : 'td', { scope: at === head ? 'row' : null });
      if (column.href && column.href(row)) cell.append(el('a'));
      return cell;
    });
    return { element: el('tr', {}, cells), cells };
  }

  fill(shown, row) {
    this.columns.forEach((column, at) => {
      const cell = shown.cells[at];
      const classes = [column.number ? 'number' : '', column.wide ? 'wide' : '', column.cls?.(row) ?? ''];
      setAttribute(cell, 'class', classes.filter(Boolean).join(' ') || null);
      setAttribute(cell, 'title', column.title?.(row));
      if (column.draw) {
        column.draw(cell, row);
        return;
      }
      const link = column.href ? cell.firstElementChild : null;
      if (link) setAttribute(link, 'href', column.href(row));
      setText(link ?? cell, column.text(row));
    });
  }
}

/** A bar within a cell, `share` of its width, made once and kept. */
export function bar(cell, share, text, cls) {
  let track = cell.querySelector('.bar');
  if (!track) {
    track = el('div', { class: 'bar', 'aria-hidden': 'true' }, el('div'));
    cell.replaceChildren(track, el('span'));
  }
  setAttribute(track.firstChild, 'class', cls ?? null);
  track.firstChild.style.setProperty('--share', String(Math.max(0, Math.min(1, share || 0))));
  setText(cell.lastChild, text);
}
