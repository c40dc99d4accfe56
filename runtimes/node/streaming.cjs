// Response streaming: `awslambda.streamifyResponse` and the stream that such a handler writes to. Loaded on first use.
'use strict';

const { Writable } = require('node:stream');
const { errorBody, errorType, RuntimeError } = require('./errors.cjs');

const INTEGRATION_RESPONSE = 'application/vnd.awslambda.http-integration-response';

/** The body of one response, sent in chunks as it is written. Nothing is sent before the first byte, so that an early error stays an error. */
class ResponseStream extends Writable {
  #connection;
  #path;
  #contentType = 'application/octet-stream';
  #prelude = null;
  /** Whether the head of the response is out. */
  started = false;
  /** Whether the response is complete, with or without an error. */
  complete = false;

  constructor(connection, path) {
    super({ highWaterMark: 64 * 1024 });
    this.#connection = connection;
    this.#path = path;
  }

  setContentType(type) {
    this.#contentType = String(type).replace(/[\r\n]/g, '');
  }

  /** Status code, headers and cookies of an HTTP response; sent ahead of the body. */
  setPrelude(metadata) {
    this.setContentType(INTEGRATION_RESPONSE);
    this.#prelude = Buffer.concat([Buffer.from(JSON.stringify(metadata)), Buffer.alloc(8)]);
  }

  #start() {
    if (this.started) return;
    this.started = true;
    this.#connection.write(this.#connection.streamedPost(this.#path, this.#contentType));
    if (this.#prelude) this.#chunk(this.#prelude);
  }

  #chunk(bytes, done) {
    const { socket } = this.#connection;
    socket.cork();
    socket.write(`${bytes.length.toString(16)}\r\n`);
    socket.write(bytes);
    this.#connection.write('\r\n', done);
    socket.uncork();
  }

  _write(bytes, _encoding, done) {
    this.#start();
    if (bytes.length === 0) done();
    else this.#chunk(bytes, done);
  }

  _final(done) {
    this.#start();
    this.complete = true;
    this.#connection.write('0\r\n\r\n');
    done();
  }

  /** Ends the response with an error: in trailers when bytes are already out, else as an ordinary error by `postError`. */
  fail(thrown, postError) {
    if (this.complete) return;
    this.complete = true;
    if (!this.started) return postError(thrown);
    const body = Buffer.from(errorBody(thrown)).toString('base64');
    this.#connection.write(
      `0\r\nLambda-Runtime-Function-Error-Type: ${errorType(thrown)}\r\nLambda-Runtime-Function-Error-Body: ${body}\r\n\r\n`,
    );
  }
}

/** Settles when the stream has ended, or rejects with what destroyed it. */
function ended(stream) {
  return new Promise((resolve, reject) => {
    stream.once('finish', resolve);
    stream.once('error', reject);
    stream.once('close', () => {
      reject(new RuntimeError('Runtime.TruncatedResponse', 'the response stream was destroyed before it was ended'));
    });
  });
}

/** `awslambda.HttpResponseStream`. */
const HttpResponseStream = {
  from(stream, metadata) {
    stream.setPrelude(metadata);
    return stream;
  },
};

module.exports = { ResponseStream, HttpResponseStream, ended };
