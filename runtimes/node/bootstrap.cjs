// The Node.js runtime: loads the handler, waits to be released, then answers events from the Lambda Runtime API one after another.
//
// The order is part of the contract with the agent (see park.cjs): `R`, load, `P`, park, connect, loop. Nothing connects anywhere
// before the release, so that a process parked here can be checkpointed and continued many times.
'use strict';

const { checkpoint, mark, park, prepareToPark, runRestoreHooks } = require('./park.cjs');

mark('R');

const { Connection } = require('./api.cjs');
const { RuntimeError, errorBody, errorType, logError } = require('./errors.cjs');
const { loadHandler } = require('./handler.cjs');
const { Invocation, STREAMING } = require('./invoke.cjs');
require('./output.cjs').install();

/** How long the last words of a dying process may take, in ms. */
const FAREWELL_MS = 1000;

/** Invocations that are not answered yet, each with its connection. */
const active = new Map();

globalThis.awslambda = {
  /** Marks `handler(event, responseStream, context)` as one that streams its response. */
  streamifyResponse(handler) {
    handler[STREAMING] = 'response';
    return handler;
  },
  get HttpResponseStream() {
    return require('./streaming.cjs').HttpResponseStream;
  },
};

/** Tells the agent why this runtime cannot serve, and exits. */
async function refuse(thrown) {
  logError('init', thrown);
  process.exitCode = 1;
  const address = process.env.AWS_LAMBDA_RUNTIME_API;
  if (address) {
    setTimeout(() => process.exit(1), FAREWELL_MS);
    const connection = new Connection(address);
    const headers = `Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: ${errorType(thrown)}\r\n`;
    connection.write(connection.post('/init/error', headers, errorBody(thrown)));
    await connection.response();
  }
  process.exit();
}

/** The end after an error that nobody caught: answers what is still open, then exits. */
function dieOf(thrown) {
  // Whatever state the process is in now, it must not serve another event, nor linger.
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', () => process.exit(1));
  process.exitCode = 1;
  if (active.size === 0) {
    logError('uncaught', thrown);
    process.exit(1);
  }
  setTimeout(() => process.exit(1), FAREWELL_MS);
  const answers = [];
  for (const [invocation, connection] of active) {
    const request = invocation.fail(thrown);
    if (request) connection.write(request);
    answers.push(connection.response());
  }
  active.clear();
  Promise.all(answers).then(() => process.exit());
}

/**
 * Serves events on one connection for as long as the process lives, or, in a rehearsal, some. `alone`: no other loop runs beside
 * this one.
 */
async function serve(handler, alone, address = process.env.AWS_LAMBDA_RUNTIME_API, rounds = Infinity) {
  const connection = new Connection(address);
  connection.write(connection.nextRequest);
  let next = connection.response();
  for (let round = 0; round < rounds; round++) {
    const request = await next;
    if (request.status !== 200) throw new Error(`the runtime API answered ${request.status} to a request for the next event`);

    const invocation = new Invocation(connection, request);
    active.set(invocation, connection);
    if (alone) {
      process.env._X_AMZN_TRACE_ID = request.headers['lambda-runtime-trace-id'] ?? '';
      // While the handler runs, the connection does not keep the event loop alive: see the `beforeExit` listener.
      connection.socket.unref();
    }
    const answer = await invocation.run(handler, alone);
    connection.socket.ref();
    // Already answered by `dieOf`: the process is about to exit.
    if (!active.delete(invocation)) return;

    connection.write(answer + connection.nextRequest);
    const accepted = connection.response();
    next = connection.response();
    const { status, body } = await accepted;
    // The agent has settled the invocation itself, for instance as too large; the request for the next one is already on its way.
    if (status !== 202) logError(invocation.id, `the runtime API refused the answer: ${status} ${body}`);
  }
  await connection.end();
}

async function main() {
  const stalled = () => refuse(new RuntimeError('Runtime.HandlerStalled', 'loading still waits, but nothing is left that could wake it'));
  process.on('uncaughtException', refuse);
  process.on('beforeExit', stalled);
  let handler;
  try {
    handler = await loadHandler(process.env.LAMBDA_TASK_ROOT ?? process.cwd(), process.env._HANDLER ?? '');
  } catch (error) {
    return refuse(error);
  }

  if (checkpoint) {
    try {
      const { rehearseHandler } = require('./rehearse.cjs');
      await rehearseHandler(handler, (own, address, rounds) => serve(own, true, address, rounds));
    } catch (error) {
      logError('rehearsal', error);
    }
    delete process.env._X_AMZN_TRACE_ID;
    await prepareToPark();
  }

  try {
    park();
    await runRestoreHooks();
  } catch (error) {
    return refuse(new RuntimeError('Runtime.AfterRestoreError', error?.message ?? String(error), error));
  }

  process.removeListener('uncaughtException', refuse);
  process.removeListener('beforeExit', stalled);
  process.on('uncaughtException', dieOf);
  process.on('beforeExit', () => {
    for (const invocation of active.keys()) invocation.drained?.();
  });
  const loops = Math.max(1, Number(process.env.AWS_LAMBDA_MAX_CONCURRENCY) || 1);
  for (let i = 0; i < loops; i++) serve(handler, loops === 1);
}

main();
