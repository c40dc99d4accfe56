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
/** Bytes that are asked for at first: as a rule the whole frame. */
const USUAL_BYTES = 4096;
/** Times that a release is rehearsed: what it calls is compiled, and knows the shapes of what it works on. */
const REHEARSALS = 8;
/** The whole frame fits into a pipe, so that the agent never waits for this process to read it. */
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

const garbage = checkpoint ? require('./garbage.cjs') : null;
garbage?.begin();

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

async function runRestoreHooks(hooks = restoreHooks) {
  for (const hook of hooks) await hook();
}

/** Writes one status byte, `R` or `P`. */
function mark(letter) {
  if (attached) fs.writeSync(STATUS_FD, letter);
}

/** Reads a frame, in one call as a rule: the agent writes it whole, and nothing after it. */
function readFrame(fd) {
  let bytes = Buffer.allocUnsafe(USUAL_BYTES);
  let filled = 0;
  for (;;) {
    const count = fs.readSync(fd, bytes, filled, bytes.length - filled, null);
    // The agent is gone and nobody will ever release this process.
    if (count === 0) process.exit(0);
    filled += count;
    if (filled < HEADER_BYTES) continue;
    const environmentLength = bytes.readUInt32LE(48);
    if (environmentLength > ENVIRONMENT_LIMIT) throw unknownFrame();
    const length = HEADER_BYTES + environmentLength;
    if (filled >= length) return bytes.subarray(0, length);
    if (length > bytes.length) bytes = Buffer.concat([bytes], length);
  }
}

const unknownFrame = () => new Error('the release frame on fd 3 is not one this runtime understands');

/** Applies a frame: its environment, and its seed. */
function take(frame) {
  if (frame.latin1Slice(0, 4) !== 'SREL' || frame.readUInt32LE(4) !== 1) throw unknownFrame();
  for (const entry of frame.utf8Slice(HEADER_BYTES).split('\0')) {
    const equals = entry.indexOf('=');
    if (equals > 0) process.env[entry.slice(0, equals)] = entry.slice(equals + 1);
  }
  // Without a checkpoint the seed is of no use: a fresh Node has just seeded itself from the kernel.
  reseed?.apply(frame.subarray(16, 48));
}

/** Blocks until the release frame is there and applies it. */
function waitForRelease() {
  if (!attached) return;
  const frame = readFrame(PARK_FD);
  fs.closeSync(PARK_FD);
  take(frame);
}

/** Goes through a release with a frame of its own. The random numbers stay those of this process. */
function rehearseRelease() {
  const variable = 'STRATOS_REHEARSAL=1\0';
  const frame = Buffer.alloc(HEADER_BYTES + variable.length);
  frame.write('SREL');
  frame.writeUInt32LE(1, 4);
  frame.writeUInt32LE(variable.length, 48);
  frame.write(variable, HEADER_BYTES);
  const restore = reseed.keep();
  for (let i = 0; i < REHEARSALS; i++) {
    const zeros = fs.openSync('/dev/zero');
    readFrame(zeros);
    fs.closeSync(zeros);
    take(frame);
  }
  restore();
  delete process.env.STRATOS_REHEARSAL;
}

/** Does before the checkpoint what each instance would otherwise do after it. */
async function prepareToPark() {
  reseed?.prepare();
  if (!checkpoint) return;
  rehearseRelease();
  await runRestoreHooks([]);
  await garbage.collect();
}

/** Tells the agent that this process parks, and blocks until it is released. To be prepared for with `prepareToPark`. */
function park() {
  // Once more: what the program has loaded since then counts, too.
  reseed?.prepare();
  garbage?.end();
  mark('P');
  waitForRelease();
}

module.exports = { checkpoint, mark, park, prepareToPark, runRestoreHooks, waitForRelease, whenHooked };
