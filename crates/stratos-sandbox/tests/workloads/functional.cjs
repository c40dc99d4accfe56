// What a program may have under way when it parks, and do after. Run as `node functional.cjs`; prints a line a check.
'use strict';

const fs = require('node:fs');
const { spawnSync } = require('node:child_process');
const { once } = require('node:events');
const { pbkdf2 } = require('node:crypto');
const { Worker } = require('node:worker_threads');
const { promisify } = require('node:util');
const { park } = require('/opt/stratos/park.cjs');

// (module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
const WASM = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0,
  32, 1, 106, 11,
]);

async function main() {
  const heap = Array.from({ length: 20_000 }, (_, i) => ({ i, text: `item ${i}` }));
  const wasm = await WebAssembly.instantiate(WASM);
  const worker = new Worker("require('worker_threads').parentPort.on('message', (n) => require('worker_threads').parentPort.postMessage(n * 2))", {
    eval: true,
  });
  worker.postMessage(1);
  await once(worker, 'message');
  await promisify(pbkdf2)('a', 'b', 10, 8, 'sha256'); // The thread pool has its threads.
  let ticks = 0;
  const interval = setInterval(() => ticks++, 5);
  const armed = new Promise((resolve) => setTimeout(resolve, 1, 'fired'));
  const file = fs.openSync('/var/task/functional.cjs');
  const watched = fs.promises.readFile('/var/task/functional.cjs', 'utf8');
  const before = process.hrtime.bigint();

  park();

  console.log('timer', await armed);
  console.log('interval', await new Promise((resolve) => setTimeout(() => resolve(ticks > 0), 30)));
  clearInterval(interval);
  console.log('clock', process.hrtime.bigint() > before && Math.abs(Date.now() - fs.statSync('/proc/self/stat').mtimeMs) < 5000);
  console.log('heap', heap.every((item, i) => item.text === `item ${i}`));
  let garbage = [];
  for (let i = 0; i < 200_000; i++) garbage.push({ i });
  garbage = null;
  console.log('gc', heap.length);
  console.log('file', (await watched).length === fs.readFileSync(file).length);
  fs.writeFileSync('/tmp/own', 'x'.repeat(1000));
  console.log('tmp', fs.readFileSync('/tmp/own', 'utf8').length);
  console.log('pool', (await promisify(pbkdf2)('a', 'b', 1000, 8, 'sha256')).length);
  worker.postMessage(21);
  console.log('worker', (await once(worker, 'message'))[0]);
  await worker.terminate();
  console.log('wasm', wasm.instance.exports.add(2, 3));
  const later = await WebAssembly.instantiate(WASM);
  console.log('wasm later', later.instance.exports.add(20, 3));
  console.log('child', spawnSync(process.execPath, ['-p', '6 * 7'], { encoding: 'utf8' }).stdout.trim());
  console.log('regexp', /(\d+)-(\d+)/.exec('a 12-34').slice(1).join());
  console.log('import', (await import('node:zlib')).gzipSync('x').length > 0);
  process.exit();
}

main();
