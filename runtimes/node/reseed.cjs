// Makes the random numbers of a process its own after it has been restored from a checkpoint. Loaded only where one is to be taken.
//
// OpenSSL's generators and the kernel's are reseeded from outside, before the release. What is left is in JavaScript's reach: V8's
// `Math.random`, whose state nobody can set, and the batches that `node:crypto` draws in advance and keeps.
'use strict';

const UUID_BATCH = 128;
const INT_BATCH = 1024;

/** sfc32 by Chris Doty-Humphrey: small, fast, 128 bits of state; each result takes 53 bits of two steps. */
function generator(seed) {
  let a = seed.readInt32LE(0);
  let b = seed.readInt32LE(4);
  let c = seed.readInt32LE(8);
  let counter = seed.readInt32LE(12);
  const step = () => {
    const result = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + result) | 0;
    return result;
  };
  // Until each bit of the seed has reached each word.
  for (let i = 0; i < 16; i++) step();
  return () => ((step() >>> 5) * 67108864 + (step() >>> 6)) / 9007199254740992;
}

// Until the release, and for references that were taken by then, one function stands for both generators. Bound, it looks as built-in
// functions do: no prototype, no `new`, `[native code]`.
let draw = Math.random;
Math.random = Object.defineProperty((() => draw()).bind(undefined), 'name', { value: 'random' });

/** What `crypto` keeps for later, as functions that renew it. Empty while the module is not loaded. */
let batches = [];

/** The bytes that `crypto.randomInt` keeps, caught as it reads them; undefined if this Node reads them in another way. */
function findIntBatch(crypto) {
  const read = Buffer.prototype.readUIntBE;
  let batch;
  Buffer.prototype.readUIntBE = function (offset, length) {
    if (this.length === 6 * INT_BATCH) batch = this;
    return read.call(this, offset, length);
  };
  try {
    crypto.randomInt(2);
  } finally {
    Buffer.prototype.readUIntBE = read;
  }
  return batch;
}

/** Keeps the numbers of this process over a rehearsal of `apply`. Returns what ends it. */
function keep() {
  const own = draw;
  return () => {
    draw();
    draw = own;
  };
}

/** Does before the checkpoint what need not be done after it. Once it has found what `crypto` keeps, it has nothing more to do. */
function prepare() {
  if (batches.length > 0) return;
  if (!process.moduleLoadList.includes('NativeModule internal/crypto/random')) return;
  const crypto = require('node:crypto');
  const { randomFillSync, randomInt, randomUUID } = crypto;
  const ints = findIntBatch(crypto);
  batches = [
    () => {
      for (let i = 0; i < UUID_BATCH; i++) randomUUID();
    },
    ints
      ? () => randomFillSync(ints)
      : () => {
          for (let i = 0; i < INT_BATCH; i++) randomInt(2);
        },
  ];
  // A few rounds now, and the code is compiled when it counts.
  for (let i = 0; i < 8; i++) renewBatches();
}

function renewBatches() {
  for (const renew of batches) renew();
}

/** Gives this process its own random numbers, with the 32 bytes of a release frame. */
function apply(seed) {
  draw = generator(seed);
  renewBatches();
}

module.exports = { apply, keep, prepare };
