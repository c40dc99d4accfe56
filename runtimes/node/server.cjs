// The place where a server parks: it listens on `$PORT`, and no request has come yet. Loaded for checkpoints, and by servers that
// register a hook.
'use strict';

const net = require('node:net');
const { logError } = require('./errors.cjs');
const { rehearseServer } = require('./rehearse.cjs');
const { park, prepareToPark, runRestoreHooks } = require('./park.cjs');

/** What ends soon as a rule and should not be under way in a checkpoint, as `process.getActiveResourcesInfo` calls it. */
const PASSING = new Set([
  ...['FSReqCallback', 'FSReqPromise', 'GetAddrInfoReqWrap', 'QueryReqWrap', 'ProcessWrap'],
  ...['ConnectWrap', 'TCPSocketWrap', 'TLSWrap', 'ShutdownWrap', 'WriteWrap'],
]);

/** How long to wait for that, in ms. What takes longer, such as a connection to a database, is for the checkpoint to refuse. */
const SETTLE_MS = 2000;
const STEP_MS = 5;

/** Calls `reached(server)` when a server listens on `port`, after the server's own listeners. Returns a function that ends this. */
function onListening(port, reached) {
  const { prototype } = net.Server;
  const inherited = !Object.hasOwn(prototype, 'emit');
  const original = prototype.emit;
  const emit = function (event, ...values) {
    const heard = Reflect.apply(original, this, [event, ...values]);
    if (event === 'listening' && reached !== null && listensOn(this, port)) reached(this);
    return heard;
  };
  prototype.emit = emit;
  return () => {
    reached = null;
    // Whoever has wrapped it meanwhile keeps it, and it only passes on.
    if (prototype.emit !== emit) return;
    if (inherited) delete prototype.emit;
    else prototype.emit = original;
  };
}

const listensOn = (server, port) => server.listening && server.address()?.port === port;

/** Makes connections wait that arrive from now on, until the returned function is called. */
function holdConnections(server) {
  const handle = server._handle;
  const accept = handle.onconnection;
  const held = [];
  handle.onconnection = (...connection) => held.push(connection);
  return () => {
    handle.onconnection = accept;
    for (const connection of held) Reflect.apply(accept, handle, connection);
  };
}

/** Runs `first`, then the hooks, with nothing in between, and no request before they have ended. */
async function beforeRequests(servers, first) {
  const releases = servers.map(holdConnections);
  try {
    first();
    await runRestoreHooks();
  } catch (error) {
    // It must not serve in a state that nobody foresaw.
    logError('restore', error);
    process.exit(1);
  }
  for (const release of releases) release();
}

/** Parks once a server listens on `port` and what its listeners started has ended. */
function parkWhenListening(port) {
  const servers = new Set();
  let settling = false;
  let rehearsed = false;
  const settle = (deadline) => {
    const listening = [...servers].filter((server) => listensOn(server, port));
    if (listening.length === 0) {
      settling = false; // It has changed its mind; the next one that listens may park.
      return;
    }
    // A server that has called itself, to be warm, may still have that connection.
    for (const server of listening) server.closeIdleConnections?.();
    if (process.getActiveResourcesInfo().some((name) => PASSING.has(name)) && Date.now() < deadline) {
      setTimeout(settle, STEP_MS, deadline);
      return;
    }
    if (!rehearsed) {
      rehearsed = true;
      rehearseServer(port)
        .catch((error) => logError('rehearsal', error))
        .then(prepareToPark)
        .then(() => setImmediate(settle, Date.now() + SETTLE_MS));
      return;
    }
    stop();
    // Compiled now, so that no instance has to do it.
    for (const server of listening) holdConnections(server)();
    beforeRequests(listening, park);
  };
  const stop = onListening(port, (server) => {
    servers.add(server);
    if (!settling) setImmediate(settle, Date.now() + SETTLE_MS);
    settling = true;
  });
}

/** In a start without a checkpoint: runs the hooks once a server listens on `port`. */
function runHooksWhenListening(port) {
  const stop = onListening(port, (server) => {
    stop();
    beforeRequests([server], () => {});
  });
}

module.exports = { parkWhenListening, runHooksWhenListening };
