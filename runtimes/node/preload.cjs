// Preloaded (NODE_OPTIONS=--require) into `start = "node server.js"` functions: reports the start, takes the release frame and leaves
// no trace, so that child processes of the server do not do the same.
'use strict';

const { mark, waitForRelease } = require('./park.cjs');

mark('R');
const own = `--require ${__filename}`;
const others = (process.env.NODE_OPTIONS ?? '').replace(own, '').replace(own.replace(' ', '='), '').trim();
if (others) process.env.NODE_OPTIONS = others;
else delete process.env.NODE_OPTIONS;
waitForRelease();
