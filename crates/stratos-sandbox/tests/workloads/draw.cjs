// Draws from every generator before it parks and after. Run as `node draw.cjs`.
'use strict';

const crypto = require('node:crypto');
const { park } = require('/opt/stratos/park.cjs');

const draw = () => [
  String(Math.random()),
  crypto.randomUUID(),
  crypto.randomBytes(16).toString('hex'),
  Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('hex'),
  String(crypto.randomInt(2 ** 47)),
  crypto.generateKeySync('hmac', { length: 128 }).export().toString('hex'),
];

draw();
park();
// Enough that each batch that was filled before is used up.
const drawn = [draw(), draw()];
process.stdout.write(`${JSON.stringify(drawn.flat())}\n`, () => process.exit());
