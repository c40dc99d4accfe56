// What a program may have under way when it is checkpointed, and do after. Each item does something before and tells
// after whether it went on as it should. Run as `node functional.cjs` it parks in between; a handler calls the two halves.
'use strict';

const fs = require('node:fs');
const v8 = require('node:v8');
const vm = require('node:vm');
const { execFile, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const { pbkdf2, pbkdf2Sync } = require('node:crypto');
const { promisify } = require('node:util');
const { Worker } = require('node:worker_threads');

const OWN = '/var/task/functional.cjs';
const ROUNDS = 100_000;

// (module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
const WASM = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0,
  32, 1, 106, 11,
]);

/** A computation that is in vector registers as long as it takes. */
function compute() {
  let x = 0.5;
  for (let i = 0; i < 20_000_000; i++) x = x * 0.999999 + i * 1e-6;
  return x;
}

/** A worker that answers each message with what `code` makes of it. */
function worker(code) {
  const text = `require('worker_threads').parentPort.on('message', (n) => require('worker_threads').parentPort.postMessage(${code}))`;
  return new Worker(text, { eval: true });
}

/** Collects garbage, after everything that was looked at in this turn may go. */
async function collect() {
  v8.setFlagsFromString('--expose-gc');
  const gc = vm.runInNewContext('gc');
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setImmediate(resolve));
    gc();
  }
}

// Name: what is done before, and after with what that gave.
const ITEMS = {
  heap: [
    () => Array.from({ length: 20_000 }, (_, i) => ({ i, text: `item ${i}` })),
    (heap) => heap.every((item, i) => item.i === i && item.text === `item ${i}`),
  ],
  gc: [
    () => {
      const kept = { kept: true };
      return { kept, weak: new WeakRef(kept), lost: new WeakRef({ lost: Array(1000) }) };
    },
    async ({ kept, weak, lost }) => {
      for (let i = 0, garbage = []; i < 200_000; i++) garbage.push({ i });
      await collect();
      return weak.deref() === kept && lost.deref() === undefined;
    },
  ],
  clock: [
    () => process.hrtime.bigint(),
    (before) => process.hrtime.bigint() > before && Math.abs(Date.now() - fs.statSync('/proc/self/stat').mtimeMs) < 5000,
  ],
  'open file': [
    () => {
      const file = fs.openSync(OWN);
      fs.readSync(file, Buffer.alloc(10));
      return { file, reading: fs.promises.readFile(OWN, 'utf8') };
    },
    async ({ file, reading }) => {
      const text = await reading;
      return text === fs.readFileSync(OWN, 'utf8') && fs.readFileSync(file, 'utf8') === text.slice(10);
    },
  ],
  'new file': [
    () => null,
    async () => {
      await fs.promises.writeFile('/tmp/own', 'x'.repeat(1000));
      return fs.readFileSync('/tmp/own', 'utf8').length === 1000;
    },
  ],
  signal: [
    () => ({ heard: once(process, 'SIGUSR2') }),
    async ({ heard }) => {
      process.kill(process.pid, 'SIGUSR2');
      return (await heard)[0] === 'SIGUSR2';
    },
  ],
  wasm: [
    async () => (await WebAssembly.instantiate(WASM)).instance.exports.add,
    async (add) => add(2, 3) === 5 && (await WebAssembly.instantiate(WASM)).instance.exports.add(20, 3) === 23,
  ],
  regexp: [() => /(\d+)-(\d+)/, (pattern) => pattern.exec('a 12-34').slice(1).join() === '12,34'],
  import: [() => null, async () => (await import('node:zlib')).gzipSync('x').length > 0],
  'child process': [
    () => null,
    async () => {
      const sync = spawnSync(process.execPath, ['-p', '6 * 7'], { encoding: 'utf8' }).stdout.trim();
      const { stdout } = await promisify(execFile)(process.execPath, ['-p', '6 * 8']);
      return sync === '42' && stdout.trim() === '48';
    },
  ],
  worker: [
    async () => {
      const doubling = worker('n * 2');
      doubling.postMessage(1);
      await once(doubling, 'message');
      return doubling;
    },
    async (doubling) => {
      doubling.postMessage(21);
      const [answer] = await once(doubling, 'message');
      await doubling.terminate();
      return answer === 42;
    },
  ],
  'worker at work': [
    async () => {
      const busy = worker(`typeof n === 'number' ? n : (${compute})()`);
      busy.postMessage(1);
      await once(busy, 'message');
      busy.postMessage('compute');
      return { busy, answer: once(busy, 'message') };
    },
    async ({ busy, answer }) => {
      const [computed] = await answer;
      await busy.terminate();
      return computed === compute();
    },
  ],
  'thread pool': [
    () => ({ hash: promisify(pbkdf2)('a', 'b', ROUNDS, 32, 'sha512') }),
    async ({ hash }) => {
      const later = await promisify(pbkdf2)('a', 'c', 10, 32, 'sha512');
      return (await hash).equals(pbkdf2Sync('a', 'b', ROUNDS, 32, 'sha512')) && later.equals(pbkdf2Sync('a', 'c', 10, 32, 'sha512'));
    },
  ],
  interval: [
    () => {
      const state = { ticks: 0 };
      state.timer = setInterval(() => state.ticks++, 5);
      state.timer.unref();
      return state;
    },
    async (state) => {
      const { ticks } = state;
      await new Promise((resolve) => setTimeout(resolve, 100));
      clearInterval(state.timer);
      return state.ticks > ticks;
    },
  ],
  // The last one: nothing comes between this and the park, so that it is armed then.
  timer: [() => ({ armed: new Promise((resolve) => setTimeout(resolve, 1, true)) }), ({ armed }) => armed],
};

async function begin() {
  const begun = {};
  for (const [name, [before]] of Object.entries(ITEMS)) begun[name] = await before();
  return begun;
}

/** Tells for each item that it went on, or what is wrong. */
async function finish(begun) {
  const told = {};
  for (const [name, [, after]] of Object.entries(ITEMS)) {
    try {
      told[name] = await after(begun[name]);
    } catch (error) {
      told[name] = String(error);
    }
  }
  return told;
}

module.exports = { begin, finish };

if (require.main === module) {
  const { park } = require('/opt/stratos/park.cjs');
  begin().then(async (begun) => {
    park();
    process.stdout.write(`${JSON.stringify(await finish(begun))}\n`, () => process.exit());
  });
}
