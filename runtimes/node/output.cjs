// stdout and stderr as synchronous streams.
//
// Node's own streams on pipes queue what the pipe cannot take and lose it when the process exits or is killed. Here each write has
// left the process before the call returns, and a console call is one write.
'use strict';

const fs = require('node:fs');
const { Writable } = require('node:stream');

function writeFully(fd, bytes) {
  for (let at = 0; at < bytes.length; ) {
    try {
      at += fs.writeSync(fd, bytes, at);
    } catch (error) {
      if (error.code === 'EPIPE') return; // Nobody reads any more; there is no place left to say so.
      if (error.code !== 'EAGAIN') throw error;
      // Someone made the pipe non-blocking, and it is full: let the reader catch up.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

function synchronous(fd) {
  const stream = new Writable({
    write(bytes, _encoding, done) {
      writeFully(fd, bytes);
      done();
    },
  });
  stream.fd = fd;
  stream._type = 'pipe';
  // Like the streams it stands for, it cannot be closed.
  stream._destroy = (error, done) => done(error);
  stream.end = () => stream;
  return stream;
}

/** Replaces `process.stdout` and `process.stderr`, and with them what `console` writes to. */
function install() {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    let stream;
    Object.defineProperty(process, name, {
      configurable: true,
      enumerable: true,
      get: () => (stream ??= synchronous(fd)),
    });
  }
}

module.exports = { install };
