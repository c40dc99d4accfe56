// Preloaded (NODE_OPTIONS=--require) into `start = "node server.js"` functions: reports the start, takes the release frame and leaves
// no trace, so that child processes of the server do not do the same. To be checkpointed, the server parks once it listens instead.
'use strict';

function start() {
  const { checkpoint, mark, waitForRelease, whenHooked } = require('./park.cjs');

  mark('R');
  const own = `--require ${__filename}`;
  const others = (process.env.NODE_OPTIONS ?? '').replace(own, '').replace(own.replace(' ', '='), '').trim();
  if (others) process.env.NODE_OPTIONS = others;
  else delete process.env.NODE_OPTIONS;

  const port = Number(process.env.PORT);
  if (checkpoint && port > 0) {
    require('./server.cjs').parkWhenListening(port);
  } else {
    waitForRelease();
    whenHooked(() => require('./server.cjs').runHooksWhenListening(port));
  }
}

// Workers preload this file too, and must leave the pipes alone. This tells them apart without loading `node:worker_threads`.
if (!process.abort.disabled) start();
