// What the servers of this folder share: state that was drawn before the park, hooks, and a listener that tells of both.
'use strict';

const { execFileSync } = require('node:child_process');
const crypto = require('node:crypto');
const net = require('node:net');

const random = Math.random;
const early = [random(), Math.random()];
const seen = (expression) => execFileSync(process.execPath, ['-p', expression], { env: process.env }).toString().trim();
const variable = [process.env.STRATOS_CHECKPOINT ?? null, seen('String(process.env.STRATOS_CHECKPOINT)')];

// Draws of UUIDs between the release and the hooks, and the bytes that `randomInt` keeps.
let uuids = 0;
const { randomUUID } = crypto;
crypto.randomUUID = (...options) => {
  if (process.env.FROM_FRAME) uuids += 1;
  return randomUUID(...options);
};
const { readUIntBE } = Buffer.prototype;
let ints;
Buffer.prototype.readUIntBE = function (...at) {
  ints = this;
  return readUIntBE.apply(this, at);
};
crypto.randomInt(9);
Buffer.prototype.readUIntBE = readUIntBE;
let intsBefore = Buffer.from(ints);

const hooks = [];
let atRelease;
stratos.onRestore(() => {
  hooks.push(`first ${process.env.FROM_FRAME}`);
  atRelease = { numbers: [random(), Math.random()], uuids, intsRenewed: !ints.equals(intsBefore) };
});
stratos.onRestore(async () => {
  const start = process.hrtime.bigint();
  await new Promise((resolve) => setTimeout(resolve, 200));
  hooks.push(process.hrtime.bigint() - start >= 199_000_000n ? 'second' : 'second, too early');
});

exports.answer = (request, response) => {
  const patched = Object.hasOwn(net.Server.prototype, 'emit');
  response.end(JSON.stringify({ early, variable, hooks, patched, ...atRelease }));
};
/** To be called last before the park. */
exports.ready = () => {
  intsBefore = Buffer.from(ints);
};
