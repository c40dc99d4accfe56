// Before a checkpoint: runs the paths that the first request of every instance will take, so that their code is compiled and in
// memory when the checkpoint is taken. V8 compiles a function when it is first called; the first request of a fresh Node spends
// milliseconds on that.
//
// The rehearsal is with a server or a handler of its own. The program's own code runs only when its author asked for it (`prime`).
'use strict';

const net = require('node:net');

/** Times that each path is taken: what it calls is compiled to bytecode. With hundreds V8 optimises, which a restored process pays for. */
const ROUNDS = 5;
/** How long one request may take, in ms. */
const PATIENCE_MS = 5000;

/** What the author asked for, from `prime` in stratos.toml. */
const prime = JSON.parse(process.env.STRATOS_PRIME ?? '[]');
delete process.env.STRATOS_PRIME;

const closed = (emitter) => new Promise((resolve) => emitter.once('close', resolve));

function listening(server) {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server.address().port));
  });
}

const get = (path) => `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n`;

/** Sends requests, each without its empty line, one after the other on one connection. */
async function ask(port, requests) {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  let answered;
  socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error(`no answer within ${PATIENCE_MS} ms`)));
  socket.on('data', () => answered());
  const ended = new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.once('close', resolve);
  });
  for (const [index, request] of requests.entries()) {
    const last = index === requests.length - 1 ? 'Connection: close\r\n' : '';
    const answer = new Promise((resolve) => (answered = resolve));
    socket.write(`${request}${last}\r\n`);
    await Promise.race([answer, ended]);
  }
  await ended;
}

/** Answers in the ways that servers do as a rule: at once, with headers of either kind, and after reading a body. */
function answer(request, response) {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  switch (pathname) {
    case '/headers':
      response.statusCode = 200;
      response.setHeader('Content-Type', 'application/json');
      return response.end(JSON.stringify({ name: searchParams.get('name'), agent: request.headers['user-agent'] }));
    case '/head':
      response.writeHead(200, { 'Content-Type': 'text/plain' });
      response.write('re');
      return response.end('ady');
    default:
      request.on('data', () => {});
      request.on('end', () => response.end('ready'));
  }
}

/** Writes a line as `console.log` does, to nowhere, and has the real streams made, which a first line would do. */
function rehearseLog() {
  const { Writable } = require('node:stream');
  const nowhere = new Writable({ write: (chunk, encoding, written) => written() });
  new console.Console(nowhere).log('%s %d', 'line', 1, { of: ['a', 'log'] });
  return [process.stdout.writable, process.stderr.writable];
}

/** Rehearses Node's own HTTP server, if the program has loaded it, and what the author asked for on `port`. */
async function rehearseServer(port) {
  rehearseLog();
  if (process.moduleLoadList.includes('NativeModule _http_server')) {
    const { createServer } = require('node:http');
    const server = createServer(answer);
    const requests = [get('/'), get('/headers?name=a'), get('/head')];
    const own = await listening(server);
    for (let round = 0; round < ROUNDS; round++) await ask(own, requests);
    server.close();
    await closed(server);
  }
  for (const path of prime) await ask(port, [get(path)]);
}

/** The part of the agent: gives `events` out one after the other, and takes the answers. */
function runtimeApi(events) {
  return net.createServer({ noDelay: true }, (socket) => {
    let waiting = '';
    socket.on('error', () => {});
    socket.on('data', (data) => {
      waiting += data.latin1Slice();
      for (let end; (end = waiting.indexOf('\r\n\r\n')) >= 0; ) {
        const head = waiting.slice(0, end);
        const length = Number(/content-length: *(\d+)/i.exec(head)?.[1] ?? 0);
        if (waiting.length < end + 4 + length) return;
        waiting = waiting.slice(end + 4 + length);
        if (head.startsWith('POST')) {
          socket.write('HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n');
          continue;
        }
        const event = events.shift();
        if (event === undefined) return;
        socket.write(
          'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n' +
            'lambda-runtime-aws-request-id: 00000000-0000-4000-8000-000000000000\r\n' +
            `lambda-runtime-deadline-ms: ${Date.now() + PATIENCE_MS}\r\n` +
            'lambda-runtime-invoked-function-arn: arn:aws:lambda:local:000000000000:function:rehearsal\r\n' +
            'lambda-runtime-trace-id: Root=1-00000000-000000000000000000000000\r\n' +
            'traceparent: 00-00000000000000000000000000000001-0000000000000001-00\r\n' +
            `content-length: ${Buffer.byteLength(event)}\r\n\r\n${event}`,
        );
      }
    });
  });
}

/**
 * Rehearses the way of an event with `serve(handler, address, rounds)`: first with a handler that does nothing, then with the
 * program's own for what its author asked for.
 */
async function rehearseHandler(handler, serve) {
  const turns = [[async () => ({ ready: true }), Array(ROUNDS).fill('{}')]];
  if (prime.length > 0) turns.push([handler, [...prime]]);
  for (const [own, events] of turns) {
    const rounds = events.length;
    const server = runtimeApi(events);
    const port = await listening(server);
    await serve(own, `127.0.0.1:${port}`, rounds);
    server.close();
    await closed(server);
  }
}

module.exports = { rehearseHandler, rehearseServer };
