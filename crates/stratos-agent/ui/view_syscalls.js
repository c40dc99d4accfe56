// to come
import { el, empty } from './dom.js';

export class SyscallsView {
  title = 'System calls';

  constructor(name) {
    this.name = name;
    this.element = el('section', { class: 'card' }, empty('Nothing.'));
  }

  async refresh() {}
}
