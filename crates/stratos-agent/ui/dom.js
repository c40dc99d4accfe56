// Makes and changes elements. Text from outside goes through here and becomes text nodes and attributes, never HTML.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'vars') setVars(element, value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element. `attributes`: names and values, `onEVENT` functions, `vars` for custom properties. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Custom properties, set through the object model: the page's policy allows no style attributes in HTML. */
export function setVars(element, values) {
  for (const [name, value] of Object.entries(values)) element.style.setProperty(`--${name}`, value);
}

/** Sets the text of an element, if it changes: what is selected or read out stays as it is otherwise. */
export function setText(element, text) {
  const string = String(text);
  if (element.textContent !== string) element.textContent = string;
}

/** Sets or removes an attribute, if it changes. */
export function setAttribute(element, name, value) {
  if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** A titled part of a view. */
export function section(title, note, ...children) {
  const heading = el('h2', {}, title);
  const head = el('div', { class: 'section-head' }, heading, note ? el('p', { class: 'note' }, note) : null);
  return el('section', { class: 'card' }, head, ...children);
}

/** Text in which what stands between backticks, as in the node's messages, becomes code. */
export function marked(text) {
  return String(text).split('`').map((part, at) => (at % 2 === 1 ? el('code', {}, part) : part));
}

/** What stands where there is nothing to show. */
export function empty(text, ...more) {
  return el('p', { class: 'empty' }, text, ...more);
}

/** Characters from which on a value takes the room of two. */
const LONG = 20;

/** A list of terms and their values that is updated in place. */
export class Facts {
  constructor(name) {
    this.element = el('dl', { class: 'facts', 'aria-label': name });
    this.values = new Map();
  }

  /** `facts`: [term, text, link?]; those whose text is null are left out. */
  update(facts) {
    const there = facts.filter(([, text]) => text !== null && text !== undefined && text !== '');
    const terms = there.map(([term]) => term).join('\n');
    if (terms !== this.terms) {
      this.terms = terms;
      this.values.clear();
      this.element.replaceChildren(...there.map(([term, , href]) => {
        const value = href ? el('a', { href }) : el('span');
        this.values.set(term, value);
        return el('div', {}, el('dt', {}, term), el('dd', {}, value));
      }));
    }
    for (const [term, text, href] of there) {
      const value = this.values.get(term);
      setText(value, text);
      if (href) setAttribute(value, 'href', href);
      setAttribute(value.closest('div'), 'class', String(text).length > LONG ? 'long' : null);
    }
  }
}
