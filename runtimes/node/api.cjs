// A client for the Lambda Runtime API: one keep-alive connection, requests pipelined, responses read in order.
//
// It is written by hand on a raw socket because it sits in the path of every invocation: answering one event and asking for the next
// is a single write, and nothing is parsed that is not used. It never retries: the peer is the agent on the same machine, and when the
// agent closes the connection there is nobody left to serve, so the process exits, with `process.exitCode`.
'use strict';

const net = require('node:net');

const HEAD_LIMIT = 64 * 1024;
const HEAD_END = Buffer.from('\r\n\r\n');
const LINE_END = Buffer.from('\r\n');
const PATH = '/2018-06-01/runtime';

// What the parser waits for.
const HEAD = 0;
const BODY = 1;
const CHUNK_SIZE = 2;
const CHUNK = 3;
const CHUNK_END = 4;
const TRAILERS = 5;

/** Reads HTTP/1.1 responses from pieces cut at any byte, and hands each complete one to `emit({ status, headers, body })`. */
class ResponseParser {
  #emit;
  #state = HEAD;
  #rest = null;
  #response = null;
  #pieces = [];
  #remaining = 0;

  constructor(emit) {
    this.#emit = emit;
  }

  push(data) {
    if (this.#rest) {
      data = Buffer.concat([this.#rest, data]);
      this.#rest = null;
    }
    let at = 0;
    while (at < data.length) {
      if (this.#state === BODY || this.#state === CHUNK) {
        const end = Math.min(data.length, at + this.#remaining);
        this.#pieces.push(data.subarray(at, end));
        this.#remaining -= end - at;
        at = end;
        if (this.#remaining > 0) return;
        if (this.#state === BODY) this.#finish();
        else this.#state = CHUNK_END;
        continue;
      }
      const mark = this.#state === HEAD ? HEAD_END : LINE_END;
      const end = data.indexOf(mark, at);
      if (end < 0) {
        if (data.length - at > HEAD_LIMIT) throw new Error('response header is too long');
        this.#rest = data.subarray(at);
        return;
      }
      const text = data.latin1Slice(at, end);
      at = end + mark.length;
      this.#line(text);
    }
  }

  #line(text) {
    switch (this.#state) {
      case HEAD:
        return this.#head(text);
      case CHUNK_SIZE:
        this.#remaining = parseInt(text, 16);
        if (!(this.#remaining >= 0)) throw new Error('response has a malformed chunk size');
        this.#state = this.#remaining === 0 ? TRAILERS : CHUNK;
        return;
      case CHUNK_END:
        if (text !== '') throw new Error('response chunk is longer than it said');
        this.#state = CHUNK_SIZE;
        return;
      case TRAILERS:
        if (text === '') this.#finish();
    }
  }

  #head(text) {
    const lines = text.split('\r\n');
    const status = Number(lines[0].slice(9, 12));
    if (!lines[0].startsWith('HTTP/1.') || !(status >= 100)) throw new Error('response has a malformed status line');
    if (status < 200) return; // An interim response: the real one follows.
    const headers = Object.create(null);
    for (let i = 1; i < lines.length; i++) {
      const colon = lines[i].indexOf(':');
      headers[lines[i].slice(0, colon).toLowerCase()] = lines[i].slice(colon + 1).trim();
    }
    this.#response = { status, headers, body: null };
    if (headers['transfer-encoding'] !== undefined) {
      this.#state = CHUNK_SIZE;
      return;
    }
    this.#remaining = status === 204 ? 0 : Number(headers['content-length']);
    if (!(this.#remaining >= 0)) throw new Error('response does not say how long it is');
    if (this.#remaining === 0) this.#finish();
    else this.#state = BODY;
  }

  #finish() {
    const response = this.#response;
    response.body = this.#pieces.length === 1 ? this.#pieces[0] : Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#response = null;
    this.#state = HEAD;
    this.#emit(response);
  }
}

/** One connection to the Runtime API. */
class Connection {
  #waiting = [];

  /** `address` is `host:port`. */
  constructor(address) {
    const colon = address.lastIndexOf(':');
    this.host = address;
    this.nextRequest = `GET ${PATH}/invocation/next HTTP/1.1\r\nHost: ${address}\r\n\r\n`;
    const parser = new ResponseParser((response) => this.#waiting.shift()(response));
    this.socket = net.connect({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)), noDelay: true });
    this.socket.on('data', (data) => parser.push(data));
    this.socket.on('error', (error) => {
      // A reset is how a killed agent looks: an end like any other.
      if (error.code !== 'ECONNRESET' && error.code !== 'EPIPE') {
        process.stderr.write(`runtime API at ${address}: ${error.message}\n`);
        process.exitCode = 1;
      }
    });
    this.socket.on('close', () => process.exit());
  }

  /** Closes the connection after a rehearsal: the process goes on. */
  end() {
    this.socket.removeAllListeners('close');
    const closed = new Promise((resolve) => this.socket.once('close', resolve));
    this.socket.destroy();
    return closed;
  }

  /** The next response on this connection. Call once for each request, in order, in the same turn as the request is written. */
  response() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Sends bytes; calls `done` when it is time for more (back-pressure). */
  write(data, done) {
    if (this.socket.write(data) || done === undefined) done?.();
    else this.socket.once('drain', done);
  }

  /** A whole POST request; `headers` is empty or complete lines, each with its line end. */
  post(path, headers, body) {
    return (
      `POST ${PATH}${path} HTTP/1.1\r\nHost: ${this.host}\r\n${headers}` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
    );
  }

  /** The head of a POST whose body follows in chunks, with room for the trailers that tell of an error halfway. */
  streamedPost(path, contentType) {
    return (
      `POST ${PATH}${path} HTTP/1.1\r\nHost: ${this.host}\r\nContent-Type: ${contentType}\r\n` +
      'Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n' +
      'Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n'
    );
  }
}

module.exports = { Connection };
