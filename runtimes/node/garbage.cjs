// Garbage collection around a checkpoint. What V8 has begun or put off when the checkpoint is taken, every instance does anew, during
// its first request: to finish a marking takes 30 ms in a heap of 25 MB. Loaded only where a checkpoint is to be taken.
'use strict';

const v8 = require('node:v8');
const vm = require('node:vm');
// The program may put others in their place.
const { setImmediate, setTimeout } = globalThis;

/** Arrays of some 512 bytes between two looks at the young generation, and bytes that have made V8 collect it: it is smaller. */
const YOUNG_STEP = 200;
const YOUNG_BYTES_MAX = 128 << 20;
/** How long V8 may sweep beside the program, in ms. */
const SWEEP_MS = 50;

/**
 * Has V8 mark only while the program stands still, so that no marking is under way at the checkpoint. Nor does it plan collections for
 * times without work then, 8 s ahead: in an instance that time has long passed.
 */
function begin() {
  v8.setFlagsFromString('--no-incremental-marking');
}

/** Instances mark as V8 does by itself. */
function end() {
  v8.setFlagsFromString('--incremental-marking');
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Collects all there is. */
async function collect() {
  collectAll();
  await new Promise((resolve) => setTimeout(resolve, SWEEP_MS));
  emptyYoungGeneration();
  // V8 has asked for a collection of its own when the young generation was nearly full. It is a task of the event loop, and finds
  // nothing to do now; in a clone it would be the first thing to run, and takes milliseconds.
  for (let i = 0; i < 3; i++) await turn();
}

/** V8 gives the function to contexts that are made while it is told to. */
function collectAll() {
  v8.setFlagsFromString('--expose-gc');
  const gc = vm.runInNewContext('gc');
  v8.setFlagsFromString('--no-expose-gc');
  gc({ type: 'major', execution: 'sync' });
}

/**
 * Has V8 collect its young generation, by allocating until it does. A clone would copy the pages of dead objects with those of live
 * ones. One collection is best: with a second, survivors become old.
 */
function emptyYoungGeneration() {
  const used = () => v8.getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')?.space_used_size ?? 0;
  for (let before = used(), allocated = 0; allocated < YOUNG_BYTES_MAX; allocated += YOUNG_STEP * 512) {
    for (let i = 0; i < YOUNG_STEP; i++) new Array(64).fill(i);
    const now = used();
    if (now < before) return;
    before = now;
  }
}

module.exports = { begin, collect, end };
