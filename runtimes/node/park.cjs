// The two inherited pipes through which the agent and a starting runtime meet:
//
//   fd 4, write end   one byte `R` when the first line of the runtime runs, one byte `P` when it is about to park
//   fd 3, read end    one release frame; the runtime blocks in read(2) until it comes
//
// Frame, little endian: magic `SREL`, u32 version = 1, u64 wall clock in ns since the epoch, 32 bytes of seed, u32 length, then
// that many bytes of `KEY=VALUE\0`.
//
// The read must block the whole process: a checkpoint is taken there, and an interrupted blocking read restarts cleanly.
//
// `STRATOS_CHECKPOINT=1` marks a process that is started to be checkpointed there: many will go on from its read, each with a frame of
// its own, and must not draw the same random numbers. All other starts pay nothing for this.
'use strict';

const fs = require('node:fs');

const PARK_FD = 3;
const STATUS_FD = 4;
const HEADER_BYTES = 52;
/** The whole frame fits into a pipe, so that the agent never waits for this process to read it. */
/** Arrays of some 512 bytes between two looks at the young generation, and bytes that have made V8 collect it: it is smaller. */
const YOUNG_STEP = 200;
const YOUNG_BYTES_MAX = 128 << 20;
const ENVIRONMENT_LIMIT = (64 << 10) - HEADER_BYTES;

/** True when the agent started this process. Run by hand, the numbers are free, belong to Node, or are both ends of one pipe. */
const attached = (() => {
  try {
    const park = fs.fstatSync(PARK_FD);
    const status = fs.fstatSync(STATUS_FD);
    return park.isFIFO() && status.isFIFO() && park.ino !== status.ino;
  } catch {
    return false;
  }
})();

/** True in a process that is started to be checkpointed. */
const checkpoint = attached && process.env.STRATOS_CHECKPOINT === '1';
// The program and its children must not see it.
delete process.env.STRATOS_CHECKPOINT;

// Loaded before any of the program's code, which may keep a reference to `Math.random`.
const reseed = checkpoint ? require('./reseed.cjs') : null;

/** Hooks registered with `stratos.onRestore`, in order. */
const restoreHooks = [];
let onFirstHook = null;

globalThis.stratos = {
  /** Registers `hook` (may be async) to run after this process is released or restored, before its first event or request. */
  onRestore(hook) {
    if (typeof hook !== 'function') throw new TypeError('stratos.onRestore expects a function');
    if (restoreHooks.push(hook) === 1) onFirstHook?.();
  },
};

/** Calls `then` when the first hook is registered. */
function whenHooked(then) {
  onFirstHook = then;
}

async function runRestoreHooks() {
  for (const hook of restoreHooks) await hook();
}

/** Writes one status byte, `R` or `P`. */
function mark(letter) {
  if (attached) fs.writeSync(STATUS_FD, letter);
}

function readExactly(length) {
  const bytes = Buffer.allocUnsafe(length);
  for (let filled = 0; filled < length; ) {
    const count = fs.readSync(PARK_FD, bytes, filled, length - filled, null);
    // The agent is gone and nobody will ever release this process.
    if (count === 0) process.exit(0);
    filled += count;
  }
  return bytes;
}

/** Blocks until the release frame is there and applies its environment. */
function waitForRelease() {
  if (!attached) return;
  const header = readExactly(HEADER_BYTES);
  const environmentLength = header.readUInt32LE(48);
  if (header.latin1Slice(0, 4) !== 'SREL' || header.readUInt32LE(4) !== 1 || environmentLength > ENVIRONMENT_LIMIT) {
    throw new Error('the release frame on fd 3 is not one this runtime understands');
  }
  for (const entry of readExactly(environmentLength).toString().split('\0')) {
    const equals = entry.indexOf('=');
    if (equals > 0) process.env[entry.slice(0, equals)] = entry.slice(equals + 1);
  }
  fs.closeSync(PARK_FD);
  // Without a checkpoint the seed is of no use: a fresh Node has just seeded itself from the kernel.
  reseed?.apply(header.subarray(16, 48));
}

/**
 * Has V8 collect its young generation, by allocating until it does. A clone would copy the pages of dead objects with those of live
 * ones, and many a first request would meet the collection that is due. One is best: with a second, survivors become old.
 */
function emptyYoungGeneration() {
  const { getHeapSpaceStatistics } = require('node:v8');
  const used = () => getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')?.space_used_size ?? 0;
  for (let before = used(), allocated = 0; allocated < YOUNG_BYTES_MAX; allocated += YOUNG_STEP * 512) {
    for (let i = 0; i < YOUNG_STEP; i++) new Array(64).fill(i);
    const now = used();
    if (now < before) return;
    before = now;
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Does before the checkpoint what each instance would otherwise do after it. */
async function prepareToPark() {
  reseed?.prepare();
  if (!checkpoint) return;
  emptyYoungGeneration();
  // V8 has asked for a collection of its own when the young generation was nearly full. It is a task of the event loop, and finds
  // nothing to do now; in a clone it would be the first thing to run, and takes milliseconds.
  for (let i = 0; i < 3; i++) await turn();
}

/** Tells the agent that this process parks, and blocks until it is released. To be prepared for with `prepareToPark`. */
function park() {
  // Once more: what the program has loaded since then counts, too.
  reseed?.prepare();
  mark('P');
  waitForRelease();
}

module.exports = { checkpoint, mark, park, prepareToPark, runRestoreHooks, waitForRelease, whenHooked };
