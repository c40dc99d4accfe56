// Asks the node. The token never stands in an address; a pasted one is kept in this module alone, since pages of
// functions are of the same origin and could read any storage. A key that `stratos ui` made is of use for that
// command's own address only, where no function answers, and only while the command runs: that one outlives a reload.

const KEY = 'stratos-ui-key';
const TIMEOUT_MS = 10_000;

let token = null;

/** Takes the key from the address, where `stratos ui` puts it, and removes it from there. */
export function takeKey() {
  const match = /^#key=([\w-]+)$/.exec(location.hash);
  if (match) {
    sessionStorage.setItem(KEY, match[1]);
    history.replaceState(null, '', `${location.pathname}#/node`);
  }
  token = sessionStorage.getItem(KEY);
}

export function setToken(text) {
  token = text;
}

export function hasToken() {
  return token !== null;
}

export function forgetToken() {
  token = null;
  sessionStorage.removeItem(KEY);
}

/** An answer that is an error: what the node says of it, or why there was none. */
export class Problem extends Error {
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

async function fetched(path, signal, method = 'GET', timeout = TIMEOUT_MS) {
  const headers = token === null ? {} : { authorization: `Bearer ${token}` };
  const limit = AbortSignal.timeout(timeout);
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      referrerPolicy: 'no-referrer',
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = error.name === 'TimeoutError' ? `no answer within ${timeout / 1000} s` : 'no connection';
    throw new Problem(0, `The node does not answer: ${why}.`, 'It is asked again every 2 seconds. Is it running, and is this the address?');
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Not an error of the API; its status is told.
  }
  throw new Problem(response.status, String(told.message ?? `The node answered ${response.status}.`), told.hint);
}

/** The JSON at a path. */
export async function get(path, signal) {
  const response = await fetched(path, signal);
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(response.status, `The answer of ${path} broke off or is not JSON.`);
  }
}

/** The same, null when the node has nothing there. */
export async function getIfThere(path, signal) {
  try {
    return await get(path, signal);
  } catch (problem) {
    if (problem instanceof Problem && problem.status === 404) return null;
    throw problem;
  }
}

/** The paths of this node's API; asked once. */
let paths = null;

/** Whether this node's API has a path: one of another version may not. Asked beforehand, lest each look fail anew. */
export async function has(template, signal) {
  paths ??= Object.keys((await get('/v1/openapi.json', signal)).paths ?? {});
  return paths.includes(template);
}

/** Asks the node to do something; its answer, if it is one. */
export async function post(path, timeout) {
  const text = await (await fetched(path, undefined, 'POST', timeout)).text();
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The documents at a path that answers with one a line. */
export async function lines(path, signal) {
  const text = await (await fetched(path, signal)).text();
  return text.split('\n').filter((line) => line.trim() !== '').map((line) => JSON.parse(line));
}

/** A path with a name put in. */
export function path(template, name) {
  return template.replace('{name}', encodeURIComponent(name)).replace('{id}', encodeURIComponent(name));
}
