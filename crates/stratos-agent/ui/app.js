// The frame around the views: which one is shown, when it asks the node again, what is said when that fails.

import { forgetToken, get, hasToken, Problem, setToken, takeKey } from './api.js';
import { el, marked, setText } from './dom.js';
import { clock } from './format.js';
import { FailuresView } from './view_failures.js';
import { FunctionView } from './view_function.js';
import { FunctionsView } from './view_functions.js';
import { InvocationView } from './view_invocation.js';
import { NodeView } from './view_node.js';
import { ProcessesView } from './view_processes.js';
import { SyscallsView } from './view_syscalls.js';

const PERIOD_MS = 2000;
const THEME = 'stratos-theme';

const ROUTES = [
  [/^#\/node$/, NodeView],
  [/^#\/processes$/, ProcessesView],
  [/^#\/functions$/, FunctionsView],
  [/^#\/functions\/([a-z0-9-]+)$/, FunctionView],
  [/^#\/invocations\/([a-z0-9-]+)\/([A-Za-z0-9-]+)$/, InvocationView],
  [/^#\/failures$/, FailuresView],
  [/^#\/syscalls(?:\/([a-z0-9-]+))?$/, SyscallsView],
];

const at = (id) => document.getElementById(id);
const main = at('main');

let view = null;
let running = null;
let timer = null;
let paused = false;
/** Whether the node has let this page in. */
let known = false;

function show(problem) {
  const box = at('problem');
  box.hidden = problem === null;
  if (problem === null) {
    box.replaceChildren();
    return;
  }
  const text = `${problem.message} ${problem.hint ?? ''}`.replaceAll('`', '');
  // Said once, not at every try.
  if (box.textContent !== text) {
    box.replaceChildren(el('strong', {}, marked(problem.message)), ' ', el('span', {}, marked(problem.hint ?? '')));
  }
}

function live(text, cls) {
  const element = at('live');
  element.className = `live ${cls}`;
  setText(element, text);
}

function ask(why) {
  const dialog = at('ask');
  live('waits for the token', 'off');
  main.dataset.waiting = '';
  setText(at('ask-problem'), why);
  if (!dialog.open) dialog.showModal();
  at('token').focus();
}

async function refresh() {
  clearTimeout(timer);
  running?.abort();
  if (!known || paused || document.hidden || !view) return;
  const mine = new AbortController();
  const shown = view;
  running = mine;
  try {
    await shown.refresh(mine.signal);
    if (mine.signal.aborted) return;
    show(null);
    delete main.dataset.waiting;
    live(`live, ${clock(Date.now(), true)}`, 'on');
  } catch (problem) {
    if (mine.signal.aborted) return;
    if (problem instanceof Problem && problem.status === 401) {
      refused();
      return;
    }
    if (!(problem instanceof Problem)) throw problem;
    show(problem);
    live('not up to date', 'bad');
  } finally {
    if (running === mine) {
      running = null;
      timer = setTimeout(refresh, PERIOD_MS);
    }
  }
}

function route() {
  const found = ROUTES.map(([pattern, of]) => [pattern.exec(location.hash), of]).find(([match]) => match);
  if (!found) {
    // The link for keyboards leads to the content of this view, not to another one.
    if (location.hash !== '#main') location.replace('#/node');
    return;
  }
  const [match, View] = found;
  running?.abort();
  running = null;
  const first = view === null;
  view = new View(...match.slice(1).filter((part) => part !== undefined));
  const heading = el('h1', { tabindex: '-1' }, view.title);
  main.replaceChildren(el('div', { class: 'view-head' }, heading, ...(view.tools ?? [])), view.element);
  main.dataset.waiting = '';
  document.title = `${view.title} · StratOS`;
  for (const link of at('nav').querySelectorAll('a')) {
    if (location.hash.startsWith(link.getAttribute('href')) || link.getAttribute('href') === view.parent) {
      link.setAttribute('aria-current', 'page');
    } else {
      link.removeAttribute('aria-current');
    }
  }
  show(null);
  window.scrollTo(0, 0);
  // After a change of view, what comes next is read and reached from its title.
  if (!first) heading.focus();
  refresh();
}

/** Finds out whether the node tells this page anything: to strangers its health has less in it. */
async function identify() {
  try {
    const health = await get('/v1/health');
    setText(at('version'), health.version);
    if (health.uptime_s === undefined) {
      refused();
      return;
    }
    setText(at('host'), (await get('/v1/node')).hostname);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    // The view, which asks too, tells it.
  }
  known = true;
  refresh();
}

function refused() {
  const why = hasToken() ? 'The node refused this token.' : '';
  known = false;
  forgetToken();
  at('forget').hidden = true;
  ask(why);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at('theme').value = theme;
}

function listen() {
  window.addEventListener('hashchange', route);
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      clearTimeout(timer);
      running?.abort();
    } else {
      refresh();
    }
  });
  at('skip').addEventListener('click', (event) => {
    event.preventDefault();
    main.focus();
  });
  at('pause').addEventListener('click', () => {
    paused = !paused;
    at('pause').setAttribute('aria-pressed', String(paused));
    setText(at('pause'), paused ? 'Go on' : 'Pause');
    if (paused) live('paused', 'off');
    refresh();
  });
  at('theme').addEventListener('change', () => {
    localStorage.setItem(THEME, at('theme').value);
    setTheme(at('theme').value);
  });
  at('ask').addEventListener('cancel', (event) => event.preventDefault());
  at('ask-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = at('token').value.trim();
    at('token').value = '';
    // Header values are visible ASCII; what is not is no token.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      setText(at('ask-problem'), 'This is not a token: it has characters that none has.');
      return;
    }
    setToken(token);
    at('forget').hidden = false;
    at('ask').close();
    identify();
  });
  at('forget').addEventListener('click', () => {
    forgetToken();
    refused();
  });
}

const kept = localStorage.getItem(THEME);
setTheme(['light', 'dark'].includes(kept) ? kept : 'auto');
takeKey();
listen();
route();
identify();
